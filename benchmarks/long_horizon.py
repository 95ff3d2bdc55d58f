"""Trains an optimizer over 5,000 steps, as truncated back-propagation cannot do.

The optimizee is a net of four layers of 32 ReLU on scikit-learn's digits. The optimizer
is Adam with a learned rate exp(a) (1 + t / 100)^-b, two weights whose best values
depend on what happens thousands of steps later. Windows of 20 steps see only the next
gains, with exact gradients, and let the rate decay too soon (Wu et al. 2018,
https://arxiv.org/abs/1803.02021); PES is not truncated. Both get the same processor
time, from the same start, on the same meta-objective.
"""

import argparse
import pathlib
import time

import matplotlib.figure
import numpy as np
import tensorflow as tf
import tqdm

from l2l_tf import (
  PES,
  MetaObjective,
  MetaTrainer,
  Optimizer,
  TruncatedBPTT,
  log_relative_loss,
  seeds,
)
from l2l_tf.evaluation import plots
from l2l_tf.evaluation.runner import Runner
from l2l_tf.optimizers import COORDINATE, GRADIENTS, Adam
from l2l_tf.optimizers.hand_designed import adam_update
from l2l_tf.problems import digits_mlp

_LAST = 0.04  # share of the episode over which the noisy final loss is averaged


class DecayingAdam(Optimizer):
  """Adam whose rate is exp(a) (1 + t / 100)^-b."""

  coupling = COORDINATE
  reads = {GRADIENTS}
  config = {}

  def __init__(self):
    super().__init__()
    self.log_rate = tf.Variable(np.log(0.001), dtype=tf.float32)
    self.exponent = tf.Variable(0.1)

  def initial_state(self, params):
    zeros = [tf.zeros_like(p) for p in params]
    return tf.zeros([]), zeros, zeros

  def __call__(self, grads, state, params=None, loss=None):
    step = state[0] + 1.0
    rate = tf.exp(self.log_rate) * (1.0 + step / 100.0) ** -self.exponent
    moved = [
      adam_update(*slots, step, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7)
      for slots in zip(grads, *state[1:])
    ]
    updates, first, second = map(list, zip(*moved))
    return updates, (step, first, second)


METHODS = {
  "TruncatedBPTT, 20 steps": (TruncatedBPTT(second_derivatives=True), 20),
  "PES, 100 steps": (PES(pairs=8, stddev=0.1), 100),
}


def train(name: str, seed: int, num_steps: int, seconds: float) -> DecayingAdam:
  """Meta-trains by one of the methods for so many seconds of processor time."""
  meta_gradient, window = METHODS[name]
  optimizer = DecayingAdam()
  trainer = MetaTrainer(
    digits_mlp((32,) * 4, "relu", batch_size=32),
    optimizer,
    Adam(0.01),
    meta_gradient,
    num_steps=num_steps,
    unroll_length=window,
    seed=seed,
    objective=MetaObjective(function=log_relative_loss, clip_norm=1.0),
  )
  episode, start = 0, time.process_time()
  with tqdm.tqdm(total=round(seconds), desc=f"{name}, seed {seed}") as bar:
    while (spent := time.process_time() - start) < seconds:
      bar.update(int(spent) - bar.n)
      trainer.train_episode(episode)
      episode += 1
  a, b = float(optimizer.log_rate), float(optimizer.exponent)
  print(f"{name}, seed {seed}: rate {np.exp(a):.2g}, exponent {b:.2f}", flush=True)
  return optimizer


def curve(optimizer: Optimizer, seed: int, args: argparse.Namespace) -> np.ndarray:
  """Returns the mean loss of each step on fresh nets."""
  problem = digits_mlp((32,) * 4, "relu", batch_size=32)
  runner = Runner(problem, optimizer, args.steps)
  return runner(seed, seeds.EVALUATION, args.draws).losses.mean(axis=0)


def draw(curves: dict[str, list[np.ndarray]]) -> matplotlib.figure.Figure:
  num_steps = len(curves["untrained"][0]) - 1
  figure = matplotlib.figure.Figure(figsize=(8, 5), dpi=150, layout="constrained")
  axes = figure.add_subplot()
  width = max(1, num_steps // 100)
  for color, (name, found) in zip(
    ("tab:gray", "tab:orange", "tab:blue"), curves.items()
  ):
    for i, losses in enumerate(found):
      smooth = np.convolve(losses, np.ones(width) / width, "valid")
      axes.plot(smooth, color=color, label=None if i else name)
  axes.set_yscale("log")
  axes.set_xlabel("step")
  axes.set_ylabel(f"train loss, mean of {width} steps")
  axes.set_title(f"Four layers of 32 ReLU on digits, {num_steps} steps")
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False)
  return figure


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=5000, help="of an episode")
  parser.add_argument("--seconds", type=float, default=120, help="of each training")
  parser.add_argument("--seeds", type=int, default=3, help="trainings by each method")
  parser.add_argument("--draws", type=int, default=8, help="fresh nets to evaluate on")
  parser.add_argument("--picture", type=pathlib.Path, default="long_horizon.png")
  args = parser.parse_args()
  curves = {"untrained": [curve(DecayingAdam(), 0, args)]}
  for name in METHODS:
    curves[name] = []
    for seed in range(args.seeds):
      optimizer = train(name, seed, args.steps, args.seconds)
      curves[name].append(curve(optimizer, seed, args))
  for name, found in curves.items():
    last = [losses[-max(1, round(_LAST * len(losses))) :].mean() for losses in found]
    print(f"{name}: loss at the end {', '.join(f'{x:.3g}' for x in last)}")
  plots.save(draw(curves), args.picture)


if __name__ == "__main__":
  main()
