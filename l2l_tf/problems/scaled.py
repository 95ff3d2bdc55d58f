"""Problems in which each task rescales the loss or the parameters at random.

An optimizer that is trained on them cannot rely on a particular scale.

Lv et al. 2017, "Learning Gradient Descent: Better Generalization and Longer
Horizons", section 4.1, random scaling. https://arxiv.org/abs/1703.03633
"""

import math

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.base import Problem, draw


class ScaledLoss(Problem):
  """s f(theta), where each task draws the factor s from a log-uniform distribution.

  `task_losses` and `held_out` report f without the factor, so that results of different
  tasks can be compared.

  >>> problem = ScaledLoss(Simple(), low=0.5, high=2.0)
  >>> params, constants = problem.init(tf.constant([0, 1]))
  >>> 0.5 <= float(problem(params, constants, tf.constant([0, 2]))) <= 2.0
  True
  """

  def __init__(self, problem: Problem, low: float = 1e-3, high: float = 1e3):
    """Initializes the problem.

    Args:
      problem: the problem whose loss is f.
      low: smallest factor.
      high: largest factor.

    Raises:
      ValueError: unless 0 < low <= high.
    """
    self._low, self._high = _check_range(self, low, high)
    self._problem = problem
    self.jit_compile = problem.jit_compile

  def init(self, seed):
    task_seed, scale_seed = seeds.split(seed, 2)
    params, constants = draw(self._problem, task_seed)
    return params, (constants, _log_uniform([], scale_seed, self._low, self._high))

  def __call__(self, params, constants, seed):
    constants, scale = constants
    loss = self._problem(params, constants, seed)
    return tf.cast(scale, loss.dtype) * loss

  def meta_loss(self, params, constants, seed):
    constants, scale = constants
    loss = self._problem.meta_loss(params, constants, seed)
    return tf.cast(scale, loss.dtype) * loss

  @property
  def has_meta_loss(self):
    return self._problem.has_meta_loss

  def project(self, params, constants):
    return self._problem.project(params, constants[0])

  @property
  def is_constrained(self):
    return self._problem.is_constrained

  def task_losses(self, params, constants, seed):
    return self._problem.task_losses(params, constants[0], seed)

  def held_out(self, params, constants):
    return self._problem.held_out(params, constants[0])

  def data_sources(self):
    return self._problem.data_sources()

  def parameters(self):
    return self._problem.parameters()


class ScaledParameters(Problem):
  """f(c theta), starting at theta_0 / c, where each task draws c log-uniformly.

  Each coordinate has its own factor. Its gradient becomes c times as large, and its
  distance to the optimum c times as small.

  >>> problem = ScaledParameters(Simple())
  >>> params, constants = problem.init(tf.constant([0, 1]))
  >>> round(float(problem(params, constants, tf.constant([0, 2]))), 3)
  1.0
  """

  def __init__(self, problem: Problem, low: float = math.exp(-1), high: float = math.e):
    """Initializes the problem.

    Args:
      problem: the problem whose loss is f.
      low: smallest factor; exp(-3) in the paper.
      high: largest factor; exp(3) in the paper.

    Raises:
      ValueError: unless 0 < low <= high.
    """
    self._low, self._high = _check_range(self, low, high)
    self._problem = problem
    self.jit_compile = problem.jit_compile

  def init(self, seed):
    task_seed, scale_seed = seeds.split(seed, 2)
    params, constants = draw(self._problem, task_seed)
    scales = [
      tf.cast(_log_uniform(p.shape, key, self._low, self._high), p.dtype)
      for p, key in zip(params, seeds.split(scale_seed, len(params)))
    ]
    return [p / c for p, c in zip(params, scales)], (constants, scales)

  def __call__(self, params, constants, seed):
    constants, scales = constants
    return self._problem(_scale(params, scales), constants, seed)

  def meta_loss(self, params, constants, seed):
    constants, scales = constants
    return self._problem.meta_loss(_scale(params, scales), constants, seed)

  @property
  def has_meta_loss(self):
    return self._problem.has_meta_loss

  def project(self, params, constants):
    """Returns P(c theta) / c, where P is the projection of the scaled problem."""
    constants, scales = constants
    projected = self._problem.project(_scale(params, scales), constants)
    return [p / c for p, c in zip(projected, scales, strict=True)]

  @property
  def is_constrained(self):
    return self._problem.is_constrained

  def task_losses(self, params, constants, seed):
    constants, scales = constants
    return self._problem.task_losses(_scale(params, scales), constants, seed)

  def held_out(self, params, constants):
    constants, scales = constants
    return self._problem.held_out(_scale(params, scales), constants)

  def data_sources(self):
    return self._problem.data_sources()

  def parameters(self):
    return self._problem.parameters()


def _scale(params: list[tf.Tensor], scales: list[tf.Tensor]) -> list[tf.Tensor]:
  return [c * p for p, c in zip(params, scales, strict=True)]


def _log_uniform(shape, seed, low, high) -> tf.Tensor:
  exponent = seeds.uniform(shape, seed) * (math.log(high) - math.log(low))
  return tf.exp(math.log(low) + exponent)


def _check_range(problem: Problem, low: float, high: float) -> tuple[float, float]:
  if not 0 < low <= high < math.inf:
    raise ValueError(
      f"{type(problem).__name__} got low={low} and high={high}; they must be positive"
      " and finite, low at most high."
    )
  return low, high
