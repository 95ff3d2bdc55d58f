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
    matrix: [M, N], of entries whose squares are in the range of their type.
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
  x = tf.reshape(padded, [count, height, columns])
  x = tf.matmul(_polynomial(tf.matmul(x, x, transpose_b=True)), x)
  scale = math.sqrt(rows * columns) * _inverse_root(tf.reduce_sum(tf.square(x)))
  return scale * tf.reshape(x, [count * height, columns])[:rows]


def _polynomial(gram: tf.Tensor) -> tf.Tensor:
  """Returns the Q_k with which the iterations from X / |X| end at Q_k X.

  All X_k are such products, of polynomials in A = X X^T, which commute. So the
  iterations run on small square matrices instead of on the wide X.

  Args:
    gram: X X^T of each block, [B, M, M].
  """
  a, b, c = _COEFFICIENTS
  square = tf.linalg.trace(gram)[:, tf.newaxis, tf.newaxis]  # |X|^2
  gram = tf.square(_inverse_root(square)) * gram
  identity = tf.eye(gram.shape[-1], dtype=gram.dtype)
  product = None
  for k in range(_NUM_ITERATIONS):
    factor = a * identity + b * gram + c * tf.matmul(gram, gram)
    product = factor if product is None else tf.matmul(factor, product)
    if k < _NUM_ITERATIONS - 1:
      gram = tf.matmul(factor, tf.matmul(factor, gram))
  return product * _inverse_root(square)


def _inverse_root(square: tf.Tensor) -> tf.Tensor:
  """Returns 1 / sqrt(square), or 0 for 0."""
  is_zero = square == 0.0
  positive = tf.where(is_zero, tf.ones_like(square), square)
  return tf.where(is_zero, tf.zeros_like(square), tf.math.rsqrt(positive))
