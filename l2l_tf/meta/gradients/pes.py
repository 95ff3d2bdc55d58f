"""Persistent evolution strategies: unbiased estimates from truncated windows.

Vicol, Metz and Sohl-Dickstein 2021, algorithm 2 and section 4.
https://arxiv.org/abs/2112.13835
"""

import dataclasses

from l2l_tf.meta.gradients.particles import Estimate, Particles, antithetic, scaled


@dataclasses.dataclass(frozen=True)
class PES(Particles):
  """Persistent evolution strategies.

  A particle keeps its inner state from window to window, while its perturbation is
  drawn anew for each. Its loss therefore depends on all perturbations of the episode so
  far, and xi_t = sum over tau <= t of eps_tau takes the place of eps_t:
  g = mean of xi_t (L_t(+) - L_t(-)) / (2 sigma^2). It has no truncation bias; its
  variance grows with the number of windows.

  >>> meta_gradient = PES(pairs=16, stddev=0.01, horizon=(100, 1000))
  >>> problem, optimizer = Quadratic(), CoordinatewiseLSTM()
  >>> trainer = MetaTrainer(problem, optimizer, meta_gradient=meta_gradient)
  """

  def estimate(self, run, phi, noise, lanes, analytic):
    total = [xi + eps for xi, eps in zip(lanes.memory, noise)]
    ran = run(antithetic(phi, noise), lanes.carries)
    up, down = ran.meta_losses
    slope = (up - down) / (2 * self.stddev**2)
    return Estimate(scaled(slope, total), ran.carries, total, ran)
