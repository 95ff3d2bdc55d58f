"""How long episodes and windows are as meta-training goes on, if that changes.

Short episodes first: their meta-gradients are cheap and do not explode, and an
optimizer that has learned the beginning of a training can be taught the rest.
"""

import abc
import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from l2l_tf import seeds

_DEFAULT_SCALES = 4  # above the least number, where exponential draws are cut off


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


class ExponentialHorizon(Curriculum):
  """Windows of a random length, and a random number of them, drawn exponentially.

  Wichrowska et al. 2017, section 4, https://arxiv.org/abs/1703.04813: a few long
  trainings among many short ones, so that an optimizer does not adapt to one length. An
  episode has least + round(x) windows, x from an exponential distribution, and so many
  steps has each of its windows. In the authors' code, metarun.py, that is 1 window with
  a scale of 40 and 50 steps with a scale of 200, without an upper limit, and the steps
  are drawn for each window anew.

  >>> curriculum = ExponentialHorizon(windows_scale=5, length_scale=20, least_length=5)
  >>> trainer = MetaTrainer(Quadratic(), CoordinatewiseLSTM(), curriculum=curriculum)
  """

  def __init__(
    self,
    windows_scale: float,
    length_scale: float,
    least_windows: int = 1,
    least_length: int = 1,
    most_windows: int | None = None,
    most_length: int | None = None,
    num_lengths: int | None = None,
    seed: int = 0,
  ):
    """Takes both distributions.

    Args:
      windows_scale: mean of the exponential distribution of the number of windows,
        before it is cut off.
      length_scale: likewise, of the steps per window.
      least_windows: added to each draw.
      least_length: likewise.
      most_windows: where the distribution is cut off; by default 4 scales above the
        least number, which one draw in 55 would exceed.
      most_length: likewise.
      num_lengths: how many different lengths windows have, the medians of as many
        equally likely parts of the distribution; XLA compiles each by itself, which
        takes a small problem a second or two. None leaves all lengths.
      seed: names the sequence of draws.

    Raises:
      ValueError: unless both scales are positive and finite, least <= most, and
        num_lengths is at least 1.
    """
    super().__init__()
    self._windows = _Exponential(
      "windows", windows_scale, least_windows, most_windows
    ).checked()
    self._length = _Exponential(
      "length", length_scale, least_length, most_length
    ).checked()
    if num_lengths is not None and num_lengths < 1:
      raise ValueError(
        f"ExponentialHorizon got num_lengths={num_lengths}; it must be at least 1, or"
        " None."
      )
    self._num_lengths = num_lengths
    self._seed = seed

  @property
  def longest(self):
    length = self._unroll_length(1.0)
    return Lengths(self._windows.most * length, length)

  def lengths(self, episode):
    key = seeds.make(self._seed, seeds.TRAINING, episode)
    windows, share = map(float, seeds.uniform([2], key, tf.float64))
    length = self._unroll_length(share)
    return Lengths(self._windows.at(windows) * length, length)

  def _unroll_length(self, share: float) -> int:
    """Returns the length below which that share of all draws lies, or near it."""
    if self._num_lengths is not None:
      part = min(int(share * self._num_lengths), self._num_lengths - 1)
      share = (part + 0.5) / self._num_lengths
    return self._length.at(share)


class _Exponential(NamedTuple):
  """The distribution of least + round(x), x exponential and cut off."""

  name: str
  scale: float
  least: int
  most: int | None

  def checked(self) -> "_Exponential":
    """Returns it with its upper limit."""
    if not 0 < self.scale < math.inf or self.least < 1:
      raise ValueError(
        f"ExponentialHorizon got {self.name}_scale={self.scale} and"
        f" least_{self.name}={self.least}; the scale must be positive and finite, the"
        " least number at least 1."
      )
    most = self.most
    if most is None:
      most = self.least + math.ceil(_DEFAULT_SCALES * self.scale)
    if most < self.least:
      raise ValueError(
        f"ExponentialHorizon got least_{self.name}={self.least} and"
        f" most_{self.name}={most}; swap them."
      )
    return self._replace(most=most)

  def at(self, share: float) -> int:
    """Returns the number below which that share of all draws lies."""
    end = self.most - self.least + 0.5  # of the x that round to the greatest number
    cut = -math.expm1(-end / self.scale)  # the share of x below it
    x = -self.scale * math.log1p(-share * cut)
    return min(self.most, self.least + round(x))


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
