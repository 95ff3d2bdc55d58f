"""Back-propagation through an LSTM optimizer over a window of recorded gradients.

The problem. A learned optimizer has taken T steps: u_t = m(g_t, h_t, phi) and
theta_{t+1} = theta_t + u_t, where g_t is the gradient of f at theta_t. The meta-loss is
L = sum_k w_k f(theta_k), over k = 1, ..., T, and we want dL/dphi. First-order
meta-gradients treat the g_t as constants where the optimizer reads them.

The derivation. Parameters are sums of updates,

    theta_k = theta_0 + u_0 + u_1 + ... + u_{k-1},

so u_t is a term of theta_k if k > t, and is not if k <= t. With the g_t constant, no
other update depends on u_t. So if u_t changes by a small d, every later theta_k changes
by d, and f(theta_k) by the inner product of g_k and d:

    dL/du_t = sum_{k > t} w_k g_k.

For T = 3, for example,

    dL/du_2 = w_3 g_3
    dL/du_1 = w_3 g_3 + w_2 g_2
    dL/du_0 = w_3 g_3 + w_2 g_2 + w_1 g_1,

a running sum, backwards in time. What is left is a plain LSTM over a known sequence of
inputs, with a known gradient at each of its outputs. That is back-propagation through
time (Werbos 1990); it needs no tape, and nothing of the optimizee but the recorded g_t.
(A problem whose constraints move parameters as well is differentiated by a tape.)

The computation is organised in three levels:

- Blocks. No coordinate's update depends on another coordinate, so a block of B
  coordinates goes through the whole window before the next block begins. The memory
  for activations does not grow with the number of coordinates, one step's data stay in
  the processor's cache from one operation to the next, and every core gets a share of
  the blocks (`cores.shards`).
- Segments. The backward pass needs the partial derivatives of every step, from the last
  to the first, and their memory grows with the window. A long window is therefore cut
  into segments. A first forward pass saves only the state at the start of each segment.
  Then, from the last segment to the first, each one is run forwards again, which saves
  its partial derivatives, and then backwards (Chen et al. 2016,
  https://arxiv.org/abs/1604.06174). The derivatives of only one segment are in memory
  at a time; the price is that all segments but the last are run forwards twice.
- Steps. `segment.py` runs one segment of one block; it says what is saved and how the
  arrays are laid out. `cell.py` has the equations of a step and their derivatives.

All blocks and segments on one core write to the same scratch arrays
(`segment.Scratch`).
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from l2l_tf import cores
from l2l_tf.optimizers.lstm import network, segment

# Coordinates per block: among the fastest of 64 to 1024 for two layers of 20 units on
# two cores with 512 KiB or 2 MiB of second-level cache each (benchmarks/README.md).
_CPU_BLOCK = 128
_GPU_BLOCK = 1 << 13

# Steps per segment, at most. Shorter windows are one segment and need no second forward
# pass, which would cost them more time than the smaller memory saves.
_SEGMENT = 100

# Maps gradients [T, rows, N], and the memory before the first of them, to the network's
# inputs [T, features, N]; each coordinate's inputs depend on that coordinate alone. It
# is hashable and comparable, so that equal functions share a trace.
Features = Callable[[tf.Tensor, Any], tf.Tensor]


def gradient(
  weights: network.Weights,
  features: Features,
  scale: float,
  grads: tf.Tensor,
  loss_weights: tf.Tensor,
  state: list[network.LSTMState],
  memory: Any = (),
  is_bounded: bool = False,
) -> network.Weights:
  """Returns the gradient of sum_t w_t f(theta_t) with respect to `weights`.

  A coordinate is a column of `rows` entries: a single entry, or all entries of one
  convolution kernel for a `KernelwiseLSTM`.

  Args:
    weights: weights of the network whose outputs, times `scale`, were the updates.
    features: maps gradients to the network's inputs.
    scale: factor on the network's outputs.
    grads: g_0, ..., g_T, [T + 1, rows, N].
    loss_weights: w_1, ..., w_T, [T].
    state: the network's state before it read g_0.
    memory: the state of `features` before it read g_0, such as moving averages: a nest
      of tensors [..., N] and scalars.
    is_bounded: whether the updates were `scale` times the tanh of the outputs.

  Returns:
    A tensor for each weight, of the weight's shape.
  """
  num_coordinates = grads.shape[-1]
  if num_coordinates == 0:
    return tf.nest.map_structure(tf.zeros_like, weights)
  size = min(_GPU_BLOCK if cores.on_gpu() else _CPU_BLOCK, num_coordinates)
  num_blocks = -(-num_coordinates // size)
  weights = tf.nest.map_structure(tf.convert_to_tensor, weights)
  shard_gradient = compiled(features, scale, is_bounded, size, _SEGMENT)
  shards = [
    shard_gradient(
      weights, grads, loss_weights, state, memory, *map(tf.constant, blocks)
    )
    for blocks in cores.shards(num_blocks, num_blocks)
  ]
  return tf.nest.map_structure(lambda *x: tf.add_n(x), *shards)


@functools.lru_cache(maxsize=16)
def compiled(
  features: Features, scale: float, is_bounded: bool, size: int, most_steps: int
) -> Callable[..., network.Weights]:
  """Returns `_shard_gradient`, compiled for these arguments.

  Equal optimizers share what is traced; what has not been asked for in a while is
  forgotten, or a process that trains many optimizers would never free their graphs.
  """
  settings = features, scale, is_bounded, size, most_steps

  def shard_gradient(weights, grads, loss_weights, state, memory, first, last):
    arguments = weights, grads, loss_weights, state, memory, first, last
    return _shard_gradient(*settings, *arguments)

  return tf.function(shard_gradient, jit_compile=True, autograph=False)


def _shard_gradient(
  features,
  scale,
  is_bounded,
  size,
  most_steps,
  weights,
  grads,
  loss_weights,
  state,
  memory,
  first,
  last,
):
  """Returns the part of the gradient that comes from blocks `first`, ..., `last` - 1.

  Every block has `size` coordinates. If `size` does not divide their number, the last
  block overlaps the one before it. The coordinates in the overlap get zero gradients
  there, so that they do not count twice.
  """
  dtype = loss_weights.dtype
  num_steps = tf.shape(loss_weights)[0]
  count = tf.maximum(-(-num_steps // most_steps), 1)
  segments = count, -(-num_steps // count)

  def body(k, total, scratch):
    begin = tf.minimum(k * size, grads.shape[-1] - size)
    is_new = begin + tf.range(size) >= k * size
    cut = lambda x: _slice(x, begin, size) if x.shape.rank else x
    block_grads, block_state, block_memory = tf.nest.map_structure(
      cut, (grads, state, memory)
    )
    total, scratch = _block_gradient(
      weights,
      features(block_grads[:-1], block_memory),
      tf.cast(scale * block_grads[1:], dtype) * tf.cast(is_new, dtype),
      loss_weights,
      block_state,
      is_bounded,
      segments,
      total,
      scratch,
    )
    return k + 1, total, scratch

  zeros = tf.nest.map_structure(tf.zeros_like, weights)
  # The linear map's gradient is accumulated for each of the `size` positions in a block
  # separately, and summed over them at the end: see `segment.weights_gradient`.
  lanes = lambda x: tf.zeros([*x.shape, size], x.dtype)
  zeros = zeros._replace(w=lanes(weights.w), b=lanes(weights.b))
  carry = first, zeros, segment.allocate(weights, segments[1], size)
  total = tf.while_loop(lambda k, *_: k < last, body, carry)[1]
  over_lanes = lambda x: tf.reduce_sum(x, axis=-1)
  return total._replace(w=over_lanes(total.w), b=over_lanes(total.b))


def _slice(x: tf.Tensor, begin: tf.Tensor, size: int) -> tf.Tensor:
  """Returns x[..., begin : begin + size], with a static last dimension."""
  outer = tf.shape(x)[:-1]
  begins = tf.concat([tf.zeros_like(outer), [begin]], axis=0)
  part = tf.slice(x, begins, tf.concat([outer, [size]], axis=0))
  return tf.ensure_shape(part, [*x.shape[:-1], size])


def _block_gradient(
  weights, features, grads, loss_weights, state, is_bounded, segments, total, scratch
):
  """Adds one block's part of the gradient to the total.

  Args:
    weights: the network's weights.
    features: the network's inputs, [T, features, B].
    grads: g_1, ..., g_T, times the factor on the network's outputs, [T, rows, B].
    loss_weights: [T].
    state: the network's state before g_0, each tensor [units, B].
    is_bounded: whether the outputs went through a tanh.
    segments: the number of segments that the window is cut into, and their length.
    total: the sum so far, in the form that `segment.weights_gradient` returns.
    scratch: the arrays to write to.

  Returns:
    The new total and the scratch arrays.
  """
  count, length = segments
  num_steps = tf.shape(loss_weights)[0]

  def cut(x):  # Padding steps at the end have zero gradients, so they add nothing.
    padding = [[0, count * length - num_steps]] + [[0, 0]] * (x.shape.rank - 1)
    return tf.reshape(tf.pad(x, padding), [count, length, *x.shape[1:]])

  features, grads, loss_weights = map(cut, (features, grads, loss_weights))
  starts = _starts(weights, features, state)
  zeros = lambda height: tf.zeros([height, grads.shape[-1]], grads.dtype)
  d_state = [(zeros(w_h.shape[0]), zeros(w_h.shape[0])) for _, w_h, _ in weights.layers]

  def body(k, total, scratch, carry):
    k = count - 1 - k  # from the last segment to the first
    start = tf.nest.map_structure(lambda x: x[k], starts)
    scratch = segment.forward(weights, features[k], start, scratch)
    scratch, carry = segment.backward(
      weights, grads[k], loss_weights[k], is_bounded, scratch, carry
    )
    part = segment.weights_gradient(weights, scratch)
    return tf.nest.map_structure(tf.add, total, part), scratch, carry

  carry = zeros(grads.shape[2]), d_state
  return segment.loop(count, body, total, scratch, carry)[:2]


def _starts(weights, features, state):
  """Returns the state before each segment of `features`, each [segments, units, B].

  This is the first forward pass. It skips the last segment, as no state is needed after
  it.
  """
  count, length = tf.unstack(tf.shape(features)[:2])
  starts = tf.nest.map_structure(
    lambda x: segment.put(tf.zeros([count, *x.shape], x.dtype), x[tf.newaxis], 0, 0, 0),
    state,
  )
  step = segment.stepper(weights, features)

  def body(k, state, starts):
    advance = lambda t, state: [step(features[k, t], state)[1]]
    (state,) = segment.loop(length, advance, state)
    write = lambda array, x: segment.put(array, x[tf.newaxis], k + 1, 0, 0)
    return state, tf.nest.map_structure(write, starts, state)

  return segment.loop(count - 1, body, state, starts)[1]
