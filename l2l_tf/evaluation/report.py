"""Statistics of learning curves, as a table, CSV files and a plot."""

import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from l2l_tf import tables
from l2l_tf.evaluation import plots
from l2l_tf.evaluation.runner import Curves
from l2l_tf.storage import files

_Z = 1.96  # 95% of a normal distribution
_ENDS = ("", "_low", "_high")  # of the columns of a band


class Band(NamedTuple):
  """A statistic over tasks with its 95% confidence interval, per step."""

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray


class Row(NamedTuple):
  """One optimizer's line in the table."""

  optimizer: str
  learning_rate: float | None
  final_loss: float  # mean over tasks
  final_low: float  # 95% confidence interval of that mean
  final_high: float
  median_final_loss: float
  area: float  # under the mean curve, per step: the mean over tasks and steps
  steps_to_best: int | None  # until the best baseline's final loss is reached
  ratio_to_best: float | None  # of final losses; None unless the best one is positive
  held_out: dict[str, float]  # means over draws


def mean_band(losses: np.ndarray) -> Band:
  """Returns the mean over tasks, with its interval by the normal approximation.

  Args:
    losses: [num_tasks, num_steps + 1].
  """
  losses = losses.astype(np.float64)
  with np.errstate(invalid="ignore"):  # A diverged curve has no deviation.
    deviation = losses.std(axis=0, ddof=min(1, len(losses) - 1))
  mean, error = losses.mean(axis=0), _Z * deviation / len(losses) ** 0.5
  return Band(mean, mean - error, mean + error)


def median_band(losses: np.ndarray) -> Band:
  """Returns the median over tasks, with its interval by order statistics.

  Args:
    losses: [num_tasks, num_steps + 1].
  """
  n, ordered = len(losses), np.sort(losses, axis=0)
  margin = _Z * n**0.5 / 2
  low = max(0, int(np.floor(n / 2 - margin)))
  high = min(n - 1, int(np.ceil(n / 2 + margin)))
  return Band(np.median(losses, axis=0), ordered[low], ordered[high])


def averaged(curves: Curves, share: float) -> Curves:
  """Returns curves whose last loss is the mean over the last steps.

  The loss of a single mini-batch is noisy; see also `tuning.last_tenth_loss`.

  >>> from l2l_tf.evaluation import report
  >>> curves = report.Curves(np.array([[9.0, 4.0, 3.0, 2.0, 1.0]]), {})
  >>> report.averaged(curves, 0.5).losses
  array([[9. , 4. , 3. , 2. , 1.5]])

  Args:
    curves: of one optimizer.
    share: of all steps, those to average; 0 for the last one alone.
  """
  count = max(1, round(share * (curves.losses.shape[1] - 1)))
  losses = np.copy(curves.losses)
  losses[:, -1] = losses[:, -count:].mean(axis=1)
  return curves._replace(losses=losses)


def smoothed(losses: np.ndarray, width: int) -> np.ndarray:
  """Returns running means over the last steps, fewer at the start.

  >>> from l2l_tf.evaluation import report
  >>> report.smoothed(np.array([[9.0, 5.0, 3.0, 1.0]]), 2)
  array([[9., 7., 4., 2.]])

  Args:
    losses: [num_tasks, num_steps + 1].
    width: steps of a mean, at least 1.
  """
  if width == 1:
    return losses
  sums = np.cumsum(losses, axis=1, dtype=np.float64)
  sums[:, width:] -= sums[:, :-width].copy()
  return sums / np.minimum(np.arange(losses.shape[1]) + 1, width)


def summarize(curves: Mapping[str, Curves]) -> list[Row]:
  """Reduces each optimizer's curves to a row of the table.

  The best baseline is the one with the lowest finite final loss.

  >>> curves = compare(Simple(), {"RNNprop": RNNprop((5,))}, num_steps=5, num_draws=1,
  ...                  baselines={"SGD": SGD}, learning_rates=[0.25])
  >>> {row.optimizer: row.learning_rate for row in summarize(curves)}
  {'RNNprop': None, 'SGD': 0.25}
  """
  finals = [
    c.losses[:, -1].mean(dtype=np.float64) for c in curves.values() if c.is_baseline
  ]
  best = min((f for f in finals if np.isfinite(f)), default=None)
  return [_row(name, c, best) for name, c in curves.items()]


def _row(name: str, curves: Curves, best: float | None) -> Row:
  mean = mean_band(curves.losses)
  reached = np.flatnonzero(mean.value <= best) if best is not None else []
  return Row(
    optimizer=name,
    learning_rate=curves.learning_rate,
    final_loss=mean.value[-1],
    final_low=mean.low[-1],
    final_high=mean.high[-1],
    median_final_loss=float(np.median(curves.losses[:, -1])),
    area=mean.value.mean(),
    steps_to_best=int(reached[0]) if len(reached) else None,
    ratio_to_best=mean.value[-1] / best if best is not None and best > 0 else None,
    held_out={k: float(v.mean()) for k, v in curves.held_out.items()},
  )


def table(rows: list[Row]) -> str:
  """Formats rows for a terminal, the lowest final loss first.

  >>> curves = compare(Simple(), {}, num_steps=5, num_draws=1,
  ...                  baselines={"SGD": SGD}, learning_rates=[0.25])
  >>> print(table(summarize(curves)))
  optimizer  rate  final loss  +/-     median  mean over steps  ...
  ---------  ----  ----------  ---  ---------  ---------------  ...
  SGD        0.25   0.0009766    0  0.0009766           0.2222  ...
  """
  held_out = list(rows[0].held_out)
  header = [
    "optimizer",
    "rate",
    "final loss",
    "+/-",
    "median",
    "mean over steps",
    "steps to best",
    "ratio to best",
    *(name.replace("_", " ") for name in held_out),
  ]
  lines = [header]
  for r in sorted(rows, key=lambda r: np.nan_to_num(r.final_loss, nan=np.inf)):
    numbers = [
      r.learning_rate,
      r.final_loss,
      (r.final_high - r.final_low) / 2,
      r.median_final_loss,
      r.area,
      r.steps_to_best,
      r.ratio_to_best,
      *(r.held_out[name] for name in held_out),
    ]
    lines.append([r.optimizer, *(tables.number(x, 4) for x in numbers)])
  return tables.aligned(lines, has_rule=True)


def write(
  curves: Mapping[str, Curves], directory: str | os.PathLike[str]
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes `summary.csv` and `curves.csv`; returns their paths."""
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  rows = summarize(curves)
  summary = [[*Row._fields[:-1], *rows[0].held_out]]
  summary += [[*row[:-1], *row.held_out.values()] for row in rows]
  bands = [f"{name}{end}" for name in ("mean", "median") for end in _ENDS]
  points = [["optimizer", "step", *bands]]
  for name, c in curves.items():
    columns = [*mean_band(c.losses), *median_band(c.losses)]
    for step, values in enumerate(zip(*columns)):
      points.append([name, step, *(tables.number(v, 9) for v in values)])
  paths = directory / "summary.csv", directory / "curves.csv"
  for path, lines in zip(paths, [summary, points]):
    files.write_csv(path, lines)
  return paths


def plot(
  curves: Mapping[str, Curves],
  directory: str | os.PathLike[str],
  title: str = "Learning curves",
) -> pathlib.Path:
  """Writes `summary.csv`, `curves.csv` and `curves.png`; returns the plot's path.

  Baselines are drawn as dashed lines, others as solid ones.

  >>> curves = compare(Simple(), {"RNNprop": RNNprop((5,))}, num_steps=5, num_draws=1,
  ...                  baselines={"SGD": SGD}, learning_rates=[0.25])
  >>> plot(curves, "results").name
  'curves.png'

  Raises:
    WriteError: if a file cannot be written.
  """
  _, curves_csv = write(curves, directory)
  learned = {name for name, c in curves.items() if not c.is_baseline}
  path = curves_csv.with_name("curves.png")
  plots.save(plots.learning_curves(curves_csv, learned, title), path)
  return path
