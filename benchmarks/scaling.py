"""The time of an update over n workers: the model, its fit, and its extrapolation.

  t = (1 + s) t_1 / n + m (2 (n - 1) (a + 4 W / (n B)) + (n - 1 + b) D)

t_1 is the time that one worker takes. A ring of n workers sums W weights of 4 bytes in
2 (n - 1) steps, each of which sends a piece of W / n weights to the next worker, over a
link of round trip D and bandwidth B. There are m sums to an update. s is what a worker
loses whatever the link, and a what a step costs beside the link. A step takes a message
one way, half a round trip, and b round trips are lost once in a sum, since a worker
asks for what it is to be sent.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

_WORKERS = [1, 2, 4, 8, 16, 32, 64]
_BANDWIDTH = 125e6  # bytes a second, of a network of 1 Gbit/s


class Row(NamedTuple):
  """A measurement; times are seconds of one update, by round."""

  window: int  # steps
  sums: float  # over the workers, to an update
  round_trip: float  # seconds that were added
  one: np.ndarray
  two: np.ndarray

  @property
  def efficiency(self) -> np.ndarray:
    return self.one / (2 * self.two)


class Model(NamedTuple):
  """The parameters, and the relative errors of the rows that they are fitted to."""

  loss: float  # s
  step: float  # a, seconds
  trips: float  # b
  residuals: np.ndarray

  def seconds(self, one, workers, sums, round_trip, message) -> float:
    """Returns the time of an update.

    Args:
      one: the time that one worker takes for the work of all.
      workers: how many.
      sums: to an update.
      round_trip: seconds.
      message: seconds that all weights take at the link's bandwidth.
    """
    if workers == 1:
      return one
    steps = 2 * (workers - 1) * (self.step + message / workers)
    trips = (workers - 1 + self.trips) * round_trip
    return (1 + self.loss) * one / workers + sums * (steps + trips)


def fit(rows: Sequence[Row], message: float) -> Model:
  """Fits the model to measurements, by least squares of the relative errors.

  Args:
    rows: the measurements.
    message: seconds that all weights take at the link's bandwidth.
  """
  one, two = (np.array([np.median(t) for t in ts]) for ts in _columns(rows))
  sums, trip = (np.array([r[i] for r in rows]) for i in (1, 2))
  factors = np.stack([one / 2, 2 * sums, sums * trip], axis=1) / two[:, None]
  rest = (two - one / 2 - sums * (message + trip)) / two
  loss, step, trips = np.linalg.lstsq(factors, rest, rcond=None)[0]
  model = Model(loss, step, trips, np.zeros(len(rows)))
  found = [
    model.seconds(t, 2, row.sums, row.round_trip, message) for t, row in zip(one, rows)
  ]
  return model._replace(residuals=np.array(found) / two - 1)


def _columns(rows: Sequence[Row]):
  return [r.one for r in rows], [r.two for r in rows]


def efficiencies(
  model: Model, tasks: float, row: Row, round_trip: float, weights: int
) -> list[float]:
  """Returns the efficiency for each number of `_WORKERS`, each with as many tasks.

  Args:
    model: fitted.
    tasks: of each worker, as a part of those that one worker had in the measurement.
    row: a measurement of the same window.
    round_trip: seconds, of the link between neighbours of the ring.
    weights: of the optimizer.
  """
  own, message = tasks * float(np.median(row.one)), 4 * weights / _BANDWIDTH
  times = [model.seconds(n * own, n, row.sums, round_trip, message) for n in _WORKERS]
  return [own / time for time in times]


def report(model: Model, rows: Sequence[Row], weights: int, tasks: int) -> None:
  """Prints the fit, and the efficiencies that it predicts."""
  print(
    f"\nModel: s = {model.loss:.3f}, a = {model.step * 1e3:.2f} ms, b ="
    f" {model.trips:.2f}; relative errors of its times, row by row:"
  )
  print(", ".join(f"{100 * x:+.1f}%" for x in model.residuals))
  for share in (tasks // 2, 1):
    print(f"\nEfficiency that it predicts, tasks to a worker: {share}, 1 Gbit/s")
    print("| window | round trip | " + " | ".join(f"{n}" for n in _WORKERS) + " |")
    print("|---" * (2 + len(_WORKERS)) + "|")
    for row in rows:
      values = efficiencies(model, share / tasks, row, row.round_trip, weights)
      cells = " | ".join(f"{value:.2f}" for value in values)
      print(f"| {row.window} | {row.round_trip * 1e3:g} ms | {cells} |")


def plot(
  model: Model, rows: Sequence[Row], weights: int, tasks: int, path: pathlib.Path
) -> None:
  """Draws efficiency over workers, a column for each length of a window."""
  windows = sorted({row.window for row in rows})
  size = {"figsize": (4.5 * len(windows), 3.6), "layout": "constrained"}
  figure, axes = plt.subplots(1, len(windows), sharey=True, squeeze=False, **size)
  for axis, window in zip(axes[0], windows):
    for i, row in enumerate(r for r in rows if r.window == window):
      values = efficiencies(model, 0.5, row, row.round_trip, weights)
      label = f"{row.round_trip * 1e3:g} ms"
      axis.semilogx(_WORKERS, values, "-", base=2, color=f"C{i}", label=label)
      axis.plot([2], [np.median(row.efficiency)], "o", color=f"C{i}")
    axis.set(title=f"windows of {window} steps", xlabel="workers", ylim=(0, 1.05))
    axis.set_xticks(_WORKERS, _WORKERS)
    axis.grid(alpha=0.3)
  axes[0, 0].set_ylabel(f"efficiency, {tasks // 2} tasks to a worker")
  axes[0, -1].legend(frameon=False, title="round trip")
  figure.savefig(path, dpi=120)
