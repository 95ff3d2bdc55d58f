"""One panel of a figure: learned optimizers and tuned baselines on one problem.

As in `protocol.py`, all run on the same draws, and rates are selected on draws of
another seed branch. Here every optimizer leaves a file, so that an evaluation of hours
goes on where it was stopped.
"""

import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from l2l_tf import seeds
from l2l_tf.evaluation import baselines, gradient_sizes, quasi_newton, tuning
from l2l_tf.evaluation.runner import Curves, Progress, Runner, unseen
from l2l_tf.meta import execution
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem
from l2l_tf.problems.fingerprint import differ, fingerprint
from l2l_tf.storage import export, files

_HELD_OUT = "held_out/"
_COMPILED = 50  # steps of a run from which compiling it by XLA repays
_MEASURED = 4  # draws whose gradients are measured; they differ little
_MOST_FURTHER = 6  # rates beyond those of the grid


class OtherDataError(ValueError):
  """What was run before had other data than there are now."""


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
    self._repays = num_steps >= _COMPILED
    self._conditions = [name, num_steps, num_draws, seed]
    self._data = fingerprint(problem)

  def num_planned(self, name: str | None = None) -> int:
    """Returns the steps of all runs of a baseline, or of a learned optimizer.

    A search for a learning rate may turn out to be longer, by rates beyond the grid.
    """
    runs = self._num_draws
    if name is not None and name not in quasi_newton.METHODS:
      grid = baselines.start_of_search(name, self._per_decade)
      runs += len(grid) * self._num_tuning_draws
    return runs * self._num_steps

  def learned(
    self, name: str, optimizer: Optimizer, progress: Progress = unseen
  ) -> Curves:
    """Runs an optimizer untuned, or reads what an earlier process found.

    Raises:
      OtherDataError: if that was found on other data; here and below.
    """
    run = lambda: _arrays(self._run(optimizer, progress))
    return _curves(self._once(name, _digest(optimizer), run))

  @property
  def num_measured(self) -> int:
    """The steps of `gradient_sizes`."""
    return min(self._num_draws, _MEASURED) * self._num_steps

  def gradient_sizes(
    self, name: str, optimizer: Optimizer, progress: Progress = unseen
  ) -> np.ndarray:
    """Returns what `gradient_sizes.measure` does, or reads what was found."""
    counts = self._num_steps, min(self._num_draws, _MEASURED), self._seed

    def measure():
      found = gradient_sizes.measure(self._problem, optimizer, *counts, progress)
      return {"sizes": found}

    return self._once(f"gradients of {name}", _digest(optimizer), measure)["sizes"]

  def baseline(self, name: str, progress: Progress = unseen) -> Curves:
    """Runs a baseline at its best learning rate, or reads what was found.

    Args:
      name: in `baselines.BASELINES`, or in `quasi_newton.METHODS`, without a rate.
      progress: is told of all steps while they are run; here and above.
    """
    if name in quasi_newton.METHODS:
      found = self._once(name, [], lambda: _arrays(self._minimized(name, progress)))
      # Earlier versions stored a rate.
      return _curves(found)._replace(learning_rate=None, without_rate=True)
    tuned = [self._num_tuning_draws, self._per_decade]
    run = lambda: _arrays(self._tuned(name, progress))
    return _curves(self._once(name, tuned, run))

  def _minimized(self, name: str, progress: Progress) -> Curves:
    counts = self._num_steps, self._num_draws, self._seed, seeds.EVALUATION
    method = quasi_newton.METHODS[name]
    return quasi_newton.run(self._problem, *counts, progress, method)

  def _run(self, optimizer: Optimizer, progress: Progress) -> Curves:
    compiled = self._repays and execution.compiles_loop(self._problem, optimizer)
    optimizer = execution.stepped(self._problem, optimizer)
    runner = Runner(self._problem, optimizer, self._num_steps, compiled, progress)
    return runner(self._seed, seeds.EVALUATION, self._num_draws)

  def _tuned(self, name: str, progress: Progress) -> Curves:
    tuned = tuning.tune(
      self._problem,
      baselines.BASELINES[name],
      baselines.start_of_search(name, self._per_decade),
      [self._num_steps],
      tuning.last_tenth_loss,
      num_draws=self._num_draws,
      num_tuning_draws=self._num_tuning_draws,
      seed=self._seed,
      jit_compile=self._repays and self._problem.jit_compile,
      may_diverge=True,
      most_further=_MOST_FURTHER,
      progress=progress,
    )
    return tuned[self._num_steps]

  def _once(
    self, name: str, depends_on: list, run: Callable[[], dict[str, Any]]
  ) -> dict[str, np.ndarray]:
    """Returns the arrays in the file of that name, or runs and writes it."""
    path = self._directory / f"{files.name_of(name)}.npz"
    key = json.dumps([*self._conditions, *depends_on])
    if path.exists():
      with np.load(path, allow_pickle=False) as stored:
        if str(stored["key"]) == key:
          self._check_data(path, stored)
          return dict(stored)
    arrays, data = run(), io.BytesIO()
    np.savez(data, key=key, data=self._data, **arrays)
    with files.writing(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      files.write_atomically(path, data.getvalue())
    return arrays

  def _check_data(self, path: pathlib.Path, stored: Mapping[str, np.ndarray]) -> None:
    """Refuses results on other data, which may be hours of work, to be replaced."""
    found = str(stored.get("data", self._data))  # Earlier versions do not say.
    if found != self._data:
      raise OtherDataError(differ(str(path), found, self._data))


def _digest(optimizer: Optimizer) -> list[str]:
  return [hashlib.sha256(export.dumps(optimizer)).hexdigest()]


def _arrays(curves: Curves) -> dict[str, Any]:
  held_out = {f"{_HELD_OUT}{name}": values for name, values in curves.held_out.items()}
  is_tuned = curves.learning_rate is not None
  rate = {"learning_rate": curves.learning_rate} if is_tuned else {}
  return {"losses": curves.losses, **held_out, **rate}


def _curves(arrays: dict[str, Any]) -> Curves:
  held_out = {
    name.removeprefix(_HELD_OUT): values
    for name, values in arrays.items()
    if name.startswith(_HELD_OUT)
  }
  rate = arrays.get("learning_rate")
  return Curves(arrays["losses"], held_out, None if rate is None else float(rate))
