"""Few-shot episodes under one protocol: the same episodes and steps for every method.

Every method is an optimizer with a learned start. It trains the learner on an episode's
support set for a number of steps, and is judged by the accuracy on the query set.
Nothing is carried from one episode to the next.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.evaluation.runner import Curves
from l2l_tf.meta import unroll
from l2l_tf.optimizers import SGD, LearnedStart, Optimizer
from l2l_tf.problems import FewShot

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # of baselines whose rate is tuned


class Scores(NamedTuple):
  """What a method reaches on test episodes."""

  accuracies: np.ndarray  # [episodes], of the query sets
  losses: np.ndarray | None = None  # [episodes], likewise
  learning_rate: float | None = None  # that was selected for a baseline

  @classmethod
  def joined(cls, tests: Sequence["Scores"]) -> "Scores":
    """Returns the scores of several tests of one method, one after the other."""
    accuracies = np.concatenate([test.accuracies for test in tests])
    losses = [test.losses for test in tests if test.losses is not None]
    rate = tests[0].learning_rate
    return cls(accuracies, np.concatenate(losses) if losses else None, rate)

  @property
  def mean(self) -> float:
    return float(self.accuracies.mean())

  @property
  def half_width(self) -> float:
    """Half the width of the mean's 95% confidence interval."""
    count = len(self.accuracies)
    if count < 2:
      return math.nan
    return float(1.96 * self.accuracies.std(ddof=1) / math.sqrt(count))

  def minus(self, other: "Scores") -> "Scores":
    """Returns the differences to another method, episode by episode.

    Their interval is narrower than that of two independent means: what is hard in an
    episode is hard for both.
    """
    return Scores(self.accuracies - other.accuracies)


class EpisodeRunner:
  """Runs one optimizer on episodes of one few-shot problem, traced once."""

  def __init__(self, problem: FewShot, optimizer: Optimizer, num_steps: int):
    """Initializes the runner.

    Args:
      problem: the distribution of episodes.
      optimizer: with a learned start of the problem's shapes.
      num_steps: steps on the support set.
    """
    self._problem, self._optimizer = problem, optimizer
    self._num_steps = num_steps
    self._compiled = tf.function(self._run, autograph=False)

  def __call__(self, seed: int, branch: int, num_episodes: int) -> Curves:
    """Runs the first `num_episodes` episodes below `(seed, branch)`.

    Returns:
      `losses` of the query sets before the first and after the last step, [episodes,
      2], and `held_out["accuracy"]`, [episodes], after the last one.
    """
    return self.on([seeds.make(seed, branch, i) for i in range(num_episodes)])

  def on(self, keys: Sequence[tf.Tensor]) -> Curves:
    """Runs the episodes that the seeds name, as a call does."""
    losses, accuracies = zip(*map(self._compiled, keys))
    return Curves(np.array(losses), {"accuracy": np.array(accuracies)})

  def _run(self, seed):
    problem, optimizer = self._problem, self._optimizer
    task, carry = unroll.start(problem, optimizer, seed, unroll.second_order)
    first = problem.held_out(carry.params, task.constants)
    carry, _ = unroll.unroll(
      problem, optimizer, task, carry, self._num_steps, evaluate=unroll.second_order
    )
    last = problem.held_out(carry.params, task.constants)
    losses = tf.stack([first["held_out_loss"], last["held_out_loss"]])
    return losses, last["held_out_accuracy"]


def scores(
  problem: FewShot, optimizer: Optimizer, num_steps: int, num_episodes: int, seed: int
) -> Scores:
  """Runs an optimizer on test episodes.

  Args:
    problem: with the test classes.
    optimizer: as for `EpisodeRunner`.
    num_steps: steps on the support set.
    num_episodes: of the test (the paper's 600).
    seed: names the episodes.
  """
  runner = EpisodeRunner(problem, optimizer, num_steps)
  curves = runner(seed, seeds.EVALUATION, num_episodes)
  return Scores(curves.held_out["accuracy"], curves.losses[:, -1])


def tuned_scores(
  problem: FewShot,
  tuning_problem: FewShot,
  start: Sequence[tf.Tensor],
  num_steps: int,
  num_episodes: int,
  num_tuning_episodes: int,
  seed: int,
  rates: Sequence[float] = RATES,
  make_optimizer: Callable[..., Optimizer] = SGD,
) -> Scores:
  """Runs a baseline from a given start, at the rate that is best on other episodes.

  Args:
    problem: as for `scores`.
    tuning_problem: with the classes on which the rate is selected.
    start: the learner's parameters.
    num_steps: as for `scores`.
    num_episodes: as for `scores`.
    num_tuning_episodes: on which each rate runs.
    seed: names the episodes.
    rates: to choose from, by the highest accuracy; a single one is not tuned.
    make_optimizer: a function of a learning rate.
  """
  rate = tf.Variable(rates[0], trainable=False)
  shapes = [p.shape for p in start]
  optimizer = LearnedStart(make_optimizer(lambda step: rate), shapes)
  optimizer.begin_at(start)
  tuning = EpisodeRunner(tuning_problem, optimizer, num_steps)
  found = {}
  for value in rates if len(rates) > 1 else ():
    rate.assign(value)
    curves = tuning(seed, seeds.TUNING, num_tuning_episodes)
    found[value] = curves.held_out["accuracy"].mean()
  best = max(found, key=found.get, default=rates[0])
  rate.assign(best)
  reached = scores(problem, optimizer, num_steps, num_episodes, seed)
  return reached._replace(learning_rate=best)


def neighbour_scores(
  problem: FewShot, params: Sequence[tf.Tensor], num_episodes: int, seed: int
) -> Scores:
  """Gives query images the label of the support image with the most similar embedding.

  Ravi and Larochelle 2017, section 5.1; similar in cosine.

  Args:
    problem: as for `scores`.
    params: of the learner, trained on the training classes.
    num_episodes: as for `scores`.
    seed: names the episodes, the same as those of `scores`.
  """
  params = list(params)

  @tf.function(autograph=False)
  def accuracy(key):
    task, _ = unroll.draw(problem, key)
    features = problem.query_features(params, task.constants)
    support, query = (tf.math.l2_normalize(x, axis=1) for x in features)
    nearest = tf.argmax(tf.matmul(query, support, transpose_b=True), axis=1)
    predicted = tf.gather(problem.labels(problem.shots), nearest)
    right = predicted == problem.labels(problem.queries)
    return tf.reduce_mean(tf.cast(right, tf.float32))

  keys = [seeds.make(seed, seeds.EVALUATION, i) for i in range(num_episodes)]
  return Scores(np.array([accuracy(key) for key in keys]))
