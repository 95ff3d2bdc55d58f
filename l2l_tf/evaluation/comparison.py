"""Several horizons of one task: an untuned optimizer against tuned baselines.

The protocol of `protocol.py`: everyone meets the same tasks and mini-batches, and rates
are selected on draws of another branch of the seed. One long run gives all horizons.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from l2l_tf import optimizers, seeds
from l2l_tf.evaluation.protocol import Runner
from l2l_tf.meta import execution
from l2l_tf.pretraining import cards
from l2l_tf.problems import Problem

# Three rates per decade. Momentum adds up ten steps, and its gradients have a size.
_NORMALISED = tuple(float(r) for r in np.logspace(-3, 0, 10))
_MOMENTUM = tuple(float(r) for r in np.logspace(-2, 1, 10))
BASELINES = {
  cards.TUNED_ADAM: (optimizers.Adam, _NORMALISED),
  "momentum": (optimizers.Momentum, _MOMENTUM),
  "RMSprop": (optimizers.RMSprop, _NORMALISED),
  cards.DEFAULT_ADAM: (optimizers.Adam, (0.001,)),
}


def final_loss(losses: np.ndarray, steps: int) -> float:
  """The mean over problems and the last tenth of the first `steps` steps.

  One mini-batch's loss is noise; a tenth of them says where a run has come to.

  Args:
    losses: [num_problems, num_steps + 1], from `protocol.Curves`.
    steps: at most num_steps.

  Returns:
    A number; infinity if it is not finite, or above the loss at the start.
  """
  first = steps + 1 - max(1, steps // 10)
  mean = losses[:, first : steps + 1].mean(dtype=np.float64)
  return float(mean) if mean <= losses[:, 0].mean(dtype=np.float64) else math.inf


class Trial:
  """Fresh draws of one task, on which optimizers run for the same number of steps.

  Attributes:
    horizons: numbers of steps after which losses are taken.
  """

  def __init__(
    self,
    task: str,
    problem: Problem,
    horizons: Sequence[int] = (100, 1000, 5000),
    num_draws: int = 3,
    num_tuning_draws: int = 1,
    seed: int = 0,
  ):
    """Initializes the trial.

    Args:
      task: name of the problem.
      problem: what to optimize.
      horizons: numbers of steps after which to take losses.
      num_draws: draws of the problem that are reported.
      num_tuning_draws: draws on which each rate of a baseline's grid runs.
      seed: names the draws.
    """
    self.horizons = tuple(horizons)
    self._task = task
    self._problem = problem
    self._num_draws = num_draws
    self._num_tuning_draws = num_tuning_draws
    self._seed = seed

  def learned(self, optimizer: optimizers.Optimizer) -> list[cards.Result]:
    """Runs an optimizer as it is; returns a result per horizon."""
    losses = self._runner(optimizer)(
      self._seed, seeds.EVALUATION, self._num_draws
    ).losses
    return [
      cards.Result(self._task, n, cards.LEARNED, None, final_loss(losses, n))
      for n in self.horizons
    ]

  def baseline(self, name: str) -> list[cards.Result]:
    """Runs the one of `BASELINES` with that name; returns a result per horizon.

    Each is of the rate that was best after as many steps on the tuning draws.
    """
    make, rates = BASELINES[name]
    variable = tf.Variable(rates[0], dtype=tf.float64, trainable=False)
    runner = self._runner(make(lambda step: variable))

    def losses(rate, branch, num_draws):
      variable.assign(rate)
      return runner(self._seed, branch, num_draws).losses

    best = dict.fromkeys(self.horizons, rates[0])
    if len(rates) > 1:
      tuning = {r: losses(r, seeds.TUNING, self._num_tuning_draws) for r in rates}
      for n in self.horizons:
        best[n] = min(rates, key=lambda r: final_loss(tuning[r], n))
    reported = {
      r: losses(r, seeds.EVALUATION, self._num_draws) for r in set(best.values())
    }
    return [
      cards.Result(self._task, n, name, r, final_loss(reported[r], n))
      for n, r in best.items()
    ]

  def _runner(self, optimizer) -> Runner:
    jit_compile = execution.compiles_loop(self._problem, optimizer)
    return Runner(self._problem, optimizer, max(self.horizons), jit_compile)
