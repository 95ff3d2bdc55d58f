"""The steps of a block, compiled by XLA, against the network that took them."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.optimizers.lstm import segment
from l2l_tf.optimizers.lstm.network import DeepLSTM

STEPS, SIZE = 6, 5


def make(layers, num_outputs=2):
  network = DeepLSTM(3, num_outputs, layers, "truncated_normal", 0, tf.float64)
  rng = np.random.default_rng(0)
  for v in network.variables:
    v.assign(rng.normal(size=v.shape))
  weights = tf.nest.map_structure(tf.convert_to_tensor, network.weights)
  return network, weights, tf.constant(rng.normal(size=[STEPS, 3, SIZE]))


@tf.function(jit_compile=True, autograph=False)
def forward(weights, features, state):
  scratch = segment.allocate(weights, STEPS, SIZE)
  return segment.forward(weights, features, state, scratch)


@pytest.mark.parametrize("layers", [(4,), (4, 2), (2, 3, 4)])
def test_forwards_it_takes_the_network_s_steps(layers):
  network, weights, features = make(layers)
  state = network.initial_state(SIZE)
  scratch = forward(weights, features, state)
  for t in range(STEPS):
    before = state
    _, state = network(features[t], state)
    np.testing.assert_allclose(
      scratch.outputs[:, t], state[-1].hidden, rtol=1e-12, atol=1e-14
    )
    for layer, kept in enumerate(scratch.layers):
      x = features[t] if layer == 0 else state[layer - 1].hidden
      ones = tf.ones([1, SIZE], tf.float64)
      expected = tf.concat([x, ones, before[layer].hidden], axis=0)
      np.testing.assert_allclose(kept.inputs[:, t], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("is_bounded", [False, True])
@pytest.mark.parametrize("layers", [(), (4,), (4, 2)])
def test_backwards_it_equals_the_tape(layers, is_bounded):
  network, weights, features = make(layers)
  rng = np.random.default_rng(1)
  grads = tf.constant(rng.normal(size=[STEPS, 2, SIZE]))
  loss_weights = tf.constant(rng.normal(size=[STEPS]))

  @tf.function(jit_compile=True, autograph=False)
  def found():
    state = network.initial_state(SIZE)
    scratch = segment.allocate(weights, STEPS, SIZE)
    scratch = segment.forward(weights, features, state, scratch)
    d_state = [(tf.zeros_like(h), tf.zeros_like(c)) for h, c in state]
    carry = tf.zeros([2, SIZE], tf.float64), d_state
    scratch, (later, _) = segment.backward(
      weights, grads, loss_weights, is_bounded, scratch, carry
    )
    return segment.weights_gradient(weights, scratch), later

  with tf.GradientTape() as tape:
    state, params, loss = network.initial_state(SIZE), 0.0, 0.0
    for t in range(STEPS):
      update, state = network(features[t], state)
      params += tf.tanh(update) if is_bounded else update
      loss += loss_weights[t] * tf.reduce_sum(grads[t] * params)
  gradient, later = found()
  expected = tape.gradient(loss, tf.nest.flatten(network.weights))
  over_lanes = lambda x: tf.reduce_sum(x, axis=-1)
  gradient = gradient._replace(w=over_lanes(gradient.w), b=over_lanes(gradient.b))
  for x, y in zip(tf.nest.flatten(gradient), expected):
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11 * np.max(np.abs(y)))
  np.testing.assert_allclose(
    later, tf.tensordot(loss_weights, grads, axes=1), rtol=1e-12, atol=1e-14
  )
