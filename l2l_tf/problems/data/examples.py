"""Examples in memory, from which a seed can draw a mini-batch at any time.

A loop that has to be exactly repeatable cannot read from an iterator, because the
iterator's position is hidden state. All examples are therefore kept in memory, and a
seed decides which of them a mini-batch holds.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import keras
import tensorflow as tf

from l2l_tf import seeds


class Examples:
  """Inputs, targets and, optionally, sample weights of N examples."""

  def __init__(self, data: Any, max_examples: int):
    """Stores arrays, or reads a source of batches to its end, once.

    Args:
      data: a tuple `(x, y)` or `(x, y, sample_weight)` of nests of arrays, [N, ...];
        or a source of batches that are such tuples: a `tf.data.Dataset`, a
        `keras.utils.PyDataset`, or an object that has a length and can be indexed or
        iterated over.
      max_examples: how many examples a source of batches may hold, so that it does
        not fill the memory.

    Raises:
      ValueError: if there are no data, if arrays differ in length, or if a source is
        endless or holds too many examples.
    """
    if _is_source(data):
      self.tensors = _concatenate(_read(data, max_examples), _kind(data))
    else:
      self.tensors = _as_tensors(data)
    self.size = _count(self.tensors)

  @property
  def arrays(self) -> list[tf.Tensor]:
    """All tensors, each [N, ...]."""
    return [t for t in tf.nest.flatten(self.tensors) if t is not None]

  def draw(self, num: int, seed: tf.Tensor) -> tuple[Any, Any, Any]:
    """Draws `num` examples with replacement; returns x, y and sample_weight."""
    return self._take(seeds.integers([num], seed, self.size))

  def first(self, num: int) -> tuple[Any, Any, Any]:
    """Returns the first `num` examples, or all of them if there are fewer."""
    return self._take(tf.range(min(num, self.size)))

  def slice(self, start: tf.Tensor, num: int) -> tuple[Any, Any, Any]:
    """Returns `num` examples from `start` on, or as many as are left."""
    return self._take(tf.range(start, tf.minimum(start + num, self.size)))

  def _take(self, indices):
    take = lambda t: None if t is None else tf.gather(t, indices)
    tensors = tf.nest.map_structure(take, self.tensors)
    return keras.utils.unpack_x_y_sample_weight(tensors)


def _is_source(data: Any) -> bool:
  """Whether `data` is a source of batches, and not a nest of arrays."""
  if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset, Iterator)):
    return True
  is_array = tf.is_tensor(data) or hasattr(data, "__array__")
  return isinstance(data, Sized) and not is_array and not tf.nest.is_nested(data)


def _kind(source: Any) -> str:
  is_tf = isinstance(source, tf.data.Dataset)
  return "tf.data.Dataset" if is_tf else type(source).__name__


def _read(source: Any, max_examples: int) -> list[Any]:
  """Returns all batches."""
  kind, advice = _kind(source), "give fewer batches"
  if isinstance(source, tf.data.Dataset):
    advice = "give dataset.take(number_of_batches)"
  too_many = (
    f"A {kind} of more than max_examples={max_examples} examples cannot be kept in"
    f" memory; {advice}, or a higher max_examples."
  )
  batches, size = [], 0
  for batch in _batches(source, kind, too_many):
    batches.append(_as_tensors(batch))
    size += _count(batches[-1])
    if size > max_examples:
      raise ValueError(too_many)
  if not batches:
    raise ValueError(f"The {kind} is empty; it needs at least one batch.")
  return batches


def _batches(source: Any, kind: str, too_many: str) -> Iterable[Any]:
  """Returns an iterable over the batches; raises ValueError if it may have no end."""
  if isinstance(source, tf.data.Dataset):
    if source.cardinality() == tf.data.INFINITE_CARDINALITY:
      raise ValueError(too_many.replace("more than", "endless, hence more than"))
    return source
  is_keras = isinstance(source, keras.utils.PyDataset)
  length = None
  with contextlib.suppress(TypeError, NotImplementedError):
    length = source.num_batches if is_keras else len(source)
  if length is None:
    raise ValueError(
      f"The data came as a {kind} without a length, which may have no end; give arrays,"
      " a keras.utils.PyDataset with a length, or a finite tf.data.Dataset such as"
      " tf.data.Dataset.from_generator(...).take(number_of_batches)."
    )
  if getattr(source, "__getitem__", None) is not None:
    return (source[i] for i in range(length))
  return itertools.islice(source, length)


def _concatenate(batches: list[Any], kind: str) -> Any:
  try:
    join = lambda *t: None if t[0] is None else tf.concat(t, axis=0)
    return tf.nest.map_structure(join, *batches)
  except (tf.errors.InvalidArgumentError, TypeError, ValueError):
    flat = [[t for t in tf.nest.flatten(b) if t is not None] for b in batches]
    shapes = sorted({str(t.shape[1:]) for tensors in flat for t in tensors})
    types = sorted({str([t.dtype.name for t in tensors]) for tensors in flat})
    differ = f"in the shapes of their examples, {', '.join(shapes)}; pad"
    if len(types) > 1:
      differ = f"in their arrays, of types {' and '.join(types)}; bring"
    raise ValueError(
      f"The batches of the {kind} differ {differ} them all to the same."
    ) from None


def _as_tensors(data: Any) -> tuple[Any, ...]:
  """Returns x, y, ... as nests of tensors."""
  parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
  if not 1 <= len(parts) <= 3 or parts[0] is None:
    raise ValueError(
      f"The data came in {len(parts)} parts; give (x, y) or (x, y, sample_weight)."
    )
  to_tensor = lambda x: None if x is None else tf.convert_to_tensor(x)
  return tf.nest.map_structure(to_tensor, parts)  # None: no targets, or no weights


def _count(tensors: Any) -> int:
  """Returns the number of examples, which all tensors must agree on."""
  shapes = [t.shape for t in tf.nest.flatten(tensors) if t is not None]
  sizes = {shape[0] if shape.rank else None for shape in shapes}
  if len(sizes) != 1 or not all(sizes):
    different = list(dict.fromkeys(map(str, shapes)))
    raise ValueError(
      f"The data have shapes {', '.join(different[:9])}; all must be arrays with the"
      " same first dimension, the number of examples, at least 1 (lists are nests, not"
      " arrays; and batch a tf.data.Dataset)."
    )
  return sizes.pop()
