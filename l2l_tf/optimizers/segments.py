"""Coordinates of several tensors in rows of one width, none of which holds two tensors.

What all coordinates of a tensor share is then the same along a row: it is spread over a
few rows instead of many coordinates, and what is added up over a tensor is added up
along rows first. Both are some operations in all, however many tensors there are.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_WIDTHS = [2**k for k in range(7, -1, -1)]  # of a row, 128 at most
_MOST_PADDING = 1 / 8  # of the coordinates


class Segments:
  """Where the entries of some tensors lie: R rows of W; K tensors that have entries.

  The last row of a tensor is padded. W is as large as the padding allows.
  """

  def __init__(self, shapes: Sequence[tf.TensorShape | Sequence[int]]):
    self._sizes = [math.prod(shape) for shape in shapes]
    filled = [size for size in self._sizes if size]
    self.size = sum(filled)  # coordinates, without padding
    self.count = len(filled)  # K
    rows = lambda width: [-(-size // width) for size in filled]
    fits = lambda width: sum(rows(width)) * width <= (1 + _MOST_PADDING) * self.size
    self.width = next(width for width in _WIDTHS if fits(width))
    self._rows = rows(self.width)
    self.num_rows = sum(self._rows)
    self._filled = filled

  def lay_out(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns all entries, [R, W]; the padding is zero."""
    parts = []
    for tensor, size in zip(tensors, self._sizes, strict=True):
      parts += [tf.reshape(tensor, [-1]), tf.zeros([-size % self.width], tensor.dtype)]
    return tf.reshape(tf.concat(parts, axis=0), [self.num_rows, self.width])

  def cut(self, rows: tf.Tensor, like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The inverse of `lay_out`."""
    sizes = []
    for size in self._sizes:
      sizes += [size, -size % self.width]
    parts = tf.split(tf.reshape(rows, [-1]), sizes)[::2]
    return [tf.reshape(part, x.shape) for part, x in zip(parts, like)]

  def spread(self, values: tf.Tensor) -> tf.Tensor:
    """Returns what each tensor has, [C, K], in its rows, [C, R, 1]."""
    return tf.gather(values, self._owners, axis=1)[..., tf.newaxis]

  def means(self, values: tf.Tensor) -> tf.Tensor:
    """Returns the means over each tensor's entries, [C, K], of values [C, R, W]."""
    return self.means_of_rows(row_sums(values, self.entries))

  def means_of_rows(self, sums: tf.Tensor) -> tf.Tensor:
    """Returns the same, given the sums over each row, [C, R]."""
    sums = tf.transpose(sums)
    of_tensors = tf.math.unsorted_segment_sum(sums, self._owners, self.count)
    return tf.transpose(of_tensors) / tf.constant(self._filled, sums.dtype)

  def mean(self, values: tf.Tensor) -> tf.Tensor:
    """Returns the mean over all entries, a scalar, of values [R, W]."""
    return tf.reduce_sum(row_sums(values, self.entries)) / self.size

  @property
  def _owners(self) -> tf.Tensor:
    """Returns whose the rows are, [R]."""
    return tf.constant(np.repeat(np.arange(self.count), self._rows), tf.int32)

  @property
  def entries(self) -> tf.Tensor:
    """Returns how many entries each row holds, [R]."""
    counts = np.full([self.num_rows], self.width)
    last = np.cumsum(self._rows, dtype=int) - 1
    counts[last] = [1 + (size - 1) % self.width for size in self._filled]
    return tf.constant(counts, tf.int32)


def row_sums(values: tf.Tensor, entries: tf.Tensor) -> tf.Tensor:
  """Returns the sums [..., R] over rows of values [..., R, W], without the padding.

  Args:
    values: of some rows.
    entries: how many each of these rows holds, [R].
  """
  width = values.shape[-1]
  # Computed, for it is as large as the model.
  is_entry = tf.range(width) < entries[:, tf.newaxis]
  rows = tf.reshape(tf.where(is_entry, values, 0.0), [-1, width])
  # XLA computes a product faster than a sum along the last axis, and rounds it less.
  sums = tf.matmul(rows, tf.ones([width, 1], values.dtype))
  return tf.reshape(sums, values.shape[:-1])
