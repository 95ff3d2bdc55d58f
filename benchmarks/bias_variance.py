"""Measures bias and noise of meta-gradients against window and horizon, on digits.

The optimizee is a net of 20 units on scikit-learn's digits, the optimizer a small LSTM
(RNNprop) that is trained for a moment first. Over an episode with phi fixed, a method's
estimate is the mean of its windows' gradients; the truth is the gradient through the
whole episode, back-propagated with second derivatives, and the mean over tasks.
"""

import argparse
import functools
import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tqdm

from l2l_tf import MetaObjective, MetaTrainer, seeds
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
from l2l_tf.problems import Problem, TaskBatch, digits_mlp

_TASKS = 16  # of a draw; for an estimator from particles as many pairs
_STDDEV = 0.01
_MEAN = MetaObjective(lambda length: tf.ones([length]) / tf.cast(length, tf.float32))
_TRUTH = TruncatedBPTT(second_derivatives=True)  # with a window as long as the episode
_METHODS = {
  "back-propagation, first order": TruncatedBPTT(),
  "back-propagation, second order": _TRUTH,
  "EvolutionStrategies": EvolutionStrategies(_TASKS, _STDDEV),
  "PES": PES(_TASKS, _STDDEV),
  "NRES": NRES(_TASKS, _STDDEV),
  "AnalyticPES": AnalyticPES(_TASKS, _STDDEV),
  "Merged": Merged(_TASKS, _STDDEV),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--draws", type=int, default=40, help=f"of {_TASKS} tasks each")
  parser.add_argument("--horizons", type=int, nargs="+", default=[40, 200])
  parser.add_argument("--windows", type=int, nargs="+", default=[5, 20, 40, 200])
  args = parser.parse_args()
  problem, optimizer = digits_mlp(), _trained()
  for horizon in args.horizons:
    measure = functools.partial(_measured, problem, optimizer, horizon, args.draws)
    truth, _ = measure("truth", _TRUTH, horizon)
    print(f"\nHorizon {horizon}: bias / noise, relative to the true gradient\n")
    windows = [w for w in args.windows if horizon % w == 0]
    print("| window | " + " | ".join(map(str, windows)) + " |")
    print("|---" * (len(windows) + 1) + "|")
    for name, method in _METHODS.items():
      cells = [_cell(*measure(name, method, w), truth, args.draws) for w in windows]
      print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _cell(mean, variance, truth, draws: int) -> str:
  """Says bias and noise; a bias within its error is said to be below that."""
  norm, error = np.linalg.norm(truth), np.sum(variance / draws) ** 0.5
  distance = np.linalg.norm(mean - truth)
  is_clear = distance > 1.5 * error
  bias = (distance**2 - error**2) ** 0.5 if is_clear else 1.5 * error
  noise = np.sum(variance * _TASKS) ** 0.5
  return f"{'' if is_clear else '< '}{bias / norm:.2g} / {noise / norm:.2g}"


def _measured(
  problem: Problem,
  optimizer: Optimizer,
  horizon: int,
  draws: int,
  name: str,
  method: MetaGradient,
  window: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean and variance of a draw's gradient, [weights of phi]."""
  make = _of_lanes if method.draws_tasks else _of_tasks
  episodes = make(problem, optimizer, method, horizon, window)
  bar = tqdm.trange(draws, desc=f"{name}, window of {window}", leave=False)
  found = [next(episodes) for _ in bar]
  return np.mean(found, axis=0), np.var(found, axis=0, ddof=1)


def _of_tasks(problem, optimizer, method, horizon, window) -> Iterator[np.ndarray]:
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
  """Returns an optimizer whose updates help already."""
  optimizer = RNNprop((4,))
  trainer = MetaTrainer(
    digits_mlp(), optimizer, Adam(0.01), num_steps=40, clip_norm=1.0, meta_batch_size=4
  )
  for _ in tqdm.tqdm(trainer.train(60), total=60, desc="optimizer", leave=False):
    pass
  return optimizer


if __name__ == "__main__":
  main()
