"""What a benchmark found, as pictures."""

import math
from collections.abc import Mapping

import matplotlib
import matplotlib.figure
import numpy as np

from l2l_tf.benchmark import scores
from l2l_tf.benchmark.contenders import ADAM
from l2l_tf.benchmark.contest import Result

_COLORS = matplotlib.colormaps["tab10"].colors
_COLUMNS = 4
_MOST = 3.0  # the profile's largest ratio


def _styles(results: scores.Results) -> dict[str, dict]:
  """Returns a line's style for each contender; learned ones are solid."""
  found = {}
  for i, (name, r) in enumerate(next(iter(results.values())).items()):
    style = {"linewidth": 2.4, "zorder": 3} if r.is_learned else {"linewidth": 1.3}
    line = "-" if r.is_learned else "--"
    found[name] = {"color": _COLORS[i % 10], "linestyle": line, "label": name, **style}
  return found


def profile(results: scores.Results, title: str) -> matplotlib.figure.Figure:
  """Draws performance profiles, and each task's ratio to Adam.

  A profile is the share of tasks on which a contender's train loss is at most tau times
  the least of all. Dolan and More 2002, https://arxiv.org/abs/cs/0102001.

  Args:
    results: by task and contender.
    title: above both plots.

  Returns:
    The figure; the caller saves it.
  """
  height = 3.5 + 0.22 * len(results)
  figure = matplotlib.figure.Figure((13, height), dpi=130, layout="constrained")
  left, right = figure.subplots(1, 2)
  styles = _styles(results)
  taus = np.geomspace(1, _MOST, 200)
  for name, style in styles.items():
    found = [_to_least(r, name) for r in results.values()]
    shares = [np.mean(np.array(found) <= tau + 1e-9) for tau in taus]
    left.plot(taus, shares, drawstyle="steps-post", **style)
  left.set(
    xscale="log", xlim=(1, _MOST), ylim=(0, 1.02),
    xlabel="tau: train loss as a multiple of the least of all (+ 1% of the first)",
    ylabel="share of tasks within tau",
  )  # fmt: skip
  left.legend(frameon=False, loc="lower right")
  tasks = list(results)
  for name, style in styles.items():
    marks = np.clip(scores.ratios(results, name, ADAM), None, _MOST)
    is_learned = style["linestyle"] == "-"
    mark = {
      "marker": "o" if is_learned else "|",
      "s": 46,
      "zorder": style.get("zorder"),
    }
    right.scatter(marks, range(len(tasks)), color=style["color"], **mark)
  right.axvline(1, color="gray", linewidth=0.8)
  right.set_yticks(range(len(tasks)), tasks)
  right.invert_yaxis()
  label = f"train loss as a multiple of that of {ADAM} (+ 1% of the first)"
  right.set(xscale="log", xlabel=label)
  for axes in left, right:
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
  figure.suptitle(title, fontweight="bold")
  return figure


def curves(results: scores.Results, title: str) -> matplotlib.figure.Figure:
  """Draws the train loss and, dotted, the held-out loss of every task's contenders.

  Args:
    results: by task and contender.
    title: above all plots.

  Returns:
    The figure; the caller saves it.
  """
  count = math.ceil(len(results) / _COLUMNS)
  columns = min(_COLUMNS, len(results))
  size = (max(4.2 * columns, 6), 3.1 * count + 1.0)
  figure = matplotlib.figure.Figure(size, dpi=110, layout="constrained")
  grid = figure.subplots(count, columns, squeeze=False).ravel()
  styles = _styles(results)
  for axes, (task, found) in zip(grid, results.items()):
    _draw(axes, task, found, styles)
  for axes in grid[len(results) :]:
    axes.set_visible(False)
  handles, labels = grid[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
  figure.suptitle(title, fontweight="bold")
  return figure


def _draw(axes, task: str, found: Mapping[str, Result], styles) -> None:
  lowest, highest = [], []
  for name, style in styles.items():
    r = found[name]
    num_steps = r.trials[0].num_steps
    curve = r.curve
    steps = num_steps * (np.arange(len(curve)) + 1) / len(curve)
    axes.plot(steps, curve, **style)
    if r.is_learned or name == ADAM:
      points = min(len(t.held_out) for t in r.trials)
      held_out = np.mean([t.held_out[:points] for t in r.trials], axis=0)
      steps = num_steps * (np.arange(points) + 1) / max(points, 1)
      axes.plot(steps, held_out, ":", color=style["color"], linewidth=1.4)
    lowest += [x for x in curve if 0 < x < math.inf]
    highest += [r.first] if r.first < math.inf else []
  axes.set_yscale("log")
  if lowest and highest:
    axes.set_ylim(max(min(lowest), 1e-4 * max(highest)) / 1.2, 1.3 * max(highest))
  axes.set_title(task, fontsize=10)
  axes.set_xlabel("step")
  axes.set_ylabel("loss (dotted: held out)", fontsize=8)
  axes.spines[["top", "right"]].set_visible(False)
  axes.grid(alpha=0.2)


def _to_least(results: Mapping[str, Result], name: str) -> float:
  least = min(r.last for r in results.values())
  return scores.ratio(results[name].last, least, results[name].first)
