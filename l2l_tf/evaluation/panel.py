"""One panel of a figure: learned optimizers and tuned baselines on one problem.

As in `protocol.py`, all run on the same draws, and rates are selected on draws of
another seed branch. Here every optimizer leaves a file, so that an evaluation of hours
goes on where it was stopped.
"""

import hashlib
import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from l2l_tf import seeds
from l2l_tf.evaluation import baselines, quasi_newton, tuning
from l2l_tf.evaluation.runner import Curves, Runner
from l2l_tf.meta import execution
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem
from l2l_tf.storage import export, files

LBFGS = "L-BFGS"
_MOST_FURTHER = 6  # rates beyond those of the grid


class Panel:
  """Fresh draws of one problem, on which all optimizers take equally many steps."""

  def __init__(
    self,
    name: str,
    problem: Problem,
    directory: pathlib.Path,
    num_steps: int,
    num_draws: int,
    num_tuning_draws: int,
    rates_per_decade: int = 3,
    seed: int = 0,
  ):
    """Initializes a panel; nothing is run yet.

    Args:
      name: names the problem in the files; results of another name are not read.
      problem: what to optimize.
      directory: of a file for each optimizer.
      num_steps: steps of every optimizer.
      num_draws: draws of the problem to report on.
      num_tuning_draws: draws on which each learning rate of a baseline runs.
      rates_per_decade: of a baseline's learning rates.
      seed: seed of all draws.
    """
    self._problem, self._directory = problem, directory
    self._num_steps, self._num_draws = num_steps, num_draws
    self._num_tuning_draws, self._per_decade = num_tuning_draws, rates_per_decade
    self._seed = seed
    self._conditions = [name, num_steps, num_draws, seed]

  def learned(self, name: str, optimizer: Optimizer) -> Curves:
    """Runs an optimizer untuned, or reads what an earlier process found."""
    digest = hashlib.sha256(export.dumps(optimizer)).hexdigest()
    return self._once(name, [digest], lambda: self._run(optimizer))

  def baseline(self, name: str) -> Curves:
    """Runs a baseline at its best learning rate, or reads what was found.

    Args:
      name: in `baselines.BASELINES`, or `LBFGS`, which has no rate.
    """
    if name == LBFGS:
      counts = self._num_steps, self._num_draws, self._seed, seeds.EVALUATION
      return self._once(name, [], lambda: quasi_newton.run(self._problem, *counts))
    tuned = [self._num_tuning_draws, self._per_decade]
    return self._once(name, tuned, lambda: self._tuned(name))

  def _run(self, optimizer: Optimizer) -> Curves:
    compiled = execution.compiles_loop(self._problem, optimizer)
    optimizer = execution.stepped(self._problem, optimizer)
    runner = Runner(self._problem, optimizer, self._num_steps, compiled)
    return runner(self._seed, seeds.EVALUATION, self._num_draws)

  def _tuned(self, name: str) -> Curves:
    tuned = tuning.tune(
      self._problem,
      baselines.BASELINES[name],
      baselines.start_of_search(name, self._per_decade),
      [self._num_steps],
      tuning.last_tenth_loss,
      num_draws=self._num_draws,
      num_tuning_draws=self._num_tuning_draws,
      seed=self._seed,
      jit_compile=self._problem.jit_compile,
      may_diverge=True,
      most_further=_MOST_FURTHER,
    )
    return tuned[self._num_steps]

  def _once(self, name: str, depends_on: list, run: Callable[[], Curves]) -> Curves:
    """Returns what is in the optimizer's file, or runs it and writes the file."""
    path = self._directory / f"{files.name_of(name)}.npz"
    key = json.dumps([*self._conditions, *depends_on])
    if path.exists() and (found := _read(path, key)) is not None:
      return found
    curves = run()
    with files.writing(path):
      path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, key, curves)
    return curves


def _write(path: pathlib.Path, key: str, curves: Curves) -> None:
  arrays: dict[str, Any] = {"key": key, "losses": curves.losses}
  if curves.learning_rate is not None:
    arrays["learning_rate"] = curves.learning_rate
  data = io.BytesIO()
  np.savez(data, **arrays, **{f"held_out/{k}": v for k, v in curves.held_out.items()})
  with files.writing(path):
    files.write_atomically(path, data.getvalue())


def _read(path: pathlib.Path, key: str) -> Curves | None:
  """Reads what `_write` wrote; None if it was run under other conditions."""
  with np.load(path, allow_pickle=False) as stored:
    if str(stored["key"]) != key:
      return None
    held_out = {
      k.removeprefix("held_out/"): stored[k] for k in stored if k.startswith("held_out")
    }
    rate = float(stored["learning_rate"]) if "learning_rate" in stored else None
    return Curves(stored["losses"], held_out, rate)
