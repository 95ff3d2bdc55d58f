"""Pure functions that map gradients to the features that a learned optimizer reads.

Andrychowicz et al. 2016, appendix A, https://arxiv.org/abs/1606.04474. Each function
maps gradients [N] to features [N, F]. All of them are differentiable almost everywhere,
and finite at zero.
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
  """The gradient times `scale`; F = 1.

  >>> preprocess.Identity(scale=2.0)(tf.constant([1.0, -3.0])).numpy()
  array([[ 2.], [-6.]], dtype=float32)
  """

  scale: float = 1.0

  def __post_init__(self):
    _check_scale(self)

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    return self.scale * grads[..., tf.newaxis]


@registry.register
@dataclasses.dataclass(frozen=True)
class Clamp:
  """The gradient times `scale`, clipped to [min_value, max_value]; F = 1.

  >>> preprocess.Clamp()(tf.constant([0.5, -3.0])).numpy()
  array([[ 0.5], [-1. ]], dtype=float32)
  """

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
  """Magnitude and sign of the gradient as two features; F = 2 (paper, appendix A).

  (log|g| / p, sign g) if |g| >= e^-p, and (-1, e^p g) for smaller gradients.

  >>> preprocess.LogAndSign(p=10)(tf.constant([1.0, -1.0, 0.0])).numpy()
  array([[ 0.,  1.], [ 0., -1.], [-1.,  0.]], dtype=float32)
  """

  p: float = 10.0

  def __post_init__(self):
    # For p beyond 80, e^-p or its inverse is out of float32's range.
    if not 0 < self.p <= 80:
      raise ValueError(f"LogAndSign got p={self.p}; it must lie in (0, 80].")

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    # The maximum keeps the derivative of the logarithm finite at zero.
    smallest = tf.exp(tf.constant(-self.p, grads.dtype))
    log = tf.math.log(tf.maximum(tf.abs(grads), smallest)) / self.p
    sign = tf.clip_by_value(grads / smallest, -1.0, 1.0)
    return tf.stack([log, sign], axis=-1)


@registry.register
@dataclasses.dataclass(frozen=True)
class Concat:
  """The concatenated features of several functions; F is the sum of their F.

  >>> both = preprocess.Concat([preprocess.LogAndSign(), preprocess.Clamp()])
  >>> both(tf.zeros([4])).shape
  TensorShape([4, 3])
  """

  parts: Sequence[Preprocess]

  def __post_init__(self):
    object.__setattr__(self, "parts", tuple(self.parts))

  def __call__(self, grads: tf.Tensor) -> tf.Tensor:
    return tf.concat([part(grads) for part in self.parts], axis=-1)


def is_elementwise(preprocess: Preprocess) -> bool:
  """Whether each entry's features are known to depend on that entry alone.

  A function or class of your own declares this by an attribute `is_elementwise = True`;
  XLA must then be able to compile it.

  >>> preprocess.is_elementwise(preprocess.Clamp())
  True
  >>> preprocess.is_elementwise(lambda grads: tf.nn.softmax(grads)[:, tf.newaxis])
  False
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
  """Returns the function that a string describes, or a callable itself.

  >>> preprocess.get("log_and_sign(p=5)+clamp(scale=20)")
  Concat(parts=(LogAndSign(p=5.0), Clamp(min_value=-1.0, max_value=1.0, scale=20.0)))

  Args:
    preprocess: a callable; or the names of one or more functions, joined by "+", each
      with arguments in parentheses if they differ from the defaults.

  Raises:
    ValueError: if the string does not have this form.
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
