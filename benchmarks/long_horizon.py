"""Trains an optimizer over 5,000 steps, as truncated back-propagation cannot do.

The optimizee is a net of four layers of 32 ReLU on scikit-learn's digits. The optimizer
is Adam with a learned rate exp(a) (1 + t / 100)^-b, two weights whose best values
depend on what happens thousands of steps later. Windows of 20 steps see only the next
gains, with exact gradients, and let the rate decay too soon (Wu et al. 2018,
https://arxiv.org/abs/1803.02021); PES is not truncated.

Both get the same start, meta-objective and clipping, and as many episodes as take about
the same processor time, which is printed. The meta-rate falls along a cosine. Of all
phi that are validated, at the start and four times along the training by each of some
meta-rates, the one with the lowest loss at the end of the episode is kept, on nets that
neither the training nor the evaluation draws.
"""

import argparse
import pathlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import keras
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
_FINAL_RATE = 0.02  # of the cosine, as a share of the first rate
_VALIDATIONS = 4  # of a training, besides that of its start
_VALIDATION_NETS = 4
_BPTT, _PES = "TruncatedBPTT, 20 steps", "PES, 100 steps"


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


METHODS = {  # the estimator, steps of its windows, and episodes
  _BPTT: (TruncatedBPTT(second_derivatives=True), 20, 8),
  _PES: (PES(pairs=8, stddev=0.1), 100, 12),
}


class Phi(NamedTuple):
  """Weights of `DecayingAdam`, and where they come from."""

  values: dict[str, np.ndarray]
  origin: str
  loss: float  # at the end of an episode, on the validation's nets

  def __str__(self):
    rate, exponent = np.exp(self.values["log_rate"]), self.values["exponent"]
    return f"{rate:.2g}, exponent {exponent:.2f} ({self.origin}): {self.loss:.3g}"


class Evaluation:
  """Runs `DecayingAdam` with any phi on fresh nets."""

  def __init__(self, num_steps: int):
    self._optimizer = DecayingAdam()
    problem = digits_mlp((32,) * 4, "relu", batch_size=32)
    self._runner = Runner(problem, self._optimizer, num_steps)

  def curve(self, values, seed: int, branch: int, draws: int) -> np.ndarray:
    """Returns the mean loss of each step."""
    for name, value in values.items():
      getattr(self._optimizer, name).assign(value)
    return self._runner(seed, branch, draws).losses.mean(axis=0)

  def validated(self, values, origin: str, seed: int) -> Phi:
    losses = self.curve(values, seed, seeds.VALIDATION, _VALIDATION_NETS)
    phi = Phi(values, origin, final(losses))
    print(f"  rate {phi}", flush=True)
    return phi


def final(losses: np.ndarray) -> float:
  """Returns the mean loss of the last steps."""
  return float(losses[-max(1, round(_LAST * len(losses))) :].mean())


def values_of(optimizer: DecayingAdam) -> dict[str, np.ndarray]:
  return {name: getattr(optimizer, name).numpy() for name in ("log_rate", "exponent")}


def train(
  name: str, seed: int, rate: float, args: argparse.Namespace
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
  """Meta-trains by one of the methods; yields episode and phi where to validate."""
  meta_gradient, window, episodes = METHODS[name]
  episodes = max(1, round(args.training * episodes))
  updates = episodes * args.steps // window
  optimizer = DecayingAdam()
  trainer = MetaTrainer(
    digits_mlp((32,) * 4, "relu", batch_size=32),
    optimizer,
    Adam(keras.optimizers.schedules.CosineDecay(rate, updates, _FINAL_RATE)),
    meta_gradient,
    num_steps=args.steps,
    unroll_length=window,
    seed=seed,
    objective=MetaObjective(function=log_relative_loss, clip_norm=1.0),
  )
  ends = {round(episodes * (k + 1) / _VALIDATIONS) for k in range(_VALIDATIONS)}
  spent = []
  for episode in tqdm.trange(episodes, desc=f"{name}, seed {seed}", leave=False):
    start = time.process_time()
    trainer.train_episode(episode)
    spent.append(time.process_time() - start)
    if episode + 1 in ends:
      yield episode + 1, values_of(optimizer)
  print(
    f"  {episodes} episodes of {args.steps // window} meta-steps took"
    f" {sum(spent):.0f} s of processor time, {spent[0]:.0f} of them the first",
    flush=True,
  )


def selected(
  name: str, seed: int, evaluation: Evaluation, args: argparse.Namespace
) -> tuple[Phi, Phi]:
  """Returns the best phi of one method's trainings, and the last of the best one."""
  print(f"{name}, seed {seed}: rate and loss of the validation", flush=True)
  start = values_of(DecayingAdam())
  found, lasts = [evaluation.validated(start, "start", seed)], []
  for rate in args.rates:
    for episode, values in train(name, seed, rate, args):
      origin = f"meta-rate {rate:g}, episode {episode}"
      found.append(evaluation.validated(values, origin, seed))
    lasts.append(found[-1])
  by_loss = lambda phi: phi.loss
  return min(found, key=by_loss), min(lasts, key=by_loss)


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
  parser.add_argument("--seeds", type=int, default=3, help="trainings by each method")
  parser.add_argument(
    "--rates", type=float, nargs="+", default=[0.003, 0.01, 0.03], help="to choose from"
  )
  parser.add_argument("--draws", type=int, default=16, help="fresh nets to evaluate on")
  parser.add_argument(
    "--training", type=float, default=1.0, help="times the episodes of each method"
  )
  parser.add_argument("--picture", type=pathlib.Path, default="long_horizon.png")
  args = parser.parse_args()
  evaluation = Evaluation(args.steps)
  reported = lambda values, seed: evaluation.curve(
    values, seed, seeds.EVALUATION, args.draws
  )
  start = values_of(DecayingAdam())
  curves = {"untrained": [reported(start, seed) for seed in range(args.seeds)]}
  lasts = {}
  for name in METHODS:
    curves[name], lasts[name] = [], []
    for seed in range(args.seeds):
      best, last = selected(name, seed, evaluation, args)
      print(f"{name}, seed {seed}: kept rate {best}", flush=True)
      curves[name].append(reported(best.values, seed))
      lasts[name].append(final(reported(last.values, seed)))
  listed = lambda values: ", ".join(f"{x:.3g}" for x in values)
  for name, found in curves.items():
    print(f"{name}: loss at the end {listed(map(final, found))}")
    if name in lasts:
      print(f"{name}: of the best training's last phi {listed(lasts[name])}")
  plots.save(draw(curves), args.picture)


if __name__ == "__main__":
  main()
