import itertools

import numpy as np
import numpy_lstm
import pytest
import sonnet as snt
import tensorflow as tf

from l2l_tf.optimizers.lstm.network import DeepLSTM, LSTMState, lstm_step


def weights_of(network):
  layers = [v for layer in network._layers for v in layer]
  return [*layers, network._w, network._b]


def randomize(network, seed=0):
  """Biases too: they start at zero, where a mistake would not show."""
  rng = np.random.default_rng(seed)
  for v in network.variables:
    v.assign(rng.normal(size=v.shape))


@pytest.mark.parametrize("layers", [(), (3,), (4, 2), (2, 3, 4)])
def test_equals_a_numpy_rederivation_over_several_steps(layers):
  network = DeepLSTM(2, 3, layers, "truncated_normal", seed=0, dtype=tf.float64)
  randomize(network)
  weights = [v.numpy() for v in weights_of(network)]
  rng = np.random.default_rng(1)
  state = network.initial_state(5)
  expected_state = [(np.zeros([5, n]), np.zeros([5, n])) for n in layers]
  for _ in range(4):
    x = rng.normal(size=[5, 2])
    outputs, state = network(tf.constant(x.T), state)
    expected, expected_state = numpy_lstm.network(
      weights, len(layers), x, expected_state
    )
    np.testing.assert_allclose(outputs, expected.T, rtol=1e-12, atol=1e-14)
  for (h, c), (expected_h, expected_c) in zip(state, expected_state):
    np.testing.assert_allclose(h, expected_h.T, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(c, expected_c.T, rtol=1e-12, atol=1e-14)


def test_agrees_with_sonnet_s_lstm_given_its_weights():
  units, num_inputs = 4, 3
  theirs = snt.LSTM(units, b_init=snt.initializers.RandomNormal())
  x = tf.random.stateless_normal([6, num_inputs], [0, 1])
  their_state = theirs.initial_state(6)
  theirs(x, their_state)

  def reorder(w):  # Sonnet's i, f, g, o to this package's i, f, o, g.
    i, f, g, o = tf.split(w, 4, axis=-1)
    return tf.concat([i, f, o, g], axis=-1)

  # Sonnet stores the forget gate's bias with the 1.0 that lstm_step adds.
  forget = tf.repeat([0.0, 1.0, 0.0, 0.0], units)
  w_x, w_h = reorder(theirs.input_to_hidden), reorder(theirs.hidden_to_hidden)
  b = reorder(theirs.b) - forget
  state = LSTMState(tf.zeros([units, 6]), tf.zeros([units, 6]))
  for _ in range(4):
    hidden, their_state = theirs(x, their_state)
    state, _ = lstm_step(tf.transpose(x), state, w_x, w_h, b)
    np.testing.assert_allclose(tf.transpose(state.hidden), hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
      tf.transpose(state.cell), their_state.cell, rtol=1e-5, atol=1e-6
    )
    x = tf.roll(x, 1, axis=0)


def make(initializer="truncated_normal", seed=0, layers=(50, 50)):
  return DeepLSTM(2, 1, layers, initializer, seed, tf.float32)


def test_the_same_seed_gives_the_same_weights():
  tf.random.set_seed(1)
  first = make(seed=7)
  tf.random.set_seed(2)
  for a, b in zip(weights_of(first), weights_of(make(seed=7))):
    np.testing.assert_array_equal(a, b)


def test_different_seeds_give_different_weights():
  for a, b in zip(weights_of(make(seed=0)), weights_of(make(seed=1))):
    if a.shape.rank == 2:
      assert not np.any(a.numpy() == b.numpy())


def test_no_two_weights_share_their_draw():
  matrices = [np.ravel(v) for v in weights_of(make()) if v.shape.rank == 2]
  assert len(matrices) == 5
  for v, w in itertools.combinations(matrices, 2):
    size = min(v.size, w.size)
    assert abs(np.corrcoef(v[:size], w[:size])[0, 1]) < 0.6


def test_weights_are_truncated_normal_with_the_fan_in_s_stddev():
  for (w_x, w_h, b), fan_in in zip(make()._layers, [52, 100]):
    for w in (w_x, w_h):
      scaled = w.numpy() * np.sqrt(fan_in)
      assert np.max(np.abs(scaled)) <= 2.0
      np.testing.assert_allclose(np.std(scaled), 0.88, rtol=0.15)
    assert not np.any(b.numpy())


def test_zeros_start_at_zero_and_stay_there():
  network = make("zeros", layers=(3,))
  assert not any(np.any(v.numpy()) for v in network.variables)
  outputs, _ = network(tf.ones([2, 4]), network.initial_state(4))
  np.testing.assert_array_equal(outputs, np.zeros([1, 4]))


def test_an_unknown_initializer_is_an_error():
  with pytest.raises(ValueError, match="initializer='ones' is unknown; choose"):
    make("ones")


def test_sonnet_finds_every_weight_once():
  variables = make(layers=(3, 2)).trainable_variables
  assert len(variables) == len({id(v) for v in variables}) == 2 * 3 + 2


def test_the_initial_state_is_zero():
  for state, units in zip(make(layers=(3, 2)).initial_state(4), [3, 2]):
    np.testing.assert_array_equal(state.hidden, np.zeros([units, 4]))
    np.testing.assert_array_equal(state.cell, np.zeros([units, 4]))


def test_saturation_is_the_fraction_of_gates_near_zero_or_one():
  network = make("zeros", layers=(4,))
  x, state = tf.ones([2, 3]), network.initial_state(3)
  assert set(network.saturation(x, state)) == {
    "lstm_1/input_gate",
    "lstm_1/forget_gate",
    "lstm_1/output_gate",
  }
  assert all(value == 0.0 for value in network.saturation(x, state).values())
  b = network._layers[0][2]
  b.assign([9.0, 9.0, 9.0, 0.0] + [-9.0] * 4 + [0.0, 0.0, 0.0, 9.0] + [0.0] * 4)
  saturation = network.saturation(x, state)
  assert saturation["lstm_1/input_gate"] == 0.75
  assert saturation["lstm_1/forget_gate"] == 1.0
  assert saturation["lstm_1/output_gate"] == 0.25


def test_scopes_lie_below_the_caller_s_and_number_the_layers():
  network = make(layers=(3, 2))

  @tf.function
  def run(x):
    for i in range(2):
      with tf.name_scope(f"step_{i}"):
        network(x, network.initial_state(1))
    return x

  names = [
    op.name for op in run.get_concrete_function(tf.ones([2, 1])).graph.get_operations()
  ]
  for scope in ("lstm_1", "lstm_2", "linear"):
    for i in range(2):
      assert any(n.startswith(f"step_{i}/{scope}/") for n in names)
