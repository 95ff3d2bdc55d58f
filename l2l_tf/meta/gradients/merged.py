"""Back-propagation and evolution strategies, merged by their variances.

Metz, Maheswaranathan, Nixon, Freeman and Sohl-Dickstein 2019, section 4.
https://arxiv.org/abs/1810.10180
"""

import dataclasses

import tensorflow as tf

from l2l_tf.meta.gradients.particles import Estimate, Particles, antithetic, scaled


@dataclasses.dataclass(frozen=True)
class Merged(Particles):
  """Two estimates, analytic and by evolution strategies, weighted by variance.

  g = (g_bp / s_bp^2 + g_es / s_es^2) / (1 / s_bp^2 + 1 / s_es^2), where s^2 are the
  variances of the back-propagated gradients and of the evolution strategies' estimates
  over the lanes, of each weight by itself. Where back-propagated gradients explode,
  their variance does too, and evolution strategies take over.

  Attributes:
    second_derivatives: whether the optimizee's gradients are differentiated too in what
      is back-propagated. False drops terms that evolution strategies do not drop, for
      less time and memory.

  >>> meta_gradient = Merged(pairs=8, stddev=0.01)
  >>> problem, optimizer = Quadratic(), CoordinatewiseLSTM()
  >>> trainer = MetaTrainer(problem, optimizer, meta_gradient=meta_gradient)
  """

  second_derivatives: bool = True

  num_kept = 1
  remembers = False
  back_propagates = True

  def __post_init__(self):
    super().__post_init__()
    if self.pairs < 2:
      raise ValueError("Merged got pairs=1; variances need at least 2.")

  def estimate(self, run, phi, noise, lanes, analytic):
    (carry,) = lanes.carries
    ran = run(antithetic(phi, noise), (carry, carry))
    up, down = ran.meta_losses
    slope = (up - down) / (2 * self.stddev**2)
    return Estimate((analytic, scaled(slope, noise)), (), [], ran)

  def combined(self, samples):
    return [merge(bp, es) for bp, es in zip(*samples)]

  def of_share(self, samples, begin, end):
    """Returns the samples among zeros: their variances are over the lanes of all."""
    rest = lambda x: [[begin, self.pairs - end]] + [[0, 0]] * (x.shape.rank - 1)
    return tf.nest.map_structure(lambda x: tf.pad(x, rest(x)), samples)

  def of_shares(self, total):
    return self.combined(total)


def merge(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns the inverse-variance weighted mean of two estimates.

  Args:
    first: samples [P, ...]; where neither varies, their mean is returned. A weight for
      which one of them is not finite, or all are zero (as where the meta-loss has no
      derivative), takes the mean of the second.
    second: samples of the same shape.
  """
  is_lost = ~tf.reduce_all(tf.math.is_finite(first), axis=0)
  is_lost |= tf.reduce_all(tf.equal(first, 0), axis=0)
  first = tf.where(is_lost, tf.zeros_like(first), first)
  (one, one_variance), (two, two_variance) = (
    tf.nn.moments(x, axes=[0]) for x in (first, second)
  )
  total = one_variance + two_variance
  share = tf.where(total > 0, tf.math.divide_no_nan(two_variance, total), 1)
  share = tf.where(is_lost, tf.zeros_like(share), share)
  return share * one + (1 - share) * two
