"""One optimizer's learning curves on draws of a problem.

All optimizers in a comparison run through `Runner`, so that they get the same unroll,
draws and mini-batches. A draw is what a seed names: initial parameters and constants of
one task, or of a batch of tasks that each have a curve of their own.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from l2l_tf import optimizers, seeds
from l2l_tf.meta import execution
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.replicas import Replicas
from l2l_tf.problems import Problem

Progress = Callable[[int], None]  # is told how many steps have been run


def unseen(steps: int) -> None:
  """A `Progress` that shows nothing."""


class Curves(NamedTuple):
  """Learning curves of one optimizer, and its results on held-out data."""

  losses: np.ndarray  # [num_tasks, num_steps + 1], f(theta_t); all tasks of all draws
  held_out: dict[str, np.ndarray]  # each [num_draws], at the last step
  learning_rate: float | None = None  # that was selected for a baseline
  without_rate: bool = False  # whether it is a baseline that has no learning rate

  @property
  def is_baseline(self) -> bool:
    """Whether it is of a baseline, with or without a learning rate."""
    return self.without_rate or self.learning_rate is not None


class Runner:
  """Runs one optimizer on draws of one problem, compiled once."""

  def __init__(
    self,
    problem: Problem,
    optimizer: optimizers.Optimizer,
    num_steps: int,
    jit_compile: bool = False,
    progress: Progress = unseen,
    replicas: Replicas | None = None,
  ):
    """Initializes the runner. The first call traces it; XLA compiles it on request.

    Args:
      problem: to draw from.
      optimizer: to run.
      num_steps: of each draw.
      jit_compile: whether XLA compiles it.
      progress: is told the steps of each draw once they are done.
      replicas: whose processes share out the draws, and all get the results.
    """
    self._problem = problem
    self._optimizer = execution.prepared(problem, optimizer)
    self._num_steps = num_steps
    self._progress = progress
    self._replicas = Replicas() if replicas is None else replicas
    compiled = {"autograph": False, "jit_compile": jit_compile}
    self._compiled = tf.function(self._run, **compiled)
    # Apart, lest the run is traced and compiled once to select and once to report.
    self._held_out = tf.function(self._evaluated, **compiled)

  def __call__(self, seed: int, branch: int, num_draws: int) -> Curves:
    """Runs on the first `num_draws` draws of the problem below `(seed, branch)`.

    Held-out data are evaluated on the evaluation branch only.
    """
    begin, end = self._replicas.own_part(num_draws)
    is_shared = num_draws >= self._replicas.num_processes
    indices = range(begin, end) if is_shared else range(num_draws)
    own = self._on_draws(seed, branch, indices)
    if is_shared:
      found = self._replicas.gathered(own, (begin, end), num_draws)
    else:
      found = self._replicas.from_chief(own)
    if len(indices) < num_draws:
      self._progress((num_draws - len(indices)) * self._num_steps)
    losses, held_out = tf.nest.map_structure(np.asarray, found)
    return Curves(np.concatenate(losses), held_out)

  def _on_draws(self, seed: int, branch: int, indices: range):
    """Returns losses [draws, tasks of a draw, num_steps + 1], and held-out results."""
    curves, held_out = [], []
    for i in indices:
      key = seeds.make(seed, branch, i)
      losses, params = self._compiled(key)
      curves.append(losses.numpy().T)
      is_reported = branch == seeds.EVALUATION
      held_out.append(self._held_out(key, params) if is_reported else {})
      self._progress(self._num_steps)
    values = {k: np.array([float(m[k]) for m in held_out]) for k in held_out[0]}
    return np.stack(curves), values

  def _run(self, seed):
    task, carry = unroll_lib.start(
      self._problem, self._optimizer, seed, total_steps=self._num_steps
    )
    first = self._task_losses(task, carry)
    carry, losses = unroll_lib.unroll(
      self._problem,
      self._optimizer,
      task,
      carry,
      self._num_steps,
      observe=lambda c, updates: self._task_losses(task, c),
      evaluate=unroll_lib.second_order,  # There is no tape to stop gradients for.
    )
    return tf.concat([first[tf.newaxis], losses], axis=0), carry.params

  def _evaluated(self, seed, params):
    task, _ = unroll_lib.draw(self._problem, seed)  # Constants may be no tensors.
    return self._problem.held_out(params, task.constants)

  def _task_losses(self, task, carry):
    seed = unroll_lib.step_seed(task, carry.step)
    return self._problem.task_losses(carry.params, task.constants, seed)
