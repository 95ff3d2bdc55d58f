"""Figures of several panels side by side, one for each problem."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from l2l_tf.evaluation import report
from l2l_tf.evaluation.runner import Curves

_COLORS = matplotlib.colormaps["tab10"].colors
_WIDTH, _HEIGHT = 3.7, 3.6  # of a panel, in inches
_FEW_DECADES = 10**1.5


class Plot(NamedTuple):
  """What one panel shows."""

  title: str
  curves: Mapping[str, Curves]  # learned optimizers first
  trained_steps: int | None = None  # where training ended, if a run goes beyond that
  sizes: np.ndarray | None = None  # [num_steps, quantiles], of gradients


def panels(
  plots: Sequence[Plot],
  title: str,
  summarizes: bool = False,
  mark: str = "",
  final_share: float = 0.0,
) -> matplotlib.figure.Figure:
  """Draws mean learning curves with 95% bands, on logarithmic axes, in one row.

  Learned optimizers, those without a learning rate, are solid, baselines dashed.

  Args:
    plots: from left to right.
    title: above all of them.
    summarizes: whether to draw a last row, the final losses on all problems.
    mark: printed across the figure, such as a warning.
    final_share: of the steps, the last ones, whose mean is a final loss; 0 for the last
      step alone. Curves are then running means over a quarter as many.

  Returns:
    The figure; the caller saves it.
  """
  rows = 1 + (plots[0].sizes is not None) + summarizes
  size = max(_WIDTH * len(plots), 6.0), _HEIGHT * rows + 1.0
  figure = matplotlib.figure.Figure(size, dpi=130, layout="constrained")
  grid = figure.add_gridspec(rows, len(plots))
  styles = _styles(plots)
  smoothing = _smoothing(plots[0], final_share)
  for column, plot in enumerate(plots):
    _draw(figure.add_subplot(grid[0, column]), plot, styles, smoothing)
  label = "loss" if smoothing == 1 else f"loss, mean over {smoothing} steps"
  figure.axes[0].set_ylabel(label)
  if plots[0].sizes is not None:
    _draw_sizes(figure, grid[1, :], plots)
  if summarizes:
    _draw_finals(figure.add_subplot(grid[-1, :]), plots, styles, final_share)
  handles = [matplotlib.lines.Line2D([], [], label=k, **s) for k, s in styles.items()]
  options = {"ncols": min(len(handles), 2 * len(plots) + 1), "frameon": False}
  figure.legend(handles=handles, loc="outside lower center", **options)
  figure.suptitle(title, fontsize=11, fontweight="bold")
  if mark:
    where = {"ha": "center", "va": "center", "rotation": 20, "zorder": 10}
    style = {"fontsize": 44, "color": "tab:red", "alpha": 0.35, "fontweight": "bold"}
    figure.text(0.5, 0.5, mark, **where, **style)
  return figure


def _styles(plots: Sequence[Plot]) -> dict[str, dict]:
  """Returns the style of each optimizer's line, the same in all panels."""
  found: dict[str, dict] = {}
  for plot in plots:
    for name, curves in plot.curves.items():
      is_learned = not curves.is_baseline
      line = "-" if is_learned else "--"
      width = 2.4 if is_learned else 1.3
      color = _COLORS[len(found) % len(_COLORS)]
      found.setdefault(name, {"color": color, "linestyle": line, "linewidth": width})
  return dict(sorted(found.items(), key=lambda item: item[1]["linestyle"] != "-"))


def _smoothing(plot: Plot, final_share: float) -> int:
  """Returns how many steps a drawn point is the mean of; 1 where losses are precise."""
  num_steps = max(c.losses.shape[1] for c in plot.curves.values()) - 1
  return max(1, round(final_share / 4 * num_steps))


def _draw(axes, plot: Plot, styles, smoothing: int) -> None:
  shown = []
  for name, curves in plot.curves.items():
    losses, style = report.smoothed(curves.losses, smoothing), styles[name]
    band = report.mean_band(losses)
    steps = np.arange(len(band.value))
    axes.plot(steps, band.value, **style, zorder=3 if style["linestyle"] == "-" else 2)
    axes.fill_between(steps, band.low, band.high, color=style["color"], alpha=0.15)
    shown.append(band.value)
  values = np.concatenate(shown)
  values = values[np.isfinite(values) & (values > 0)]
  start = max((x[0] for x in shown if np.isfinite(x[0])), default=1.0)
  if len(values):
    axes.set_ylim(values.min() / 1.2, min(values.max(), 2 * start) * 1.2)
  axes.set(title=plot.title, xlabel="step", yscale="log", xlim=(0, len(shown[0]) - 1))
  if plot.trained_steps is not None:
    axes.axvline(plot.trained_steps, color="gray", linewidth=0.9, linestyle=":")
    where = {"transform": axes.get_xaxis_transform(), "fontsize": 8, "color": "gray"}
    axes.text(plot.trained_steps, 0.97, " trained up to here", va="top", **where)
  _plain_numbers(axes)
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)


def _plain_numbers(axes) -> None:
  """Labels a logarithmic axis as 0.3, and between the decades if there are few."""
  low, high = axes.get_ylim()
  axes.yaxis.set_major_formatter("{x:g}")
  is_short = high / low < _FEW_DECADES
  none = matplotlib.ticker.NullFormatter()
  axes.yaxis.set_minor_formatter("{x:g}" if is_short else none)


def _draw_sizes(figure, place, plots: Sequence[Plot]) -> None:
  """Draws the gradients' sizes on each problem, beside those on the first one."""
  row = place.subgridspec(1, len(plots)).subplots(sharey=True)
  for axes, plot in zip(np.atleast_1d(row), plots, strict=True):
    for sizes, color, label in [
      (plots[0].sizes, "gray", "of training"),
      (plot.sizes, "tab:blue", "here"),
    ]:
      low, *_, high = sizes.T
      steps = np.arange(len(sizes))
      axes.fill_between(steps, low, high, color=color, alpha=0.25, label=label)
      axes.plot(steps, sizes[:, sizes.shape[1] // 2], color=color, linewidth=1.3)
    axes.set(xlabel="step", yscale="log", xlim=(0, len(plot.sizes) - 1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
  first = np.atleast_1d(row)[0]
  first.set_ylabel("|gradient|, median and 5% to 95%")
  first.legend(title="problem", loc="lower left", frameon=False, fontsize=8)


def _draw_finals(axes, plots: Sequence[Plot], styles, final_share: float) -> None:
  """Draws each optimizer's final loss with its 95% interval, problem by problem."""
  for i, (name, style) in enumerate(styles.items()):
    offset = 0.08 * (i - (len(styles) - 1) / 2)
    marker = "o" if style["linestyle"] == "-" else "_"
    for column, plot in enumerate(plots):
      if name not in plot.curves:
        continue
      band = report.mean_band(report.averaged(plot.curves[name], final_share).losses)
      value, low, high = band.value[-1], band.low[-1], band.high[-1]
      if not np.isfinite(value):
        continue
      error = [[value - low], [high - value]]
      point = {"color": style["color"], "marker": marker, "markersize": 9}
      axes.errorbar(column + offset, value, error, linestyle="none", **point)
  axes.set_xticks(range(len(plots)), [plot.title for plot in plots])
  share = f"mean loss, last {final_share:.0%} of steps"
  label = share if final_share else "loss after the last step"
  limits = -0.5, len(plots) - 0.5
  axes.set(yscale="log", ylabel=label, xlim=limits)
  _plain_numbers(axes)
  axes.grid(alpha=0.25, axis="y", which="both")
  axes.spines[["top", "right"]].set_visible(False)
