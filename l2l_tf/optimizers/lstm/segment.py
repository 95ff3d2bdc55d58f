"""The LSTM, forwards and backwards, over T steps of one block of B coordinates.

This code is written for XLA: each loop updates the arrays that it carries in place.

`forward` saves, for every step and layer, the inputs [x_t, 1, h_{t-1}] and the partial
derivatives of the cell, and h_t of the last layer. `backward` turns these into dL/dz of
every step, from the last to the first, and saves it. `weights_gradient` then multiplies
the saved inputs with the saved dL/dz. The linear map's outputs are not saved: the
backward pass needs them only if they go through a tanh, and then recomputes them.

The arrays are laid out for speed. A layer's dL/dz, for example, is [4, units, T, B]:

- The batch of coordinates is the last axis. The cell's elementwise operations then read
  and write contiguous memory, with vector instructions.
- The gates i, f, o, g are stacked along the first axis, in the order of the rows of z.
  Each gate is then a slice of its own, which the loop over steps writes with vector
  instructions, too. (It would be shorter to concatenate the four formulas and write
  them at once; but XLA compiles that to scalar code.)
- The steps are next to the coordinates, because the weights' gradient is a sum over
  both. After the loop, it is one large matrix product per layer, of the inputs
  [features + 1 + units, T B] with dL/dz [4 units, T B], instead of a small product in
  every step; and merging the two axes needs no transposition.

Arrays that are not part of such a product have their steps first, [T, units, B].
"""

from typing import NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from l2l_tf.optimizers.lstm import cell, network


class _Layer(NamedTuple):
  """What is saved for T steps of one layer and one block."""

  inputs: tf.Tensor  # [features + 1 + units, T, B]: x_t, ones and h_{t-1}
  derivatives: cell.Derivatives  # each [T, units, B]
  d_z: tf.Tensor  # [4, units, T, B]: dL/dz of the gates i, f, o, g


class Scratch(NamedTuple):
  """Arrays that every segment of every block overwrites.

  They are allocated once and passed from one segment to the next. New arrays of zeros
  for each block would cost one more write to all of this memory, which also displaces
  the block's data from the cache.
  """

  layers: list[_Layer]
  outputs: tf.Tensor  # [units, T, B]: h_t of the last layer
  d_y: tf.Tensor  # [outputs, T, B]: dL/dy, where y is the linear map's output


def allocate(weights: network.Weights, num_steps: tf.Tensor, size: int) -> Scratch:
  """Returns the arrays for `num_steps` steps of blocks of `size` coordinates."""
  array = lambda *shape: tf.zeros(shape, weights.w.dtype)
  layers = []
  for w_x, w_h, _ in weights.layers:
    units, height = w_h.shape[0], w_x.shape[0] + 1 + w_h.shape[0]
    fields = cell.Derivatives._fields
    derivatives = [array(num_steps, units, size) for _ in fields]
    inputs = array(height, num_steps, size)
    d_z = array(4, units, num_steps, size)
    layers.append(_Layer(inputs, cell.Derivatives(*derivatives), d_z))
  units, outputs = weights.w.shape
  return Scratch(layers, array(units, num_steps, size), array(outputs, num_steps, size))


def stepper(weights: network.Weights, features: tf.Tensor):
  """Returns a function that runs the layers for one step.

  It maps x_t, [features, B], and the state to h_t of the last layer, the next state,
  and a pair (inputs, derivatives) for each layer.

  Args:
    weights: the network's weights.
    features: the x_t of all steps, [..., features, B]; only shape and type are used.
  """
  transposed = [tf.transpose(_pack(*layer)) for layer in weights.layers]
  ones = tf.ones([1, features.shape[-1]], features.dtype)

  def step(x, state):
    next_state, kept = [], []
    for w, (h, c) in zip(transposed, state):
      inputs = tf.concat([x, ones, h], axis=0)
      z = tf.matmul(w, inputs)
      x, next_c, activations = cell.forward(z, c, 0.0, cell.sigmoid_by_tanh)
      next_state.append(network.LSTMState(x, next_c))
      kept.append((inputs, cell.derivatives(activations, c)))
    return x, next_state, kept

  return step


def _pack(w_x: tf.Tensor, w_h: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
  """Stacks a layer's weights to [features + 1 + units, 4 units], to act on [x, 1, h].

  The row that multiplies the 1 holds the biases, with the forget bias added to them.
  One product then computes z, and one product the gradient of weights and biases.
  """
  zeros = tf.zeros_like(b[: b.shape[0] // 4])
  forget = tf.concat([zeros, zeros + cell.FORGET_BIAS, zeros, zeros], axis=0)
  return tf.concat([w_x, [b + forget], w_h], axis=0)


def forward(
  weights: network.Weights,
  features: tf.Tensor,
  state: list[network.LSTMState],
  scratch: Scratch,
) -> Scratch:
  """Runs the layers; saves their inputs and derivatives, and h_t of the last one.

  Args:
    weights: the network's weights.
    features: the network's inputs, [T, features, B].
    state: the network's state before the first step, each tensor [units, B].
    scratch: the arrays to write to.
  """
  step = stepper(weights, features)

  def body(t, state, layers, outputs):
    output, state, kept = step(features[t], state)
    write = lambda array, value: put(array, value[tf.newaxis], t, 0, 0)
    layers = [
      layer._replace(
        inputs=put(layer.inputs, inputs[:, tf.newaxis], 0, t, 0),
        derivatives=cell.Derivatives(*map(write, layer.derivatives, derivatives)),
      )
      for layer, (inputs, derivatives) in zip(layers, kept)
    ]
    return state, layers, put(outputs, output[:, tf.newaxis], 0, t, 0)

  carry = state, scratch.layers, scratch.outputs
  _, layers, outputs = loop(tf.shape(features)[0], body, *carry)
  return scratch._replace(layers=layers, outputs=outputs)


def backward(
  weights: network.Weights,
  grads: tf.Tensor,
  loss_weights: tf.Tensor,
  is_bounded: bool,
  scratch: Scratch,
  carry,
):
  """Goes backwards through the steps of `forward`; saves dL/dz and dL/dy.

  Args:
    weights: the network's weights.
    grads: s g_{t+1} for every step t, with s the factor on the network's outputs;
      [T, rows, B].
    loss_weights: w_{t+1}, [T].
    is_bounded: whether the network's outputs went through a tanh.
    scratch: from `forward`.
    carry: from the segment after this one: the sum of s w_k g_k over its steps and all
      later ones, [rows, B], and dL/dh and dL/dc of each layer's state before it.

  Returns:
    The scratch arrays, and the carry for the segment before this one.
  """
  num_steps, size = tf.shape(grads)[0], grads.shape[-1]
  units = [w_h.shape[0] for _, w_h, _ in weights.layers]
  # `w_back` maps dL/dz to dL/dx and dL/dh_{t-1}. The first layer's dL/dx is left out:
  # nothing needs the gradient with respect to the network's inputs.
  num_inputs = [0, *units[:-1]]
  w_back = [tf.concat([w_x[w_x.shape[0] - n :], w_h], axis=0)
            for n, (w_x, w_h, _) in zip(num_inputs, weights.layers)]  # fmt: skip
  derivatives = [layer.derivatives for layer in scratch.layers]

  def body(k, carry, d_z, d_y):
    t = num_steps - 1 - k
    later, d_state = carry
    later += loss_weights[t] * grads[t]  # s sum_{k > t} w_k g_k, which is dL/d(u_t / s)
    d_out = later
    if is_bounded:
      d_out = _tanh_backward(weights, scratch.outputs[:, t], later)
    d_x, next_d_state, next_d_z = tf.matmul(weights.w, d_out), [], []
    for layer in reversed(range(len(units))):
      d_h, d_c = d_state[layer]
      at_t = cell.Derivatives(*[x[t] for x in derivatives[layer]])
      parts, d_c = cell.backward(d_h + d_x, d_c, at_t)
      layer_d_z = d_z[layer]
      for i, part in enumerate(parts):
        layer_d_z = put(layer_d_z, part[tf.newaxis, :, tf.newaxis], i, 0, t, 0)
      gates = tf.reshape(layer_d_z[:, :, t], [4 * units[layer], size])
      below = tf.matmul(w_back[layer], gates)
      d_x, d_h = below[: num_inputs[layer]], below[num_inputs[layer] :]
      next_d_state.insert(0, (d_h, d_c))
      next_d_z.insert(0, layer_d_z)
    d_y = put(d_y, d_out[:, tf.newaxis], 0, t, 0)
    return (later, next_d_state), next_d_z, d_y

  d_z = [layer.d_z for layer in scratch.layers]
  carry, d_z, d_y = loop(num_steps, body, carry, d_z, scratch.d_y)
  layers = [layer._replace(d_z=x) for layer, x in zip(scratch.layers, d_z)]
  return scratch._replace(layers=layers, d_y=d_y), carry


def _tanh_backward(weights, hidden, d_tanh):
  """Maps dL/d(tanh y_t) to dL/dy_t, where y_t = w^T h_t + b is recomputed."""
  y = tf.matmul(weights.w, hidden, transpose_a=True)
  return d_tanh * (1.0 - tf.square(tf.tanh(y + weights.b[:, tf.newaxis])))


def weights_gradient(weights: network.Weights, scratch: Scratch) -> network.Weights:
  """Returns the weights' gradient, from the inputs and dL/dz of all T steps.

  It takes one matrix product per layer. The linear map's gradient is summed over the
  steps only, and stays separate for each coordinate: [units, outputs, B] and
  [outputs, B]. The caller sums it over the coordinates once, after the last block: XLA
  is fast at sums over steps, but slow at sums over coordinates, and at products with
  one column, which a coordinate-wise optimizer with its one output would need.
  """
  layers = []
  for (w_x, *_), layer in zip(weights.layers, scratch.layers):
    flat = lambda x, height: tf.reshape(x, [height, -1])  # [height, T B]
    inputs = flat(layer.inputs, layer.inputs.shape[0])
    d_z = flat(layer.d_z, 4 * layer.d_z.shape[1])
    d_kernel = tf.matmul(inputs, d_z, transpose_b=True)
    d_x, d_b, d_h = tf.split(d_kernel, [w_x.shape[0], 1, -1])
    layers.append((d_x, d_h, d_b[0]))
  d_w = tf.reduce_sum(scratch.outputs[:, tf.newaxis] * scratch.d_y, axis=2)
  return network.Weights(layers, d_w, tf.reduce_sum(scratch.d_y, axis=1))


def put(array: tf.Tensor, value: tf.Tensor, *begin: int | tf.Tensor) -> tf.Tensor:
  """Returns `array` with `value` written at `begin`; XLA does it in place."""
  return xla.dynamic_update_slice(array, value, tf.stack(begin))


def loop(num_steps, body, *carry):
  """Runs `body(t, *carry)` for t = 0, ..., num_steps - 1."""
  step = lambda t, *carry: (t + 1, *body(t, *carry))
  return tf.while_loop(lambda t, *_: t < num_steps, step, (0, *carry))[1:]
