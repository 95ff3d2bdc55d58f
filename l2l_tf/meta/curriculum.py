"""How long episodes and windows are as meta-training goes on, if that changes.

Short episodes first: their meta-gradients are cheap and do not explode, and an
optimizer that has learned the beginning of a training can be taught the rest.
"""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from l2l_tf import seeds


class Lengths(NamedTuple):
  """Of one episode."""

  num_steps: int  # whole windows
  unroll_length: int  # steps per window


class Curriculum(tf.Module, abc.ABC):
  """Decides the lengths of each episode.

  What it remembers is in its variables, which a `TrainingRun` saves in checkpoints.
  """

  @property
  @abc.abstractmethod
  def longest(self) -> Lengths:
    """The longest episode and the longest window that may come, perhaps of another."""

  @abc.abstractmethod
  def lengths(self, episode: int) -> Lengths:
    """Returns the lengths of an episode, given its number from 0."""

  def validated(self, loss: float) -> None:
    """Takes note of a validation's loss, which is always that of a longest episode."""
    del loss


class RandomHorizon(Curriculum):
  """Episodes whose number of steps is drawn log-uniformly, window by window.

  >>> curriculum = RandomHorizon(least=20, most=1000, unroll_length=20)
  >>> trainer = MetaTrainer(Quadratic(), CoordinatewiseLSTM(), curriculum=curriculum)
  """

  def __init__(self, least: int, most: int, unroll_length: int = 20, seed: int = 0):
    """Takes the range of steps.

    Args:
      least: steps of the shortest episode, a multiple of `unroll_length`.
      most: of the longest one, likewise.
      unroll_length: steps per window.
      seed: names the sequence of draws.

    Raises:
      ValueError: unless whole windows tile both, and `least` is the lower one.
    """
    super().__init__()
    check_lengths(least, unroll_length)
    check_lengths(most, unroll_length)
    if least > most:
      raise ValueError(f"RandomHorizon got least={least} and most={most}; swap them.")
    self._least, self._most = least // unroll_length, most // unroll_length
    self._unroll_length, self._seed = unroll_length, seed

  @property
  def longest(self):
    return Lengths(self._most * self._unroll_length, self._unroll_length)

  def lengths(self, episode):
    draw = float(seeds.uniform([], seeds.make(self._seed, seeds.TRAINING, episode)))
    windows = int(self._least * ((self._most + 1) / self._least) ** draw)
    return Lengths(windows * self._unroll_length, self._unroll_length)


class Growing(Curriculum):
  """Stages of longer and longer episodes or windows, as long as validation improves.

  Chen et al. 2020, section 3.1: when the validation loss of a stage has not improved
  `patience` times in a row, the next stage begins. https://arxiv.org/abs/2010.09089

  >>> curriculum = Growing(stages=((20, 20), (100, 20), (500, 50)), patience=2)
  >>> trainer = MetaTrainer(Quadratic(), CoordinatewiseLSTM(), curriculum=curriculum)
  """

  def __init__(self, stages: Sequence[Sequence[int]], patience: int = 3):
    """Takes the stages.

    Args:
      stages: of each, the steps of an episode and of a window.
      patience: validations without a new best loss after which a stage ends.

    Raises:
      ValueError: if there are no stages, or their windows do not tile their episodes.
    """
    super().__init__()
    if not stages:
      raise ValueError("Growing got no stages; give pairs (num_steps, unroll_length).")
    if any(not isinstance(s, Sequence) or len(s) != 2 for s in stages):
      raise ValueError(
        f"Growing got stages={stages}; give pairs (num_steps, unroll_length)."
      )
    if patience < 1:
      raise ValueError(f"Growing got patience={patience}; it must be at least 1.")
    self._stages = [Lengths(*stage) for stage in stages]
    for stage in self._stages:
      check_lengths(*stage)
    self._patience = patience
    self._stage = tf.Variable(0, dtype=tf.int64)
    self._best = tf.Variable(float("inf"), dtype=tf.float64)  # in this stage
    self._stale = tf.Variable(0, dtype=tf.int64)  # validations since then

  @property
  def stage(self) -> int:
    """The present stage, from 0."""
    return int(self._stage)

  @property
  def longest(self):
    return Lengths(*map(max, zip(*self._stages)))

  def lengths(self, episode):
    return self._stages[self.stage]

  def validated(self, loss):
    is_better = loss < float(self._best)
    if is_better:
      self._best.assign(loss)
    self._stale.assign(0 if is_better else self._stale + 1)
    if int(self._stale) >= self._patience and self.stage + 1 < len(self._stages):
      self._stage.assign_add(1)
      self._best.assign(float("inf"))
      self._stale.assign(0)


def check_lengths(num_steps: int, unroll_length: int) -> None:
  """Raises ValueError unless the windows tile the episode."""
  if num_steps < 1 or unroll_length < 1 or num_steps % unroll_length:
    raise ValueError(
      f"num_steps={num_steps} must be a positive multiple of"
      f" unroll_length={unroll_length}, so that whole windows tile an episode."
    )
