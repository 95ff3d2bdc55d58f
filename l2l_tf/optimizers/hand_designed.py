"""Hand-designed update rules, with the interface of the learned optimizers.

Each rule is a pure function whose lines read like the paper's; the class holds the
hyper-parameters. All agree with their counterparts in `keras.optimizers`, and follow
their conventions where the papers leave a choice.
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

_EPSILON = 1e-7  # Keras's default
# Added inside square roots: too small to change a float32 result, large enough that the
# root's derivative at zero is finite, and with it the meta-gradient.
_EPSILON_ROOT = 1e-30


class HandDesignedState(NamedTuple):
  """State of a hand-designed rule."""

  step: tf.Tensor  # [], steps taken
  slots: tuple[list[tf.Tensor], ...]  # one tensor per moment and parameter, like it


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
  """Kingma and Ba 2015, algorithm 1: m <- b1 m + (1 - b1) g; v with b2 and g^2."""
  first = beta_1 * first + (1.0 - beta_1) * grad
  return first, beta_2 * second + (1.0 - beta_2) * tf.square(grad)


def adam_update(grad, first, second, step, rate, beta_1, beta_2, epsilon):
  """Kingma and Ba 2015, the efficient form before section 2.1; step from 1."""
  first, second = adam_moments(grad, first, second, beta_1, beta_2)
  rate = rate * tf.sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)
  return -rate * first / (tf.sqrt(second + _EPSILON_ROOT) + epsilon), first, second


class HandDesigned(base.Optimizer):
  """A rule with a learning rate, applied to each coordinate separately."""

  coupling = COORDINATE
  reads = {GRADIENTS}
  _initial_slots: tuple[float, ...] = ()  # initial value of each moment

  def __init__(self, learning_rate: LearningRate, **hyper: float):
    """Initializes the rule.

    Args:
      learning_rate: alpha, a positive number, a scalar tensor or variable, or a
        schedule from the step, counted from 0, to the rate.
      **hyper: the rule's other hyper-parameters.

    Raises:
      ValueError: for a number that is not positive and finite.
    """
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
  """Gradient descent without momentum: the update is -alpha g.

  >>> optimizer, grads = SGD(0.1), [tf.constant([1.0, -2.0])]
  >>> updates, state = optimizer(grads, optimizer.initial_state(grads))
  >>> updates[0].numpy()
  array([-0.1,  0.2], dtype=float32)
  """

  def __init__(self, learning_rate: LearningRate):
    super().__init__(learning_rate)

  def _rule(self, grad, *, step, rate):
    return (-rate * grad,)


@registry.register
class Momentum(HandDesigned):
  """Heavy-ball momentum, Polyak 1964; `momentum` is mu.

  >>> optimizer, grads = Momentum(0.1, momentum=0.9), [tf.ones([2])]
  >>> _, state = optimizer(grads, optimizer.initial_state(grads))
  >>> updates, state = optimizer(grads, state)  # 1.9 times the first
  """

  _initial_slots = (0.0,)

  def __init__(self, learning_rate: LearningRate, momentum: float = 0.9):
    super().__init__(learning_rate, momentum=momentum)

  def _rule(self, grad, velocity, *, step, rate):
    return momentum_update(grad, velocity, rate, **self._hyper)


@registry.register
class Nesterov(HandDesigned):
  """Nesterov's accelerated gradient, Sutskever et al. 2013; `momentum` is mu.

  >>> optimizer, grads = Nesterov(0.1, momentum=0.9), [tf.ones([2])]
  >>> updates, state = optimizer(grads, optimizer.initial_state(grads))
  """

  _initial_slots = (0.0,)

  def __init__(self, learning_rate: LearningRate, momentum: float = 0.9):
    super().__init__(learning_rate, momentum=momentum)

  def _rule(self, grad, velocity, *, step, rate):
    return nesterov_update(grad, velocity, rate, **self._hyper)


@registry.register
class RMSprop(HandDesigned):
  """RMSprop, not centred, Hinton 2012; `rho` is the decay of the mean square.

  >>> optimizer, grads = RMSprop(0.001, rho=0.9), [tf.ones([2])]
  >>> updates, state = optimizer(grads, optimizer.initial_state(grads))
  """

  _initial_slots = (0.0,)

  def __init__(
    self, learning_rate: LearningRate, rho: float = 0.9, epsilon: float = _EPSILON
  ):
    super().__init__(learning_rate, rho=rho, epsilon=epsilon)

  def _rule(self, grad, second, *, step, rate):
    return rmsprop_update(grad, second, rate, **self._hyper)


@registry.register
class Adagrad(HandDesigned):
  """Adagrad, Duchi et al. 2011; the sum of squares starts at 0.1, as in Keras.

  >>> optimizer, grads = Adagrad(0.1), [tf.ones([2])]
  >>> updates, state = optimizer(grads, optimizer.initial_state(grads))
  """

  _initial_slots = (0.1,)

  def __init__(self, learning_rate: LearningRate, epsilon: float = _EPSILON):
    super().__init__(learning_rate, epsilon=epsilon)

  def _rule(self, grad, total, *, step, rate):
    return adagrad_update(grad, total, rate, **self._hyper)


@registry.register
class Adam(HandDesigned):
  """Adam, Kingma and Ba 2015; `epsilon` is the paper's epsilon-hat, as in Keras.

  >>> schedule = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=100)
  >>> optimizer, grads = Adam(schedule), [tf.constant([1.0, -2.0])]
  >>> updates, state = optimizer(grads, optimizer.initial_state(grads))
  >>> updates[0].numpy().round(4)  # the first update is -rate * sign(g)
  array([-0.01,  0.01], dtype=float32)
  """

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
