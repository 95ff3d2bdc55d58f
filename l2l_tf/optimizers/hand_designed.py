"""The hand-designed update rules, functional, from the learned ones' interface.

Each rule is a pure function whose lines read like its source; the class holds
the hyper-parameters. All agree with their twins in `keras.optimizers`, whose
conventions they follow where papers leave a choice.
"""

import abc
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import registry
from l2l_tf.optimizers import base
from l2l_tf.optimizers.traits import COORDINATE, GRADIENTS

# A float, a scalar tensor or variable, or a schedule: step (from 0) -> rate.
LearningRate = float | tf.Tensor | tf.Variable | Callable[[tf.Tensor], tf.Tensor]

_EPSILON = 1e-7  # Keras's default.
# Inside square roots: too small to change a float32 result, large enough that
# the root's derivative at zero is finite and back-propagation through it is too.
_EPSILON_ROOT = 1e-30


class HandDesignedState(NamedTuple):
  """State of a hand-designed rule."""

  step: tf.Tensor  # [], steps taken
  slots: tuple[list[tf.Tensor], ...]  # per moment, per parameter, of its shape


def momentum_update(grad, velocity, rate, momentum):
  """Polyak 1964: v <- mu v - alpha g; the update is v."""
  velocity = momentum * velocity - rate * grad
  return velocity, velocity


def nesterov_update(grad, velocity, rate, momentum):
  """Sutskever et al. 2013: the update is mu v - alpha g with the new v."""
  velocity = momentum * velocity - rate * grad
  return momentum * velocity - rate * grad, velocity


def rmsprop_update(grad, second, rate, rho, epsilon):
  """Hinton 2012: v <- rho v + (1 - rho) g^2; the update is -alpha g / sqrt(v)."""
  second = rho * second + (1.0 - rho) * tf.square(grad)
  return -rate * grad / tf.sqrt(second + epsilon), second


def adagrad_update(grad, total, rate, epsilon):
  """Duchi et al. 2011: v <- v + g^2; the update is -alpha g / sqrt(v)."""
  total = total + tf.square(grad)
  return -rate * grad / tf.sqrt(total + epsilon), total


def adam_moments(grad, first, second, beta_1, beta_2):
  """Kingma and Ba 2015, algorithm 1: m <- b1 m + (1 - b1) g, v with g^2 likewise."""
  first = beta_1 * first + (1.0 - beta_1) * grad
  return first, beta_2 * second + (1.0 - beta_2) * tf.square(grad)


def adam_update(grad, first, second, step, rate, beta_1, beta_2, epsilon):
  """Kingma and Ba 2015, the efficient form before section 2.1; step from 1."""
  first, second = adam_moments(grad, first, second, beta_1, beta_2)
  rate = rate * tf.sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)
  return -rate * first / (tf.sqrt(second + _EPSILON_ROOT) + epsilon), first, second


class HandDesigned(base.Optimizer):
  """A rule with a learning rate, applied to each parameter by itself."""

  coupling = COORDINATE
  reads = {GRADIENTS}
  _initial_slots: tuple[float, ...] = ()  # value at which each moment starts

  def __init__(self, learning_rate: LearningRate, **hyper: float):
    super().__init__()
    is_given = callable(learning_rate) or tf.is_tensor(learning_rate)
    if not is_given and not (
      isinstance(learning_rate, numbers.Real) and 0 < learning_rate < float("inf")
    ):
      raise ValueError(
        f"learning_rate={learning_rate!r} must be a positive, finite number, a scalar"
        " tensor, or a schedule from step to rate."
      )
    self.learning_rate = learning_rate
    self._hyper = hyper

  @property
  def config(self) -> dict[str, Any]:
    return {"learning_rate": self.learning_rate, **self._hyper}

  def initial_state(self, params):
    slots = tuple(
      [tf.fill(p.shape, tf.cast(value, p.dtype)) for p in params]
      for value in self._initial_slots
    )
    return HandDesignedState(tf.zeros([], tf.int32), slots)

  def __call__(self, grads, state, params=None, loss=None):
    rate = self.learning_rate
    rate = rate(state.step) if callable(rate) else rate
    step = state.step + 1
    updates, slots = [], tuple([] for _ in state.slots)
    for i, g in enumerate(grads):
      update, *moments = self._rule(
        g,
        *(slot[i] for slot in state.slots),
        step=tf.cast(step, g.dtype),
        rate=tf.cast(rate, g.dtype),
      )
      updates.append(update)
      for slot, moment in zip(slots, moments):
        slot.append(moment)
    return updates, HandDesignedState(step, slots)

  @abc.abstractmethod
  def _rule(self, grad, *moments, step, rate):
    """Returns one parameter's update and its next moments; step counts from 1."""


@registry.register
class SGD(HandDesigned):
  """theta <- theta - alpha g; no momentum."""

  def __init__(self, learning_rate: LearningRate):
    super().__init__(learning_rate)

  def _rule(self, grad, *, step, rate):
    return (-rate * grad,)


@registry.register
class Momentum(HandDesigned):
  """Heavy-ball momentum; `momentum` is mu in Polyak 1964."""

  _initial_slots = (0.0,)

  def __init__(self, learning_rate: LearningRate, momentum: float = 0.9):
    super().__init__(learning_rate, momentum=momentum)

  def _rule(self, grad, velocity, *, step, rate):
    return momentum_update(grad, velocity, rate, **self._hyper)


@registry.register
class Nesterov(HandDesigned):
  """Nesterov's accelerated gradient, with `momentum` mu."""

  _initial_slots = (0.0,)

  def __init__(self, learning_rate: LearningRate, momentum: float = 0.9):
    super().__init__(learning_rate, momentum=momentum)

  def _rule(self, grad, velocity, *, step, rate):
    return nesterov_update(grad, velocity, rate, **self._hyper)


@registry.register
class RMSprop(HandDesigned):
  """RMSprop, not centred; `rho` is the decay of the mean square."""

  _initial_slots = (0.0,)

  def __init__(
    self, learning_rate: LearningRate, rho: float = 0.9, epsilon: float = _EPSILON
  ):
    super().__init__(learning_rate, rho=rho, epsilon=epsilon)

  def _rule(self, grad, second, *, step, rate):
    return rmsprop_update(grad, second, rate, **self._hyper)


@registry.register
class Adagrad(HandDesigned):
  """Adagrad; sums of squares start at Keras's 0.1."""

  _initial_slots = (0.1,)

  def __init__(self, learning_rate: LearningRate, epsilon: float = _EPSILON):
    super().__init__(learning_rate, epsilon=epsilon)

  def _rule(self, grad, total, *, step, rate):
    return adagrad_update(grad, total, rate, **self._hyper)


@registry.register
class Adam(HandDesigned):
  """Adam; `epsilon` is the paper's epsilon-hat, as in Keras."""

  _initial_slots = (0.0, 0.0)

  def __init__(
    self,
    learning_rate: LearningRate = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = _EPSILON,
  ):
    super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)

  def _rule(self, grad, first, second, *, step, rate):
    return adam_update(grad, first, second, step, rate, **self._hyper)
