"""How learned optimizers compare with tuned ones over all tasks of a benchmark."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from l2l_tf import tables
from l2l_tf.benchmark.contenders import ADAM
from l2l_tf.benchmark.contest import Result

_FLOOR = 0.01  # of the first loss, so that memorised tasks do not decide every mean
_TOLERANCE = 1.05  # on the held-out loss at the end

Results = Mapping[str, Mapping[str, Result]]  # by task, then by contender


class Score(NamedTuple):
  """A learned optimizer over all tasks. Shares are of the tasks, from 0 to 1.

  Ratios are those of `ratio`, with its floor.
  """

  contender: str
  num_tasks: int
  no_worse_than_best: float  # share with a train loss not above the best baseline's
  no_worse_than_adam: float  # than tuned Adam with a cosine
  ratio_to_adam: float  # geometric mean of train losses as multiples of Adam's
  held_out_best: float  # share with a held-out loss, at its least, not above Adam's
  held_out_end: float  # share with one at the end not above 1.05 times Adam's
  accuracy: float  # share with one at the end not below Adam's, within its error
  diverged: int  # trainings
  time_to_adam: float  # geometric mean of seconds per step
  ratio_in_equal_time: float  # as ratio_to_adam, after as many seconds as Adam


def ratio(loss: float, other: float, first: float) -> float:
  """Returns a loss as a multiple of another, both raised by 1% of the first loss.

  If the other training diverged, it counts as if it had stayed at the first loss.

  >>> from l2l_tf.benchmark import scores
  >>> round(scores.ratio(0.0, 0.01, first=1.0), 6)
  0.5
  """
  if not math.isfinite(loss):
    return math.inf if math.isfinite(other) else 1.0
  return (loss + _FLOOR * first) / (min(other, first) + _FLOOR * first)


def ratios(results: Results, name: str, other: str) -> list[float]:
  """Returns a contender's train loss as a multiple of another's, for each task."""
  return [ratio(r[name].last, r[other].last, r[other].first) for r in results.values()]


def score(results: Results, name: str) -> Score:
  """Compares a learned optimizer with the tuned ones."""
  pairs = [(r[name], r[ADAM]) for r in results.values()]
  best = [ratio(r[name].last, _best(r), r[name].first) for r in results.values()]
  to_adam = ratios(results, name, ADAM)
  equal_time = [
    ratio(np.mean([t.last for t in own.shorter]), adam.last, adam.first)
    for own, adam in pairs
  ]
  held_out = [(own, adam) for own, adam in pairs if not math.isnan(adam.held_out)]
  classified = [(own, adam) for own, adam in pairs if not math.isnan(adam.accuracy)]
  return Score(
    name,
    len(pairs),
    _share(best, lambda x: x <= 1),
    _share(to_adam, lambda x: x <= 1),
    _geometric(to_adam),
    _share(held_out, lambda p: p[0].best_held_out <= p[1].best_held_out),
    _share(held_out, lambda p: p[0].held_out <= _TOLERANCE * p[1].held_out),
    _share(classified, lambda p: p[0].accuracy >= p[1].accuracy - _error(p[1])),
    sum(t.diverged for own, _ in pairs for t in own.trials),
    _geometric([own.seconds / adam.seconds for own, adam in pairs]),
    _geometric(equal_time),
  )


def steps_to(result: Result, loss: float) -> int | None:
  """Returns the steps until the train loss, in means of parts, is as low as `loss`."""
  curve = result.curve
  reached = np.flatnonzero(curve <= loss)
  if not len(reached):
    return None
  return round((reached[0] + 1) / len(curve) * result.trials[0].num_steps)


def task_table(results: Mapping[str, Result]) -> str:
  """Returns one task's table, the lowest train loss first."""
  header = [
    "optimizer", "rate", "train loss", "held-out", "at best", "accuracy", "at best",
    "ms/step", "steps to best", "seconds",
  ]  # fmt: skip
  best, lines = _best(results), [header]
  for name, r in sorted(results.items(), key=lambda item: item[1].last):
    steps = steps_to(r, best)
    seconds = None if steps is None else steps * r.seconds
    values = [
      r.rate, r.last, r.held_out, r.best_held_out, r.accuracy, r.best_accuracy,
      1000 * r.seconds, steps, seconds,
    ]  # fmt: skip
    lines.append([name, *map(_cell, values)])
  return tables.aligned(lines, has_rule=True)


def summary_table(scores: Sequence[Score]) -> str:
  """Returns the table of learned optimizers over all tasks."""
  header = [
    f"of {scores[0].num_tasks} tasks", "no worse than the best", "than Adam + cosine",
    "ratio to it", "held-out at best", "at the end", "accuracy", "diverged", "time",
    "ratio in equal time",
  ]  # fmt: skip
  lines = [header]
  for s in scores:
    share = lambda x: "-" if math.isnan(x) else f"{x:.0%}"
    lines.append(
      [
        s.contender, share(s.no_worse_than_best), share(s.no_worse_than_adam),
        _cell(s.ratio_to_adam), share(s.held_out_best), share(s.held_out_end),
        share(s.accuracy), str(s.diverged), _cell(s.time_to_adam),
        _cell(s.ratio_in_equal_time),
      ]
    )  # fmt: skip
  return tables.aligned(lines, has_rule=True)


def rows(results: Results) -> list[list]:
  """Returns a line per task and contender, the header first, for a CSV file."""
  names = [
    "rate", "first", "last", "held_out", "best_held_out", "accuracy", "best_accuracy",
    "seconds",
  ]  # fmt: skip
  lines = [["task", "optimizer", *names, "ratio_to_adam", "steps_to_best"]]
  for task, found in results.items():
    best = _best(found)
    for name, r in found.items():
      values = [getattr(r, column) for column in names]
      to_adam = ratio(r.last, found[ADAM].last, r.first)
      lines.append([task, name, *values, to_adam, steps_to(r, best)])
  return lines


def _best(results: Mapping[str, Result]) -> float:
  """Returns the least train loss of the tuned contenders."""
  return min(r.last for r in results.values() if not r.is_learned)


def _error(result: Result) -> float:
  """Returns the standard error of a held-out accuracy."""
  p, n = result.accuracy, result.trials[0].num_held_out
  return math.sqrt(max(p * (1 - p), 0) / n)


def _share(values: Sequence, holds: Callable) -> float:
  return float(np.mean([holds(x) for x in values])) if len(values) else math.nan


def _geometric(values: Sequence[float]) -> float:
  return float(np.exp(np.mean(np.log(values))))


def _cell(value: float | None) -> str:
  if value is None or math.isnan(value):
    return "-"
  return "diverged" if value == math.inf else tables.number(value, 3)
