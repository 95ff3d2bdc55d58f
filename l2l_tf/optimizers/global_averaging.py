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
from l2l_tf.optimizers import parts
from l2l_tf.optimizers.coordinatewise import CoordinatewiseLSTM, from_coordinates
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
    """Takes the weights of `deep`; `count` cells of each layer are averaged.

    Nothing that comes from an average counts at first: of coordinates that are alike up
    to their sign it would be noise, from which training first had to turn away.
    """
    super().__init__()
    self._deep, self._count = deep, count
    layers = deep.weights.layers
    from_averages = [w_h for _, w_h, _ in layers] + [w_x for w_x, _, _ in layers[1:]]
    for w in [*from_averages, deep.weights.w]:
      if count < w.shape[0]:  # Else nothing would come from anywhere.
        w[:count].assign(tf.zeros_like(w[:count]))

  @property
  def weights(self) -> network.Weights:
    return self._deep.weights

  def divides(self) -> list[AveragingState]:
    """As `Divisible` has it: what is cut."""
    return [AveragingState(Signal(False, True), True) for _ in self.weights.layers]

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
    divides = self.divides()
    whole = parts.divided(state, divides)
    (outputs,), next_state = self.step([x], whole, parts.one_by_one)
    return outputs, parts.joined(next_state, divides)

  @snt.no_name_scope
  def step(
    self, inputs: list[tf.Tensor], state: list[AveragingState], each: parts.Each
  ) -> tuple[list[tf.Tensor], list[AveragingState]]:
    """Maps parts of the inputs to those of the outputs; the state is divided."""
    last, next_state, _ = self._run(inputs, state, each)
    with tf.name_scope("linear"):
      linear = lambda own: affine(
        [Signal(last.averages, own)], [self.weights.w], self.weights.b
      )
      return each(linear, list(zip(last.own))), next_state

  @snt.no_name_scope
  def saturation(self, x: tf.Tensor, state: list[AveragingState]):
    """Returns the fraction of each layer's gates that are within 0.05 of 0 or 1."""
    whole = parts.divided(state, self.divides())
    *_, observed = self._run([x], whole, parts.one_by_one, lambda seen: seen)
    return network.saturation([activations for (activations,) in observed])

  @snt.no_name_scope
  def _run(self, inputs, state, each, observe=lambda activations: ()):
    """Returns the last layer's signal, the next state, and what was observed."""
    signal = Signal(tf.zeros([0, 1], inputs[0].dtype), inputs)
    next_state, observed = [], []
    for i, (weights, before) in enumerate(zip(self.weights.layers, state), 1):
      shared = signal.averages, before.hidden.averages
      layer = lambda *own, shared=shared, weights=weights: self._layer(
        weights, *map(Signal, shared, own[:2]), own[2], observe
      )
      with tf.name_scope(f"lstm_{i}"):
        calls = list(zip(signal.own, before.hidden.own, before.cell))
        own, cells, sums, seen = map(list, zip(*each(layer, calls)))
        signal = Signal(_averages(sums, cells), own)
      next_state.append(AveragingState(signal, cells))
      observed.append(seen)
    return signal, next_state, observed

  def _layer(self, weights, below: Signal, hidden: Signal, cells, observe):
    """Returns h_t and c_t of a part, the sums to be averaged, and activations."""
    *products, b = weights
    hidden, cells, activations = cell.forward(
      affine([below, hidden], products, b), cells
    )
    # A sum over many coordinates exceeds the range of float16.
    (summable,) = dtypes.for_sum([hidden])
    # Of all cells: XLA takes longer for a slice of them.
    sums = tf.reduce_sum(summable, axis=1, keepdims=True)
    return hidden[self._count :], cells, sums[: self._count], observe(activations)


def _averages(sums: list[tf.Tensor], cells: list[tf.Tensor]) -> tf.Tensor:
  """Returns the averages over all N, [k, 1], given the sums over parts of N."""
  size = sum(part.shape[1] for part in cells)
  return tf.cast(tf.add_n(sums) / size, cells[0].dtype)


@registry.register
class GlobalAveragingLSTM(parts.Divisible, CoordinatewiseLSTM):
  """A deep LSTM on every coordinate, with some cells averaged over all coordinates.

  Andrychowicz et al. 2016, appendix: LSTM+GAC. The averages replace the outputs of the
  designated cells in the next layer's input and in their own layer's recurrent input.
  With a single coordinate, and the same weights, it is the `CoordinatewiseLSTM`.

  What comes from the averages counts nothing until training has found a use for it.

  >>> optimizer = GlobalAveragingLSTM((20, 20), "log_and_sign", 0.1, averaged=5)
  >>> one, many = [tf.ones([1])], [tf.constant([1.0, -2.0, 3.0])]
  >>> steps = [optimizer(g, optimizer.initial_state(g))[0][0] for g in (one, many)]
  >>> bool(abs(steps[0][0] - steps[1][0]) < 1e-6)
  True
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

  def divides(self):
    return self._network.divides()

  def step(self, grads, state, each):
    with tf.name_scope("preprocess"):
      sizes = [part.shape[1] for part in state[0].cell]
      columns = parts.split(self._columns(grads), sizes, axis=1)
      inputs = each(self._inputs, list(zip(columns)))
    outputs, next_state = self._network.step(inputs, state, each)
    with tf.name_scope("update"):
      updates = self._output_scale * tf.concat(outputs, axis=1)
      updates = from_coordinates(updates, grads)
      return [tf.cast(u, g.dtype) for u, g in zip(updates, grads)], next_state

  @property
  def _has_pass(self) -> bool:
    return False  # It is for coordinates that are independent of each other.
