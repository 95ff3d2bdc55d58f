"""Learning curves as a picture, from the CSV that an evaluation wrote."""

import csv
import os
import pathlib

import matplotlib
import matplotlib.figure
import numpy as np

_COLORS = matplotlib.colormaps["tab10"].colors
_BASELINE_STYLE = {"linewidth": 1.4, "linestyle": "--"}
_LEARNED_STYLE = {"linewidth": 2.6, "linestyle": "-", "zorder": 3}


def learning_curves(
  curves_csv: str | os.PathLike[str],
  learned: set[str],
  title: str,
) -> matplotlib.figure.Figure:
  """Draws mean curves with their 95% bands on a logarithmic axis.

  Args:
    curves_csv: `curves.csv` from `report.write`.
    learned: names to draw as solid lines; the others, baselines, are dashed.
    title: above the axes.

  Returns:
    The figure; the caller saves it.

  Raises:
    ValueError: for a file without curves.
  """
  figure = matplotlib.figure.Figure(figsize=(8, 5), dpi=150, layout="constrained")
  axes = figure.add_subplot()
  curves = _read(pathlib.Path(curves_csv))
  order = sorted(curves, key=lambda name: (name not in learned, _last(curves[name])))
  for color, name in enumerate(order):
    c = curves[name]
    style = _LEARNED_STYLE if name in learned else _BASELINE_STYLE
    line = _COLORS[color % len(_COLORS)]
    label = f"{name}  ({c['mean'][-1]:.3g})"
    axes.plot(c["step"], c["mean"], color=line, label=label, **style)
    axes.plot(c["step"], c["median"], color=line, linewidth=0.9, linestyle=":")
    axes.fill_between(c["step"], c["mean_low"], c["mean_high"], color=line, alpha=0.18)
  axes.set_yscale("log")
  axes.set_ylim(*_limits(curves))
  axes.set_xlim(0, max(c["step"][-1] for c in curves.values()))
  axes.set_xlabel("step")
  axes.set_ylabel("loss over problems: mean with 95% band, median dotted")
  axes.set_title(title)
  axes.grid(which="major", alpha=0.3)
  axes.grid(which="minor", alpha=0.1)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(title="optimizer (final loss)", frameon=False)
  return figure


def _read(path: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """Columns of the CSV by optimizer."""
  rows: dict[str, list[dict[str, str]]] = {}
  with path.open(newline="") as f:
    for row in csv.DictReader(f):
      rows.setdefault(row.pop("optimizer"), []).append(row)
  if not rows:
    raise ValueError(f"{str(path)!r} holds no curves; give one from report.write.")
  return {
    name: {key: np.array([float(r[key]) for r in lines]) for key in lines[0]}
    for name, lines in rows.items()
  }


def _last(curve: dict[str, np.ndarray]) -> float:
  return float(np.nan_to_num(curve["mean"][-1], nan=np.inf))


def _limits(curves: dict[str, dict[str, np.ndarray]]) -> tuple[float, float]:
  """Bounds that a diverging optimizer cannot stretch."""
  values = np.concatenate([c["mean"] for c in curves.values()])
  values = values[np.isfinite(values) & (values > 0)]
  if not len(values):
    return 1e-3, 1.0
  starts = np.array([c["mean"][0] for c in curves.values()])
  starts = starts[np.isfinite(starts) & (starts > 0)]
  highest = min(values.max(), 10 * starts.max()) if len(starts) else values.max()
  return values.min() / 1.5, highest * 1.5
