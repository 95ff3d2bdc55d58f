"""Coordinates of many tensors laid end to end, and cut into equal blocks."""

from collections.abc import Sequence

import tensorflow as tf

from l2l_tf import dtypes


class Layout:
  """Where the entries of some tensors lie."""

  def __init__(self, specs: Sequence[tf.TensorSpec], count: int):
    """Cuts into `count` blocks, the last one padded with zeros."""
    self._specs = list(specs)
    self._sizes = [spec.shape.num_elements() for spec in specs]
    self.size = sum(self._sizes)
    self.count = count
    self.padding = -(-self.size // count) * count - self.size
    self.dtype = dtypes.of_sum(specs)

  def split(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns blocks [B] of tensors like `specs`."""
    padding = tf.zeros([self.padding], self.dtype)
    return tf.split(flatten([*tensors, padding], self.dtype), self.count)

  def join(self, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The inverse of `split`."""
    parts = self.cut(tf.concat(blocks, axis=0))
    return [
      tf.cast(tf.reshape(x, spec.shape), spec.dtype)
      for x, spec in zip(parts, self._specs)
    ]

  def cut(self, whole: tf.Tensor) -> list[tf.Tensor]:
    """Cuts [..., all coordinates and the padding] into those of each tensor."""
    return tf.split(whole, [*self._sizes, self.padding], axis=-1)[:-1]


def flatten(tensors: Sequence[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
  """All entries as one vector."""
  return tf.concat([tf.cast(tf.reshape(x, [-1]), dtype) for x in tensors], axis=0)
