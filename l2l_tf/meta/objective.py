"""What meta-training minimizes: the meta-loss of one window.

Andrychowicz et al. 2016, equation 3: L(phi) = E[sum_t w_t f(theta_t)].
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from l2l_tf import dtypes
from l2l_tf.meta.imitation import Imitation


class Curve(NamedTuple):
  """The meta-losses met in a window, and where they stand in their episode."""

  losses: tf.Tensor  # [T], after each of the window's steps
  start: tf.Tensor  # [], f(theta) where the window starts
  first: tf.Tensor  # [], f(theta_0) where the episode started
  least: tf.Tensor  # [], the lowest meta-loss of the episode before this window
  distance: tf.Tensor | float = 0.0  # [], from a teacher's updates, see `Imitation`


# A window length (scalar int32) -> the weight of each step's loss, [length].
Weights = Callable[[tf.Tensor], tf.Tensor]


def all_ones(length: tf.Tensor) -> tf.Tensor:
  """The paper's choice: every step counts.

  >>> all_ones(tf.constant(3)).numpy()
  array([1., 1., 1.], dtype=float32)
  """
  return tf.ones([length])


def last_only(length: tf.Tensor) -> tf.Tensor:
  """Only the window's last loss counts.

  >>> last_only(tf.constant(3)).numpy()
  array([0., 0., 1.], dtype=float32)
  """
  return tf.one_hot(length - 1, length)


def mean_loss(curve: Curve) -> tf.Tensor:
  """The mean of the window's losses; the same weight for windows of any length.

  >>> objective = MetaObjective(function=mean_loss)
  """
  return tf.reduce_mean(curve.losses)


def log_relative_loss(curve: Curve) -> tf.Tensor:
  """The mean of log(f_t / f_0), for positive losses.

  Wichrowska et al. 2017, section 3.3.4: a factor counts alike wherever it is gained.
  https://arxiv.org/abs/1703.04813

  >>> objective = MetaObjective(function=log_relative_loss)
  """
  return tf.reduce_mean(tf.math.log(curve.losses / (curve.first + 1e-6) + 1e-6))


def best_loss(curve: Curve) -> tf.Tensor:
  """The mean over the window's steps of the lowest loss of the episode up to there.

  Its derivative is that of the steps that set a new best; where none does, it is zero.

  >>> objective = MetaObjective(function=best_loss)
  """
  losses = tf.concat([[curve.least], curve.losses], axis=0)
  least = tf.scan(tf.minimum, losses)[1:]
  return tf.reduce_mean(least)


@dataclasses.dataclass(frozen=True)
class MetaObjective:
  """The meta-loss of a window, and how far one update of phi may follow its gradient.

  Over several tasks it is their mean. A problem that holds several tasks at once, as
  `Quadratic` does, has one loss and therefore one curve.

  Attributes:
    weights: w_t of the window's losses: a function of its length, or one number per
      step.
    relative: whether the meta-loss is divided by the size of the loss where the window
      starts; then tasks of any unit, and late windows, count alike.
    clip_norm: global norm to which the meta-gradient of a window is clipped, the mean
      over the tasks of a meta-batch.
    task_clip_norm: global norm to which that of each task is clipped before the mean is
      taken, so that no task drowns the others; the tasks then run one by one, and each
      is relative to its own loss, if the meta-loss is relative.
    function: any function of the window's `Curve`, in place of the weights:
      `mean_loss`, `log_relative_loss`, `best_loss` or one of your own. Evolution
      strategies need no derivative of it.
    imitation: adds the distance from a teacher's updates, whose weight decays.

  >>> objective = MetaObjective(function=lambda curve: tf.reduce_max(curve.losses))
  """

  weights: Weights | Sequence[float] = all_ones
  relative: bool = False
  clip_norm: float = float("inf")
  function: Callable[[Curve], tf.Tensor] | None = None
  imitation: Imitation | None = None
  task_clip_norm: float = float("inf")

  def __post_init__(self):
    if self.function is not None and self.weights is not all_ones:
      raise ValueError(
        "MetaObjective got a function and weights; the function says by itself how the"
        " losses count, so leave the weights out."
      )
    for name in ("clip_norm", "task_clip_norm"):
      norm = getattr(self, name)
      if not norm > 0:
        raise ValueError(f"{name}={norm} must be positive; inf turns it off.")

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

  @property
  def is_of_last(self) -> bool:
    """Whether the meta-loss is that of the window's last step, f(theta_T)."""
    return self.is_weighted_sum and self.weights is last_only

  @property
  def is_weighted_sum(self) -> bool:
    """Whether the meta-loss is sum_t w_t f(theta_t)."""
    return self.function is None and self.imitation is None

  def at(self, episode: tf.Tensor) -> "MetaObjective":
    """Returns the objective of an episode, whose number counts from 0."""
    if self.imitation is None:
      return self
    return dataclasses.replace(self, imitation=self.imitation.at(episode))

  def of_curve(self, curve: Curve) -> tf.Tensor:
    """Returns the meta-loss of one window, a scalar, not yet relative to its start.

    Raises:
      ValueError: if the function returns anything else than a scalar.
    """
    value = self._of_losses(curve)
    if self.imitation is None:
      return value
    # It has no unit, so `in_units`, which takes the loss as a constant, undoes this.
    unit = tf.abs(curve.start) if self.relative else tf.ones_like(value)
    unit = tf.stop_gradient(unit)
    weight = tf.cast(self.imitation.weight, value.dtype)
    return value + weight * unit * tf.cast(curve.distance, value.dtype)

  def _of_losses(self, curve: Curve) -> tf.Tensor:
    if self.function is not None:
      value = tf.convert_to_tensor(self.function(curve))
      if value.shape.rank != 0:
        raise ValueError(
          f"The meta-objective's function returned shape {value.shape}; it must return"
          " a scalar, so reduce it, e.g. with tf.reduce_mean."
        )
      return tf.cast(value, curve.losses.dtype)
    losses = curve.losses
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
    return _clipped(gradient, norm, self.clip_norm)

  @property
  def clips_tasks(self) -> bool:
    """Whether each task's gradient is clipped."""
    return self.task_clip_norm != float("inf")

  @property
  def is_per_task(self) -> bool:
    """Whether a task's own window is put in units, not the mean over the tasks."""
    return self.clips_tasks or self.imitation is not None

  def of_task(
    self, meta_loss: tf.Tensor, gradient: list[tf.Tensor], first_loss: tf.Tensor
  ) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns one task's meta-loss and gradient as they enter the mean over the tasks.

    Args:
      meta_loss: of the task's window.
      gradient: of that.
      first_loss: where the window starts.
    """
    if not self.is_per_task:
      return meta_loss, gradient
    meta_loss, gradient = self.in_units(meta_loss, gradient, first_loss)
    norm = tf.linalg.global_norm(dtypes.for_sum(gradient))
    return meta_loss, _clipped(gradient, norm, self.task_clip_norm)

  def of_batch(
    self, meta_loss: tf.Tensor, gradient: list[tf.Tensor], first_loss: tf.Tensor
  ) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the mean over the tasks in units, unless they are in units already."""
    if self.is_per_task:
      return meta_loss, gradient
    return self.in_units(meta_loss, gradient, first_loss)


def _clipped(gradient, norm: tf.Tensor, most: float) -> list[tf.Tensor]:
  if most == float("inf"):
    return gradient
  scale = most / tf.maximum(norm, most)
  return [tf.cast(scale, g.dtype) * g for g in gradient]
