"""Pure functions on gradients, applied before a learned optimizer reads them.

Andrychowicz et al. 2016, appendix A. Each maps gradients [N] to features
[N, F]; all are differentiable almost everywhere and finite at zero.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from l2l_tf import export

Preprocess = Callable[[tf.Tensor], tf.Tensor]


@export.register
@dataclasses.dataclass(frozen=True)
class Identity:
  """The gradient times `scale`; F = 1."""

  scale: float = 1.0

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    return self.scale * grads[..., tf.newaxis]


@export.register
@dataclasses.dataclass(frozen=True)
class Clamp:
  """The gradient clipped to [min_value, max_value]; F = 1."""

  min_value: float = -1.0
  max_value: float = 1.0

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(grads, self.min_value, self.max_value)[..., tf.newaxis]


@export.register
@dataclasses.dataclass(frozen=True)
class LogAndSign:
  """Magnitude and direction apart; F = 2 (paper, appendix A).

  (log|g| / p, sign g) where |g| >= e^-p, and (-1, e^p g) below it.
  """

  p: float = 10.0

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    # The maximum keeps the unused branch's derivative finite at zero.
    smallest = tf.exp(tf.constant(-self.p, grads.dtype))
    log = tf.math.log(tf.maximum(tf.abs(grads), smallest)) / self.p
    sign = tf.clip_by_value(grads / smallest, -1.0, 1.0)
    return tf.stack([log, sign], axis=-1)


_BY_NAME = {"identity": Identity, "clamp": Clamp, "log_and_sign": LogAndSign}


def get(preprocess: str | Preprocess) -> Preprocess:
  """Returns the function that a name stands for, or the callable itself."""
  if callable(preprocess):
    return preprocess
  if preprocess not in _BY_NAME:
    raise ValueError(
      f"preprocess={preprocess!r} is unknown; give one of"
      f" {', '.join(_BY_NAME)} or a callable from gradients [N] to features"
      " [N, F]."
    )
  return _BY_NAME[preprocess]()
