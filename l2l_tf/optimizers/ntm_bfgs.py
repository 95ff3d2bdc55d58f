"""An LSTM with global averages that writes to, and reads from, a shared n x n memory.

Andrychowicz et al. 2016, appendix, "NTM-BFGS optimizer". https://arxiv.org/abs/1606.04474

BFGS moves by a product with an estimate of the inverse Hessian, which it corrects by a
matrix of low rank. Here both remain, and the vectors in them are learned. In a step t,

    u_t, r_t, (a_k, b_k)_t = controller(g_t, i_{t-1})      for each coordinate
    i_t = M_t r_t                                          i_{-1} = 0,  M_0 = I
    M_{t+1} = M_t + sum_k a_k b_k^T                        k = 1, 2, 3

where the controller, an LSTM with global averaging cells, is the same for all
coordinates, and what is read reaches it at the next step, as in the paper.

One read head, three write heads and two averages a step suffice for inverse BFGS
(Nocedal and Wright 2006, equation 6.17), if the controller computes the right functions
of coordinates. It takes two steps for one of BFGS, from H = M, the last move s = -H g'
and the last gradient g'. In the first it stays, queries r = g and averages s y and s g,
with y = g - g'. In the second it is given i = H g, so that H y = i + s; it averages
y H y and g H y, writes the new H, and moves by -H g.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from l2l_tf import preprocess as preprocess_lib
from l2l_tf import registry
from l2l_tf.optimizers import base, coordinatewise
from l2l_tf.optimizers.external_memory import DenseMemory, LowRankMemory, Memory
from l2l_tf.optimizers.global_averaging import AveragingNetwork, AveragingState
from l2l_tf.optimizers.lstm import network
from l2l_tf.optimizers.traits import ALL, GRADIENTS

_WRITE_HEADS = 3
_MEMORIES = ("auto", "dense", "low_rank")


class Heads(NamedTuple):
  """What a controller puts out in a step."""

  update: tf.Tensor  # u, [1, N]
  query: tf.Tensor  # r, [1, N]
  left: tf.Tensor  # a_k, [write heads, N]
  right: tf.Tensor  # b_k, [write heads, N]


class Controller(Protocol):
  """What moves the heads; its state is a nest of tensors."""

  def initial_state(self, size: int) -> Any:
    """Returns the state for `size` coordinates."""

  def __call__(
    self, grads: tf.Tensor, read: tf.Tensor, state: Any
  ) -> tuple[Heads, Any]:
    """Maps g_t and i_{t-1}, both [1, N], to the heads and the next state."""


class NTMState(NamedTuple):
  """State of an optimizer with a memory."""

  controller: Any
  read: tf.Tensor  # i_{t-1}, [1, N]
  memory: Any  # M_t: [N, N], or `Factors`


def initial_state(
  controller: Controller, memory: Memory, size: int, dtype: tf.DType
) -> NTMState:
  """Returns the state of `size` coordinates before the first step."""
  read, content = tf.zeros([1, size], dtype), memory.initial(size, dtype)
  return NTMState(controller.initial_state(size), read, content)


def step(
  controller: Controller, memory: Memory, grads: tf.Tensor, state: NTMState
) -> tuple[tf.Tensor, NTMState]:
  """Takes a step with any controller; grads and the updates it returns are [1, N]."""
  with tf.name_scope("controller"):
    heads, own = controller(grads, state.read, state.controller)
  dtype = state.read.dtype
  query, left, right = (tf.cast(x, dtype) for x in heads[1:])
  with tf.name_scope("memory"):
    read = memory.read(state.memory, query)
    content = memory.write(state.memory, left, right)
  return heads.update, NTMState(own, read, content)


class LSTMController(tf.Module):
  """A deep LSTM with global averages, whose linear map has an output for each head.

  A sum over coordinates b^T r grows with their number N. The vectors b are divided by
  N, so that what a fresh controller reads is of one size on small and large problems.
  """

  def __init__(
    self,
    preprocess: preprocess_lib.Preprocess,
    layers: Sequence[int],
    averaged: int,
    output_scale: float,
    initializer: str,
    seed: int,
    dtype: tf.DType,
  ):
    super().__init__(name="controller")
    self._preprocess, self._output_scale, self._dtype = preprocess, output_scale, dtype
    num_inputs = coordinatewise.num_features_of(preprocess, dtype) + 1
    num_outputs = 2 + 2 * _WRITE_HEADS
    deep = network.DeepLSTM(num_inputs, num_outputs, layers, initializer, seed, dtype)
    self.network = AveragingNetwork(deep, averaged)
    # The memory stays the identity, and what is read does not count, until training
    # finds a use for them; until then they would be noise.
    (w_x, _, _), *_ = deep.weights.layers
    w_x[-1:].assign(tf.zeros_like(w_x[-1:]))
    w, left = deep.weights.w, slice(2, 2 + _WRITE_HEADS)
    w[:, left].assign(tf.zeros_like(w[:, left]))

  def initial_state(self, size: int) -> list[AveragingState]:
    return self.network.initial_state(size)

  def __call__(self, grads, read, state):
    outputs, state = self.network(self._inputs(grads, read), state)
    sizes = [1, 1, _WRITE_HEADS, _WRITE_HEADS]
    update, query, left, right = tf.split(outputs, sizes)
    right = tf.cast(right, read.dtype) / max(grads.shape[1], 1)
    return Heads(self._output_scale * update, query, left, right), state

  def saturation(self, grads, read, state) -> dict[str, tf.Tensor]:
    """Returns the fraction of each layer's gates that are within 0.05 of 0 or 1."""
    return self.network.saturation(self._inputs(grads, read), state)

  def _inputs(self, grads, read):
    features = tf.transpose(self._preprocess(grads[0]))  # [F, N]
    return tf.concat([features, tf.cast(read, self._dtype)], axis=0)


@registry.register
class NTMBFGS(base.Optimizer):
  """A deep LSTM on every coordinate, with averages and a memory that all share.

  Andrychowicz et al. 2016, appendix; the equations stand at the top of this file. The
  memory is dense, [n, n], for a few coordinates, which is NTM-BFGS, and a sliding
  history of write vectors for more, which is NTM-L-BFGS.

  >>> optimizer, grads = NTMBFGS((20,), "log_and_sign", 0.1), [tf.ones([3])]
  >>> updates, state = optimizer(grads, optimizer.initial_state(grads))
  >>> state.memory.shape
  TensorShape([3, 3])
  >>> large = NTMBFGS(history=6).initial_state([tf.ones([100, 100])])
  >>> large.memory.left.shape
  TensorShape([6, 10000])
  """

  coupling = ALL
  reads = {GRADIENTS}

  def __init__(
    self,
    layers: Sequence[int] = (20, 20),
    preprocess: str | preprocess_lib.Preprocess = "identity",
    output_scale: float = 1.0,
    initializer: str = "truncated_normal",
    seed: int = 0,
    dtype: str = "float32",
    averaged: int = 5,
    memory: str = "auto",
    dense_limit: int = 500,
    history: int = 30,
  ):
    """Initializes the weights.

    Args:
      layers: units of each LSTM layer, as in `GlobalAveragingLSTM`, and so are the
        arguments up to `averaged`.
      preprocess: of the gradients; what is read from the memory is an input as it is.
      output_scale: factor on the updates.
      initializer: "truncated_normal" or "zeros".
      seed: seed of the initial weights.
      dtype: type of the weights and the LSTM's state, as a string; the memory is kept
        in float32 if that is more precise.
      averaged: cells of each layer whose outputs are averaged.
      memory: "dense", "low_rank", or "auto", which is dense up to `dense_limit`.
      dense_limit: the most coordinates that have a dense memory, of their number
        squared floats: 1 MB for 500 in float32.
      history: pairs of write vectors that a low-rank memory holds, three of each step.

    Raises:
      ValueError: for a number out of range or an unknown name.
    """
    super().__init__()
    self._dtype = coordinatewise.check_dtype(dtype)
    _check_arguments(layers, averaged, output_scale, memory, dense_limit, history)
    preprocess = preprocess_lib.get(preprocess)
    self._is_elementwise = preprocess_lib.is_elementwise(preprocess)
    self._config = {
      "layers": tuple(layers),
      "preprocess": preprocess,
      "output_scale": output_scale,
      "initializer": initializer,
      "seed": seed,
      "dtype": self._dtype.name,
      "averaged": averaged,
      "memory": memory,
      "dense_limit": dense_limit,
      "history": history,
    }
    self._controller = LSTMController(
      preprocess, layers, averaged, output_scale, initializer, seed, self._dtype
    )

  @property
  def config(self) -> dict[str, Any]:
    return dict(self._config)

  @property
  def jit_compile(self) -> bool:
    """Whether XLA can compile a step: not if the preprocess may be anything."""
    return self._is_elementwise

  def memory_of(self, size: int) -> Memory:
    """Returns the kind of memory that `size` coordinates have."""
    kind, limit = self._config["memory"], self._config["dense_limit"]
    is_dense = kind == "dense" or (kind == "auto" and size <= limit)
    return DenseMemory() if is_dense else LowRankMemory(self._config["history"])

  def initial_state(self, params):
    size = self._flat(params).shape[1]
    dtype = tf.float32 if self._dtype.size < 4 else self._dtype
    return initial_state(self._controller, self.memory_of(size), size, dtype)

  def __call__(self, grads, state, params=None, loss=None):
    flat = self._flat(grads)
    update, state = step(self._controller, self.memory_of(flat.shape[1]), flat, state)
    updates = coordinatewise.from_coordinates(update, grads)
    return [tf.cast(u, g.dtype) for u, g in zip(updates, grads)], state

  def diagnostics(self, grads, state):
    """Returns the saturation of gates, and how far the memory is from the identity."""
    flat = self._flat(grads)
    saturation = self._controller.saturation(flat, state.read, state.controller)
    distance = self.memory_of(flat.shape[1]).distance(state.memory)
    return {**saturation, "memory/distance": distance}

  def _flat(self, tensors):
    coordinatewise.check_not_empty(self, tensors)
    return coordinatewise.to_coordinates([tf.cast(x, self._dtype) for x in tensors])


def _check_arguments(
  layers, averaged, output_scale, memory, dense_limit, history
) -> None:
  coordinatewise.check_layers(layers)
  is_count = isinstance(averaged, int) and averaged >= 1
  if not is_count or averaged > min(layers, default=0):
    raise ValueError(
      f"NTMBFGS got averaged={averaged!r} and layers={tuple(layers)}; it averages at"
      " least one cell of each layer, and at most all of them."
    )
  if not math.isfinite(output_scale):
    raise ValueError(f"output_scale={output_scale} must be a finite number.")
  if memory not in _MEMORIES:
    names = ", ".join(map(repr, _MEMORIES))
    raise ValueError(f"memory={memory!r} is unknown; choose one of {names}.")
  if not isinstance(dense_limit, int) or dense_limit < 0:
    raise ValueError(
      f"dense_limit={dense_limit!r} must be a number of coordinates, zero or more."
    )
  if not isinstance(history, int) or history < _WRITE_HEADS:
    raise ValueError(
      f"history={history!r} must be an integer of at least {_WRITE_HEADS}, what one"
      " step writes."
    )
