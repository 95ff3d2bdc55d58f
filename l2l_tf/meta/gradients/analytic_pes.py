"""PES with the analytic gradient of the present window (PES+A).

Vicol, Metz and Sohl-Dickstein 2021, section 5. https://arxiv.org/abs/2112.13835
"""

import dataclasses

import tensorflow as tf

from l2l_tf.meta.gradients.particles import (
  Estimate,
  Particles,
  antithetic,
  inner_product,
  scaled,
  without_explosions,
)


@dataclasses.dataclass(frozen=True)
class AnalyticPES(Particles):
  """PES with the analytic gradient of the present window (PES+A).

  With p_t, the back-propagated gradient of the window at the unperturbed state, the
  perturbations have to account for the windows before alone:
  g = p_t + mean of xi_{t-1} (L_t(+) - L_t(-) - 2 eps_t p_t) / (2 sigma^2).
  Its memory grows with the window, as that of back-propagation does.

  Attributes:
    second_derivatives: whether p_t is the true gradient, as it has to be for the
      estimate to be unbiased.

  >>> meta_gradient = AnalyticPES(pairs=4, stddev=0.01)
  >>> problem, optimizer = Quadratic(), CoordinatewiseLSTM()
  >>> trainer = MetaTrainer(problem, optimizer, meta_gradient=meta_gradient)
  """

  second_derivatives: bool = True

  num_kept = 3  # plus, minus and unperturbed
  back_propagates = True

  def estimate(self, run, phi, noise, lanes, analytic):
    former, analytic = lanes.memory, without_explosions(analytic)  # xi_{t-1}, p_t
    ran = run(antithetic(phi, noise), lanes.carries[:2])
    up, down = ran.meta_losses
    along = tf.cast(inner_product(noise, analytic), up.dtype)
    slope = (up - down - 2 * along) / (2 * self.stddev**2)
    samples = [p + x for p, x in zip(analytic, scaled(slope, former))]
    total = [xi + eps for xi, eps in zip(former, noise)]
    return Estimate(samples, ran.carries, total, ran)
