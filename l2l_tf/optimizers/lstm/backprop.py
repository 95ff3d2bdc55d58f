"""Back-propagation through an LSTM that read gradients which are already known.

Under first-order meta-gradients the optimizee's gradients g_0, ..., g_T are
constants, so the meta-loss sum_t w_t f(theta_t) reaches the update u_t only
through the later parameters: dL/du_t = sum_{k > t} w_k g_k. What is left is a
plain LSTM run over a recorded sequence, every coordinate by itself. It is run
again here, forwards and backwards, in blocks of coordinates of which a step stays
in the cache; no tape holds the activations of a window.

Werbos 1990, back-propagation through time, for the cell of `network.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from l2l_tf import cores
from l2l_tf.optimizers.lstm import network

# Coordinates per block: among the fastest of 64 to 1024 for two layers of 20 units on
# two cores with 512 KiB or 2 MiB of second-level cache each (benchmarks/README.md).
_CPU_BLOCK = 128
_GPU_BLOCK = 1 << 13

# Steps whose activations are held at a time. Of a longer window only the states
# between its segments are kept, and every segment is run forwards once more; to 100
# steps that costs more than it saves.
_SEGMENT = 100

# Gradients [T, rows, N] and the memory before them -> inputs [T, features, N], each
# coordinate by itself. Hashable and comparable, so that equal ones share a trace.
Features = Callable[[tf.Tensor, Any], tf.Tensor]


class _Derivatives(NamedTuple):
  """Of one layer's step, all that the way back needs of it; each [T, units, B]."""

  c_i: tf.Tensor  # of c_t with respect to the input gate before its sigmoid
  c_f: tf.Tensor  # to the forget gate
  h_o: tf.Tensor  # of h_t with respect to the output gate
  c_g: tf.Tensor  # of c_t with respect to the candidate before its tanh
  h_c: tf.Tensor  # of h_t with respect to c_t
  c_c: tf.Tensor  # of c_t with respect to c_{t-1}


class _Layer(NamedTuple):
  """One layer's memory of a segment of T steps, for one block."""

  inputs: tf.Tensor  # [features + 1 + units, T, B]: x_t, ones and h_{t-1}
  derivatives: _Derivatives
  d_z: tf.Tensor  # [4, units, T, B], dL/dz of the gates i, f, o, g


class _Scratch(NamedTuple):
  """What blocks write to one after the other, so that it is allocated once.

  The steps are next to the coordinates where a product sums over both.
  """

  layers: list[_Layer]
  outputs: tf.Tensor  # [units, T, B], of the last layer
  d_y: tf.Tensor  # [outputs, T, B], dL/dy of the linear map's outputs


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

  Args:
    weights: of the network whose outputs, times `scale`, were the updates.
    features: from gradients to the network's inputs.
    scale: of the outputs.
    grads: g_0, ..., g_T, [T + 1, rows, N].
    loss_weights: w_1, ..., w_T, [T].
    state: of the network before it read g_0.
    memory: of `features` then, a nest of tensors [..., N] and scalars.
    is_bounded: whether the updates were `scale` times the outputs' tanh.
  """
  num_coordinates = grads.shape[-1]
  if num_coordinates == 0:
    return tf.nest.map_structure(tf.zeros_like, weights)
  size = min(_GPU_BLOCK if cores.on_gpu() else _CPU_BLOCK, num_coordinates)
  num_blocks = -(-num_coordinates // size)
  shards = [
    _shard_gradient(
      weights,
      features,
      scale,
      grads,
      loss_weights,
      state,
      memory,
      is_bounded,
      *map(tf.constant, blocks),
      size,
      _SEGMENT,
    )
    for blocks in cores.shards(num_blocks, num_blocks)
  ]
  return tf.nest.map_structure(lambda *x: tf.add_n(x), *shards)


@tf.function(jit_compile=True, autograph=False)
def _shard_gradient(
  weights,
  features,
  scale,
  grads,
  loss_weights,
  state,
  memory,
  is_bounded,
  first,
  last,
  size,
  most_steps,
):
  """`gradient` of the blocks of `size` coordinates from `first` to before `last`."""
  dtype = loss_weights.dtype
  num_steps = tf.shape(loss_weights)[0]
  count = tf.maximum(-(-num_steps // most_steps), 1)
  segments = count, -(-num_steps // count)

  def body(k, total, scratch):
    begin = tf.minimum(k * size, grads.shape[-1] - size)
    is_new = begin + tf.range(size) >= k * size  # The last block reaches back.
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
  lanes = lambda x: tf.zeros([*x.shape, size], x.dtype)
  zeros = zeros._replace(w=lanes(weights.w), b=lanes(weights.b))
  carry = first, zeros, _allocate(weights, segments[1], size)
  total = tf.while_loop(lambda k, *_: k < last, body, carry)[1]
  over_lanes = lambda x: tf.reduce_sum(x, axis=-1)
  return total._replace(w=over_lanes(total.w), b=over_lanes(total.b))


def _slice(x: tf.Tensor, begin: tf.Tensor, size: int) -> tf.Tensor:
  """Cuts [..., begin : begin + size]."""
  outer = tf.shape(x)[:-1]
  begins = tf.concat([tf.zeros_like(outer), [begin]], axis=0)
  part = tf.slice(x, begins, tf.concat([outer, [size]], axis=0))
  return tf.ensure_shape(part, [*x.shape[:-1], size])


def _allocate(weights, num_steps, size) -> _Scratch:
  """Returns the arrays for blocks of `size` coordinates."""
  array = lambda *shape: tf.zeros(shape, weights.w.dtype)
  layers = []
  for w_x, w_h, _ in weights.layers:
    units, height = w_h.shape[0], w_x.shape[0] + 1 + w_h.shape[0]
    derivatives = [array(num_steps, units, size) for _ in _Derivatives._fields]
    inputs = array(height, num_steps, size)
    d_z = array(4, units, num_steps, size)
    layers.append(_Layer(inputs, _Derivatives(*derivatives), d_z))
  units, outputs = weights.w.shape
  return _Scratch(
    layers, array(units, num_steps, size), array(outputs, num_steps, size)
  )


def _block_gradient(
  weights, features, grads, loss_weights, state, is_bounded, segments, total, scratch
):
  """Adds one block's `gradient` to the total.

  Args:
    weights: of the network.
    features: its inputs, [T, features, B].
    grads: g_1, ..., g_T, times the scale of the outputs, [T, rows, B].
    loss_weights: [T].
    state: of the network, each [units, B].
    is_bounded: whether the outputs went through a tanh.
    segments: into how many the window is cut, and their length.
    total: to add to; the linear map's of each coordinate by itself: [..., B].
    scratch: to write to.

  Returns:
    The total and the scratch arrays.
  """
  count, length = segments
  num_steps = tf.shape(loss_weights)[0]

  def cut(x):  # Steps of weight zero and gradient zero at the end add nothing.
    padding = [[0, count * length - num_steps]] + [[0, 0]] * (x.shape.rank - 1)
    return tf.reshape(tf.pad(x, padding), [count, length, *x.shape[1:]])

  features, grads, loss_weights = map(cut, (features, grads, loss_weights))
  starts = _starts(weights, features, state)
  zeros = lambda height: tf.zeros([height, grads.shape[-1]], grads.dtype)
  d_state = [(zeros(w_h.shape[0]), zeros(w_h.shape[0])) for _, w_h, _ in weights.layers]

  def body(k, total, scratch, carry):
    k = count - 1 - k
    start = tf.nest.map_structure(lambda x: x[k], starts)
    scratch = _forward(weights, features[k], start, scratch)
    to_linear = (
      _tanh_backward(weights, scratch.outputs) if is_bounded else lambda t, d: d
    )
    scratch, carry = _backward(
      weights, grads[k], loss_weights[k], to_linear, scratch, carry
    )
    part = _products(weights, scratch)
    return tf.nest.map_structure(tf.add, total, part), scratch, carry

  carry = zeros(grads.shape[2]), d_state
  return _loop(count, body, total, scratch, carry)[:2]


def _starts(weights, features, state):
  """Returns the state before each segment of `features`, each [segments, units, B]."""
  count, length = tf.unstack(tf.shape(features)[:2])
  starts = tf.nest.map_structure(
    lambda x: _put(tf.zeros([count, *x.shape], x.dtype), x[tf.newaxis], 0, 0, 0), state
  )
  step = _stepper(weights, features)

  def body(k, state, starts):
    advance = lambda t, state: [step(features[k, t], state)[1]]
    (state,) = _loop(length, advance, state)
    write = lambda array, x: _put(array, x[tf.newaxis], k + 1, 0, 0)
    return state, tf.nest.map_structure(write, starts, state)

  return _loop(count - 1, body, state, starts)[1]


def _products(weights, scratch) -> network.Weights:
  """The weights' gradient from inputs and gates' gradients, one product a layer."""
  layers = []
  for (w_x, *_), layer in zip(weights.layers, scratch.layers):
    flat = lambda x, height: tf.reshape(x, [height, -1])
    inputs = flat(layer.inputs, layer.inputs.shape[0])
    d_z = flat(layer.d_z, 4 * layer.d_z.shape[1])
    d_kernel = tf.matmul(inputs, d_z, transpose_b=True)
    d_x, d_b, d_h = tf.split(d_kernel, [w_x.shape[0], 1, -1])
    layers.append((d_x, d_h, d_b[0]))
  # XLA's sums over coordinates are slow, over steps fast; its products of one column,
  # which coordinate-wise optimizers have, are slow too.
  d_w = tf.reduce_sum(scratch.outputs[:, tf.newaxis] * scratch.d_y, axis=2)
  return network.Weights(layers, d_w, tf.reduce_sum(scratch.d_y, axis=1))


def _pack(w_x: tf.Tensor, w_h: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
  """Stacks a layer's weights so that they act on [x, 1, h] in one product."""
  zeros = tf.zeros_like(b[: b.shape[0] // 4])
  forget = tf.concat([zeros, zeros + network.FORGET_BIAS, zeros, zeros], axis=0)
  return tf.concat([w_x, [b + forget], w_h], axis=0)


def _forward(weights, features, state, scratch) -> _Scratch:
  """Runs the network; returns the scratch with its inputs, derivatives and outputs."""
  step = _stepper(weights, features)

  def body(t, state, layers, outputs):
    output, state, kept = step(features[t], state)
    write = lambda array, value: _put(array, value[tf.newaxis], t, 0, 0)
    layers = [
      layer._replace(
        inputs=_put(layer.inputs, inputs[:, tf.newaxis], 0, t, 0),
        derivatives=_Derivatives(*map(write, layer.derivatives, derivatives)),
      )
      for layer, (inputs, derivatives) in zip(layers, kept)
    ]
    return state, layers, _put(outputs, output[:, tf.newaxis], 0, t, 0)

  carry = state, scratch.layers, scratch.outputs
  _, layers, outputs = _loop(tf.shape(features)[0], body, *carry)
  return scratch._replace(layers=layers, outputs=outputs)


def _stepper(weights, features):
  """Returns (x_t, state) -> output, next state, each layer's inputs and derivatives."""
  transposed = [tf.transpose(_pack(*layer)) for layer in weights.layers]
  ones = tf.ones([1, features.shape[-1]], features.dtype)

  def step(x, state):
    next_state, kept = [], []
    for w, (h, c) in zip(transposed, state):
      inputs = tf.concat([x, ones, h], axis=0)
      x, c, derivatives = _cell(tf.matmul(w, inputs), c)
      next_state.append(network.LSTMState(x, c))
      kept.append((inputs, derivatives))
    return x, next_state, kept

  return step


def _cell(z, c):
  """The cell of `network.lstm_step` from its gates' z: h, c and the derivatives."""
  z_i, z_f, z_o, z_g = tf.split(z, 4)
  i, f, o, g = _sigmoid(z_i), _sigmoid(z_f), _sigmoid(z_o), tf.tanh(z_g)
  next_c = f * c + i * g
  tanh_c = tf.tanh(next_c)
  derivatives = _Derivatives(
    c_i=g * i * (1.0 - i),
    c_f=c * f * (1.0 - f),
    h_o=tanh_c * o * (1.0 - o),
    c_g=i * (1.0 - tf.square(g)),
    h_c=o * (1.0 - tf.square(tanh_c)),
    c_c=f,
  )
  return o * tanh_c, next_c, derivatives


def _sigmoid(x: tf.Tensor) -> tf.Tensor:
  """XLA's tanh takes half the time of its sigmoid."""
  return 0.5 + 0.5 * tf.tanh(0.5 * x)


def _tanh_backward(weights, hidden):
  """Returns (t, dL/d(tanh y_t)) -> dL/dy_t, of the linear map's outputs y."""

  def backward(t, d_tanh):
    y = tf.matmul(weights.w, hidden[:, t], transpose_a=True)
    return d_tanh * (1.0 - tf.square(tf.tanh(y + weights.b[:, tf.newaxis])))

  return backward


def _backward(weights, grads, loss_weights, to_linear, scratch, carry):
  """Goes back through a segment.

  Args:
    weights: of the network.
    grads: [T, rows, B], times the scale of the outputs.
    loss_weights: [T].
    to_linear: (t, dL/du_t) -> dL/dy_t.
    scratch: from `_forward`.
    carry: of the later segments the sum of weighted gradients, [rows, B], and
      dL/dh and dL/dc of every layer after this one.

  Returns:
    The scratch with dL/dz of every layer's gates and dL/dy, and the carry.
  """
  num_steps, size = tf.shape(grads)[0], grads.shape[-1]
  units = [w_h.shape[0] for _, w_h, _ in weights.layers]
  # Nothing needs the gradient with respect to the first layer's inputs.
  num_inputs = [0, *units[:-1]]
  w_back = [tf.concat([w_x[w_x.shape[0] - n :], w_h], axis=0)
            for n, (w_x, w_h, _) in zip(num_inputs, weights.layers)]  # fmt: skip
  derivatives = [layer.derivatives for layer in scratch.layers]

  def body(k, carry, d_z, d_y):
    t = num_steps - 1 - k
    later, d_state = carry
    later += loss_weights[t] * grads[t]  # sum_{k > t} w_k g_k
    d_out = to_linear(t, later)
    d_x, next_d_state, next_d_z = tf.matmul(weights.w, d_out), [], []
    for layer in reversed(range(len(units))):
      d_h, d_c = d_state[layer]
      at_t = _Derivatives(*[x[t] for x in derivatives[layer]])
      parts, d_c = _cell_backward(d_h + d_x, d_c, at_t)
      # Written one by one: XLA's code for a concatenation of formulas is scalar.
      layer_d_z = d_z[layer]
      for i, part in enumerate(parts):
        layer_d_z = _put(layer_d_z, part[tf.newaxis, :, tf.newaxis], i, 0, t, 0)
      gates = tf.reshape(layer_d_z[:, :, t], [4 * units[layer], size])
      below = tf.matmul(w_back[layer], gates)
      d_x, d_h = below[: num_inputs[layer]], below[num_inputs[layer] :]
      next_d_state.insert(0, (d_h, d_c))
      next_d_z.insert(0, layer_d_z)
    d_y = _put(d_y, d_out[:, tf.newaxis], 0, t, 0)
    return (later, next_d_state), next_d_z, d_y

  d_z = [layer.d_z for layer in scratch.layers]
  carry, d_z, d_y = _loop(num_steps, body, carry, d_z, scratch.d_y)
  layers = [layer._replace(d_z=x) for layer, x in zip(scratch.layers, d_z)]
  return scratch._replace(layers=layers, d_y=d_y), carry


def _cell_backward(d_h, d_c, to: _Derivatives):
  """From dL/dh_t, dL/dc_t to dL/dz of the gates i, f, o, g, and to dL/dc_{t-1}."""
  d_c = d_c + d_h * to.h_c
  return [d_c * to.c_i, d_c * to.c_f, d_h * to.h_o, d_c * to.c_g], d_c * to.c_c


def _put(array: tf.Tensor, value: tf.Tensor, *begin: int | tf.Tensor) -> tf.Tensor:
  """Writes `value` at `begin`; in place, as XLA compiles it."""
  return xla.dynamic_update_slice(array, value, tf.stack(begin))


def _loop(num_steps, body, *carry):
  """Runs `body(t, *carry)` for t = 0, ..., num_steps - 1."""
  step = lambda t, *carry: (t + 1, *body(t, *carry))
  return tf.while_loop(lambda t, *_: t < num_steps, step, (0, *carry))[1:]
