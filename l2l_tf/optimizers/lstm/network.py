"""A stack of LSTM layers with a linear output, run on a batch of inputs.

The batch is the last axis of everything: each gate of each unit is then one contiguous
piece of memory, which vector instructions read and write eight or sixteen coordinates
at a time. With the batch first, a step takes two to four times as long.

Zaremba et al. 2014, https://arxiv.org/abs/1409.2329; the cell is in `cell.py`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import sonnet as snt
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.optimizers.lstm import cell

_GATES = ("input", "forget", "output")  # those with a sigmoid


class LSTMState(NamedTuple):
  """State of one layer."""

  hidden: tf.Tensor  # [units, N]
  cell: tf.Tensor  # [units, N]


class Weights(NamedTuple):
  """All weights of a `DeepLSTM`."""

  layers: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]  # (w_x, w_h, b) per layer
  w: tf.Tensor  # [units, outputs], the linear map's
  b: tf.Tensor  # [outputs]


def lstm_step(
  x: tf.Tensor, state: LSTMState, w_x: tf.Tensor, w_h: tf.Tensor, b: tf.Tensor
) -> tuple[LSTMState, cell.Activations]:
  """One step of one layer.

  Args:
    x: input, [features, N].
    state: (h, c) of the previous step.
    w_x: input weights, [features, 4 units], in the order i, f, o, g.
    w_h: recurrent weights, [units, 4 units].
    b: biases, [4 units], without the forget bias.

  Returns:
    The next state, whose `hidden` is the layer's output, and the activations.
  """
  w = tf.transpose(tf.concat([w_x, w_h], axis=0))  # small; all gates in one product
  z = tf.matmul(w, tf.concat([x, state.hidden], axis=0)) + b[:, tf.newaxis]
  h, c, activations = cell.forward(z, state.cell)
  return LSTMState(h, c), activations


class DeepLSTM(snt.Module):
  """LSTM layers followed by a linear map; without layers, the linear map alone."""

  def __init__(
    self,
    num_inputs: int,
    num_outputs: int,
    layers: Sequence[int],
    initializer: str,
    seed: int,
    dtype: tf.DType,
  ):
    super().__init__()
    make = _Weights(initializer, seed, dtype)
    self._layers = []
    for units in layers:
      self._layers.append(
        (
          make("w_x", [num_inputs, 4 * units], num_inputs + units),
          make("w_h", [units, 4 * units], num_inputs + units),
          tf.Variable(tf.zeros([4 * units], dtype), name="b"),
        )
      )
      num_inputs = units
    self._w = make("w", [num_inputs, num_outputs], num_inputs)
    self._b = tf.Variable(tf.zeros([num_outputs], dtype), name="b")

  @property
  def weights(self) -> Weights:
    """The variables, named by their role."""
    return Weights(list(self._layers), self._w, self._b)

  def in_order(
    self, values: Weights, variables: Sequence[tf.Variable]
  ) -> list[tf.Tensor]:
    """Returns the value of each variable; zeros for those that are no weights here."""
    pairs = zip(tf.nest.flatten(self.weights), tf.nest.flatten(values))
    by_variable = {v.ref(): value for v, value in pairs}
    return [by_variable.get(v.ref(), tf.zeros_like(v)) for v in variables]

  @snt.no_name_scope
  def initial_state(self, batch_size: int | tf.Tensor) -> list[LSTMState]:
    sizes = [w_h.shape[0] for _, w_h, _ in self._layers]
    zeros = [tf.zeros([units, batch_size], self._w.dtype) for units in sizes]
    return [LSTMState(z, z) for z in zeros]

  @snt.no_name_scope
  def __call__(
    self, x: tf.Tensor, state: list[LSTMState]
  ) -> tuple[tf.Tensor, list[LSTMState]]:
    """Maps inputs [num_inputs, N] to outputs [num_outputs, N]."""
    hidden, next_state, _ = self._run(x, state)
    with tf.name_scope("linear"):
      outputs = tf.matmul(tf.transpose(self._w), hidden) + self._b[:, tf.newaxis]
    return outputs, next_state

  @snt.no_name_scope
  def saturation(self, x: tf.Tensor, state: list[LSTMState]) -> dict[str, tf.Tensor]:
    """Returns the fraction of each layer's gates that are within 0.05 of 0 or 1."""
    return saturation(self._run(x, state)[2])

  @snt.no_name_scope
  def _run(self, x, state):
    next_state, activations = [], []
    for i, (weights, layer_state) in enumerate(zip(self._layers, state), 1):
      with tf.name_scope(f"lstm_{i}"):
        layer_state, layer_activations = lstm_step(x, layer_state, *weights)
      next_state.append(layer_state)
      activations.append(layer_activations)
      x = layer_state.hidden
    return x, next_state, activations


def saturation(activations: Sequence[cell.Activations]) -> dict[str, tf.Tensor]:
  """Returns the fraction of each layer's gates that are within 0.05 of 0 or 1."""
  is_saturated = lambda gate: tf.cast(tf.abs(gate - 0.5) > 0.45, tf.float32)
  return {
    f"lstm_{i}/{name}_gate": tf.reduce_mean(is_saturated(getattr(layer, name)))
    for i, layer in enumerate(activations, 1)
    for name in _GATES
  }


class _Weights:
  """Makes initial weights, each from its own branch of one seed."""

  def __init__(self, initializer: str, seed: int, dtype: tf.DType):
    if initializer not in ("truncated_normal", "zeros"):
      raise ValueError(
        f"initializer={initializer!r} is unknown; choose 'truncated_normal' or 'zeros'."
      )
    self._draw: Callable | None = (
      None if initializer == "zeros" else tf.random.stateless_truncated_normal
    )
    self._seed, self._dtype, self._count = seed, dtype, 0

  def __call__(self, name: str, shape: list[int], fan_in: int) -> tf.Variable:
    self._count += 1
    if self._draw is None:
      return tf.Variable(tf.zeros(shape, self._dtype), name=name)
    key = seeds.make(self._seed, seeds.WEIGHTS, self._count)
    stddev = fan_in**-0.5
    return tf.Variable(
      self._draw(shape, key, stddev=stddev, dtype=self._dtype), name=name
    )
