"""Orthogonalised matrices, by Newton-Schulz iterations.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
https://kellerjordan.github.io/posts/muon/: the singular values of a momentum are
replaced by ones, approximately.
"""

import math

import tensorflow as tf

# The iteration X <- a X + (b A + c A^2) X with A = X X^T, tuned by Jordan et al. to
# increase small singular values fast; five of them bring all above 0.002 to about 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


def orthogonalized(matrix: tf.Tensor, block: int) -> tf.Tensor:
  """Orthogonalises a matrix, cut into blocks of at most `block` rows or columns.

  The shorter of the two sides is cut. The rows (or columns) of a block become
  orthogonal to each other, and of equal length, approximately; blocks do not know of
  each other, so that the cost grows in proportion to the matrix.

  Args:
    matrix: [M, N].
    block: rows of a block, at least 1.

  Returns:
    A tensor of the same shape, whose root mean square is 1, or 0 if `matrix` is zero.
  """
  rows, columns = matrix.shape
  if not rows * columns:
    return matrix
  if rows > columns:
    return tf.transpose(orthogonalized(tf.transpose(matrix), block))
  count = -(-rows // block)
  height = -(-rows // count)
  padded = tf.pad(matrix, [(0, count * height - rows), (0, 0)])
  blocks = _normalized(tf.reshape(padded, [count, height, columns]), axis=(-2, -1))
  whole = tf.reshape(_polar_factor(blocks), [count * height, columns])[:rows]
  return _normalized(whole, axis=(0, 1)) * math.sqrt(rows * columns)


def _polar_factor(x: tf.Tensor) -> tf.Tensor:
  """Runs the iterations on blocks [B, M, N] of norm 1.

  X_k is always Q_k X with a polynomial Q_k in A = X X^T, all of which commute. So the
  iterations run on small square matrices, and the wide X is used twice in all.
  """
  a, b, c = _COEFFICIENTS
  gram = tf.matmul(x, x, transpose_b=True)  # X_k X_k^T
  identity = tf.eye(x.shape[-2], dtype=x.dtype)
  product = None  # Q_k
  for k in range(_NUM_ITERATIONS):
    factor = a * identity + b * gram + c * tf.matmul(gram, gram)
    product = factor if product is None else tf.matmul(factor, product)
    if k < _NUM_ITERATIONS - 1:
      gram = tf.matmul(factor, tf.matmul(factor, gram))
  return tf.matmul(product, x)


def _normalized(x: tf.Tensor, axis: tuple[int, ...]) -> tf.Tensor:
  """Divides by the norm along some axes; zeros stay zeros.

  The largest entry is divided out first, lest squares of very small ones vanish.
  """
  largest = tf.reduce_max(tf.abs(x), axis=axis, keepdims=True)
  x = tf.math.divide_no_nan(x, largest)
  return x * tf.math.rsqrt(
    tf.reduce_sum(tf.square(x), axis=axis, keepdims=True) + tf.cast(1e-30, x.dtype)
  )
