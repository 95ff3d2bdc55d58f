"""Back-propagation through an LSTM that read gradients which are already known.

Under first-order meta-gradients the optimizee's gradients g_0, ..., g_T are
constants, so the meta-loss sum_t w_t f(theta_t) reaches the update u_t only
through the later parameters: dL/du_t = sum_{k > t} w_k g_k. What is left is a
plain LSTM run over a recorded sequence, every coordinate by itself. It is run
again here, forwards and backwards, in blocks of coordinates that stay in the
cache; no tape holds the activations of a window.

Werbos 1990, back-propagation through time, for the cell of `deep_lstm.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import devices
from l2l_tf.optimizers import deep_lstm

# Coordinates per block: the fastest of 64 to 1024 for two layers of 20 units on two
# cores with 512 KiB of second-level cache each (benchmarks/README.md).
_CPU_BLOCK = 128
_GPU_BLOCK = 1 << 13

# Gradients [T, rows, N] and the memory before them -> inputs [T, features, N], each
# coordinate by itself. Hashable and comparable, so that equal ones share a trace.
Features = Callable[[tf.Tensor, Any], tf.Tensor]


class _Step(NamedTuple):
  """What one layer's step leaves for the way back, each [units, B]."""

  inputs: tf.Tensor  # [features + 1 + units, B]: x_t, ones and h_{t-1}
  i: tf.Tensor
  f: tf.Tensor
  o: tf.Tensor
  g: tf.Tensor
  tanh_c: tf.Tensor
  c: tf.Tensor  # c_{t-1}


def gradient(
  weights: deep_lstm.Weights,
  features: Features,
  scale: float,
  grads: tf.Tensor,
  loss_weights: tf.Tensor,
  state: list[deep_lstm.LSTMState],
  memory: Any = (),
  is_bounded: bool = False,
) -> deep_lstm.Weights:
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
  size = min(_GPU_BLOCK if devices.on_gpu() else _CPU_BLOCK, num_coordinates)
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
    )
    for blocks in devices.shards(num_blocks, num_blocks)
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
):
  """`gradient` of the blocks of `size` coordinates from `first` to before `last`."""
  dtype = loss_weights.dtype

  def body(k, total):
    begin = tf.minimum(k * size, grads.shape[-1] - size)
    is_new = begin + tf.range(size) >= k * size  # The last block reaches back.
    cut = lambda x: _slice(x, begin, size) if x.shape.rank else x
    block_grads, block_state, block_memory = tf.nest.map_structure(
      cut, (grads, state, memory)
    )
    part = _block_gradient(
      weights,
      features(block_grads[:-1], block_memory),
      tf.cast(scale * block_grads[1:], dtype) * tf.cast(is_new, dtype),
      loss_weights,
      block_state,
      is_bounded,
    )
    return k + 1, tf.nest.map_structure(tf.add, total, part)

  zeros = tf.nest.map_structure(tf.zeros_like, weights)
  return tf.while_loop(lambda k, _: k < last, body, (first, zeros))[1]


def _slice(x: tf.Tensor, begin: tf.Tensor, size: int) -> tf.Tensor:
  """Cuts [..., begin : begin + size]."""
  outer = tf.shape(x)[:-1]
  begins = tf.concat([tf.zeros_like(outer), [begin]], axis=0)
  part = tf.slice(x, begins, tf.concat([outer, [size]], axis=0))
  return tf.ensure_shape(part, [*x.shape[:-1], size])


def _block_gradient(weights, features, grads, loss_weights, state, is_bounded):
  """`gradient` for coordinates whose activations fit the cache.

  Args:
    weights: of the network.
    features: its inputs, [T, features, B].
    grads: g_1, ..., g_T, times the scale of the outputs, [T, rows, B].
    loss_weights: [T].
    state: of the network, each [units, B].
    is_bounded: whether the outputs went through a tanh.
  """
  kernels = [_pack(*layer) for layer in weights.layers]
  steps, outputs = _forward(kernels, features, state)
  to_linear = _tanh_backward(weights, outputs) if is_bounded else lambda t, d: d
  d_z, d_outputs = _backward(weights, kernels, steps, grads, loss_weights, to_linear)
  layers = []
  for (w_x, *_), layer_steps, layer_d_z in zip(weights.layers, steps, d_z):
    d_kernel = _product(layer_steps.inputs.stack(), layer_d_z.stack())
    num_inputs = w_x.shape[0]
    d_x, d_b, d_h = tf.split(d_kernel, [num_inputs, 1, -1])
    layers.append((d_x, d_h, d_b[0]))
  d_outputs = d_outputs.stack()
  return deep_lstm.Weights(
    layers, _product(outputs.stack(), d_outputs), tf.reduce_sum(d_outputs, axis=[0, 2])
  )


def _pack(w_x: tf.Tensor, w_h: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
  """Stacks a layer's weights so that they act on [x, 1, h] in one product."""
  zeros = tf.zeros_like(b[: b.shape[0] // 4])
  forget = tf.concat([zeros, zeros + deep_lstm.FORGET_BIAS, zeros, zeros], axis=0)
  return tf.concat([w_x, [b + forget], w_h], axis=0)


def _forward(kernels, features, state):
  """Runs the network; returns every layer's steps and the linear map's inputs."""
  num_inputs, size = features.shape[1:]
  array = _array_maker(features)
  ones = tf.ones([1, size], features.dtype)
  x = array(num_inputs).unstack(features)
  transposed = [tf.transpose(kernel) for kernel in kernels]
  heights = [w.shape[1] // 4 for w in kernels]
  steps = [_Step(array(w.shape[0]), *[array(n)] * 6) for w, n in zip(kernels, heights)]

  def body(t, state, steps, outputs):
    layer_x, next_state, next_steps = x.read(t), [], []
    for w, (h, c), layer_steps in zip(transposed, state, steps):
      inputs = tf.concat([layer_x, ones, h], axis=0)
      z_i, z_f, z_o, z_g = tf.split(tf.matmul(w, inputs), 4)
      i, f, o, g = tf.sigmoid(z_i), tf.sigmoid(z_f), tf.sigmoid(z_o), tf.tanh(z_g)
      next_c = f * c + i * g
      tanh_c = tf.tanh(next_c)
      layer_x = o * tanh_c
      next_state.append(deep_lstm.LSTMState(layer_x, next_c))
      step = _Step(inputs, i, f, o, g, tanh_c, c)
      next_steps.append(_write(layer_steps, t, step))
    return next_state, next_steps, outputs.write(t, layer_x)

  height = [num_inputs, *heights][-1]
  _, steps, outputs = _loop(tf.shape(features)[0], body, state, steps, array(height))
  return steps, outputs


def _tanh_backward(weights, hidden):
  """Returns (t, dL/d(tanh y_t)) -> dL/dy_t, of the linear map's outputs y."""

  def backward(t, d_tanh):
    y = tf.matmul(weights.w, hidden.read(t), transpose_a=True)
    return d_tanh * (1.0 - tf.square(tf.tanh(y + weights.b[:, tf.newaxis])))

  return backward


def _backward(weights, kernels, steps, grads, loss_weights, to_linear):
  """Returns dL/dz of every layer's gates and dL/d(outputs), of every step."""
  num_steps, array = tf.shape(grads)[0], _array_maker(grads)
  zero = lambda height: tf.zeros([height, grads.shape[-1]], grads.dtype)
  heights = [w.shape[1] // 4 for w in kernels]
  # Nothing needs the gradient with respect to the first layer's inputs.
  num_inputs = [0, *heights[:-1]]
  w_back = [tf.concat([w_x[w_x.shape[0] - n :], w_h], axis=0)
            for n, (w_x, w_h, _) in zip(num_inputs, weights.layers)]  # fmt: skip

  def body(k, carry, scratch, d_z, d_outputs):
    t = num_steps - 1 - k
    total, d_state = carry
    total += loss_weights[t] * grads[t]  # sum_{k > t} w_k g_k
    d_y = to_linear(t, total)
    d_x, next_d_state, next_scratch, next_d_z = tf.matmul(weights.w, d_y), [], [], []
    for layer in reversed(range(len(kernels))):
      d_h, d_c = d_state[layer]
      parts, d_c = _cell_backward(d_h + d_x, d_c, _read(steps[layer], t))
      # Written one by one: XLA's code for a concatenation of formulas is scalar.
      gates = scratch[layer]
      for i, part in enumerate(parts):
        gates = gates.write(i, part)
      layer_d_z = tf.reshape(gates.stack(), [4 * heights[layer], -1])
      below = tf.matmul(w_back[layer], layer_d_z)
      d_x, d_h = below[: num_inputs[layer]], below[num_inputs[layer] :]
      next_d_state.insert(0, (d_h, d_c))
      next_scratch.insert(0, gates)
      next_d_z.insert(0, d_z[layer].write(t, layer_d_z))
    return (total, next_d_state), next_scratch, next_d_z, d_outputs.write(t, d_y)

  rows = grads.shape[1]
  carry = zero(rows), [(zero(n), zero(n)) for n in heights]
  scratch = [_array_maker(grads, 4)(n) for n in heights]
  d_z = [array(4 * n) for n in heights]
  return _loop(num_steps, body, carry, scratch, d_z, array(rows))[2:]


def _cell_backward(d_h, d_c, step: _Step):
  """From dL/dh_t, dL/dc_t to dL/dz of the gates i, f, o, g, and to dL/dc_{t-1}."""
  d_c = d_c + d_h * step.o * (1.0 - tf.square(step.tanh_c))
  return [
    d_c * step.g * step.i * (1.0 - step.i),
    d_c * step.c * step.f * (1.0 - step.f),
    d_h * step.tanh_c * step.o * (1.0 - step.o),
    d_c * step.i * (1.0 - tf.square(step.g)),
  ], d_c * step.f


def _product(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
  """sum_t x_t y_t^T of [T, m, B] and [T, n, B], as one product over all steps."""
  flat = lambda a: tf.reshape(tf.transpose(a, [1, 0, 2]), [a.shape[1], -1])
  return tf.matmul(flat(x), flat(y), transpose_b=True)


def _array_maker(like: tf.Tensor, length: int | None = None) -> Callable:
  """Makes arrays of `length`, or like's, entries [height, B] from their height."""
  length = tf.shape(like)[0] if length is None else length
  return lambda height: tf.TensorArray(
    like.dtype,
    length,
    clear_after_read=False,
    element_shape=[height, like.shape[-1]],
  )


def _write(arrays: _Step, t: tf.Tensor, step: _Step) -> _Step:
  return _Step(*[array.write(t, x) for array, x in zip(arrays, step)])


def _read(arrays: _Step, t: tf.Tensor) -> _Step:
  return _Step(*[array.read(t) for array in arrays])


def _loop(num_steps, body, *carry):
  """Runs `body(t, *carry)` for t = 0, ..., num_steps - 1."""
  step = lambda t, *carry: (t + 1, *body(t, *carry))
  return tf.while_loop(lambda t, *_: t < num_steps, step, (0, *carry))[1:]
