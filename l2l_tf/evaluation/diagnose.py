"""An optimizer's updates for chosen gradients, at one step and over many.

No problem is run: the optimizer is given gradients, and its updates are recorded at the
first step, after a history of gradients, and over many steps. Each gradient value
belongs to a parameter of its own, which starts at zero.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from l2l_tf import preprocess, seeds, tables
from l2l_tf.optimizers import COORDINATE, KernelwiseLSTM, Optimizer, Partition
from l2l_tf.storage import files

_MAGNITUDES = np.logspace(-10, 10, 81)  # four per decade
GRADIENTS = np.concatenate([-_MAGNITUDES[::-1], [0.0], _MAGNITUDES])
ZERO, TINY, NORMAL, HUGE = 0.0, 1e-8, 1e-2, 1e6
_NUM_NOISES = 32


class Response(NamedTuple):
  """The update for each of N gradients; every array is [N]."""

  gradients: np.ndarray
  first: np.ndarray  # from the initial state
  constant: np.ndarray  # after a history of the same gradient
  alternating: np.ndarray  # after a history of the gradient with alternating sign


class Run(NamedTuple):
  """N sequences of gradients, and the optimizer's updates for them."""

  gradients: np.ndarray  # [T, N]
  updates: np.ndarray  # [T, N]
  diagnostics: dict[str, float]  # from `Optimizer.diagnostics`, means over steps

  @property
  def totals(self) -> np.ndarray:
    """Parameters after each step, the sums of the updates so far; [T, N]."""
    return np.cumsum(self.updates, axis=0)


def members(optimizer: Optimizer) -> dict[str, Optimizer]:
  """Returns the optimizers to diagnose one by one, by name.

  For a `Partition`, these are the optimizers of its routes, "route_0" and so on; for
  any other optimizer, itself under the name "".
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
  """Measures the update for each gradient.

  Args:
    optimizer: any but a `Partition`, see `members`. One that mixes coordinates gets
      each gradient in a separate run; a `KernelwiseLSTM` gets a kernel filled with
      the gradient, and the update is the mean over the kernel.
    gradients: finite values, [N].
    warmup: steps of history before the updates `constant` and `alternating`.

  Returns:
    The updates at the first step and after both histories. The last gradient of an
    alternating history has the opposite sign.

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
    num_steps: length T of each run.
    seed: seed of the noise.

  Returns:
    The runs by name: "zero" (N = 1); "tiny", "normal" and "huge", with constant
    gradients of 1e-8, 1e-2 and 1e6 (N = 2, the positive sign first); and "noise"
    (N = 32), with independent normal gradients of standard deviation 1e-2.

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
  """Runs one optimizer on sequences of gradients; traced once per shape."""

  def __init__(self, optimizer: Optimizer):
    if isinstance(optimizer, Partition):
      raise ValueError(
        "A Partition moves each parameter by another optimizer; diagnose those that"
        " diagnose.members(partition) returns."
      )
    self._optimizer = optimizer
    self._run = tf.function(self._uncompiled_run, autograph=False)
    self._axes, self._together = (), optimizer.coupling == COORDINATE
    if isinstance(optimizer, KernelwiseLSTM):
      self._axes = (*optimizer.config["kernel_shape"], 1)
      self._together = preprocess.is_elementwise(optimizer.config["preprocess"])

  def __call__(self, gradients: np.ndarray) -> Run:
    """Runs T steps on gradients [T, N]."""
    count = gradients.shape[1]
    blocks = np.split(gradients, 1 if self._together else count, axis=1)
    spec = tf.TensorSpec(blocks[0].shape, tf.float32)
    run = self._run.get_concrete_function(spec)  # one trace per shape, on purpose
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
    loss = tf.reduce_sum(grads[0] * theta)  # a loss with these gradients
    (update,), state = self._optimizer(grads, state, params=[theta], loss=loss)
    mean = tf.reduce_mean(update, axis=range(len(self._axes)))
    return theta + update, state, mean, diagnostics
