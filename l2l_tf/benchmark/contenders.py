"""What a benchmark compares: tuned optimizers of Keras, learned ones as they are."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from l2l_tf.keras.optimizer import LearnedOptimizer
from l2l_tf.optimizers import Optimizer

ADAM = "Adam + cosine"  # what learned optimizers are measured against first


class Contender(NamedTuple):
  """A Keras optimizer, and the learning rates to try."""

  # (learning rate, number of steps of the training) -> optimizer
  make: Callable[[Any, int], keras.optimizers.Optimizer]
  rates: tuple[float, ...] = ()  # half a decade apart; none: there is nothing to tune

  @property
  def is_tuned(self) -> bool:
    return bool(self.rates)


def half_decades(first: float, last: float) -> tuple[float, ...]:
  """Returns rates half a decade apart, from 10^first to 10^last.

  >>> from l2l_tf.benchmark import contenders
  >>> contenders.half_decades(-2, -1)
  (0.01, 0.0316, 0.1)
  """
  return tuple(map(_half_decade, range(round(2 * first), round(2 * last) + 1)))


def _half_decade(number: int) -> float:
  """Returns 10^(number / 2) to three digits, so that its name stays short."""
  return float(f"{10 ** (number / 2):.3g}")


def _cosine(make: Callable[..., keras.optimizers.Optimizer], **options: float):
  """A rate that falls to zero by a cosine, as it is used most."""
  schedule = keras.optimizers.schedules.CosineDecay
  return lambda rate, num_steps: make(schedule(rate, num_steps), **options)


def _constant(make: Callable[..., keras.optimizers.Optimizer], **options: float):
  return lambda rate, num_steps: make(_Constant(rate), **options)


class _Constant(keras.optimizers.schedules.LearningRateSchedule):
  """The value of a variable, which a Keras optimizer would copy otherwise."""

  def __init__(self, rate: Any):
    self._rate = rate

  def __call__(self, step):
    return keras.ops.convert_to_tensor(self._rate)


_K = keras.optimizers
_RATES = half_decades(-3.5, -1)
# All are as Keras has them. Its Muon orthogonalises matrices alone, and moves kernels
# of convolutions and of attention by Adam; its ScheduleFree is evaluated where the
# gradients are taken, not at the average.
# Decay is decoupled, and multiplied by the rate. Its strength is that of the papers
# that proposed it: Moonlight for Muon, https://arxiv.org/abs/2502.16982, section 2, and
# Chen et al. 2023 for Lion, whose rates are a tenth of Adam's, and decays ten times as
# large, https://arxiv.org/abs/2302.06675, section 5.
BASELINES = {
  ADAM: Contender(_cosine(_K.Adam), _RATES),
  "Adam": Contender(_constant(_K.Adam), _RATES),
  "AdamW + cosine": Contender(_cosine(_K.AdamW, weight_decay=0.1), _RATES),
  "Muon + cosine": Contender(
    _cosine(_K.Muon, weight_decay=0.1, adam_weight_decay=0.1), _RATES
  ),
  "Lion + cosine": Contender(
    _cosine(_K.Lion, weight_decay=1.0), half_decades(-4.5, -2)
  ),
  "ScheduleFree": Contender(_constant(_K.ScheduleFreeAdamW), half_decades(-3, -0.5)),
}


def learned(optimizer: Optimizer) -> Contender:
  """Returns an optimizer as it is; one that has a schedule is told the steps.

  A step whose gradient is not finite is skipped: a training that diverges is reported,
  and does not end the benchmark.
  """

  def make(rate, num_steps):
    del rate
    told = {"total_steps": num_steps} if optimizer.has_horizon else {}
    return LearnedOptimizer(optimizer, nonfinite_gradients="skip", **told)

  return Contender(make)


def further(rates: list[float], best: float) -> float | None:
  """Returns the next rate to try if the best one lies at an end of those tried.

  >>> from l2l_tf.benchmark import contenders
  >>> contenders.further([0.01, 0.0316, 0.1], 0.1)
  0.316
  """
  number = round(2 * math.log10(best))
  if best == max(rates):
    return _half_decade(number + 1)
  return _half_decade(number - 1) if best == min(rates) else None
