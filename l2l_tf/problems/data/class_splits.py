"""Images by class, for few-shot tasks, with other classes for every purpose.

An episode of training, of validation and of test draws from classes that the other two
never see: Vinyals et al. 2016, section 4.1, https://arxiv.org/abs/1606.04080.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from l2l_tf.problems.data import datasets, labelled_images

_TRAIN_CHARACTERS, _VALIDATION_CHARACTERS = 1100, 100  # of 1,623
_TRAIN_DIGITS = (0, 1, 2, 3, 4, 5, 6)
_FEWEST_WAYS = 2  # of an episode
RICH = 10  # Labelled images of as many classes have some for validation.


class Classes(NamedTuple):
  """Images of some classes, equally many of each."""

  images: tf.Tensor  # [N, height, width, channels], uint8, or floats in [0, 1]
  rows: tf.Tensor  # [classes, images of each], int32, places in `images`
  smallest: str = ""  # label of the class to whose size larger ones were cut, if any

  @property
  def num_classes(self) -> int:
    return self.rows.shape[0]

  @property
  def num_images(self) -> int:
    """Images of each class."""
    return self.rows.shape[1]


class ClassSplits(NamedTuple):
  """Classes for each purpose; no class is in two of them."""

  train: Classes
  validation: Classes | None  # None where there are too few classes for it
  test: Classes


@functools.lru_cache(maxsize=1)
def omniglot() -> ClassSplits:
  """Returns Omniglot's 1,623 characters, 28 x 28 pixels, 20 images of each.

  The usual split by characters: a fixed permutation takes 1,100 for training, 100 for
  validation and 423 for test, and each turned by 90, 180 and 270 degrees is a class of
  its own, so that there are 4,400, 400 and 1,692 classes (Santoro et al. 2016, Vinyals
  et al. 2016). Read, and downloaded if missing, as `datasets.mnist` is.

  Lake et al. 2015, https://www.tensorflow.org/datasets/catalog/omniglot

  Raises:
    DatasetUnavailableError: as for `datasets.mnist`.
  """
  images, labels = datasets.omniglot("train+test", "label")
  order = np.random.RandomState(0).permutation(labels.max() + 1)
  cuts = [_TRAIN_CHARACTERS, _TRAIN_CHARACTERS + _VALIDATION_CHARACTERS]
  parts = [_turned(_classes(images, labels, some)) for some in np.split(order, cuts)]
  return ClassSplits(*parts)


@functools.lru_cache(maxsize=1)
def digits() -> ClassSplits:
  """Returns scikit-learn's digits: 0 to 6 for training, 7, 8 and 9 for test.

  There are no classes to spare for validation.

  >>> splits = class_splits.digits()
  >>> splits.train.num_classes, splits.validation, splits.test.num_classes
  (7, None, 3)
  """
  data = datasets.digits()
  images = np.concatenate([data.train_images, data.test_images])
  labels = np.concatenate([data.train_labels, data.test_labels])
  others = sorted({*range(10)} - {*_TRAIN_DIGITS})
  train, test = (_classes(images, labels, some) for some in (_TRAIN_DIGITS, others))
  return ClassSplits(train, None, test)


_NAMED: dict[str, Callable[[], ClassSplits]] = {"omniglot": omniglot, "digits": digits}
NAMES = tuple(_NAMED)


def of(dataset: Any) -> ClassSplits:
  """Returns the splits that a name, or labelled images, stand for.

  The classes of labelled images are split by a fixed permutation: a fifth of them, but
  at least two, for test, and as many for validation if there are ten or more.

  All classes of a split are cut to as many images as the smallest of them has, the
  first ones, so that one class of few images costs the others theirs: leave it out.

  >>> images, labels = np.zeros([40, 8, 8, 1]), np.repeat(np.arange(10), 4)
  >>> [part.num_classes for part in class_splits.of((images, labels))]
  [6, 2, 2]

  Args:
    dataset: "omniglot", "digits", `ClassSplits`, or a pair of images [N, height, width,
      channels], integers from 0 to 255 or floats in [0, 1], and labels [N], integers or
      strings. Integers of every type are scaled as uint8 is, from 0..255 to [0, 1].

  Raises:
    ValueError: for anything else, images of different sizes or out of range, missing
      labels, or fewer than four classes.
    DatasetUnavailableError: as for `omniglot`.
  """
  if isinstance(dataset, ClassSplits):
    return dataset
  if not isinstance(dataset, str):
    return _split(*labelled_images.checked(dataset))
  if dataset not in _NAMED:
    raise ValueError(
      f"The few-shot data set {dataset!r:.60} is unknown; give one of"
      f" {', '.join(_NAMED)}, or a pair of images [N, height, width, channels] and"
      " their labels [N]."
    )
  return _NAMED[dataset]()


def _split(images: np.ndarray, labels: np.ndarray) -> ClassSplits:
  found = np.unique(labels)
  if len(found) < 2 * _FEWEST_WAYS:
    raise ValueError(
      "A few-shot data set needs images of at least four classes, two for training and"
      f" two others for test, but its labels name {len(found)}; give images of more."
    )
  order = found[np.random.RandomState(0).permutation(len(found))]
  held_out = max(_FEWEST_WAYS, len(found) // 5)
  test, validation = order[:held_out], order[held_out : 2 * held_out]
  is_rich = len(found) >= RICH
  train = order[2 * held_out if is_rich else held_out :]
  make = lambda some: _classes(images, labels, some)
  return ClassSplits(make(train), make(validation) if is_rich else None, make(test))


def _classes(images, labels, some: Sequence[Any]) -> Classes:
  """Returns the images of some classes, as many of each as the smallest one has."""
  places = [np.flatnonzero(labels == label) for label in some]
  counts = [len(place) for place in places]
  count = min(counts)
  smallest = np.asarray(some[counts.index(count)]).item()
  name = f"{smallest!r:.40}" if max(counts) > count else ""
  rows = np.arange(len(places) * count).reshape(len(places), count)
  chosen = np.concatenate([place[:count] for place in places])
  with tf.init_scope():
    return Classes(tf.constant(images[chosen]), tf.constant(rows, tf.int32), name)


def _turned(classes: Classes) -> Classes:
  """Adds each class three times more, turned by 90, 180 and 270 degrees."""
  images, rows = classes.images.numpy(), classes.rows.numpy()
  turned = np.concatenate([np.rot90(images, k, axes=(1, 2)) for k in range(4)])
  rows = np.concatenate([rows + k * len(images) for k in range(4)])
  with tf.init_scope():
    return classes._replace(
      images=tf.constant(turned), rows=tf.constant(rows, tf.int32)
    )
