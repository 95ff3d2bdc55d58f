"""Selection of the baselines' learning rates, on other draws than the reported ones.

All tuning is done here, so that no baseline's rate depends on the draws on which the
baseline is compared.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from l2l_tf import optimizers, seeds
from l2l_tf.evaluation.runner import Curves, Progress, Runner, unseen
from l2l_tf.meta.replicas import Replicas
from l2l_tf.problems import Problem

# (losses [num_tasks, num_steps + 1], steps <= num_steps) -> the number to minimize;
# infinity for a run that diverged.
Criterion = Callable[[np.ndarray, int], float]


def last_step_loss(losses: np.ndarray, steps: int) -> float:
  """Returns the mean loss over tasks after `steps` steps.

  Args:
    losses: [num_tasks, num_steps + 1], from `Curves`.
    steps: at most num_steps.

  Returns:
    The mean, or infinity if it is not finite.
  """
  mean = losses[:, steps].mean(dtype=np.float64)
  return float(mean) if np.isfinite(mean) else math.inf


def last_tenth_loss(losses: np.ndarray, steps: int) -> float:
  """Returns the mean loss over tasks and the last tenth of the first `steps` steps.

  The loss of a single mini-batch is noisy; the mean over a tenth of the steps shows
  where a run ends.

  Args:
    losses: [num_tasks, num_steps + 1], from `Curves`.
    steps: at most num_steps.

  Returns:
    The mean, or infinity if it is not finite or above the mean loss at the start.
  """
  first = steps + 1 - max(1, steps // 10)
  mean = losses[:, first : steps + 1].mean(dtype=np.float64)
  return float(mean) if mean <= losses[:, 0].mean(dtype=np.float64) else math.inf


def tune(
  problem: Problem,
  make_optimizer: Callable[..., optimizers.Optimizer],
  learning_rates: Sequence[float],
  horizons: Sequence[int],
  criterion: Criterion,
  num_draws: int,
  num_tuning_draws: int,
  seed: int,
  jit_compile: bool = False,
  may_diverge: bool = False,
  most_further: int = 0,
  progress: Progress = unseen,
  replicas: Replicas | None = None,
) -> dict[int, Curves]:
  """Selects a learning rate for each horizon, and runs it on the reported draws.

  Every run takes as many steps as the longest horizon; a shorter horizon uses its
  first steps.

  Args:
    problem: what to optimize.
    make_optimizer: a function of a learning rate.
    learning_rates: the grid; a single rate is used without tuning.
    horizons: numbers of steps for which to select a rate.
    criterion: what the selected rate minimizes on the tuning draws.
    num_draws: draws of the problem to report on.
    num_tuning_draws: draws on which each rate runs, from a seed branch that is never
      reported.
    seed: seed of all draws.
    jit_compile: whether to compile with XLA, if the optimizer allows it.
    may_diverge: if every rate diverges, report the first one instead of raising.
    most_further: how many rates to try beyond the grid, one after another at its
      outermost ratio, while the best one lies at an end.
    progress: is told of all steps, and
    replicas: share out the draws, as in `Runner`.

  Returns:
    The curves at each horizon's rate, by horizon.

  Raises:
    ValueError: if every rate diverged, unless `may_diverge`.
  """
  rate = tf.Variable(learning_rates[0], dtype=tf.float64, trainable=False)
  # Passed as a schedule: a constructor that computed something from the variable
  # itself would do so only once, with the first rate.
  optimizer = make_optimizer(lambda step: rate)
  jit_compile = jit_compile and optimizer.jit_compile
  runner = Runner(problem, optimizer, max(horizons), jit_compile, progress, replicas)

  def run(learning_rate: float, branch: int, num_draws: int) -> Curves:
    rate.assign(learning_rate)
    return runner(seed, branch, num_draws)

  best = dict.fromkeys(horizons, learning_rates[0])
  if len(learning_rates) > 1:

    def values(learning_rate: float) -> list[float]:  # one for each horizon
      losses = run(learning_rate, seeds.TUNING, num_tuning_draws).losses
      return [criterion(losses, steps) for steps in horizons]

    tried = {learning_rate: values(learning_rate) for learning_rate in learning_rates}
    for _ in range(most_further):
      if (further := _further(tried)) is None:
        break
      tried[further] = values(further)
    for steps, column in zip(horizons, zip(*tried.values())):
      best[steps] = _best(list(tried), column, may_diverge)
  reported = {
    learning_rate: run(learning_rate, seeds.EVALUATION, num_draws)
    for learning_rate in dict.fromkeys(best.values())
  }
  return {
    steps: reported[learning_rate]._replace(learning_rate=float(learning_rate))
    for steps, learning_rate in best.items()
  }


def _further(tried: Mapping[float, Sequence[float]]) -> float | None:
  """Returns the next rate to try, if the best one for a horizon lies at an end."""
  rates = sorted(tried)
  for column in zip(*(tried[rate] for rate in rates)):
    best = int(np.argmin(column))
    if column[best] == math.inf:
      continue
    if best == len(rates) - 1:
      return rates[-1] * rates[-1] / rates[-2]
    if best == 0:
      return rates[0] * rates[0] / rates[1]
  return None


def _best(
  learning_rates: Sequence[float], values: Sequence[float], may_diverge: bool
) -> float:
  """Returns the rate with the lowest value, the first of equals."""
  if min(values) == math.inf:
    if may_diverge:
      return learning_rates[0]
    raise ValueError(
      f"A baseline diverged at every learning rate from {learning_rates[0]:g} to"
      f" {learning_rates[-1]:g}; check that the problem's loss is finite."
    )
  best = learning_rates[int(np.argmin(values))]
  if best in (min(learning_rates), max(learning_rates)):
    logging.warning(
      "The best learning rate, %g, is at the end of the grid; extend the grid.", best
    )
  return best
