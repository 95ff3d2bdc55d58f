"""A matrix M that all coordinates share, read by products and written by low-rank sums.

Andrychowicz et al. 2016, appendix, "NTM-BFGS optimizer" and "NTM-L-BFGS optimizer".
https://arxiv.org/abs/1606.04474

For n coordinates M is [n, n]. A read head gives one number per coordinate, a write head
two; with vectors r, a_k and b_k over the coordinates,

    i = M r                          (read)
    M <- M + sum_k a_k b_k^T         (write)

M_0 is the identity, as the inverse Hessian with which BFGS begins usually is, so that
what is read before anything was written is r itself. A large M is kept in factors: the
m write vectors a_k, b_k of last, older ones being forgotten, as in L-BFGS:

    M = I + sum_k a_k b_k^T,    k over the last m.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

_MOST_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True)
class DenseMemory:
  """M itself, [n, n]."""

  def initial(self, size: int, dtype: tf.DType) -> tf.Tensor:
    """Returns M_0 for `size` coordinates.

    Raises:
      ValueError: if M has more than 2 GiB.
    """
    num_bytes = size * size * dtype.size
    if num_bytes > _MOST_BYTES:
      raise ValueError(
        f"A dense memory of {size:,} coordinates takes {num_bytes / 2**30:,.1f} GiB;"
        f" at most {_MOST_BYTES >> 30} are allowed: give memory='low_rank', or 'auto'"
        " with a smaller dense_limit."
      )
    return tf.eye(size, dtype=dtype)

  def read(self, matrix: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
    """Returns M r, [1, n].

    Args:
      matrix: M, [n, n].
      query: r, [1, n].
    """
    # Of many tasks at once XLA computes this faster than small matrix products.
    return tf.reduce_sum(matrix * query, axis=1)[tf.newaxis]

  def write(self, matrix: tf.Tensor, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Returns M + sum_k a_k b_k^T.

    Args:
      matrix: M, [n, n].
      left: a_k, [heads, n].
      right: b_k, [heads, n].
    """
    pairs = zip(tf.unstack(left), tf.unstack(right), strict=True)
    return matrix + tf.add_n([a[:, tf.newaxis] * b for a, b in pairs])

  def distance(self, matrix: tf.Tensor) -> tf.Tensor:
    """Returns the Frobenius norm of M - I, in units of that of I."""
    size = matrix.shape[0]
    change = matrix - tf.eye(size, dtype=matrix.dtype)
    return tf.sqrt(tf.reduce_sum(tf.square(change)) / max(size, 1))


class Factors(NamedTuple):
  """M - I as the sum of the products of rows, the oldest first."""

  left: tf.Tensor  # a_k, [m, n]
  right: tf.Tensor  # b_k, [m, n]


@dataclasses.dataclass(frozen=True)
class LowRankMemory:
  """The last m pairs of write vectors, [m, n] each.

  Attributes:
    history: m.
  """

  history: int

  def initial(self, size: int, dtype: tf.DType) -> Factors:
    """As `DenseMemory` has it, and so are the methods below."""
    zeros = tf.zeros([self.history, size], dtype)
    return Factors(zeros, zeros)

  def read(self, factors: Factors, query: tf.Tensor) -> tf.Tensor:
    products = tf.matmul(query, factors.right, transpose_b=True)  # b_k^T r, [1, m]
    return query + tf.matmul(products, factors.left)

  def write(self, factors: Factors, left: tf.Tensor, right: tf.Tensor) -> Factors:
    latest = lambda old, new: tf.concat([old, new], axis=0)[-self.history :]
    return Factors(latest(factors.left, left), latest(factors.right, right))

  def distance(self, factors: Factors) -> tf.Tensor:
    gram = lambda x: tf.matmul(x, x, transpose_b=True)
    square = tf.reduce_sum(gram(factors.left) * gram(factors.right))
    # Rounding may leave less than zero.
    return tf.sqrt(tf.maximum(square, 0.0) / max(factors.left.shape[1], 1))


Memory = DenseMemory | LowRankMemory
