"""The floating type in which values of several types are added.

The parameters of one optimizee may be of any floating types, and its loss of another.
Sums over them, over steps and over tasks soon leave the range of float16 and the
precision of bfloat16, hence they are taken in float32 at least.
"""

from collections.abc import Sequence

import tensorflow as tf


def of_sum(tensors: Sequence[tf.Tensor | tf.TensorSpec]) -> tf.DType:
  """Returns float64 if any of `tensors` is, and float32 otherwise."""
  return tf.float64 if tf.float64 in [x.dtype for x in tensors] else tf.float32


def for_sum(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
  """Returns tensors of any floating types as those of the one type `of_sum`."""
  dtype = of_sum(tensors)
  return [tf.cast(x, dtype) for x in tensors]


def add(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
  """Returns the sum of tensors of one shape and any floating types."""
  return tf.add_n(for_sum(tensors))
