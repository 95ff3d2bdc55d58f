"""What an optimizer does to gradients that are known: its response and behaviour.

No problem is involved. A gradient is chosen, the optimizer reads it, and what it
answers is recorded: at its first step, after a history, over many steps. Every
gradient value is a parameter of its own and starts at zero.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from l2l_tf import preprocess, seeds, tables
from l2l_tf.optimizers import KernelwiseLSTM, Optimizer, Partition
from l2l_tf.storage import files

_MAGNITUDES = np.logspace(-10, 10, 81)  # four per decade
GRADIENTS = np.concatenate([-_MAGNITUDES[::-1], [0.0], _MAGNITUDES])
ZERO, TINY, NORMAL, HUGE = 0.0, 1e-8, 1e-2, 1e6
_NUM_NOISES = 32


class Response(NamedTuple):
  """The update that each gradient is answered with, each [N]."""

  gradients: np.ndarray
  first: np.ndarray  # from the initial state
  constant: np.ndarray  # after a history of this same gradient
  alternating: np.ndarray  # after a history of this gradient with changing sign


class Run(NamedTuple):
  """One sequence of gradients and how the optimizer answered; N of them at once."""

  gradients: np.ndarray  # [T, N]
  updates: np.ndarray  # [T, N]
  diagnostics: dict[str, float]  # of `Optimizer.diagnostics`, means over the steps

  @property
  def totals(self) -> np.ndarray:
    """Where the parameters are after each step, [T, N]."""
    return np.cumsum(self.updates, axis=0)


def members(optimizer: Optimizer) -> dict[str, Optimizer]:
  """Returns the optimizers to diagnose one by one, by name.

  A `Partition` is as many optimizers as it has routes, "route_0" and so on; any
  other one is itself, and has the name "".
  """
  if not isinstance(optimizer, Partition):
    return {"": optimizer}
  found = {}
  for i, (_, member) in enumerate(optimizer.config["routes"]):
    for name, inner in members(member).items():
      found[f"route_{i}/{name}".rstrip("/")] = inner
  return found


def response(
  optimizer: Optimizer,
  gradients: Sequence[float] | np.ndarray = GRADIENTS,
  warmup: int = 10,
) -> Response:
  """Asks for the update at each gradient.

  Args:
    optimizer: of any kind but a `Partition`, see `members`. One that mixes
      coordinates meets each gradient in a run of its own; a `KernelwiseLSTM` meets
      a kernel full of it, and the update is the kernel's mean.
    gradients: finite values, [N].
    warmup: steps of history before the later two updates.

  Returns:
    The updates at the first step and after both histories. An alternating history
    ends with the opposite sign.

  Raises:
    ValueError: for a Partition, gradients that are not finite, or warmup < 1.
  """
  gradients = np.asarray(gradients, np.float64)
  if gradients.ndim != 1 or not gradients.size or not np.isfinite(gradients).all():
    raise ValueError("gradients must be a list of finite numbers, at least one.")
  if warmup < 1:
    raise ValueError(f"warmup={warmup} must be at least 1.")
  signs = (-1.0) ** np.arange(warmup, -1, -1)
  play = _Player(optimizer)
  constant = play(np.tile(gradients, [warmup + 1, 1])).updates
  alternating = play(np.outer(signs, gradients)).updates
  return Response(gradients, constant[0], constant[-1], alternating[-1])


def behaviour(
  optimizer: Optimizer, num_steps: int = 100, seed: int = 0
) -> dict[str, Run]:
  """Runs the optimizer on constant gradients and on noise.

  Args:
    optimizer: as in `response`.
    num_steps: T, of each run.
    seed: of the noise.

  Returns:
    The runs "zero", with N = 1; "tiny", "normal" and "huge", of the gradients
    1e-8, 1e-2 and 1e6, with N = 2 for both signs, plus first; and "noise", 32
    sequences of independent normal numbers whose deviation is the normal gradient.

  Raises:
    ValueError: for a Partition or num_steps < 1.
  """
  if num_steps < 1:
    raise ValueError(f"num_steps={num_steps} must be at least 1.")
  play = _Player(optimizer)
  constant = lambda *values: play(np.tile(values, [num_steps, 1]))
  key = seeds.make(seed, seeds.EVALUATION)
  return {
    "zero": constant(ZERO),
    "tiny": constant(TINY, -TINY),
    "normal": constant(NORMAL, -NORMAL),
    "huge": constant(HUGE, -HUGE),
    "noise": play(seeds.normal([num_steps, _NUM_NOISES], key, NORMAL).numpy()),
  }


def write(
  response: Response, runs: Mapping[str, Run], directory: str | os.PathLike[str]
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes `response.csv` and `trajectories.csv`; returns their paths."""
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  steps = [["run", "parameter", "step", "gradient", "update", "total"]]
  for name, run in runs.items():
    totals = run.totals
    for (t, n), g in np.ndenumerate(run.gradients):
      values = g, run.updates[t, n], totals[t, n]
      steps.append([name, n, t + 1, *(tables.number(x, 9) for x in values)])
  answers = [["gradient", *response._fields[1:]]]
  answers += [[tables.number(x, 9) for x in values] for values in zip(*response)]
  paths = directory / "response.csv", directory / "trajectories.csv"
  for path, lines in zip(paths, [answers, steps]):
    files.write_csv(path, lines)
  return paths


class _Player:
  """Plays sequences of gradients to one optimizer; its step is compiled once."""

  def __init__(self, optimizer: Optimizer):
    if isinstance(optimizer, Partition):
      raise ValueError(
        "A Partition moves each parameter by another optimizer; diagnose those that"
        " diagnose.members(partition) returns."
      )
    self._optimizer = optimizer
    self._run = tf.function(self._uncompiled_run, autograph=False)
    self._axes, self._together = (), optimizer.is_coordinatewise
    if isinstance(optimizer, KernelwiseLSTM):
      self._axes = (*optimizer.config["kernel_shape"], 1)
      self._together = preprocess.is_elementwise(optimizer.config["preprocess"])

  def __call__(self, gradients: np.ndarray) -> Run:
    """Plays gradients [T, N]: T steps of one parameter or of N of them."""
    count = gradients.shape[1]
    blocks = np.split(gradients, 1 if self._together else count, axis=1)
    spec = tf.TensorSpec(blocks[0].shape, tf.float32)
    run = self._run.get_concrete_function(spec)  # Each shape is traced on purpose.
    updates, diagnostics = zip(*(run(tf.constant(b, spec.dtype)) for b in blocks))
    means = {k: float(np.mean([d[k] for d in diagnostics])) for k in diagnostics[0]}
    updates = np.concatenate(updates, axis=1, dtype=np.float64)
    return Run(gradients, updates + 0.0, means)  # -0.0 becomes 0.0.

  def _uncompiled_run(self, gradients):
    theta = tf.zeros([*self._axes, gradients.shape[1]])
    state = self._optimizer.initial_state([theta])
    first = (theta, state, gradients[0], self._optimizer.diagnostics([theta], state))
    _, _, updates, diagnostics = tf.scan(self._step, gradients, first)
    return updates, diagnostics

  def _step(self, carry, g):
    theta, state, _, _ = carry
    grads = [tf.broadcast_to(g, theta.shape)]
    diagnostics = self._optimizer.diagnostics(grads, state)
    loss = tf.reduce_sum(grads[0] * theta)  # whose gradient this is
    (update,), state = self._optimizer(grads, state, params=[theta], loss=loss)
    mean = tf.reduce_mean(update, axis=range(len(self._axes)))
    return theta + update, state, mean, diagnostics
