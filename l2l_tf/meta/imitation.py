"""Imitation of a hand-designed optimizer, as an extra term of the meta-loss.

Chen et al. 2020, section 3.2: an optimizer that is to match a teacher's updates at
first, and less and less so, learns from long episodes whose meta-gradients alone would
lead it astray. https://arxiv.org/abs/2010.09089
"""

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import dtypes
from l2l_tf.optimizers import ALL, TENSOR, Optimizer
from l2l_tf.optimizers.wrapper import Wrapper

_MOST = 2.0  # distance of one step: that of updates that point the other way


@dataclasses.dataclass(frozen=True)
class Imitation:
  """What to imitate, and how much that counts.

  The term is weight * 2^(-episode / half_life) * d. The distance d is the mean over a
  window's steps, and over the parameters, of ||u - u*||^2 / (||u||^2 + ||u*||^2), where
  u is the update of a parameter and u* the teacher's, which follows the same trajectory
  and meets the same gradients. It is 0 for equal updates, 1 for u = 0 or u orthogonal
  to u*, and 2 for opposite ones, or where u is not finite. So a bias counts as much as
  a kernel, and the small steps at the end of a schedule as much as the first ones; and
  a learner that matches the direction only in part is not driven to take smaller steps
  than its teacher.

  Attributes:
    teacher: an optimizer, usually hand-designed, with its learning rate.
    weight: of the distance in the meta-loss of the first episode.
    half_life: episodes in which the weight halves; inf keeps it.

  >>> imitation = Imitation(teacher=Adam(0.001), weight=10.0, half_life=50)
  >>> trainer = MetaTrainer(
  ...   Quadratic(), CoordinatewiseLSTM(), objective=MetaObjective(imitation=imitation))
  """

  teacher: Optimizer
  weight: Any = 1.0
  half_life: float = 100.0

  def __post_init__(self):
    if not isinstance(self.teacher, Optimizer):
      raise ValueError(
        f"Imitation got teacher={self.teacher!r}; give an optimizer of l2l_tf, such as"
        " Adam(0.001)."
      )
    is_number = not tf.is_tensor(self.weight)
    if is_number and not 0 < self.weight < float("inf"):
      raise ValueError(
        f"Imitation got weight={self.weight}; it must be positive and finite."
      )
    if not self.half_life > 0:
      raise ValueError(
        f"Imitation got half_life={self.half_life}; it must be positive."
      )

  def at(self, episode: tf.Tensor) -> "Imitation":
    """Returns it as it counts in an episode, whose number counts from 0."""
    halvings = tf.cast(episode, tf.float32) / self.half_life
    return dataclasses.replace(self, weight=self.weight * 2.0**-halvings)


class Imitated(NamedTuple):
  """State of `Imitating`."""

  own: Any  # the state of the optimizer that learns
  teacher: Any  # the state of the teacher
  total: tf.Tensor  # [], sum of the distances so far, in float64


class Imitating(Wrapper):
  """Takes an optimizer's steps, and notes how far they are from a teacher's."""

  def __init__(self, optimizer: Optimizer, teacher: Optimizer):
    """Wraps the optimizer that learns; its phi is that of the whole."""
    super().__init__(optimizer)
    self.teacher = teacher

  @property
  def config(self) -> dict[str, Any]:
    return {"optimizer": self.inner, "teacher": self.teacher}

  def rewrapped(self, optimizer):
    return Imitating(optimizer, self.teacher)

  @property
  def coupling(self):
    # All updates enter one distance: the whole cannot be cut by coordinates.
    return ALL if ALL in (self.inner.coupling, self.teacher.coupling) else TENSOR

  @property
  def reads(self):
    return self.inner.reads | self.teacher.reads

  @property
  def jit_compile(self) -> bool:
    return self.inner.jit_compile and self.teacher.jit_compile

  def initial_state(self, params):
    states = self.inner.initial_state(params), self.teacher.initial_state(params)
    return Imitated(*states, tf.zeros([], tf.float64))

  @property
  def has_horizon(self):
    return self.inner.has_horizon or self.teacher.has_horizon

  def with_total_steps(self, state, total_steps):
    return state._replace(
      own=self.inner.with_total_steps(state.own, total_steps),
      teacher=self.teacher.with_total_steps(state.teacher, total_steps),
    )

  def decay_rate(self, state):
    return self.inner.decay_rate(state.own)

  def __call__(self, grads, state, params=None, loss=None):
    arguments = {"params": params, "loss": loss}
    updates, own = self.inner(grads, state.own, **arguments)
    targets, teacher = self.teacher(grads, state.teacher, **arguments)
    distance = tf.cast(_mean_over_parameters(updates, targets), tf.float64)
    teacher = tf.nest.map_structure(tf.stop_gradient, teacher)
    return updates, Imitated(own, teacher, state.total + distance)

  def diagnostics(self, grads, state):
    return self.inner.diagnostics(grads, state.own)


def imitating(optimizer: Optimizer, imitation: Imitation | None) -> Optimizer:
  """Returns the optimizer as it is to be run while it learns."""
  return optimizer if imitation is None else Imitating(optimizer, imitation.teacher)


def mean_distance(start: Any, end: Any, losses: tf.Tensor) -> tf.Tensor | float:
  """Returns the distance d of a window; 0 if nothing is imitated.

  Args:
    start: the optimizer's state before the window.
    end: its state after the window.
    losses: those of the window, [T].
  """
  if not isinstance(end, Imitated):
    return 0.0
  num_steps = tf.cast(tf.shape(losses)[0], end.total.dtype)
  return tf.cast((end.total - start.total) / num_steps, losses.dtype)


def _mean_over_parameters(updates, targets) -> tf.Tensor:
  """Returns the mean of the distances of the parameters' updates."""
  pairs = zip(updates, map(tf.stop_gradient, targets), strict=True)
  distances = [_distance(*dtypes.for_sum(pair)) for pair in pairs]
  return dtypes.add(distances) / len(distances)


def _distance(update: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns ||u - u*||^2 / (||u||^2 + ||u*||^2); 2 where that is not finite."""
  square = lambda x: tf.reduce_sum(tf.square(x))
  is_finite = tf.math.is_finite(square(update) + square(target))
  # Selected before they are squared, lest the derivative be 0 * inf.
  update, target = (tf.where(is_finite, x, 0.0) for x in (update, target))
  sizes = square(update) + square(target)
  distance = tf.math.divide_no_nan(square(update - target), sizes)
  return tf.where(is_finite, distance, tf.constant(_MOST, distance.dtype))
