"""Learning curves on several problems, in a unit that they have in common."""

from collections.abc import Callable, Mapping

import numpy as np

from l2l_tf.evaluation.runner import Curves, Runner
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem

_FLOOR, _MOST = 1e-6, 1e6  # of a ratio; what is not finite counts as the most


class LogRatios:
  """Runs an optimizer on several problems; its curves are log(f_t / f_0).

  It validates a training on all of them, as the `runner` of a `TrainingRun`: the mean
  over problems counts each alike, whatever the unit of its loss.
  """

  def __init__(
    self,
    problems: Mapping[str, Callable[[], Problem]],
    optimizer: Optimizer,
    num_steps: int,
  ):
    """Makes the problems; each is traced at the first call.

    Args:
      problems: what makes a problem, by name.
      optimizer: to run.
      num_steps: of each draw.
    """
    self._runners = {
      name: Runner(make(), optimizer, num_steps) for name, make in problems.items()
    }

  def __call__(self, seed: int, branch: int, num_draws: int) -> Curves:
    """Runs on the first `num_draws` draws of every problem below `(seed, branch)`.

    Returns:
      Curves of all tasks, the problems one after the other, without held-out results.
    """
    curves = self.by_problem(seed, branch, num_draws).values()
    return Curves(np.concatenate(list(curves)), {})

  def by_problem(self, seed: int, branch: int, num_draws: int) -> dict[str, np.ndarray]:
    """Returns log(f_t / f_0) of each problem's tasks, [num_tasks, num_steps + 1]."""
    return {
      name: _log_ratios(runner(seed, branch, num_draws).losses)
      for name, runner in self._runners.items()
    }


def _log_ratios(losses: np.ndarray) -> np.ndarray:
  """Returns log(f_t / f_0), between log(1e-6) and log(1e6)."""
  ratios = losses.astype(np.float64) / (losses[:, :1] + _FLOOR)
  ratios = np.nan_to_num(ratios, nan=_MOST, posinf=_MOST)
  return np.log(np.clip(ratios, _FLOOR, _MOST))
