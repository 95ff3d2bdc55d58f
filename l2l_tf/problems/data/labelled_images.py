"""Labelled images of one's own, checked and brought to one form."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Resizing leaves floats a little beyond 0 and 1; they are used as they are.
_ROUNDING = 1e-3


def checked(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
  """Returns labelled images as two arrays.

  >>> from l2l_tf.problems.data import labelled_images
  >>> images, _ = labelled_images.checked((np.full([2, 8, 8, 1], 200), ["a", "b"]))
  >>> images.dtype
  dtype('uint8')

  Args:
    dataset: a pair of images [N, height, width, channels], integers from 0 to 255 or
      floats in [0, 1], and of labels [N], integers or strings.

  Returns:
    The images, uint8 or float32, and the labels.

  Raises:
    ValueError: for anything else.
  """
  if not isinstance(dataset, Sequence) or len(dataset) != 2:
    raise ValueError(
      f"A few-shot data set was given as {described(dataset)}, but it needs images and"
      " a label for each; give a pair of images [N, height, width, channels] and"
      " labels [N], or a name such as 'omniglot'."
    )
  images = _stacked(dataset[0])
  labels = _checked_labels(dataset[1], len(images))
  return _in_range(images), labels


def described(value: Any) -> str:
  """Says in a few words what a value is; of an array, its shape and type alone."""
  if value is None or isinstance(value, (str, int, float)):
    return f"{value!r:.60}"
  if hasattr(value, "shape") and hasattr(value, "dtype"):
    return f"an array of shape {value.shape} and type {value.dtype.name}"
  if isinstance(value, Sequence):
    return f"a {type(value).__name__} of {len(value)}"
  return f"a {type(value).__name__}"


def _array(values: Any) -> np.ndarray:
  """Returns an array; one of objects, if the values are not of one shape."""
  try:
    return np.asarray(values)
  except ValueError:
    return np.asarray(values, object)


def _stacked(images: Any) -> np.ndarray:
  is_list = isinstance(images, (list, tuple))
  sizes = sorted({_array(image).shape for image in images}) if is_list else []
  if len(sizes) > 1:
    raise ValueError(
      f"The images of a few-shot data set are of {len(sizes)} sizes, such as"
      f" {sizes[0]} and {sizes[1]}; resize them to one size."
    )
  array = _array(images)
  if array.ndim != 4 or not array.size:
    raise ValueError(
      f"A few-shot data set got {described(array if array.ndim else images)} for its"
      " images; give an array [N, height, width, channels], grey images with one"
      " channel."
    )
  return array


def _in_range(images: np.ndarray) -> np.ndarray:
  """Returns images as uint8 from 0 to 255, or as float32 in [0, 1]."""
  kind, name = images.dtype.kind, images.dtype.name
  if kind not in "buif":
    raise ValueError(
      f"A few-shot data set got images of type {name}; cast them to uint8, from 0 to"
      " 255, or to float32, from 0 to 1."
    )
  low, high = images.min(), images.max()  # NaN, if there is one
  is_whole = kind in "ui"
  least, most = (0, 255) if is_whole else (-_ROUNDING, 1 + _ROUNDING)
  if not (low >= least and high <= most):
    raise ValueError(
      f"A few-shot data set got images of type {name} with values from {low:.4g} to"
      f" {high:.4g}; give integers from 0 to 255, or floats from 0 to 1."
    )
  return images.astype(np.uint8 if is_whole else np.float32, copy=False)


def _checked_labels(labels: Any, count: int) -> np.ndarray:
  array = _array(labels)
  if labels is None or array.shape != (count,):
    given = "none" if labels is None else f"labels of shape {array.shape}"
    raise ValueError(
      f"A few-shot data set of {count} images needs a label for each, but got {given};"
      " give class numbers or names [N]."
    )
  array = _without_objects(array)
  is_whole = array.dtype.kind in "buiUS"
  if not is_whole and not (array.dtype.kind == "f" and np.all(array == array.round())):
    raise ValueError(
      f"A few-shot data set got labels of type {array.dtype.name}; labels must be"
      " integers or strings, one for each image."
    )
  return array


def _without_objects(labels: np.ndarray) -> np.ndarray:
  """Returns labels that pandas or TensorFlow keep as objects as NumPy's own type."""
  types = (str, bytes, int, np.integer)
  is_plain = labels.dtype == object and all(isinstance(x, types) for x in labels)
  return np.array(labels.tolist()) if is_plain else labels
