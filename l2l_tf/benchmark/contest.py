"""One task of a benchmark: every contender tuned, and run on other seeds than those."""

import json
import math
import pathlib
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from l2l_tf import cores, seeds
from l2l_tf.benchmark import contenders as contenders_lib
from l2l_tf.benchmark import trials
from l2l_tf.benchmark.contenders import Contender
from l2l_tf.benchmark.trials import Racer, Trial
from l2l_tf.problems import KerasModel
from l2l_tf.storage import files

_SECONDS = "seconds.json"
_MOST_FURTHER = 6  # rates beyond those of the grid
_ROUNDS = 5  # of a measurement of time
_TIMED = 0.5  # seconds that each takes in a round, about

Done = Callable[[], None]  # called after each trial


class Result(NamedTuple):
  """What a contender reached on a task."""

  rate: float | None  # selected on the seeds of tuning
  trials: tuple[Trial, ...]  # on the reported seeds
  shorter: tuple[Trial, ...]  # in Adam's time; empty for tuned contenders
  seconds: float  # per step, taken in turns with the others

  @property
  def is_learned(self) -> bool:
    """Whether the optimizer has no rate to tune."""
    return self.rate is None

  @property
  def first(self) -> float:
    """Train loss at the start."""
    return _mean(t.first for t in self.trials)

  @property
  def last(self) -> float:
    """Train loss at the end."""
    return _mean(t.last for t in self.trials)

  @property
  def held_out(self) -> float:
    """Held-out loss at the end."""
    return _mean(t.held_out[-1] if t.held_out else math.nan for t in self.trials)

  @property
  def best_held_out(self) -> float:
    """The least held-out loss along a training, as if it had been stopped there."""
    return _mean(np.min(t.held_out) if t.held_out else math.nan for t in self.trials)

  @property
  def accuracy(self) -> float:
    """Held-out accuracy at the end; NaN if there is none."""
    return _mean(t.accuracy[-1] if t.accuracy else math.nan for t in self.trials)

  @property
  def best_accuracy(self) -> float:
    """The highest held-out accuracy along a training."""
    return _mean(np.max(t.accuracy) if t.accuracy else math.nan for t in self.trials)

  @property
  def curve(self) -> np.ndarray:
    """Mean train losses of equal parts of the training; NaN after a divergence."""
    return np.mean([t.curve for t in self.trials], axis=0)


class Contest:
  """All contenders on one task.

  Every trial is a file in `directory`. Those that are there already are read, so that
  a benchmark that was stopped goes on where it was.
  """

  def __init__(
    self,
    task: str,
    problem: KerasModel,
    contenders: Mapping[str, Contender],
    directory: pathlib.Path,
    num_steps: int,
    num_seeds: int,
    done: Done = lambda: None,
  ):
    """Initializes a contest; nothing is run yet.

    Args:
      task: name of the problem.
      problem: what to train.
      contenders: by name; the first tuned one sets the time for `Result.shorter`.
      directory: of the trials' files.
      num_steps: of a training.
      num_seeds: of the trials that are reported.
      done: called after each trial.
    """
    self._contenders, self._directory, self._done = contenders, directory, done
    self._num_steps, self._num_seeds = num_steps, num_seeds
    self._racers = {
      name: Racer(task, problem, name, c.make, num_steps)
      for name, c in contenders.items()
    }

  def __call__(self) -> dict[str, Result]:
    """Returns every contender's result, by name."""
    rates = self._each(self._tuned)
    reported = self._each(lambda name: self._reported(name, rates[name]))
    seconds = self._seconds()
    reference = next(s for n, s in seconds.items() if self._contenders[n].is_tuned)

    def shorter(name: str) -> tuple[Trial, ...]:
      if self._contenders[name].is_tuned:
        return ()
      count = round(self._num_steps * reference / seconds[name])
      return self._reported(name, None, max(1, count))

    fewer = self._each(shorter)
    result = lambda name: Result(*(x[name] for x in (rates, reported, fewer, seconds)))
    return {name: result(name) for name in self._contenders}

  def close(self) -> None:
    """Forgets the traced trainings."""
    self._racers.clear()

  def _each(self, function: Callable[[str], Any]) -> dict[str, Any]:
    """Calls a function of a contender's name for all of them, on all cores."""
    with futures.ThreadPoolExecutor(cores.num_shards()) as pool:
      return dict(zip(self._contenders, pool.map(function, self._contenders)))

  def _tuned(self, name: str) -> float | None:
    """Returns the rate with the least train loss on the seed of tuning."""
    contender = self._contenders[name]
    if not contender.is_tuned:
      return None
    run = lambda rate: self._trial(name, rate, seeds.TUNING, 0, self._num_steps).last
    found = {rate: run(rate) for rate in contender.rates}
    for _ in range(_MOST_FURTHER):
      rate = contenders_lib.further(list(found), min(found, key=found.get))
      if rate is None:
        break
      found[rate] = run(rate)
    return min(found, key=found.get)

  def _reported(self, name, rate, num_steps: int | None = None) -> tuple[Trial, ...]:
    steps = num_steps or self._num_steps
    run = lambda seed: self._trial(name, rate, seeds.EVALUATION, seed, steps)
    return tuple(map(run, range(self._num_seeds)))

  def _trial(self, name, rate, branch: int, seed: int, num_steps: int) -> Trial:
    phase = "tuning" if branch == seeds.TUNING else "reported"
    described = "" if rate is None else f"-{rate:g}"
    file = f"{phase}{described}-seed{seed}-{num_steps}.json"
    path = self._directory / files.name_of(name) / file
    if path.exists():
      trial = trials.read(path)
    else:
      trial = self._racers[name](num_steps, rate, branch, seed)
      trials.write(trial, path)
    self._done()
    return trial

  def _seconds(self) -> dict[str, float]:
    """Returns seconds per step: medians of rounds in which all take their turns."""
    path = self._directory / _SECONDS
    if path.exists():
      known = json.loads(path.read_text(encoding="utf-8"))
      if known.keys() >= self._contenders.keys():
        return known
    for name, racer in self._racers.items():
      if not racer.is_ready:
        rate = (self._contenders[name].rates or [None])[0]
        racer.start(self._num_steps, rate, seeds.TUNING, 0)
    counts = {name: _count(racer) for name, racer in self._racers.items()}
    rounds = [
      [racer.seconds(counts[name]) for name, racer in self._racers.items()]
      for _ in range(_ROUNDS)
    ]
    found = dict(zip(self._racers, np.median(rounds, axis=0).tolist()))
    files.write_text(path, json.dumps(found) + "\n")
    return found


def _count(racer: Racer) -> int:
  """Returns how many steps take about as long as one measurement shall."""
  racer.seconds(1)
  return max(1, min(1000, int(_TIMED / racer.seconds(2))))


def _mean(values) -> float:
  return float(np.mean(list(values)))
