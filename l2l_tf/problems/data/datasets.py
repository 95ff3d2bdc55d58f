"""Classification data: the only module that reads a disk or a network.

Images are uint8 in 0..255, or floats in [0, 1]. The columns of a table are floats,
standardised to mean zero and standard deviation one. Labels are int32 class numbers,
counted from zero. All of these are eager tensors: a `tf.function` that uses them takes
them as inputs, instead of copying them into its graph as constants.
"""

import contextlib
import functools
import logging
import os
import urllib.request
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_NUM_DIGITS_HELD_OUT = 360
_MNIST_URL = (
  "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz"
)
_PROBE_SECONDS = 5


class Dataset(NamedTuple):
  """Labelled examples, in a train split and a held-out (test) split.

  >>> data = problems.datasets.digits()
  >>> data.train_images.shape, data.num_classes
  (TensorShape([1437, 8, 8, 1]), 10)
  """

  # [N, height, width, channels], uint8 or floats, or [N, columns], floats.
  train_images: tf.Tensor
  train_labels: tf.Tensor  # [N], int32
  test_images: tf.Tensor  # [M, ...], of the same shape and type
  test_labels: tf.Tensor  # [M]

  @property
  def num_classes(self) -> int:
    with tf.init_scope():
      labels = tf.concat([self.train_labels, self.test_labels], axis=0)
      return int(tf.reduce_max(labels)) + 1


class DatasetUnavailableError(RuntimeError):
  """The data are not on this machine and cannot be downloaded."""


@functools.lru_cache(maxsize=1)
def digits() -> Dataset:
  """Returns scikit-learn's embedded handwritten digits, 8 x 8 pixels.

  There are 1,437 train and 360 held-out images, float32 in [0, 1], of ten classes.
  They are split by a fixed permutation, the same in every process.

  Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI;
  https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html
  """
  from sklearn import datasets

  bunch = datasets.load_digits()
  images = bunch.images[..., np.newaxis].astype(np.float32) / 16.0
  return _permuted(images, bunch.target, _NUM_DIGITS_HELD_OUT)


@functools.lru_cache
def table(name: str) -> Dataset:
  """Returns one of scikit-learn's embedded tables.

  A fixed permutation chooses a fifth of the rows as held-out data. Columns are
  standardised with the mean and the standard deviation of the train rows.

  | name | rows | columns | classes |
  |---|---|---|---|
  | iris | 150 | 4 | 3 |
  | wine | 178 | 13 | 3 |
  | breast_cancer | 569 | 30 | 2 |

  >>> problems.datasets.table("iris").train_images.shape
  TensorShape([120, 4])

  https://scikit-learn.org/stable/datasets/toy_dataset.html

  Args:
    name: "iris", "wine" or "breast_cancer".

  Raises:
    ValueError: for any other name.
  """
  from sklearn import datasets

  loaders = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
  }
  if name not in loaders:
    raise ValueError(f"Unknown table {name!r}; choose one of {', '.join(loaders)}.")
  bunch = loaders[name]()
  raw = _permuted(bunch.data, bunch.target, len(bunch.data) // 5)
  mean, deviation = np.mean(raw.train_images, 0), np.std(raw.train_images, 0)
  scale = lambda x: ((x.numpy() - mean) / deviation).astype(np.float32)
  return as_dataset(
    scale(raw.train_images), raw.train_labels, scale(raw.test_images), raw.test_labels
  )


@functools.lru_cache(maxsize=1)
def diabetes() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
  """Returns scikit-learn's diabetes table, for regression.

  There are 354 train and 88 held-out rows of 10 columns; columns and targets, [N, 1],
  are standardised with the mean and the standard deviation of the train rows.

  >>> [x.shape for x, _ in problems.datasets.diabetes()]
  [(354, 10), (88, 10)]

  https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_diabetes.html

  Returns:
    (x, y) of the train rows, and of the held-out rows; float32.
  """
  from sklearn import datasets

  bunch = datasets.load_diabetes()
  table = np.concatenate([bunch.data, bunch.target[:, np.newaxis]], axis=1)
  order = np.random.RandomState(0).permutation(len(table))
  train, held_out = table[order[:-88]], table[order[-88:]]
  mean, deviation = np.mean(train, 0), np.std(train, 0)
  scaled = [((x - mean) / deviation).astype(np.float32) for x in (train, held_out)]
  return tuple((x[:, :-1], x[:, -1:]) for x in scaled)


@functools.lru_cache(maxsize=1)
def descriptions() -> np.ndarray:
  """Returns the prose that describes scikit-learn's data sets, as numbers.

  Some 10,000 characters; each is numbered by its place among the different ones.

  >>> problems.datasets.descriptions().dtype
  dtype('int32')
  """
  from sklearn import datasets

  loaders = (
    datasets.load_digits,
    datasets.load_iris,
    datasets.load_wine,
    datasets.load_diabetes,
  )
  text = "".join(load().DESCR for load in loaders)
  _, numbers = np.unique(list(text), return_inverse=True)
  return numbers.astype(np.int32)


@functools.lru_cache(maxsize=1)
def mnist() -> Dataset:
  """Returns MNIST, 28 x 28 pixels, through tensorflow-datasets.

  There are 60,000 train and 10,000 held-out images, uint8 in 0..255, of ten classes.
  They are read from the directory that `TFDS_DATA_DIR` names, or else from the default
  directory of tensorflow-datasets, and downloaded to it if they are missing.

  LeCun, Cortes and Burges, https://www.tensorflow.org/datasets/catalog/mnist

  Raises:
    DatasetUnavailableError: if the data cannot be read and cannot be downloaded.
  """
  with tf.init_scope():
    splits = _load_mnist(os.environ.get("TFDS_DATA_DIR") or None)
  train, test = splits["train"], splits["test"]
  return as_dataset(train["image"], train["label"], test["image"], test["label"])


def _permuted(examples, labels, num_held_out: int) -> Dataset:
  """Splits the examples by a permutation that is the same in every process."""
  order = np.random.RandomState(0).permutation(len(examples))
  train, test = np.split(order, [-num_held_out])
  return as_dataset(examples[train], labels[train], examples[test], labels[test])


def as_dataset(train_images, train_labels, test_images, test_labels) -> Dataset:
  """Makes a `Dataset` from arrays or tensors.

  >>> data = as_dataset(x, np.zeros(48), x_test, np.ones(16))
  >>> problem = MLP(data, layers=[8])

  Args:
    train_images: [N, ...], uint8 or floats in [0, 1].
    train_labels: [N], class numbers from zero.
    test_images: [M, ...], images of the same shape.
    test_labels: [M].

  Returns:
    The data as eager tensors, also when called while a graph is traced.

  Raises:
    ValueError: if a split is empty, if the splits have images of different shapes, or
      if there is not one label for each image.
  """
  with tf.init_scope():
    data = Dataset(
      tf.convert_to_tensor(train_images),
      tf.cast(train_labels, tf.int32),
      tf.convert_to_tensor(test_images),
      tf.cast(test_labels, tf.int32),
    )
  train, test = data.train_images.shape, data.test_images.shape
  labels = data.train_labels.shape, data.test_labels.shape
  if not train[0] or not test[0] or train[1:] != test[1:]:
    raise ValueError(
      f"A data set got train images of shape {train} and test images of shape"
      f" {test}; it needs at least one of each, alike in all but their number."
    )
  if labels != (train[:1], test[:1]):
    raise ValueError(
      f"A data set got {train[0]} train and {test[0]} test images with labels of"
      f" shapes {labels[0]} and {labels[1]}; it needs one label for each image."
    )
  return data


def _load_mnist(data_dir: str | None) -> dict[str, dict[str, tf.Tensor]]:
  import tensorflow_datasets as tfds

  action = "open"
  try:
    with _without_warnings():  # that the folder has no mnist, which is checked here
      missing = not tfds.builder("mnist", data_dir=data_dir).is_prepared()
    action = "download" if missing else "read"
    if missing:
      _require_reachable(_MNIST_URL)
    return tfds.load("mnist", data_dir=data_dir, batch_size=-1, download=missing)
  # The exceptions for a broken folder, disk or network have no common base class.
  except Exception as error:
    where = data_dir or tfds.core.constants.DATA_DIR
    reason = (str(error).strip() or "no message").splitlines()[0][:200]
    raise DatasetUnavailableError(
      f"Could not {action} MNIST in {where} ({type(error).__name__}: {reason}); set"
      " TFDS_DATA_DIR to a folder in which tensorflow-datasets has prepared mnist,"
      " or run once with a network and a writable folder to download it."
    ) from None


@contextlib.contextmanager
def _without_warnings():
  logger = logging.getLogger("absl")  # the one that tensorflow-datasets writes to
  only_errors = lambda record: record.levelno >= logging.ERROR
  logger.addFilter(only_errors)
  try:
    yield
  finally:
    logger.removeFilter(only_errors)


def _require_reachable(url: str) -> None:
  """Tries the host once; tensorflow-datasets would retry it for minutes."""
  request = urllib.request.Request(url, method="HEAD")
  urllib.request.build_opener().open(request, timeout=_PROBE_SECONDS).close()
