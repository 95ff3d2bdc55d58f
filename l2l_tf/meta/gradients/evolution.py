"""Evolution strategies: the slope of the meta-loss along random directions.

g = mean over pairs of eps (L(phi + eps) - L(phi - eps)) / (2 sigma^2), for instance in
Metz et al. 2019, section 3. https://arxiv.org/abs/1810.10180
"""

import dataclasses

from l2l_tf.meta.gradients.particles import (
  Estimate,
  Particles,
  antithetic,
  scaled,
  unperturbed,
)


@dataclasses.dataclass(frozen=True)
class EvolutionStrategies(Particles):
  """Antithetic evolution strategies, of whole episodes or truncated to windows.

  Every window starts where the unperturbed optimizer has come to: with windows shorter
  than the horizon the estimate is truncated as `TruncatedBPTT` is, but of the smoothed
  meta-loss, whose gradients do not explode. With the trainer's `unroll_length` at the
  horizon it is unbiased.

  >>> meta_gradient = EvolutionStrategies(pairs=4, stddev=0.01)
  >>> problem, optimizer = Quadratic(), CoordinatewiseLSTM()
  >>> trainer = MetaTrainer(problem, optimizer, meta_gradient=meta_gradient)
  """

  num_kept = 1
  remembers = False

  def estimate(self, run, phi, noise, lanes, analytic):
    (carry,) = lanes.carries
    particles = *antithetic(phi, noise), unperturbed(phi, noise)
    ran = run(particles, (carry, carry, carry))
    up, down, _ = ran.meta_losses
    slope = (up - down) / (2 * self.stddev**2)
    return Estimate(scaled(slope, noise), ran.carries[2:], [], ran)
