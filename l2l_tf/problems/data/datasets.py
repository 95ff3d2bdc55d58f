"""Classification data, read from a disk or a network.

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
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

_NUM_DIGITS_HELD_OUT = 360
_URLS = {  # of a file of each data set, tried before a download
  "mnist": (
    "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz"
  ),
  "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
  "omniglot": (
    "https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip"
  ),
}
_OMNIGLOT_PIXELS = 28  # of a side
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
    splits = _load("mnist", batch_size=-1)
  train, test = splits["train"], splits["test"]
  return as_dataset(train["image"], train["label"], test["image"], test["label"])


@functools.lru_cache(maxsize=1)
def cifar10() -> Dataset:
  """Returns CIFAR-10, colour images of 32 x 32 pixels, through tensorflow-datasets.

  There are 50,000 train and 10,000 held-out images, uint8 in 0..255, of ten classes:
  all that are prepared, which may be fewer. They are read, and downloaded if missing,
  as `mnist` is.

  Krizhevsky 2009, https://www.tensorflow.org/datasets/catalog/cifar10

  Raises:
    DatasetUnavailableError: as for `mnist`.
  """
  with tf.init_scope():
    splits = _load("cifar10", batch_size=-1)
  train, test = splits["train"], splits["test"]
  return as_dataset(train["image"], train["label"], test["image"], test["label"])


def omniglot(split: str, label: str) -> tuple[np.ndarray, np.ndarray]:
  """Reads Omniglot, and downloads it if it is missing, as `mnist` is.

  Args:
    split: in the words of tensorflow-datasets, such as "train+test".
    label: "alphabet", or "label" for the character.

  Returns:
    Images [N, 28, 28, 1], uint8 in 0..255, white on black, and a number for each.

  Raises:
    DatasetUnavailableError: as for `mnist`.
  """

  def shrunk(example):
    grey = 255.0 - tf.cast(example["image"][..., :1], tf.float32)
    image = tf.image.resize(grey, [_OMNIGLOT_PIXELS] * 2, "area")
    return tf.cast(tf.round(image), tf.uint8), example[label]

  with tf.init_scope():
    examples = _load("omniglot", split=split)
    batches = examples.map(shrunk, num_parallel_calls=tf.data.AUTOTUNE).batch(1000)
    images, labels = (np.concatenate(x) for x in zip(*batches.as_numpy_iterator()))
  return images, labels


@functools.lru_cache(maxsize=1)
def omniglot_alphabets() -> Dataset:
  """Returns Omniglot's handwritten characters, labelled by their alphabets.

  18,280 train and 1,000 held-out images, uint8 in 0..255, white on black, 28 x 28 x 1,
  of the 30 alphabets of its background set; split by a fixed permutation. Read, and
  downloaded if missing, as `mnist` is.

  Lake et al. 2015, https://www.tensorflow.org/datasets/catalog/omniglot

  Raises:
    DatasetUnavailableError: as for `mnist`.
  """
  images, labels = omniglot("train", "alphabet")
  _, labels = np.unique(labels, return_inverse=True)
  return _permuted(images, labels, 1000)


@functools.lru_cache(maxsize=1)
def manual() -> np.ndarray:
  """Returns the topics of Python's own `help`, as numbers.

  Some 450,000 characters of technical English, numbered by their place among the
  different ones. The text depends on Python's version.

  >>> len(problems.datasets.manual()) > 400_000
  True
  """
  from pydoc_data import topics

  text = "".join(topics.topics[name] for name in sorted(topics.topics))
  ascii_text = text.encode("ascii", "ignore").decode()
  _, numbers = np.unique(list(ascii_text), return_inverse=True)
  return numbers.astype(np.int32)


@functools.lru_cache(maxsize=1)
def photograph() -> np.ndarray:
  """Returns scikit-learn's photograph of a flower, [106, 160, 3], floats in [0, 1].

  >>> problems.datasets.photograph().shape
  (106, 160, 3)

  https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_sample_image.html
  """
  from sklearn import datasets

  image = datasets.load_sample_image("flower.jpg")[:424].astype(np.float32) / 255.0
  return image.reshape(106, 4, 160, 4, 3).mean(axis=(1, 3))


def friedman(num: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns examples of Friedman's first function, with noise; float32.

  >>> [x.shape for x in problems.datasets.friedman(20)]
  [(20, 10), (20, 1)]

  Friedman 1991, https://scikit-learn.org/stable/modules/generated/sklearn.datasets.make_friedman1.html

  Args:
    num: number of examples.

  Returns:
    Inputs, [num, 10], five of which matter, and standardised targets, [num, 1].
  """
  from sklearn import datasets

  x, y = datasets.make_friedman1(num, noise=1.0, random_state=0)
  y = (y - y.mean()) / y.std()
  return x.astype(np.float32), y[:, np.newaxis].astype(np.float32)


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


def with_labels(dataset: Dataset, labels: Sequence[int]) -> Dataset:
  """Returns the examples of some classes alone, numbered from zero.

  >>> data = problems.datasets.with_labels(problems.datasets.digits(), [3, 7])
  >>> data.num_classes, len(data.test_labels)
  (2, 73)

  Args:
    dataset: examples of at least two classes.
    labels: the classes to keep; the first becomes class 0, the second class 1.

  Raises:
    ValueError: for fewer than two labels, one that is given twice, or one of which a
      split has no examples.
  """
  is_list = isinstance(labels, (list, tuple, range))
  if not is_list or not all(isinstance(x, (int, np.integer)) for x in labels):
    raise ValueError(f"with_labels got labels={labels!r}; they must be class numbers.")
  labels = list(map(int, labels))
  if len(labels) < 2 or len(set(labels)) < len(labels):
    raise ValueError(
      f"with_labels got labels={labels}; give at least two different ones."
    )
  splits = [_only(*dataset[:2], labels), _only(*dataset[2:], labels)]
  return as_dataset(*splits[0], *splits[1])


def _only(examples, numbers, labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the examples with one of the labels, and its place among these."""
  with tf.init_scope():
    numbers = np.asarray(numbers)
    found = np.unique(numbers)
    missing = sorted({*labels} - {*found.tolist()})
    if missing:
      raise ValueError(
        f"with_labels got labels={list(labels)}, but there are no examples of"
        f" {', '.join(map(str, missing))}; there are some of"
        f" {', '.join(map(str, found))}."
      )
    kept = np.isin(numbers, labels)
    order = np.argsort(labels)
    places = order[np.searchsorted(labels, numbers[kept], sorter=order)]
    return np.asarray(examples)[kept], places


def _load(name: str, **options: Any) -> Any:
  """Loads one of `_URLS` by tensorflow-datasets, and downloads it if it is missing."""
  import tensorflow_datasets as tfds

  data_dir, action = os.environ.get("TFDS_DATA_DIR") or None, "open"
  try:
    with _without_warnings():  # that the folder has no such data, as is checked here
      missing = not tfds.builder(name, data_dir=data_dir).is_prepared()
    action = "download" if missing else "read"
    if missing:
      require_reachable(_URLS[name])
    return tfds.load(name, data_dir=data_dir, download=missing, **options)
  # The exceptions for a broken folder, disk or network have no common base class.
  except Exception as error:
    where = data_dir or tfds.core.constants.DATA_DIR
    reason = (str(error).strip() or "no message").splitlines()[0][:200]
    shown = "MNIST" if name == "mnist" else name
    raise DatasetUnavailableError(
      f"Could not {action} {shown} in {where} ({type(error).__name__}: {reason}); set"
      f" TFDS_DATA_DIR to a folder in which tensorflow-datasets has prepared {name},"
      " or get it once where there is a network and a writable folder:"
      f" python -c \"import tensorflow_datasets as tfds; tfds.load('{name}')\"."
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


def require_reachable(url: str) -> None:
  """Tries the host once; tensorflow-datasets would retry it for minutes."""
  request = urllib.request.Request(url, method="HEAD")
  urllib.request.build_opener().open(request, timeout=_PROBE_SECONDS).close()
