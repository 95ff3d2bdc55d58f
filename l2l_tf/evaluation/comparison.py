"""Losses after several numbers of steps, for the cards of pretrained optimizers.

As in `protocol.py`, all optimizers get the same draws and mini-batches, and learning
rates are selected on draws of another seed branch. One long run gives all horizons.
Few-shot episodes are judged by their query sets.
"""

from collections.abc import Sequence

import tensorflow as tf

from l2l_tf import optimizers, seeds
from l2l_tf.evaluation import baselines, few_shot, tuning
from l2l_tf.evaluation.runner import Runner
from l2l_tf.meta import execution
from l2l_tf.pretraining import cards
from l2l_tf.problems import FewShot, Problem


class Trial:
  """Fresh draws of one problem, on which all optimizers take equally many steps.

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
      task: name of the problem on the card.
      problem: what to optimize.
      horizons: numbers of steps after which to take losses.
      num_draws: draws of the problem to report on.
      num_tuning_draws: draws on which each rate of a baseline's grid runs.
      seed: seed of all draws.
    """
    self.horizons = tuple(horizons)
    self._task = task
    self._problem = problem
    self._num_draws = num_draws
    self._num_tuning_draws = num_tuning_draws
    self._seed = seed

  def learned(self, optimizer: optimizers.Optimizer) -> list[cards.Result]:
    """Runs an optimizer untuned; returns a result per horizon."""
    jit_compile = execution.compiles_loop(self._problem, optimizer)
    # An optimizer with a schedule is told of each horizon; others run once for all.
    lengths = self.horizons if optimizer.has_horizon else [max(self.horizons)]
    curves = {
      length: Runner(self._problem, optimizer, length, jit_compile)(
        self._seed, seeds.EVALUATION, self._num_draws
      )
      for length in lengths
    }
    longest = curves[max(self.horizons)]
    return self._results(
      cards.LEARNED, {n: curves.get(n, longest) for n in self.horizons}
    )

  def baseline(self, name: str) -> list[cards.Result]:
    """Runs a baseline, tuned for each horizon; returns a result per horizon.

    Args:
      name: in `baselines.CARD_BASELINES`.
    """
    baseline = baselines.CARD_BASELINES[name]
    curves = tuning.tune(
      self._problem,
      baselines.BASELINES[baseline.name],
      baseline.learning_rates,
      self.horizons,
      tuning.last_tenth_loss,
      num_draws=self._num_draws,
      num_tuning_draws=self._num_tuning_draws,
      seed=self._seed,
      jit_compile=self._problem.jit_compile,
      may_diverge=True,  # A card reports that too.
    )
    return self._results(name, curves)

  def _results(self, name, curves) -> list[cards.Result]:
    return [
      cards.Result(
        self._task, n, name, c.learning_rate, tuning.last_tenth_loss(c.losses, n)
      )
      for n, c in curves.items()
    ]


class FewShotTrial:
  """Episodes of a few-shot problem, in which all optimizers go on from one start."""

  def __init__(
    self,
    task: str,
    problem: FewShot,
    start: Sequence[tf.Tensor],
    horizons: Sequence[int],
    num_draws: int,
    num_tuning_draws: int,
    seed: int = 0,
  ):
    """Initializes the trial.

    Args:
      task: name of the problem on the card.
      problem: with classes that were not trained on.
      start: the learner's parameters at the beginning of an episode.
      horizons: numbers of steps after which to look at the query set.
      num_draws: episodes to report on.
      num_tuning_draws: episodes on which each rate of a baseline runs.
      seed: names the episodes.
    """
    self._task, self._problem, self._start = task, problem, start
    self._horizons = tuple(horizons)
    self._num_draws, self._num_tuning_draws = num_draws, num_tuning_draws
    self._seed = seed

  def learned(self, optimizer: optimizers.LearnedStart) -> list[cards.Result]:
    """Runs an optimizer untuned; returns a result per horizon."""
    counts = self._num_draws, self._seed
    scores = lambda n: few_shot.scores(self._problem, optimizer, n, *counts)
    return [self._result(n, cards.LEARNED, scores(n)) for n in self._horizons]

  def baseline(self, name: str) -> list[cards.Result]:
    """Runs a baseline, tuned for each horizon; arguments are as for `Trial`."""
    baseline = baselines.CARD_BASELINES[name]
    counts = self._num_draws, self._num_tuning_draws, self._seed
    how = baseline.learning_rates, baselines.BASELINES[baseline.name]
    tuned = lambda n: few_shot.tuned_scores(
      self._problem, self._problem, self._start, n, *counts, *how
    )
    return [self._result(n, name, tuned(n)) for n in self._horizons]

  def _result(self, steps: int, name: str, found: few_shot.Scores) -> cards.Result:
    loss = float(found.losses.mean())
    rate = found.learning_rate
    return cards.Result(self._task, steps, name, rate, loss, found.mean)
