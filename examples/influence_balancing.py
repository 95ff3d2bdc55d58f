"""Why truncated back-propagation may go the wrong way, in one picture.

"Influence balancing" (Tallec and Ollivier 2017; Vicol et al. 2021): phi, the one weight
of an optimizer, pushes ten coordinates of theta up and thirteen down. Only the first
coordinate counts for the loss. The pushes up reach it first, but those down outweigh
them later. Truncated back-propagation sees only what arrives within its window.

python examples/influence_balancing.py --picture=influence_balancing.png
"""

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tqdm
from absl import app, flags

import l2l_tf
from l2l_tf.meta.gradients import PES
from l2l_tf.optimizers import PARAMETERS, TENSOR, Adam

_EPISODES = flags.DEFINE_integer("num_episodes", 10, "Of 250 updates of phi each.")
_SEEDS = flags.DEFINE_integer("num_seeds", 3, "Trainings with PES.")
_WINDOWS = flags.DEFINE_list(
  "windows", ["1", "10", "50", "100"], "Lengths for truncated back-propagation."
)
_PICTURE = flags.DEFINE_string("picture", "influence_balancing.png", "The result.")

SIZE = 23
A = 0.5 * np.eye(SIZE) + 0.5 * np.eye(SIZE, k=1)
S = np.array([1.0] * 10 + [-1.0] * 13)
OPTIMUM = -1 / 6
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
  for _ in tqdm.tqdm(trainer.train(num_episodes), total=num_episodes, leave=False):
    path.append(float(optimizer.phi))
  return path


def main(unused_argv: list[str]) -> None:
  figure, axes = plt.subplots(figsize=(6, 4))
  updates = [250 * i for i in range(_EPISODES.value + 1)]
  for length in map(int, _WINDOWS.value):
    method = l2l_tf.TruncatedBPTT(second_derivatives=True)
    path = train(method, length, _EPISODES.value)
    axes.plot(updates, path, label=f"back-propagation, windows of {length}")
  for seed in range(_SEEDS.value):
    path = train(PES_OF_ONE_STEP, 1, _EPISODES.value, seed)
    print(f"PES ends at phi = {path[-1]:.4f}; the optimum is {OPTIMUM:.4f}")
    label = None if seed else f"PES, windows of 1, {_SEEDS.value} seeds"
    axes.plot(updates, path, "k", label=label)
  axes.axhline(OPTIMUM, color="gray", linestyle=":", label="optimum, -1/6")
  axes.set(xlabel="updates of phi", ylabel="phi", ylim=(-0.6, 3))
  axes.set_title("Influence balancing")
  axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
  figure.savefig(_PICTURE.value, dpi=150, bbox_inches="tight")
  print(f"Picture: {_PICTURE.value}")


if __name__ == "__main__":
  app.run(main)
