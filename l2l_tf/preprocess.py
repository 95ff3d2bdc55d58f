"""Pure functions on gradients, applied before a learned optimizer reads them.

Andrychowicz et al. 2016, appendix A. Each maps gradients [N] to features
[N, F]; all are differentiable almost everywhere and finite at zero.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

import tensorflow as tf

from l2l_tf import registry

Preprocess = Callable[[tf.Tensor], tf.Tensor]


@registry.register
@dataclasses.dataclass(frozen=True)
class Identity:
  """The gradient times `scale`; F = 1."""

  scale: float = 1.0

  def __post_init__(self):
    _check_scale(self)

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    return self.scale * grads[..., tf.newaxis]


@registry.register
@dataclasses.dataclass(frozen=True)
class Clamp:
  """The gradient times `scale`, clipped to [min_value, max_value]; F = 1."""

  min_value: float = -1.0
  max_value: float = 1.0
  scale: float = 1.0

  def __post_init__(self):
    if not self.min_value < self.max_value:
      raise ValueError(
        f"Clamp got min_value={self.min_value} and max_value={self.max_value}; the"
        " minimum must be below the maximum."
      )
    _check_scale(self)

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    scaled = self.scale * grads[..., tf.newaxis]
    return tf.clip_by_value(scaled, self.min_value, self.max_value)


@registry.register
@dataclasses.dataclass(frozen=True)
class LogAndSign:
  """Magnitude and direction apart; F = 2 (paper, appendix A).

  (log|g| / p, sign g) where |g| >= e^-p, and (-1, e^p g) below it.
  """

  p: float = 10.0

  def __post_init__(self):
    # Beyond 80, e^-p and its inverse leave float32's range.
    if not 0 < self.p <= 80:
      raise ValueError(f"LogAndSign got p={self.p}; it must lie in (0, 80].")

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    # The maximum keeps the unused branch's derivative finite at zero.
    smallest = tf.exp(tf.constant(-self.p, grads.dtype))
    log = tf.math.log(tf.maximum(tf.abs(grads), smallest)) / self.p
    sign = tf.clip_by_value(grads / smallest, -1.0, 1.0)
    return tf.stack([log, sign], axis=-1)


@registry.register
@dataclasses.dataclass(frozen=True)
class Concat:
  """The features of several functions side by side; F is their sum."""

  parts: Sequence[Preprocess]

  def __post_init__(self):
    object.__setattr__(self, "parts", tuple(self.parts))

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    return tf.concat([part(grads) for part in self.parts], axis=-1)


def is_elementwise(preprocess: Preprocess) -> bool:
  """Whether each entry's features are known to depend on that entry alone.

  A function or class of the user's says so by an attribute, `is_elementwise = True`;
  it then consists of operations that XLA can compile.
  """
  if type(preprocess) is Concat:
    return all(map(is_elementwise, preprocess.parts))
  if type(preprocess) in (Identity, Clamp, LogAndSign):
    return True
  return getattr(preprocess, "is_elementwise", False) is True


def _check_scale(function: Identity | Clamp) -> None:
  if not math.isfinite(function.scale):
    raise ValueError(f"{function} must have a finite scale.")


_BY_NAME = {"identity": Identity, "clamp": Clamp, "log_and_sign": LogAndSign}
_TERM = re.compile(r"(\w+)(?:\(([^()]*)\))?")


def get(preprocess: str | Preprocess) -> Preprocess:
  """Returns the function that a text describes, or the callable itself.

  Args:
    preprocess: a callable; or names joined by "+", each with numbers to change if
      need be, as in "log_and_sign(p=5)+clamp(scale=20)".

  Raises:
    ValueError: if the text is not of that form.
  """
  if callable(preprocess):
    return preprocess
  parts = [_parse(term.strip(), preprocess) for term in str(preprocess).split("+")]
  return parts[0] if len(parts) == 1 else Concat(tuple(parts))


def _parse(term: str, whole: str) -> Preprocess:
  match = _TERM.fullmatch(term)
  try:
    name, arguments = match[1], match[2] or ""
    pairs = [pair.split("=") for pair in arguments.split(",") if pair.strip()]
    return _BY_NAME[name](**{key.strip(): float(value) for key, value in pairs})
  except (KeyError, TypeError, ValueError) as e:
    raise ValueError(
      f"preprocess={whole!r} is unknown; give {', '.join(_BY_NAME)}, several joined by"
      " '+', numbers in parentheses as in 'log_and_sign(p=5)', or a callable from"
      f" gradients [N] to features [N, F] ({type(e).__name__}: {e})."
    ) from None
