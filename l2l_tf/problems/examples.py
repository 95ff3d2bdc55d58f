"""Examples in memory, of which any can be drawn at any time.

A loop that must repeat itself exactly cannot read from an iterator, whose place in
its data is a hidden state. Hence all examples are kept, and drawn by a seed.
"""

from typing import Any

import keras
import tensorflow as tf

from l2l_tf import seeds


class Examples:
  """Inputs, targets and, perhaps, weights of as many examples."""

  def __init__(self, data: Any, max_examples: int):
    """Takes arrays as they are, and reads a `tf.data.Dataset` to its end, once.

    Args:
      data: a tuple `(x, y)` or `(x, y, sample_weight)` of nests of arrays, [N, ...],
        or a batched `tf.data.Dataset` of such tuples.
      max_examples: of a `tf.data.Dataset`, so that it cannot fill the memory.

    Raises:
      ValueError: for data that are empty, of unequal lengths, endless or too many.
    """
    if isinstance(data, tf.data.Dataset):
      self.tensors = _concatenate(_read(data, max_examples))
    else:
      self.tensors = _as_tensors(data)
    self.size = _count(self.tensors)

  def draw(self, num: int, seed: tf.Tensor) -> tuple[Any, Any, Any]:
    """Draws `num` examples with replacement; returns x, y and sample_weight."""
    return self._take(seeds.integers([num], seed, self.size))

  def first(self, num: int) -> tuple[Any, Any, Any]:
    """Returns the first `num` examples, or all if they are fewer."""
    return self._take(tf.range(min(num, self.size)))

  def slice(self, start: tf.Tensor, num: int) -> tuple[Any, Any, Any]:
    """Returns `num` examples from `start` on, or as many as there are."""
    return self._take(tf.range(start, tf.minimum(start + num, self.size)))

  def _take(self, indices):
    tensors = tf.nest.map_structure(lambda t: tf.gather(t, indices), self.tensors)
    return keras.utils.unpack_x_y_sample_weight(tensors)


def _read(dataset: tf.data.Dataset, max_examples: int) -> list[Any]:
  """Returns all batches."""
  too_many = (
    f"A tf.data.Dataset of more than max_examples={max_examples} examples cannot be"
    " kept in memory; give dataset.take(number_of_batches), or a higher max_examples."
  )
  if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
    raise ValueError(too_many.replace("more than", "endless, hence more than"))
  batches, size = [], 0
  for batch in dataset:
    batches.append(_as_tensors(batch))
    size += _count(batches[-1])
    if size > max_examples:
      raise ValueError(too_many)
  if not batches:
    raise ValueError("The tf.data.Dataset is empty; it needs at least one batch.")
  return batches


def _concatenate(batches: list[Any]) -> Any:
  try:
    return tf.nest.map_structure(lambda *t: tf.concat(t, axis=0), *batches)
  except tf.errors.InvalidArgumentError:
    shapes = sorted({str(t.shape[1:]) for b in batches for t in tf.nest.flatten(b)})
    raise ValueError(
      f"The batches of the tf.data.Dataset differ in the shapes of their examples,"
      f" {', '.join(shapes)}; pad them all to the same."
    ) from None


def _as_tensors(data: Any) -> tuple[Any, ...]:
  """Returns x, y, ... as nests of tensors."""
  parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
  parts = tuple(part for part in parts if part is not None)
  if not 1 <= len(parts) <= 3:
    raise ValueError(
      f"The data came in {len(parts)} parts; give (x, y) or (x, y, sample_weight)."
    )
  return tf.nest.map_structure(tf.convert_to_tensor, parts)


def _count(tensors: Any) -> int:
  """Returns how many examples there are, the same in all tensors."""
  shapes = [t.shape for t in tf.nest.flatten(tensors)]
  sizes = {shape[0] if shape.rank else None for shape in shapes}
  if len(sizes) != 1 or not all(sizes):
    different = list(dict.fromkeys(map(str, shapes)))
    raise ValueError(
      f"The data have shapes {', '.join(different[:9])}; all must be arrays with the"
      " same first dimension, the number of examples, at least 1 (lists are nests, not"
      " arrays; and batch a tf.data.Dataset)."
    )
  return sizes.pop()
