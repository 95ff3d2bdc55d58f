"""Small landscapes with one known difficulty each; no data.

Wichrowska et al. 2017, section 4.1 and appendix, trains on most of them;
https://arxiv.org/abs/1703.04813. They are those of the authors' code,
research/learned_optimizer/problems/problem_generator.py in tensorflow/models, with
means over mini-batches in place of sums. All start at N(0, 1).
"""

import math

import numpy as np
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.base import Parameter, Problem

_EPSILON = 1e-6  # of the authors' code


class Landscape(Problem):
  """A loss of one vector theta that starts at N(0, 1)."""

  jit_compile = True

  def __init__(self, num_dims: int, dtype: tf.DType, least: int = 1):
    if num_dims < least:
      raise ValueError(
        f"{type(self).__name__} got num_dims={num_dims}; it must be at least {least}."
      )
    self._num_dims = num_dims
    self._dtype = dtype

  def init(self, seed):
    return [self._normal([self._num_dims], seed)], []

  def parameters(self):
    return [Parameter("theta", (self._num_dims,), "variable")]

  def _normal(self, shape, seed):
    return seeds.normal(shape, seed, dtype=self._dtype)


class Bowl(Landscape):
  """f(theta) = sum_i h_i (R theta)_i^2 / 2, a quadratic with a chosen condition.

  R is a rotation and h_i, the eigenvalues of the Hessian, fall geometrically from
  `condition` to 1. In two dimensions this is the bowl of the authors' code.

  >>> problem = Bowl(condition=4.0, angle=0.0)
  >>> _, constants = problem.init(tf.constant([0, 1]))
  >>> float(problem([tf.constant([1.0, 1.0])], constants, tf.constant([0, 2])))
  2.5
  """

  def __init__(
    self,
    condition: float = 5.0,
    angle: float | None = None,
    num_dims: int = 2,
    dtype: tf.DType = tf.float32,
  ):
    """Initializes the problem.

    Args:
      condition: h_1, positive; below 1, it is the flattest direction.
      angle: of the rotation in the plane, in radians; None draws a rotation or
        reflection for every task, uniformly.
      num_dims: dimensions of theta.
      dtype: floating type of theta and the loss.

    Raises:
      ValueError: for a condition that is not positive and finite, fewer than two
        dimensions, or an angle in more than two.
    """
    super().__init__(num_dims, dtype, least=2)
    if not 0 < condition < math.inf:
      raise ValueError(
        f"Bowl got condition={condition}; it must be positive and finite."
      )
    if angle is not None and num_dims != 2:
      raise ValueError(
        f"Bowl got angle={angle} in {num_dims} dimensions; an angle is of a rotation in"
        " the plane, so leave it out, or give num_dims=2."
      )
    self._eigenvalues = np.geomspace(condition, 1.0, num_dims)
    self._angle = angle

  def init(self, seed):
    start_seed, basis_seed = seeds.split(seed, 2)
    return [self._normal([self._num_dims], start_seed)], [self._rotation(basis_seed)]

  def __call__(self, params, constants, seed):
    rotated = tf.linalg.matvec(constants[0], params[0])
    eigenvalues = tf.constant(self._eigenvalues, self._dtype)
    return 0.5 * tf.reduce_sum(eigenvalues * tf.square(rotated))

  def _rotation(self, seed):
    if self._angle is not None:
      c, s = math.cos(self._angle), math.sin(self._angle)
      return tf.constant([[c, -s], [s, c]], self._dtype)
    q, r = tf.linalg.qr(self._normal([self._num_dims] * 2, seed))
    # The signs make it uniform: Mezzadri 2007, https://arxiv.org/abs/math-ph/0609050.
    return q * tf.sign(tf.linalg.diag_part(r))


class Norm(Landscape):
  """f(theta) = (sum_i (|W theta - y|_i + 1e-6)^p)^(1 / p), with W, y from N(0, 1).

  Its gradients do not shrink towards the minimum as those of a quadratic do.

  >>> Norm(num_dims=3, power=1.0).parameters()
  [Parameter(path='theta', shape=(3,), role='variable')]
  """

  def __init__(
    self, num_dims: int = 25, power: float = 2.0, dtype: tf.DType = tf.float32
  ):
    """Initializes the problem.

    Args:
      num_dims: dimensions of theta.
      power: p, at least 1.
      dtype: floating type of theta and the loss.

    Raises:
      ValueError: for no dimensions or a power below one.
    """
    super().__init__(num_dims, dtype)
    if not 1 <= power < math.inf:
      raise ValueError(f"Norm got power={power}; it must be at least 1, and finite.")
    self._power = power

  def init(self, seed):
    start_seed, w_seed, y_seed = seeds.split(seed, 3)
    n = self._num_dims
    theta, y = (self._normal([n], key) for key in (start_seed, y_seed))
    return [theta], [self._normal([n, n], w_seed), y]

  def __call__(self, params, constants, seed):
    w, y = constants
    distances = tf.abs(tf.linalg.matvec(w, params[0]) - y) + _EPSILON
    return tf.reduce_sum(distances**self._power) ** (1.0 / self._power)


class DependencyChain(Landscape):
  """f(theta) = theta_0^2 + sum_i theta_i^2 / (theta_{i-1}^2 + 1e-6).

  Coordinates have to reach zero from the last to the first: each one that comes near
  it makes the valley of the next one steep.

  >>> problem = DependencyChain(num_dims=1, dtype=tf.float64)
  >>> float(problem([tf.constant([1.0, 0.0], tf.float64)], [], tf.constant([0, 1])))
  1.0
  """

  def __init__(self, num_dims: int = 20, dtype: tf.DType = tf.float32):
    """Takes the number of coordinates besides theta_0, and the floating type.

    Raises:
      ValueError: for no dimensions.
    """
    super().__init__(num_dims, dtype)
    self._num_dims = num_dims + 1

  def __call__(self, params, constants, seed):
    squares = tf.square(params[0])
    return squares[0] + tf.reduce_sum(squares[1:] / (squares[:-1] + _EPSILON))


class MinMaxWell(Landscape):
  """f(theta) = max_i theta_i^2 + 1 / min_i theta_i^2 - 2.

  Only two coordinates have a gradient at a time. The minimum is zero, where all
  theta_i are 1 or -1.

  >>> problem = MinMaxWell(num_dims=2)
  >>> float(problem([tf.constant([-1.0, 1.0])], [], tf.constant([0, 1])))
  0.0
  """

  def __init__(self, num_dims: int = 12, dtype: tf.DType = tf.float32):
    """Takes the dimensions of theta, and the floating type.

    Raises:
      ValueError: for no dimensions.
    """
    super().__init__(num_dims, dtype)

  def __call__(self, params, constants, seed):
    squares = tf.square(params[0])
    return tf.reduce_max(squares) + 1.0 / tf.reduce_min(squares) - 2.0


class OnMiniBatches(Landscape):
  """A landscape whose steps draw a mini-batch of vectors."""

  def __init__(self, num_dims: int, batch_size: int, dtype: tf.DType):
    super().__init__(num_dims, dtype, least=2)
    if batch_size < 1:
      raise ValueError(
        f"{type(self).__name__} got batch_size={batch_size}; it must be at least 1."
      )
    self._batch_size = batch_size


class OutwardSnake(OnMiniBatches):
  """A winding valley towards infinity, where the loss tends to zero.

  f(theta) = mean over b of b_0 / |theta| + sum_i b_i (theta_i - pi cos theta_{i-1})^2,
  where each step draws a mini-batch of b from {0, 1}^n. The best length of a step is
  the same all along the valley.

  >>> OutwardSnake(num_dims=3).parameters()
  [Parameter(path='theta', shape=(3,), role='variable')]
  """

  def __init__(
    self, num_dims: int = 12, batch_size: int = 32, dtype: tf.DType = tf.float32
  ):
    """Initializes the problem.

    Args:
      num_dims: n, the dimensions of theta.
      batch_size: vectors b of a mini-batch.
      dtype: floating type of theta and the loss.

    Raises:
      ValueError: for fewer than two dimensions, or an empty mini-batch.
    """
    super().__init__(num_dims, batch_size, dtype)

  def __call__(self, params, constants, seed):
    (theta,) = params
    drawn = seeds.integers([self._batch_size, self._num_dims], seed, 2)
    share = tf.reduce_mean(tf.cast(drawn, theta.dtype), axis=0)  # [n], means of b
    radius = tf.sqrt(tf.reduce_sum(tf.square(theta)) + _EPSILON**2)
    winding = tf.square(theta[1:] - math.pi * tf.cos(theta[:-1]))
    return share[0] / radius + tf.reduce_sum(share[1:] * winding)


class ProjectionQuadratic(OnMiniBatches):
  """f(theta) = mean over d of sum_i (d_i theta_i)^2, d a mini-batch from N(0, 1).

  Each step sees the coordinates weighted anew; the mean over all steps is |theta|^2.

  >>> problem = ProjectionQuadratic(num_dims=2)
  >>> float(problem([tf.zeros([2])], [], tf.constant([0, 1])))
  0.0
  """

  def __init__(
    self, num_dims: int = 12, batch_size: int = 10, dtype: tf.DType = tf.float32
  ):
    """Initializes the problem.

    Args:
      num_dims: dimensions of theta.
      batch_size: vectors d of a mini-batch.
      dtype: floating type of theta and the loss.

    Raises:
      ValueError: for fewer than two dimensions, or an empty mini-batch.
    """
    super().__init__(num_dims, batch_size, dtype)

  def __call__(self, params, constants, seed):
    directions = self._normal([self._batch_size, self._num_dims], seed)
    return tf.reduce_mean(tf.reduce_sum(tf.square(directions * params[0]), axis=1))
