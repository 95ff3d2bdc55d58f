"""An LSTM on every coordinate whose coordinates tell each other averages.

Andrychowicz et al. 2016, appendix, "Global averaging cells".
https://arxiv.org/abs/1606.04474

In each layer some cells are designated for communication. They are cells of an LSTM
like all others, but their outgoing activations are averaged at each step over all N
coordinates. With o and c of the cell's equations, for cell k of coordinate n:

    h_t[k, n] = 1/N sum_m o_t[k, m] tanh(c_t[k, m])     if k is designated,
                o_t[k, n] tanh(c_t[k, n])               otherwise.

The h_t of a layer is all that goes out of it, both to the next layer and to the layer's
own gates at the next step; so both see the average, while c_t stays the coordinate's
own. If the LSTM can square a gradient, one such cell lets it clip by the L2 norm.

An average is kept once, not for every coordinate, and what the weights make of it is
one more bias: the products are smaller than those of an LSTM without averages.
"""

from collections.abc import Sequence
from typing import NamedTuple

import sonnet as snt
import tensorflow as tf

from l2l_tf import dtypes, registry
from l2l_tf import preprocess as preprocess_lib
from l2l_tf.optimizers.coordinatewise import CoordinatewiseLSTM
from l2l_tf.optimizers.lstm import cell, network
from l2l_tf.optimizers.traits import ALL


class Signal(NamedTuple):
  """What goes out of a layer: h_t, whose first k units are averages."""

  averages: tf.Tensor  # [k, 1]
  own: tf.Tensor  # [units - k, N]


class AveragingState(NamedTuple):
  """State of one layer."""

  hidden: Signal
  cell: tf.Tensor  # [units, N]


def averaged(hidden: tf.Tensor, count: int) -> Signal:
  """Averages the outputs [units, N] of the first `count` cells over N."""
  # A sum over many coordinates exceeds the range of float16.
  (summable,) = dtypes.for_sum([hidden])
  # Of all cells: XLA takes longer for a slice of them.
  mean = tf.cast(tf.reduce_mean(summable, axis=1, keepdims=True), hidden.dtype)
  return Signal(mean[:count], hidden[count:])


def affine(signals: Sequence[Signal], weights: Sequence[tf.Tensor], bias: tf.Tensor):
  """Returns sum_s w_s^T h_s + b, [outputs, N].

  Args:
    signals: h_s.
    weights: w_s, [units of h_s, outputs]; small.
    bias: b, [outputs].
  """
  cuts = [signal.averages.shape[0] for signal in signals]
  averages = tf.concat([signal.averages for signal in signals], axis=0)
  own = tf.concat([signal.own for signal in signals], axis=0)
  of_averages = tf.concat([w[:k] for k, w in zip(cuts, weights)], axis=0)
  of_own = tf.concat([w[k:] for k, w in zip(cuts, weights)], axis=0)
  shared = tf.matmul(tf.transpose(of_averages), averages) + bias[:, tf.newaxis]
  return tf.matmul(tf.transpose(of_own), own) + shared


class AveragingNetwork(snt.Module):
  """A `DeepLSTM` in each of whose layers the first cells are averaged."""

  def __init__(self, deep: network.DeepLSTM, count: int):
    """Takes the weights of `deep`; `count` cells of each layer are averaged."""
    super().__init__()
    self._deep, self._count = deep, count

  @property
  def weights(self) -> network.Weights:
    return self._deep.weights

  @snt.no_name_scope
  def initial_state(self, batch_size: int | tf.Tensor) -> list[AveragingState]:
    k, state = self._count, self._deep.initial_state(batch_size)
    averages = tf.zeros([k, 1], self.weights.w.dtype)
    return [AveragingState(Signal(averages, h[k:]), c) for h, c in state]

  @snt.no_name_scope
  def __call__(
    self, x: tf.Tensor, state: list[AveragingState]
  ) -> tuple[tf.Tensor, list[AveragingState]]:
    """Maps inputs [num_inputs, N] to outputs [num_outputs, N]."""
    last, next_state, _ = self._run(x, state)
    with tf.name_scope("linear"):
      return affine([last], [self.weights.w], self.weights.b), next_state

  @snt.no_name_scope
  def saturation(self, x: tf.Tensor, state: list[AveragingState]):
    """Returns the fraction of each layer's gates that are within 0.05 of 0 or 1."""
    return network.saturation(self._run(x, state)[2])

  @snt.no_name_scope
  def _run(self, x, state):
    signal = Signal(tf.zeros([0, 1], x.dtype), x)
    next_state, activations = [], []
    for i, (layer, before) in enumerate(zip(self.weights.layers, state), 1):
      *weights, b = layer
      with tf.name_scope(f"lstm_{i}"):
        z = affine([signal, before.hidden], weights, b)
        hidden, c, layer_activations = cell.forward(z, before.cell)
        signal = averaged(hidden, self._count)
      next_state.append(AveragingState(signal, c))
      activations.append(layer_activations)
    return signal, next_state, activations


@registry.register
class GlobalAveragingLSTM(CoordinatewiseLSTM):
  """A deep LSTM on every coordinate, with some cells averaged over all coordinates.

  Andrychowicz et al. 2016, appendix: LSTM+GAC. The averages replace the outputs of the
  designated cells in the next layer's input and in their own layer's recurrent input.
  With a single coordinate it is the `CoordinatewiseLSTM`.

  >>> optimizer = GlobalAveragingLSTM((20, 20), "log_and_sign", 0.1, averaged=5)
  >>> one, many = [tf.ones([1])], [tf.constant([1.0, -2.0, 3.0])]
  >>> steps = [optimizer(g, optimizer.initial_state(g))[0][0] for g in (one, many)]
  >>> bool(steps[0][0] == steps[1][0])  # The others' gradients make a difference.
  False
  """

  _own_coupling = ALL

  def __init__(
    self,
    layers: Sequence[int] = (20, 20),
    preprocess: str | preprocess_lib.Preprocess = "identity",
    output_scale: float = 1.0,
    initializer: str = "truncated_normal",
    seed: int = 0,
    dtype: str = "float32",
    averaged: int = 5,
  ):
    """Initializes the weights.

    Args:
      layers: units of each LSTM layer, as in `CoordinatewiseLSTM`, and so are the
        arguments below.
      preprocess: "identity", "clamp", "log_and_sign", or a callable.
      output_scale: factor on the output.
      initializer: "truncated_normal" or "zeros".
      seed: seed of the initial weights.
      dtype: type of the weights and the state, as a string.
      averaged: cells of each layer whose outputs are averaged; the paper names no
        number.

    Raises:
      ValueError: as `CoordinatewiseLSTM`, and without layers, or for a layer with fewer
        units than are averaged.
    """
    super().__init__(layers, preprocess, output_scale, initializer, seed, dtype)
    is_count = isinstance(averaged, int) and averaged >= 1
    if not is_count or averaged > min(layers, default=0):
      raise ValueError(
        f"GlobalAveragingLSTM got averaged={averaged!r} and layers={tuple(layers)}; it"
        " averages at least one cell of each layer, and at most all of them."
      )
    self._config["averaged"] = averaged
    self._network = AveragingNetwork(self._network, averaged)

  @property
  def jit_compile(self) -> bool:
    """Whether XLA can compile a step: not if the preprocess may be anything."""
    return self._is_elementwise

  @property
  def _has_pass(self) -> bool:
    return False  # It is for coordinates that are independent of each other.
