"""Why truncated back-propagation may go the wrong way, in one picture.

"Influence balancing" (Tallec and Ollivier 2017; Vicol et al. 2021): phi, the one weight
of an optimizer, pushes ten coordinates of theta up and thirteen down. Only the first
coordinate counts for the loss. The pushes up reach it first, but those down outweigh
them later. Truncated back-propagation sees only what arrives within its window.

python examples/influence_balancing.py --picture=influence_balancing.png
"""

import argparse

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import l2l_tf
from l2l_tf.meta.gradients import PES
from l2l_tf.optimizers import PARAMETERS, TENSOR, Adam

SIZE = 23
A = 0.5 * np.eye(SIZE) + 0.5 * np.eye(SIZE, k=1)
S = np.array([1.0] * 10 + [-1.0] * 13)
OPTIMUM = -1 / 6
UPDATES = range(0, 2501, 250)
PES_OF_ONE_STEP = PES(pairs=200, stddev=0.1, horizon=5000, loss_bound=1e6)


class FirstCoordinate(l2l_tf.Problem):
  """f(theta) = (theta_0 - 1)^2 / 2, from theta = 1."""

  jit_compile = True

  def init(self, seed):
    return [tf.ones([SIZE], tf.float64)], ()

  def __call__(self, params, constants, seed):
    return 0.5 * tf.square(params[0][0] - 1)


class Push(l2l_tf.Optimizer):
  """theta' = A theta + phi s."""

  coupling, reads, config = TENSOR, {PARAMETERS}, {}

  def __init__(self, phi=0.5):
    super().__init__()
    self.phi = tf.Variable(phi, dtype=tf.float64)

  def initial_state(self, params):
    return ()

  def __call__(self, grads, state, params=None, loss=None):
    (theta,) = params
    return [tf.linalg.matvec(A, theta) + self.phi * S - theta], state


def train(meta_gradient, unroll_length, num_episodes=10, seed=0):
  """Meta-trains from phi = 0.5; returns phi after every 250 updates."""
  optimizer = Push()
  rate = keras.optimizers.schedules.CosineDecay(6e-3, 250 * num_episodes)
  trainer = l2l_tf.MetaTrainer(
    FirstCoordinate(),
    optimizer,
    Adam(rate),
    meta_gradient,
    num_steps=250 * unroll_length,
    unroll_length=unroll_length,
    seed=seed,
  )
  path = [float(optimizer.phi)]
  for _ in trainer.train(num_episodes):
    path.append(float(optimizer.phi))
  return path


def main():
  """Draws phi under truncated back-propagation and under PES."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--picture", default="influence_balancing.png", help="the result")
  picture = parser.parse_args().picture
  figure, axes = plt.subplots(figsize=(6, 4))
  for length in (1, 10, 50, 100):
    method = l2l_tf.TruncatedBPTT(second_derivatives=True)
    path = train(method, length)
    axes.plot(UPDATES, path, label=f"back-propagation, windows of {length}")
  for seed in range(3):
    label = None if seed else "PES, windows of 1, three seeds"
    axes.plot(UPDATES, train(PES_OF_ONE_STEP, 1, seed=seed), "k", label=label)
  axes.axhline(OPTIMUM, color="gray", linestyle=":", label="optimum, -1/6")
  axes.set(xlabel="updates of phi", ylabel="phi", ylim=(-0.6, 3))
  axes.set_title("Influence balancing")
  axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
  figure.savefig(picture, dpi=150, bbox_inches="tight")
  print(f"Wrote {picture}")


if __name__ == "__main__":
  main()
