"""The floating type in which values of different types are added up.

The parameters of one optimizee may have several floating types, and its loss another
one. Sums over parameters, steps and tasks soon exceed the range of float16 and the
precision of bfloat16. They are therefore computed in float32, or in float64 if any of
the values has that type.
"""

from collections.abc import Sequence

import tensorflow as tf


def of_sum(tensors: Sequence[tf.Tensor | tf.TensorSpec]) -> tf.DType:
  """Returns float64 if any of the tensors has that type, and float32 otherwise."""
  return tf.float64 if tf.float64 in [x.dtype for x in tensors] else tf.float32


def for_sum(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
  """Casts tensors of any floating types to the type that `of_sum` returns for them."""
  dtype = of_sum(tensors)
  return [tf.cast(x, dtype) for x in tensors]


def add(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
  """Returns the sum of tensors of one shape and any floating types."""
  return tf.add_n(for_sum(tensors))
