"""Learning curves under one protocol.

Learned and hand-designed optimizers run through the same unroll, on the same
tasks, mini-batches and number of steps. A baseline's learning rate is selected
on tasks of another seed branch than the reported ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

from l2l_tf import optimizers, seeds
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.problems import Problem

BASELINES = {
  "SGD": optimizers.SGD,
  "momentum": optimizers.Momentum,
  "Nesterov": optimizers.Nesterov,
  "RMSprop": optimizers.RMSprop,
  "Adagrad": optimizers.Adagrad,
  "Adam": optimizers.Adam,
}
# Four rates per decade. Wide, because the quadratics' gradients arrive divided by
# their batch size.
LEARNING_RATES = tuple(float(r) for r in np.logspace(-4, 2, 25))


class Curves(NamedTuple):
  """How one optimizer did."""

  losses: np.ndarray  # [num_problems, num_steps + 1], f(theta_t)
  held_out: dict[str, np.ndarray]  # each [num_draws], at the last step
  learning_rate: float | None = None  # the selected one, of a baseline


class Runner:
  """Runs one optimizer on tasks of one problem, compiled once."""

  def __init__(
    self,
    problem: Problem,
    optimizer: optimizers.Optimizer,
    num_steps: int,
    jit_compile: bool = False,
  ):
    """Remembers what to run, and whether XLA shall compile it at the first call."""
    self._problem = problem
    self._optimizer = optimizer
    self._num_steps = num_steps
    self._compiled = tf.function(self._run, autograph=False, jit_compile=jit_compile)

  def __call__(self, seed: int, branch: int, num_draws: int) -> Curves:
    """Runs on the first `num_draws` draws of the problem below `(seed, branch)`.

    Held-out data are evaluated on the branch that is reported, and only there.
    """
    reported = branch == seeds.EVALUATION
    drawn = [
      self._compiled(seeds.make(seed, branch, i), reported) for i in range(num_draws)
    ]
    losses, held_out = zip(*drawn)  # each of losses is [num_steps + 1, num_tasks]
    return Curves(
      np.concatenate([curve.numpy().T for curve in losses]),
      {k: np.array([float(m[k]) for m in held_out]) for k in held_out[0]},
    )

  def _run(self, seed, with_held_out):
    task, carry = unroll_lib.start(self._problem, self._optimizer, seed)
    first = self._task_losses(task, carry)
    carry, losses = unroll_lib.unroll(
      self._problem,
      self._optimizer,
      task,
      carry,
      self._num_steps,
      observe=lambda c, updates: self._task_losses(task, c),
    )
    held_out = {}
    if with_held_out:
      held_out = self._problem.held_out(carry.params, task.constants)
    return tf.concat([first[tf.newaxis], losses], axis=0), held_out

  def _task_losses(self, task, carry):
    seed = unroll_lib.step_seed(task, carry.step)
    return self._problem.task_losses(carry.params, task.constants, seed)


def compare(
  problem: Problem,
  learned: Mapping[str, optimizers.Optimizer],
  num_steps: int = 100,
  num_draws: int = 8,
  seed: int = 0,
  baselines: Mapping[str, Callable[..., optimizers.Optimizer]] = BASELINES,
  num_tuning_draws: int = 8,
  learning_rates: Sequence[float] = LEARNING_RATES,
) -> dict[str, Curves]:
  """Runs learned optimizers and tuned baselines on the same fresh tasks.

  Args:
    problem: the distribution of tasks.
    learned: optimizers to run as they are, by name.
    num_steps: steps per task, for everyone.
    num_draws: draws of the problem per optimizer; a draw of quadratics holds a
      batch of them, of most other problems one task.
    seed: names the tasks; the tuning tasks lie on another branch of it.
    baselines: functions of a learning rate, by name; each as in `tuned_curves`.
    num_tuning_draws: draws on which each rate of the grid runs.
    learning_rates: the grid; a single one is taken as it is.

  Returns:
    Curves by name, the learned optimizers first.

  Raises:
    ValueError: for a count below one, a learning rate that is not positive and
      finite, or a baseline that always diverges.
  """
  for name, count in [
    ("num_steps", num_steps),
    ("num_draws", num_draws),
    ("num_tuning_draws", num_tuning_draws),
  ]:
    if count < 1:
      raise ValueError(f"{name}={count} must be at least 1.")
  if not learning_rates or not all(0 < r < float("inf") for r in learning_rates):
    raise ValueError(
      f"learning_rates={learning_rates} must be positive, finite numbers, at least one."
    )
  curves = {}
  with tqdm.tqdm(total=len(learned) + len(baselines), desc="Evaluating") as bar:
    for name, optimizer in learned.items():
      bar.set_postfix_str(name)
      runner = Runner(problem, optimizer, num_steps)
      curves[name] = runner(seed, seeds.EVALUATION, num_draws)
      bar.update()
    for name, make in baselines.items():
      bar.set_postfix_str(f"tuning {name}")
      curves[name] = tuned_curves(
        problem, make, num_steps, num_draws, seed, num_tuning_draws, learning_rates
      )
      bar.update()
  return curves


def tuned_curves(
  problem: Problem,
  make_optimizer: Callable[..., optimizers.Optimizer],
  num_steps: int,
  num_draws: int,
  seed: int,
  num_tuning_draws: int,
  learning_rates: Sequence[float],
) -> Curves:
  """Selects a baseline's learning rate, then runs it on the reported tasks.

  The rate is the one with the lowest mean final loss on `num_tuning_draws`
  draws from a branch of the seed that is never reported. Arguments as in
  `compare`.

  Raises:
    ValueError: if every rate diverged.
  """
  rate = tf.Variable(learning_rates[0], dtype=tf.float64, trainable=False)
  # As a schedule, not as the variable: a function of the rate that computed with
  # the variable would do so once, and every rate would be the first.
  runner = Runner(problem, make_optimizer(lambda step: rate), num_steps)
  if len(learning_rates) > 1:
    rate.assign(_select(runner, rate, learning_rates, seed, num_tuning_draws))
    if float(rate) in (min(learning_rates), max(learning_rates)):
      logging.warning(
        "The best learning rate, %g, is at the end of the grid; extend the grid.", rate
      )
  curves = runner(seed, seeds.EVALUATION, num_draws)
  return curves._replace(learning_rate=float(rate))


def _select(runner, rate, learning_rates, seed, num_draws) -> float:
  final = []
  for value in learning_rates:
    rate.assign(value)
    losses = runner(seed, seeds.TUNING, num_draws).losses[:, -1]
    final.append(np.mean(losses, dtype=np.float64))
  final = np.where(np.isfinite(final), final, np.inf)
  if np.isinf(final).all():
    raise ValueError(
      f"A baseline diverged at every learning rate from {learning_rates[0]:g} to"
      f" {learning_rates[-1]:g}; check that the problem's loss is finite."
    )
  return learning_rates[int(np.argmin(final))]
