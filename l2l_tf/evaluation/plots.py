"""Plots of the CSV files that an evaluation, a training or a diagnosis writes."""

import csv
import functools
import io
import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure
import matplotlib.patches
import numpy as np

from l2l_tf.storage import files

_COLORS = matplotlib.colormaps["tab10"].colors
_BASELINE_STYLE = {"linewidth": 1.4, "linestyle": "--"}
_LEARNED_STYLE = {"linewidth": 2.6, "linestyle": "-", "zorder": 3}
_HISTORIES = {
  "first": "first step",
  "constant": "after equal ones",
  "alternating": "after alternating ones",
}
# Column of windows.csv, title, and limits of the colours (None: of the data).
_WINDOW_PANELS = [
  ("norm", "norm", None),
  ("agreement", "agreement of episodes (cosine)", (0.0, 1.0)),
  ("snr", "signal-to-noise ratio", None),
]
_WIDTHS = [3.6, 2.4, 1.2]  # so that equal curves do not hide each other
_MOST_TRAJECTORIES = 12


def save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
  """Writes a plot; an existing file is replaced only once the new one is complete.

  Args:
    figure: the plot.
    path: the file; its suffix sets the format.

  Raises:
    WriteError: if it cannot be written; an existing file stays as it was.
  """
  picture = io.BytesIO()
  figure.savefig(picture, format=path.suffix.removeprefix(".") or None)
  with files.writing(path):
    files.write_atomically(path, picture.getvalue())


def learning_curves(
  curves_csv: str | os.PathLike[str],
  learned: set[str],
  title: str,
) -> matplotlib.figure.Figure:
  """Draws mean curves with their 95% bands on a logarithmic axis.

  Args:
    curves_csv: `curves.csv` from `report.write`.
    learned: names of learned optimizers, drawn as solid lines; baselines are dashed.
    title: title above the axes.

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
  ylabel = "loss over problems: mean with 95% band, median dotted"
  _label(axes, title, "step", ylabel)
  axes.grid(which="minor", alpha=0.1)
  axes.legend(title="optimizer (final loss)", frameon=False)
  return figure


def trajectories(
  validation_csv: str | os.PathLike[str], title: str
) -> matplotlib.figure.Figure:
  """Draws how the validation's mean curve over inner steps changes with the epochs.

  Args:
    validation_csv: `validation.csv` of a training.
    title: title above the axes.

  Returns:
    The figure; the caller saves it. It shows a dozen evenly spaced validations at most,
    the first and the last among them, and the best one.

  Raises:
    ValueError: for a file without curves.
  """
  figure = matplotlib.figure.Figure(figsize=(8, 5), dpi=100, layout="constrained")
  axes = figure.add_subplot()
  curves = _read(pathlib.Path(validation_csv), "epoch")
  epochs = list(curves)
  finals = np.array([c["loss"][-1] for c in curves.values()])
  best = epochs[int(np.where(np.isfinite(finals), finals, np.inf).argmin())]
  shown = np.linspace(0, len(epochs) - 1, min(len(epochs), _MOST_TRAJECTORIES))
  numbers = [int(epochs[i]) for i in shown.round().astype(int)]
  scale = matplotlib.colors.Normalize(numbers[0], max(numbers[-1], numbers[0] + 1))
  colors = matplotlib.cm.ScalarMappable(scale, "viridis_r")
  for n in numbers:
    c = curves[str(n)]
    axes.plot(c["step"], c["loss"], color=colors.to_rgba(n), label=f"_epoch {n}")
  c = curves[best]
  label = f"best, epoch {best}  ({c['loss'][-1]:.3g})"
  axes.plot(c["step"], c["loss"], color="tab:red", linestyle="--", label=label)
  figure.colorbar(colors, ax=axes, label="epoch")
  axes.set_yscale("log")
  axes.set_ylim(*_limits({k: {"mean": c["loss"]} for k, c in curves.items()}))
  axes.set_xlim(0, max(c["step"][-1], 1))
  _label(axes, title, "inner step", "loss")
  axes.legend(frameon=False)
  return figure


def windows(
  windows_csv: str | os.PathLike[str], title: str
) -> matplotlib.figure.Figure:
  """Draws what `windows.measure` found: each window a brick, each length a row.

  Args:
    windows_csv: `windows.csv` of a training with `--unroll_length=auto`.
    title: title above the plots.

  Returns:
    The figure; the caller saves it.

  Raises:
    ValueError: for a file without windows.
  """
  columns = _columns(pathlib.Path(windows_csv))
  figure = matplotlib.figure.Figure(figsize=(13, 4.2), dpi=150, layout="constrained")
  panels = zip(figure.subplots(1, 3, sharey=True), _WINDOW_PANELS, strict=True)
  for axes, (name, label, limits) in panels:
    logarithmic = limits is None
    values = np.maximum(columns[name], 0) if name == "snr" else columns[name]
    low, high = limits or _decades(values)
    make = matplotlib.colors.LogNorm if logarithmic else matplotlib.colors.Normalize
    colors = matplotlib.cm.ScalarMappable(make(low, high), "viridis")
    _draw_bricks(axes, columns, colors.to_rgba(np.clip(values, low, high)))
    figure.colorbar(colors, ax=axes, extend="both" if logarithmic else "neither")
    axes.set_title(label)
    axes.set_xlabel("step of the episode")
  figure.axes[0].set_ylabel("steps of the window")
  figure.suptitle(title, fontweight="bold", wrap=True)
  return figure


def _draw_bricks(axes, columns: dict[str, np.ndarray], colors: np.ndarray) -> None:
  lengths = sorted(set(columns["length"]))
  for length, step, color in zip(columns["length"], columns["step"], colors):
    row = lengths.index(length) - 0.45
    brick = {"color": color, "linewidth": 0}
    axes.add_patch(matplotlib.patches.Rectangle((step, row), length, 0.9, **brick))
  axes.set_xlim(0, np.max(columns["step"] + columns["length"]))
  axes.set_ylim(-0.6, len(lengths) - 0.4)
  axes.set_yticks(range(len(lengths)), [f"{length:g}" for length in lengths])
  axes.spines[["top", "right"]].set_visible(False)


def _decades(values: np.ndarray) -> tuple[float, float]:
  """Returns limits of a logarithmic scale, four decades at most."""
  values = values[np.isfinite(values) & (values > 0)]
  if not len(values):
    return 0.1, 1.0
  high = float(values.max())
  return max(float(values.min()), high / 1e4) * 0.999, high


def diagnosis(
  response_csv: str | os.PathLike[str],
  trajectories_csv: str | os.PathLike[str],
  title: str,
) -> matplotlib.figure.Figure:
  """Draws updates against gradients, on logarithmic axes.

  The left plot shows the update for each gradient, the right one the sum of updates
  under constant gradients and noise. Movement against the gradient is positive; if any
  goes uphill, the area below zero is red.

  Args:
    response_csv: `response.csv` from `diagnose.write`.
    trajectories_csv: `trajectories.csv` from `diagnose.write`.
    title: title above both plots.

  Returns:
    The figure; the caller saves it.

  Raises:
    ValueError: for a file without numbers.
  """
  figure = matplotlib.figure.Figure(figsize=(11, 5.5), dpi=150, layout="constrained")
  figure.get_layout_engine().set(wspace=0.06)
  left, right = figure.subplots(1, 2)
  _draw_response(left, _columns(pathlib.Path(response_csv)))
  _draw_trajectories(right, _read(pathlib.Path(trajectories_csv), "run"))
  for axes in left, right:
    axes.plot([], [], "--", color="gray", label="dashed: g < 0")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    axes.legend(ncols=3, fontsize="small", frameon=False, **below)
  figure.suptitle(title, fontweight="bold", wrap=True)
  return figure


def pictures(rows: Sequence[Mapping[str, np.ndarray]]) -> matplotlib.figure.Figure:
  """Draws pictures side by side, row below row.

  Args:
    rows: each has equally many pictures, [height, width, 3], by the words below them.

  Returns:
    The figure; the caller saves it.
  """
  shapes = [picture.shape for picture in rows[0].values()]
  widths = [width / height for height, width, _ in shapes]
  size = 3.2 * sum(widths), 3.8 * len(rows)
  figure = matplotlib.figure.Figure(figsize=size, dpi=120, layout="constrained")
  grid = figure.subplots(len(rows), len(widths), width_ratios=widths, squeeze=False)
  for line, row in zip(grid, rows, strict=True):
    for axes, (name, picture) in zip(line, row.items(), strict=True):
      axes.imshow(picture, interpolation="lanczos")
      axes.set_xticks([])
      axes.set_yticks([])
      axes.spines[:].set_visible(False)
      axes.set_xlabel(name, fontsize=8)
  return figure


def _draw_response(axes: matplotlib.axes.Axes, columns: dict[str, np.ndarray]) -> None:
  g = columns["gradient"]
  plus = np.flatnonzero(g > 0)
  minus = np.flatnonzero(g < 0)[::-1]
  sizes = g[plus]
  for color, width, (name, label) in zip(_COLORS, _WIDTHS, _HISTORIES.items()):
    style = {"color": color, "linewidth": width}
    axes.plot(sizes, -columns[name][plus], "-", label=label, **style)
    axes.plot(sizes, columns[name][minus], "--", **style)
  curves = np.array([line.get_ydata() for line in axes.lines])  # [curves, sizes]
  middle = len(sizes) // 2
  proportional = sizes * np.abs(curves[0, middle]) / sizes[middle]
  axes.plot(sizes, proportional, ":", color="gray", label="proportional to g")
  lost = sizes[~np.isfinite(curves).all(axis=0)]
  if len(lost):
    top = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.plot(lost, np.ones_like(lost), "rx", label="not finite", **top)
  axes.set_xscale("log")
  axes.set_xlim(sizes[0], sizes[-1])
  _label(axes, "response", "size of the gradient", "update against the gradient")
  _signed_log(axes, curves)


def _draw_trajectories(
  axes: matplotlib.axes.Axes, runs: dict[str, dict[str, np.ndarray]]
) -> None:
  colors = matplotlib.colormaps["plasma"]([0.75, 0.45, 0.05])
  styles = ({"color": c, "linewidth": w} for c, w in zip(colors, _WIDTHS))
  for name, run in runs.items():
    shape = -1, int(run["parameter"].max()) + 1
    g, totals, steps = (
      run[key].reshape(shape) for key in ("gradient", "total", "step")
    )  # [T, N]
    draw = functools.partial(axes.plot, steps[:, 0])
    if name == "noise":
      draw(totals.std(axis=1), ":", color="gray", label="noise (deviation)")
    elif not g.any():
      draw(np.abs(totals[:, 0]), "-.", color="black", label="g = 0 (distance)")
    else:
      style = next(styles)
      draw(-totals[:, 0], "-", label=f"|g| = {g[0, 0]:g}", **style)
      draw(totals[:, 1], "--", **style)
  axes.set_xlim(0, steps[-1, 0])
  ylabel = "sum of updates, against the gradient"
  _label(axes, "constant gradients and noise", "step", ylabel)
  _signed_log(axes, np.array([line.get_ydata() for line in axes.lines]))


def _label(axes: matplotlib.axes.Axes, title: str, xlabel: str, ylabel: str) -> None:
  axes.set_title(title)
  axes.set_xlabel(xlabel)
  axes.set_ylabel(ylabel)
  axes.grid(which="major", alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)


def _signed_log(axes: matplotlib.axes.Axes, values: np.ndarray) -> None:
  """Sets a logarithmic y axis, on both sides of zero if any value is negative."""
  values = values[np.isfinite(values) & (values != 0)]
  values = values if len(values) else np.ones(1)
  low, high = 3 * min(values.min(), 0), 3 * max(values.max(), 0)
  if low == 0:
    axes.set_ylim(values.min() / 3, high)
    axes.set_yscale("log")
    return
  threshold = 10.0 ** (np.floor(np.log10(np.median(np.abs(values)))) - 2)
  axes.set_yscale("symlog", linthresh=threshold)
  axes.set_ylim(low, max(high, threshold))
  axes.axhspan(low, 0, color="tab:red", alpha=0.08, linewidth=0)
  axes.axhline(0, color="black", linewidth=0.8)
  where = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "top"}
  axes.text(0.99, 0, "uphill ", color="tab:red", **where)


def _columns(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the columns of a CSV file of numbers."""
  with path.open(newline="") as f:
    return _arrays(path, list(csv.DictReader(f)))


def _read(
  path: pathlib.Path, key: str = "optimizer"
) -> dict[str, dict[str, np.ndarray]]:
  """Reads the columns of a CSV file, for each value of the column `key`."""
  rows: dict[str, list[dict[str, str]]] = {}
  with path.open(newline="") as f:
    for row in csv.DictReader(f):
      rows.setdefault(row.pop(key), []).append(row)
  if not rows:
    raise ValueError(f"{str(path)!r} holds no curves; give one from report.write.")
  return {name: _arrays(path, lines) for name, lines in rows.items()}


def _arrays(path: pathlib.Path, rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
  if not rows:
    raise ValueError(f"{str(path)!r} holds no numbers; give one that was written.")
  return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def _last(curve: dict[str, np.ndarray]) -> float:
  return float(np.nan_to_num(curve["mean"][-1], nan=np.inf))


def _limits(curves: dict[str, dict[str, np.ndarray]]) -> tuple[float, float]:
  """Returns limits of the y axis that do not stretch to a diverging optimizer."""
  values = np.concatenate([c["mean"] for c in curves.values()])
  values = values[np.isfinite(values) & (values > 0)]
  if not len(values):
    return 1e-3, 1.0
  starts = np.array([c["mean"][0] for c in curves.values()])
  starts = starts[np.isfinite(starts) & (starts > 0)]
  highest = min(values.max(), 10 * starts.max()) if len(starts) else values.max()
  return values.min() / 1.5, highest * 1.5
