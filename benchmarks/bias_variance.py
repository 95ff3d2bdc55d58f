"""Measures bias and noise of meta-gradients against window and horizon, on digits.

The optimizee is a net of 20 units on scikit-learn's digits, the optimizer a small LSTM
(RNNprop) that is trained on 30 episodes of 200 steps first. Over an episode with phi
fixed, a method's estimate is the mean of its windows' gradients; the truth is the
gradient through the whole episode, back-propagated with second derivatives, and the
mean over tasks.

Of each method's mean it says the share: its component along the true gradient, over the
length of that, which is 1 without bias; and the distance from the true gradient. Both
come with a standard error, which counts the truth's own. Of a vector of many weights a
component is known much better than the distance. Noise is the root-mean-square distance
of one draw, of 16 tasks or pairs, from the method's mean.
"""

import argparse
import itertools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.figure
import numpy as np
import tensorflow as tf
import tqdm

from l2l_tf import MetaObjective, MetaTrainer, seeds
from l2l_tf.evaluation import plots
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import (
  NRES,
  PES,
  AnalyticPES,
  EvolutionStrategies,
  Merged,
  MetaGradient,
  TruncatedBPTT,
)
from l2l_tf.optimizers import Adam, Optimizer, RNNprop
from l2l_tf.problems import TaskBatch, digits_mlp

_TASKS = 16  # of a draw; for an estimator from particles as many pairs
_STDDEV = 0.01
_MEAN = MetaObjective(lambda length: tf.ones([length]) / tf.cast(length, tf.float32))
_TRUTH = "back-propagation, second order"  # with a window as long as the episode
_METHODS = {
  "back-propagation, first order": TruncatedBPTT(),
  _TRUTH: TruncatedBPTT(second_derivatives=True),
  "EvolutionStrategies": EvolutionStrategies(_TASKS, _STDDEV),
  "PES": PES(_TASKS, _STDDEV),
  "NRES": NRES(_TASKS, _STDDEV),
  "AnalyticPES": AnalyticPES(_TASKS, _STDDEV),
  "Merged": Merged(_TASKS, _STDDEV),
}


class Row(NamedTuple):
  """What was found of one method; relative to the length of the true gradient."""

  horizon: int
  window: int
  method: str
  share: float
  share_error: float
  distance: float  # without what the errors add to it; 0 if they explain all of it
  distance_error: float
  noise: float


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--draws", type=int, default=16, help=f"of {_TASKS} tasks each")
  parser.add_argument(
    "--particle_draws", type=int, default=48, help="where nothing is back-propagated"
  )
  parser.add_argument("--horizons", type=int, nargs="+", default=[40, 200])
  parser.add_argument(
    "--windows", type=int, nargs="+", default=[5, 20], help="besides the horizons"
  )
  parser.add_argument(
    "--methods", nargs="+", choices=_METHODS, default=[*_METHODS], help="by default all"
  )
  parser.add_argument("--table", type=pathlib.Path, default="bias_variance.md")
  parser.add_argument("--picture", type=pathlib.Path, default="bias_variance.png")
  args = parser.parse_args()
  problem, optimizer = digits_mlp(), _trained()
  rows = []
  for horizon in args.horizons:
    draws = lambda name, window, h=horizon: _draws(
      problem, optimizer, h, window, name, args
    )
    truth = draws(_TRUTH, horizon)
    windows = [w for w in args.windows if w < horizon and horizon % w == 0]
    for name, window in itertools.product(args.methods, [*windows, horizon]):
      if window == horizon and name in ("PES", "NRES"):
        continue  # These are evolution strategies then, of the same seeds.
      is_truth = (name, window) == (_TRUTH, horizon)
      found = truth if is_truth else draws(name, window)
      is_paired = not _METHODS[name].draws_tasks
      rows.append(_row(horizon, window, name, found, truth, is_paired))
      print(_line(rows[-1]), flush=True)
  args.table.write_text(_table(rows, args))
  plots.save(_drawn(rows), args.picture)


def _draws(problem, optimizer, horizon, window, name, args) -> np.ndarray:
  """Returns estimates, [draws, weights of phi]."""
  method = _METHODS[name]
  make = _of_lanes if method.draws_tasks else _of_tasks
  episodes = make(problem, optimizer, method, horizon, window)
  back_propagates = getattr(method, "back_propagates", True)
  count = args.draws if back_propagates else args.particle_draws
  bar = tqdm.trange(count, desc=f"{name}, window of {window}", leave=False)
  return np.array([next(episodes) for _ in bar], np.float64)


def _row(horizon, window, method, found, truth, is_paired: bool) -> Row:
  """Compares draws [n, weights] of a method with those of the truth.

  Args:
    horizon: steps of the episodes; like the next two to be noted.
    window: steps of the windows.
    method: its name.
    found: the method's draws.
    truth: those of the true gradient.
    is_paired: whether both are of the same tasks, so that what these have in common
      is no error.
  """
  mean, true = found.mean(axis=0), truth.mean(axis=0)
  squared = true @ true
  share = mean @ true / squared
  of_truth = truth @ (mean - 2 * share * true) / squared  # d share by d truth
  along = found @ true / squared
  if is_paired:
    share_error = _squared_error(along + of_truth)
    distance_error = _squared_error(found - truth)
  else:
    share_error = _squared_error(along) + _squared_error(of_truth)
    distance_error = _squared_error(found) + _squared_error(truth)
  distance = max(0.0, np.sum((mean - true) ** 2) - distance_error)
  noise = np.sum(np.var(found, axis=0, ddof=1))
  lengths = np.sqrt([distance, distance_error, noise]) / np.sqrt(squared)
  return Row(horizon, window, method, share, np.sqrt(share_error), *lengths)


def _squared_error(draws: np.ndarray) -> float:
  """Returns the squared standard error of the mean of draws, [n] or [n, weights]."""
  return float(np.sum(np.var(draws, axis=0, ddof=1)) / len(draws))


def _line(row: Row) -> str:
  share = f"{row.share:.2f} ± {row.share_error:.2f}"
  distance = f"{row.distance:.2f} ± {row.distance_error:.2f}"
  if row.distance < 2 * row.distance_error:
    distance = f"< {row.distance + 2 * row.distance_error:.2f}"
  if not row.distance_error:
    share, distance = "1", "0"
  return f"| {row.method} | {row.window} | {share} | {distance} | {row.noise:.2g} |"


def _table(rows: list[Row], args: argparse.Namespace) -> str:
  """Returns the page of tables, in Markdown."""
  lines = [
    "# Bias and noise of meta-gradients",
    "",
    "Made by `python benchmarks/bias_variance.py`; its docstring says what is measured."
    " Everything is relative to the length of the true gradient; ± is one standard"
    " error, and < is two of them above what was found. Of back-propagation,"
    f" `AnalyticPES` and `Merged` there are {args.draws} draws of {_TASKS} tasks or"
    f" pairs, of the other estimators {args.particle_draws}; with one window an episode"
    " `PES` and `NRES` are `EvolutionStrategies`.",
  ]
  for horizon in sorted({row.horizon for row in rows}):
    lines += [
      "",
      f"## Horizon of {horizon} steps",
      "",
      "| meta-gradient | window | share along the true gradient | distance from it"
      " | noise of a draw |",
      "|---|---|---|---|---|",
      *(_line(row) for row in rows if row.horizon == horizon),
    ]
  return "\n".join(lines) + "\n"


def _drawn(rows: list[Row]) -> matplotlib.figure.Figure:
  """Draws share and noise of each method by window, a column for each horizon."""
  horizons = sorted({row.horizon for row in rows})
  figure = matplotlib.figure.Figure(
    figsize=(5 * len(horizons), 7), dpi=150, layout="constrained"
  )
  axes = figure.subplots(2, len(horizons), sharey="row", squeeze=False)
  for column, horizon in zip(axes.T, horizons):
    for k, name in enumerate(_METHODS):
      found = [r for r in rows if (r.horizon, r.method) == (horizon, name)]
      x = np.array([r.window for r in found]) * 1.04 ** (k - len(_METHODS) / 2)
      style = {"marker": "o", "markersize": 4, "linewidth": 1, "color": f"C{k}"}
      errors = [r.share_error for r in found]
      column[0].errorbar(x, [r.share for r in found], errors, capsize=3, **style)
      column[1].plot(x, [r.noise for r in found], label=name, **style)
    column[0].axhline(1, color="black", linewidth=0.8, linestyle="--")
    column[0].set_title(f"horizon of {horizon} steps")
    column[1].set_yscale("log")
    column[1].set_xlabel("steps of a window")
    for axis in column:
      axis.set_xscale("log")
      ticks = sorted({r.window for r in rows if r.horizon == horizon})
      axis.set_xticks(ticks, map(str, ticks))
      axis.minorticks_off()
      axis.spines[["top", "right"]].set_visible(False)
  axes[0, 0].set_ylabel("share of the true gradient, ± error")
  axes[1, 0].set_ylabel(f"noise of {_TASKS} tasks or pairs")
  named = axes[1, 0].get_legend_handles_labels()
  figure.legend(*named, loc="outside lower center", ncols=4, frameon=False)
  return figure


def _of_tasks(
  problem, optimizer, method: MetaGradient, horizon, window
) -> Iterator[np.ndarray]:
  """Yields the gradients of episodes of fresh tasks."""
  batch = TaskBatch(problem, _TASKS)
  start = tf.function(
    lambda seed: unroll.start(batch, optimizer, seed, method.evaluate), autograph=False
  )
  call = lambda task, carry: method(
    batch, optimizer, task, carry, window, lambda *_: (), objective=_MEAN
  )[0]
  call = tf.function(call, autograph=False)
  for i in itertools.count():
    task, carry = start(seeds.make(1, i))
    total = 0.0
    for _ in range(horizon // window):
      found = call(task, carry)
      carry, total = found.carry, total + _flat(found) * window / horizon
    yield total / _TASKS


def _of_lanes(problem, optimizer, method, horizon, window) -> Iterator[np.ndarray]:
  """Yields the gradients of the lanes' episodes, all of which begin together."""
  state = method.init(problem, optimizer, seeds.make(2), horizon, window)
  state = state._replace(horizon=tf.fill([_TASKS], horizon))
  call = lambda state, seed: method(
    problem, optimizer, None, None, window, lambda *_: (),
    objective=_MEAN, state=state, seed=seed,
  )  # fmt: skip
  call = tf.function(call, autograph=False)
  for i in itertools.count():
    total = 0.0
    for w in range(horizon // window):
      found, state = call(state, seeds.make(3, i, w))
      total = total + _flat(found) * window / horizon
    yield total


def _flat(window) -> np.ndarray:
  return np.concatenate([np.ravel(g) for g in window.meta_gradient])


def _trained() -> Optimizer:
  """Returns an optimizer that serves an episode already.

  Trained on 40 steps it makes gradients through 200 explode, and there is no telling
  what is true.
  """
  optimizer = RNNprop((4,))
  trainer = MetaTrainer(
    digits_mlp(), optimizer, Adam(0.01), num_steps=200, clip_norm=1.0, meta_batch_size=4
  )
  for _ in tqdm.tqdm(trainer.train(30), total=30, desc="optimizer", leave=False):
    pass
  return optimizer


if __name__ == "__main__":
  main()
