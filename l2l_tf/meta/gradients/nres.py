"""Noise-reuse evolution strategies: one perturbation for a whole episode.

Li, Harrison, Sohl-Dickstein, Smith and Metz 2023 (NRES), algorithm 1; as ES-Single in
Vicol et al. 2023. https://arxiv.org/abs/2304.12180 https://arxiv.org/abs/2304.11153
"""

import dataclasses

import tensorflow as tf

from l2l_tf.meta.gradients.lanes import expanded
from l2l_tf.meta.gradients.particles import Estimate, Particles, antithetic, scaled


@dataclasses.dataclass(frozen=True)
class NRES(Particles):
  """Noise-reuse evolution strategies.

  As in `PES` a particle keeps its inner state from window to window, but also its
  perturbation eps, which is drawn when its episode starts:
  g = mean of eps (L_t(+) - L_t(-)) / (2 sigma^2). Summed over an episode's windows that
  is the estimate of evolution strategies for the whole episode, without truncation
  bias, and usually of less variance than that of `PES`.

  >>> meta_gradient = NRES(pairs=16, stddev=0.01)
  >>> problem, optimizer = Quadratic(), CoordinatewiseLSTM()
  >>> trainer = MetaTrainer(problem, optimizer, meta_gradient=meta_gradient)
  """

  def estimate(self, run, phi, noise, lanes, analytic):
    starts = tf.equal(lanes.carries[0].step, 0)
    noise = [
      tf.where(expanded(starts, eps), new, eps) for new, eps in zip(noise, lanes.memory)
    ]
    ran = run(antithetic(phi, noise), lanes.carries)
    up, down = ran.meta_losses
    slope = (up - down) / (2 * self.stddev**2)
    return Estimate(scaled(slope, noise), ran.carries, noise, ran)
