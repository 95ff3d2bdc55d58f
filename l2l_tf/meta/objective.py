"""What meta-training minimizes: the meta-loss of one window.

Andrychowicz et al. 2016, equation 3: L(phi) = E[sum_t w_t f(theta_t)].
"""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

# A window length (scalar int32) -> the weight of each step's loss, [length].
Weights = Callable[[tf.Tensor], tf.Tensor]


def all_ones(length: tf.Tensor) -> tf.Tensor:
  """The paper's choice: every step counts."""
  return tf.ones([length])


def last_only(length: tf.Tensor) -> tf.Tensor:
  """Only the window's last loss counts."""
  return tf.one_hot(length - 1, length)


@dataclasses.dataclass(frozen=True)
class MetaObjective:
  """The meta-loss of a window, and how far one update of phi may follow its gradient.

  Over several tasks it is their mean.

  Attributes:
    weights: w_t of the window's losses: a function of its length, or one number per
      step.
    relative: whether the meta-loss is divided by the size of the loss where the window
      starts; then tasks of any unit, and late windows, count alike.
    clip_norm: global norm to which the meta-gradient is clipped.
  """

  weights: Weights | Sequence[float] = all_ones
  relative: bool = False
  clip_norm: float = float("inf")

  def __post_init__(self):
    if not self.clip_norm > 0:
      raise ValueError(
        f"clip_norm={self.clip_norm} must be positive; inf turns it off."
      )

  def step_weights(self, length: int | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns w_1, ..., w_T of a window of `length` steps; [T].

    Raises:
      ValueError: if the weights are a sequence of another length;
        InvalidArgumentError, when run, if the length is a tensor.
    """
    if callable(self.weights):
      return tf.cast(self.weights(length), dtype)
    count = len(self.weights)
    error = (
      f"The meta-objective has {count} weights for a window of another length; give one"
      " weight for each of its steps, or a function of the length such as last_only."
    )
    if not tf.is_tensor(length) and count != length:
      raise ValueError(error.replace("another length", f"{length} steps"))
    with tf.control_dependencies([tf.debugging.assert_equal(length, count, error)]):
      return tf.constant(self.weights, dtype)

  def of_window(self, losses: tf.Tensor) -> tf.Tensor:
    """Returns sum_t w_t f(theta_t) of the losses [T] after each of a window's steps."""
    return tf.reduce_sum(self.step_weights(tf.shape(losses)[0], losses.dtype) * losses)

  def in_units(
    self, meta_loss: tf.Tensor, gradient: list[tf.Tensor], first_loss: tf.Tensor
  ) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns both relative to the loss where the window starts, if so wished."""
    if not self.relative:
      return meta_loss, gradient
    unit = tf.abs(first_loss)
    return meta_loss / unit, [g / tf.cast(unit, g.dtype) for g in gradient]

  def clipped(self, gradient: list[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
    """Scales a gradient of the given global norm down to `clip_norm`."""
    if self.clip_norm == float("inf"):
      return gradient
    scale = self.clip_norm / tf.maximum(norm, self.clip_norm)
    return [tf.cast(scale, g.dtype) * g for g in gradient]
