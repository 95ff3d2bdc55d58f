"""The gates of a `GateLSTM` while it trains a learner, step by step and by layer."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import matplotlib.figure
import numpy as np
import tensorflow as tf

from l2l_tf.meta import unroll
from l2l_tf.optimizers import GateLSTM, Optimizer
from l2l_tf.problems import Problem

_COLORS = matplotlib.colormaps["tab10"].colors
_QUANTILES = (0.1, 0.9)
GATES = ("forget", "input")


class Trace(NamedTuple):
  """Gates of one run, each [steps, parameters, 3]: mean, 10% and 90% quantile."""

  forget: np.ndarray
  input: np.ndarray


class Summary(NamedTuple):
  """What the gates do, in numbers; all of them over the means of kernels."""

  forget_mean: float
  forget_least: float  # the lowest mean of a layer, of all steps and tasks
  input_mean: float
  over_steps: float  # standard deviation over the steps, relative to the mean
  over_tasks: float  # likewise, over the tasks


def gate_lstm(optimizer: Optimizer) -> GateLSTM | None:
  """Returns the `GateLSTM` in an optimizer, perhaps in a `LearnedStart`."""
  inner = getattr(optimizer, "inner", optimizer)
  return inner if isinstance(inner, GateLSTM) else None


def trace(
  problem: Problem, optimizer: Optimizer, num_steps: int, keys: Sequence[tf.Tensor]
) -> list[Trace]:
  """Records the gates on the tasks that the seeds name.

  Args:
    problem: what is optimized.
    optimizer: a `GateLSTM`, or a `LearnedStart` of one.
    num_steps: steps on each task.
    keys: seeds of the tasks, each [2].

  Raises:
    ValueError: for an optimizer without gates.
  """
  cell = gate_lstm(optimizer)
  if cell is None:
    raise ValueError(
      f"{type(optimizer).__name__} has no gates to show; give a GateLSTM, or a"
      " LearnedStart of one."
    )

  def observe(carry, updates):
    both = cell.gates(carry.state, carry.params)
    return [tf.stack([_measured(gate) for gate in gates]) for gates in both]

  @tf.function(autograph=False)
  def run(key):
    task, carry = unroll.start(problem, optimizer, key, unroll.second_order)
    arguments = num_steps, observe, unroll.second_order
    return unroll.unroll(problem, optimizer, task, carry, *arguments)[1]

  return [Trace(*(x.numpy() for x in run(key))) for key in keys]


def summarize(traces: Sequence[Trace], is_kernel: Sequence[bool]) -> Summary:
  """Returns the gates' means and how they change.

  Args:
    traces: one for each task.
    is_kernel: of each parameter.
  """
  forget, rate = (
    np.stack([getattr(t, gate)[:, is_kernel, 0] for t in traces]) for gate in GATES
  )  # [tasks, steps, kernels]
  spread = lambda axis: float((rate.std(axis=axis) / rate.mean(axis=axis)).mean())
  means = float(forget.mean()), float(forget.min()), float(rate.mean())
  return Summary(*means, over_steps=spread(1), over_tasks=spread(0))


def rows(traces: Sequence[Trace], names: Sequence[str]) -> list[list]:
  """Returns the traces as rows of a CSV file, the header first."""
  found = [["task", "parameter", "gate", "step", "mean", "low", "high"]]
  for task, one in enumerate(traces):
    for gate in GATES:
      for (step, k), _ in np.ndenumerate(getattr(one, gate)[:, :, 0]):
        values = (f"{x:.6g}" for x in getattr(one, gate)[step, k])
        found.append([task, names[k], gate, step + 1, *values])
  return found


def draw(
  traces: Sequence[Trace], names: Sequence[str], title: str
) -> matplotlib.figure.Figure:
  """Draws forget and input gates side by side, a row for each layer's kernel.

  Each task has a line, the mean over the layer's coordinates; the first task's band
  holds 80% of them.

  Args:
    traces: one for each task.
    names: of the parameters; those that end in "kernel" are shown.
    title: above the plots.

  Returns:
    The figure; the caller saves it.
  """
  shown = [k for k, name in enumerate(names) if name.endswith("kernel")]
  size = 9.0, 1.0 + 1.75 * len(shown)
  figure = matplotlib.figure.Figure(size, dpi=130, layout="constrained")
  axes = figure.subplots(len(shown), 2, sharex=True, squeeze=False)
  for row, k in zip(axes, shown):
    for place, gate in zip(row, GATES):
      _draw_gate(place, [getattr(t, gate)[:, k] for t in traces])
      place.set_ylabel(names[k].removesuffix("/kernel") if gate == GATES[0] else "")
  for place, label in zip(axes[0], ("forget gate (1: no decay)", "input gate (rate)")):
    place.set_title(label)
  for place in axes[-1]:
    place.set_xlabel("step on the support set")
  figure.suptitle(title, fontsize=11, fontweight="bold")
  return figure


def _draw_gate(axes, traced: Sequence[np.ndarray]) -> None:
  """Draws one gate of one layer; each task is [steps, 3]."""
  for task, values in enumerate(traced):
    steps = np.arange(1, len(values) + 1)
    mean, low, high = values.T
    axes.plot(steps, mean, color=_COLORS[task % len(_COLORS)], linewidth=1.3)
    if task == 0:
      axes.fill_between(steps, low, high, color=_COLORS[0], alpha=0.12, linewidth=0)
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)


def _measured(gate: tf.Tensor) -> tf.Tensor:
  """Returns mean and quantiles of a tensor's entries, [3]."""
  flat = tf.sort(tf.reshape(gate, [-1]))
  last = flat.shape[0] - 1
  return tf.stack([tf.reduce_mean(flat), *(flat[round(q * last)] for q in _QUANTILES)])
