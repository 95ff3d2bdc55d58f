"""The hierarchy of GRUs, computed in the steps of its authors' TensorFlow 1 code.

Wichrowska et al. 2017; https://github.com/tensorflow/models, in old revisions
research/learned_optimizer/optimizer: hierarchical_rnn.py, rnn_cells.py and utils.py.
What makes up its cost is done here as it is there, under the default settings of its
metarun.py, in the operations of today's TensorFlow:

- one tensor after the other, its coordinates along the first axis: states are [N, 10]
  or [N, 1], each with a variable of its own, and among them a copy of the parameter;
- every scale of time has its own average, mean square, and checks that the decays are
  within 0 and 1, and a condition on whether its mean square has begun;
- the inputs are columns [N, 1] that are concatenated, and every product has the form
  [N, inputs] [inputs, outputs] after one more concatenation;
- the decays are computed at the end of a step and kept for the next one.

Elsewhere `HierarchicalRNN` is followed, so that both compute the same: all small
constants that are added are 1e-37 (there 1e-12 and 1e-16), the offset of the log rate
is 0 (-1), and the highest level reads the mean over all tensors (the last one alone).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.optimizers import HierarchicalRNN

_SCALES = 4  # of time
_TINY = 1e-37
_LARGEST = 33.0  # |log rate|
_OFFSET = 0.0  # of the log rate


class Affine(NamedTuple):
  """Weights [inputs, outputs] and a bias."""

  matrix: tf.Variable
  bias: tf.Variable

  def __call__(self, *inputs: tf.Tensor) -> tf.Tensor:
    """Maps inputs [N, ...], concatenated, to [N, outputs]."""
    return tf.matmul(tf.concat(inputs, axis=1), self.matrix) + self.bias


class Slots(NamedTuple):
  """What is kept for a tensor of N coordinates."""

  hidden: Any  # [N, 10]
  tensor: Any  # [1, 20]
  average_decay: Any  # [N, 1], and so are those below
  square_decay: Any
  log_rate: Any
  averages: list[Any]
  squares: list[Any]
  parameter: Any  # of its own shape


class AsPublished:
  """Moves variables as a Keras optimizer does, which is all that a step needs."""

  def __init__(
    self, learned: HierarchicalRNN, learning_rate: float, checked: bool = True
  ):
    """Takes over the weights.

    Args:
      learned: has the weights.
      learning_rate: that `learned` was made with.
      checked: whether decays are checked.
    """
    self._dtype = learned.readouts.dtype
    self._coordinates = Cell(learned.coordinates, [20, 20])
    self._tensors = Cell(learned.tensors, [20])
    self._whole = Cell(learned.whole, [])
    constants = [tf.Variable([c]) for c in learned.constants.numpy()]
    log_rate, change, self._momentum, average, square = constants
    self._start = math.log(learning_rate) + float(log_rate[0])
    columns = [tf.Variable(c) for c in np.split(learned.readouts.numpy(), 4, axis=1)]
    self._direction, rate, to_average, to_square = columns
    self._change = Affine(rate, change)
    self._average, self._square = Affine(to_average, average), Affine(to_square, square)
    self._shortcut = tf.Variable(learned.shortcut)
    self._checked = checked
    self._slots: list[Slots] = []

  def apply(
    self, grads: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
  ) -> None:
    """Takes one step."""
    if not self._slots:
      with tf.init_scope():
        self._make_slots(variables)
    whole = self._global.read_value()
    mean_log_rate = self._mean_log_rate()
    steps = [
      self._step(grad, v.value, slots, whole, mean_log_rate)
      for grad, v, slots in zip(grads, variables, self._slots, strict=True)
    ]
    tensors = tf.concat([step.tensor for step in steps], axis=0)
    mean = tf.reduce_mean(tensors, axis=0, keepdims=True)
    self._global.assign(self._whole(mean, whole))
    for variable, slots, step in zip(variables, self._slots, steps):
      for slot, value in zip(tf.nest.flatten(slots), tf.nest.flatten(step)):
        slot.assign(value)
      variable.assign(step.parameter)

  def _make_slots(self, variables) -> None:
    self._global = tf.Variable(self._whole.start)
    for v in variables:
      size = math.prod(v.shape)
      zeros = lambda size=size: tf.Variable(tf.zeros([size, 1], self._dtype))
      slots = Slots(
        tf.Variable(tf.tile(self._coordinates.start, [size, 1])),
        tf.Variable(self._tensors.start),
        zeros(),
        zeros(),
        tf.Variable(tf.fill([size, 1], tf.constant(self._start, self._dtype))),
        [zeros() for _ in range(_SCALES)],
        [zeros() for _ in range(_SCALES)],
        tf.Variable(v.value),
      )
      self._slots.append(slots)

  def _mean_log_rate(self) -> tf.Tensor:
    total, count = 0.0, 0.0
    for slots in self._slots:
      total += tf.reduce_sum(slots.log_rate)
      count += slots.log_rate.shape.num_elements()
    return total / count

  def _step(self, grad, parameter, slots: Slots, whole, mean_log_rate) -> Slots:
    """Returns what is to be kept of one tensor, its parameter among it."""
    averages, squares, scaled = self._scaled(tf.reshape(grad, [-1, 1]), slots)
    x = _inputs(scaled, squares, slots.log_rate - mean_log_rate)
    hidden = self._coordinates(x, slots.hidden, slots.tensor, whole)
    mean = tf.reduce_mean(tf.concat([hidden, x], axis=1), axis=0, keepdims=True)
    tensor = self._tensors(mean, slots.tensor, whole)
    direction = tf.matmul(hidden, self._direction)
    direction += tf.matmul(tf.concat(scaled, axis=1), self._shortcut)
    direction /= tf.sqrt(tf.reduce_mean(direction**2) + _TINY)
    average_decay = tf.nn.sigmoid(self._average(hidden))
    square_decay = tf.nn.sigmoid(self._square(hidden))
    rate, log_rate = self._rates(slots.log_rate, hidden)
    moved = parameter - tf.reshape(rate * direction, parameter.shape)
    decays = average_decay, square_decay
    return Slots(hidden, tensor, *decays, log_rate, averages, squares, moved)

  def _scaled(self, grad, slots: Slots) -> tuple[list[tf.Tensor], ...]:
    """Returns the averages, their mean squares, and the scaled gradients."""
    found, decay = [], slots.average_decay.read_value()
    for average, square in zip(slots.averages, slots.squares):
      average = (1.0 - decay) * grad + decay * average
      square = self._mean_square(average, slots.square_decay, square)
      ratio = average / tf.sqrt(square + _TINY)
      found.append((average, square, tf.math.log(ratio + tf.sqrt(1.0 + ratio**2))))
      decay = tf.sqrt(decay)
    return tuple(map(list, zip(*found)))

  def _mean_square(self, average, decay, square) -> tf.Tensor:
    checks = []
    if self._checked:
      checks.append(tf.debugging.assert_less_equal(decay, tf.ones([], self._dtype)))
      checks.append(tf.debugging.assert_greater_equal(decay, tf.zeros([], self._dtype)))
    with tf.control_dependencies([check for check in checks if check is not None]):
      latest = tf.square(average)
    is_new = tf.reduce_all(tf.equal(square, 0.0))
    decay = tf.cond(is_new, lambda: tf.zeros_like(decay), lambda: tf.identity(decay))
    return (1.0 - decay) * (latest + _TINY) + decay * square

  def _rates(self, average, hidden) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the rate of this step, and the running average of its log."""
    free = average + self._change(hidden)
    bounded = tf.clip_by_value(free, -_LARGEST, _LARGEST)
    log_rate = free + tf.stop_gradient(bounded - free)
    momentum = tf.nn.sigmoid(self._momentum)
    kept = momentum * average + (1.0 - momentum) * log_rate
    return tf.exp(log_rate + _OFFSET), kept


class Cell:
  """A GRU with a product for both gates, one for the candidate, one per state above."""

  def __init__(self, gru: Any, above: Sequence[int]):
    """Takes over the weights of l2l_tf's `gru`; `above` has the units of each state."""
    gates = 2 * gru.start.shape[0]
    weights = np.concatenate([gru.w_x.numpy(), gru.w_h.numpy()])
    bias = gru.b.numpy()
    self._gates = Affine(tf.Variable(weights[:, :gates]), tf.Variable(bias[:gates]))
    self._new = Affine(tf.Variable(weights[:, gates:]), tf.Variable(bias[gates:]))
    self._above = []
    if above:
      parts = np.split(gru.above.numpy(), np.cumsum(above)[:-1])
      zeros = np.zeros_like(bias)
      self._above = [Affine(tf.Variable(p), tf.Variable(zeros)) for p in parts]
    self.start = gru.start.numpy()[np.newaxis]  # [1, units]

  def __call__(self, x: tf.Tensor, h: tf.Tensor, *above: tf.Tensor) -> tf.Tensor:
    """Returns the next state [N, units], given x [N, inputs] and the states above."""
    biases = [affine(a) for affine, a in zip(self._above, above, strict=True)]
    bias = sum(biases[1:], biases[0]) if biases else tf.zeros([1, 3], x.dtype)
    of_reset, of_keep, of_new = tf.split(bias, 3, axis=1)
    reset, keep = tf.split(self._gates(x, h), 2, axis=1)
    reset, keep = tf.nn.sigmoid(reset + of_reset), tf.nn.sigmoid(keep + of_keep)
    new = tf.tanh(self._new(x, reset * h) + of_new)
    return keep * h + (1.0 - keep) * new


def _inputs(scaled, squares, relative) -> tf.Tensor:
  """Returns what the lowest level reads, [N, 12]."""
  products = [a * b for a, b in itertools.pairwise(scaled)]
  logs = [tf.math.log(square + _TINY) for square in squares]
  mean = tf.reduce_mean(logs, axis=0)
  return tf.concat([*scaled, *products, *(x - mean for x in logs), relative], axis=1)
