"""Problems whose gradients are noisy or sparse, or whose loss is a logarithm.

Wichrowska et al. 2017, section 4.1 and appendix, trains on all of its problems in these
versions too, https://arxiv.org/abs/1703.04813; research/learned_optimizer/problems/
problem_generator.py in tensorflow/models. Its rescaled parameters, f(theta / s) from
s theta_0, are `ScaledParameters(problem, 1 / s, 1 / s)`.

What changes the gradient alone leaves the loss and the meta-loss as they are, and the
mini-batches too: noise and zeros come from a branch of the step's seed.
"""

import math

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.base import Problem
from l2l_tf.problems.wrapped import Wrapped

_BRANCH = 1_852_797_289  # below a step's seed; far from the numbers that problems use


class AlteredGradients(Wrapped):
  """A problem whose optimizer is given other gradients than those of its loss."""

  @property
  def has_meta_loss(self):
    # The loss by value, but with the true gradient, which meta-gradients need.
    return True

  def _keys(self, params, seed):
    return seeds.split(seeds.fold_in(seed, _BRANCH), len(params))


class NoisyGradients(AlteredGradients):
  """f(theta), with normal noise added to its gradient in every step.

  >>> problem, seed = NoisyGradients(Simple(), stddev=0.5), tf.constant([0, 1])
  >>> params, constants = problem.init(seed)
  >>> float(problem(params, constants, seed))
  1.0
  """

  def __init__(self, problem: Problem, stddev: float = 1.0):
    """Initializes the problem.

    Args:
      problem: whose gradient is spoiled.
      stddev: of the noise in each coordinate; its mean is zero.

    Raises:
      ValueError: for one that is negative or not finite.
    """
    super().__init__(problem)
    if not 0 <= stddev < math.inf:
      raise ValueError(
        f"NoisyGradients got stddev={stddev}; it must be zero or positive, and finite."
      )
    self._stddev = stddev

  def __call__(self, params, constants, seed):
    loss = self._problem(params, constants, seed)
    for p, key in zip(params, self._keys(params, seed)):
      noise = seeds.normal(p.shape, key, self._stddev, p.dtype)
      # Zero, whose gradient is the noise.
      zero = tf.math.multiply_no_nan(noise, p - tf.stop_gradient(p))
      loss += tf.cast(tf.reduce_sum(zero), loss.dtype)
    return loss


class SparseGradients(AlteredGradients):
  """f(theta), where in every step most coordinates of its gradient are set to zero.

  As in the authors' code the others are left as they are, so that the mean is not the
  gradient but a small share of it; `rescaled` undoes that.

  >>> problem, seed = SparseGradients(Simple()), tf.constant([0, 1])
  >>> params, constants = problem.init(seed)
  >>> float(problem(params, constants, seed))
  1.0
  """

  def __init__(
    self, problem: Problem, zero_probability: float = 0.99, rescaled: bool = False
  ):
    """Initializes the problem.

    Args:
      problem: whose gradient is thinned out.
      zero_probability: of each coordinate in each step, below 1.
      rescaled: whether the others are divided by the probability that they are left;
        then the mean over the draws is the gradient.

    Raises:
      ValueError: for a probability outside of [0, 1).
    """
    super().__init__(problem)
    if not 0 <= zero_probability < 1:
      raise ValueError(
        f"SparseGradients got zero_probability={zero_probability}; it must be at least"
        " 0 and below 1."
      )
    self._zero_probability = zero_probability
    self._factor = 1.0 / (1.0 - zero_probability) if rescaled else 1.0

  def __call__(self, params, constants, seed):
    thinned = zip(params, self._keys(params, seed))
    return self._problem([self._thin(*pair) for pair in thinned], constants, seed)

  def _thin(self, param, key):
    """Returns `param`, with a derivative of zero or `_factor` in each coordinate."""
    is_zero = seeds.uniform(param.shape, key) < self._zero_probability
    fixed = tf.stop_gradient(param)
    # Not multiplied by a mask of zeros, which would not stop a gradient of NaN.
    return tf.where(is_zero, fixed, fixed + self._factor * (param - fixed))


class LogLoss(Wrapped):
  """log(f(theta) + 1e-6) - log(1e-6), for a loss f that is never negative.

  `task_losses` and `held_out` report f itself, as those of `ScaledLoss` do.

  >>> problem = LogLoss(Simple())
  >>> params, constants = problem.init(tf.constant([0, 1]))
  >>> round(float(problem(params, constants, tf.constant([0, 2]))), 3)  # 6 log 10
  13.816
  """

  def __init__(self, problem: Problem, epsilon: float = 1e-6):
    """Initializes the problem.

    Args:
      problem: whose loss is f.
      epsilon: below which differences of f hardly count.

    Raises:
      ValueError: unless epsilon is positive and finite.
    """
    super().__init__(problem)
    if not 0 < epsilon < math.inf:
      raise ValueError(
        f"LogLoss got epsilon={epsilon}; it must be positive and finite."
      )
    self._epsilon = epsilon

  def __call__(self, params, constants, seed):
    return self._log(self._problem(params, constants, seed))

  def meta_loss(self, params, constants, seed):
    return self._log(self._problem.meta_loss(params, constants, seed))

  def _log(self, loss):
    return tf.math.log(loss + self._epsilon) - math.log(self._epsilon)
