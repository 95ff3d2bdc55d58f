import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_tf.optimizers import SGD, Adagrad, Adam, Momentum, Nesterov, RMSprop

TWINS = {
  "sgd": (lambda rate: SGD(rate), lambda rate: keras.optimizers.SGD(rate)),
  "momentum": (
    lambda rate: Momentum(rate, momentum=0.8),
    lambda rate: keras.optimizers.SGD(rate, momentum=0.8),
  ),
  "nesterov": (
    lambda rate: Nesterov(rate, momentum=0.8),
    lambda rate: keras.optimizers.SGD(rate, momentum=0.8, nesterov=True),
  ),
  "rmsprop": (lambda rate: RMSprop(rate), lambda rate: keras.optimizers.RMSprop(rate)),
  "adagrad": (lambda rate: Adagrad(rate), lambda rate: keras.optimizers.Adagrad(rate)),
  "adam": (lambda rate: Adam(rate), lambda rate: keras.optimizers.Adam(rate)),
  "adam, other constants": (
    lambda rate: Adam(rate, beta_1=0.7, beta_2=0.95, epsilon=1e-3),
    lambda rate: keras.optimizers.Adam(rate, beta_1=0.7, beta_2=0.95, epsilon=1e-3),
  ),
}
SHAPES = [(), (1,), (5,), (3, 4), (2, 3, 1, 2)]
RULES = [SGD, Momentum, Nesterov, RMSprop, Adagrad, Adam]


def run_twins(ours, twin, gradients):
  """Yields theta of both after each step, from the same zeros."""
  theta = [tf.zeros(g.shape) for g in gradients[0]]
  variables = [keras.Variable(x) for x in theta]
  state = ours.initial_state(theta)
  twin.build(variables)
  for grads in gradients:
    updates, state = ours(grads, state)
    theta = [x + u for x, u in zip(theta, updates)]
    twin.apply(grads, variables)
    yield theta, variables


@pytest.mark.parametrize("name", TWINS)
def test_equals_its_keras_twin_for_100_steps(name):
  make, make_twin = TWINS[name]
  rng = np.random.default_rng(0)
  scales = 10.0 ** np.arange(-3, len(SHAPES) - 3)
  gradients = [
    [tf.constant(c * rng.normal(size=s), tf.float32) for c, s in zip(scales, SHAPES)]
    for _ in range(100)
  ]
  path_length = [np.zeros(s) for s in SHAPES]
  previous = [np.zeros(s) for s in SHAPES]
  for theta, expected in run_twins(make(0.01), make_twin(0.01), gradients):
    for i, (x, y) in enumerate(zip(theta, expected)):
      y = y.numpy()
      path_length[i] += np.abs(y - previous[i])
      previous[i] = y
      assert np.all(np.abs(x - y) <= 2e-6 * path_length[i])


@pytest.mark.parametrize("epsilon", [1e-7, 1e-3])
def test_adam_s_epsilon_is_the_paper_s_epsilon_hat(epsilon):
  g, rate = 1e-6, 0.1
  optimizer = Adam(rate, epsilon=epsilon)
  grads = [tf.constant([g])]
  updates, _ = optimizer(grads, optimizer.initial_state(grads))
  expected = -rate * g / (g + epsilon / np.sqrt(1 - 0.999))
  np.testing.assert_allclose(updates[0], [expected], rtol=1e-3)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=10, deadline=None)
@given(shape=st.lists(st.integers(0, 3), max_size=4), seed=st.integers(0, 99))
def test_every_coordinate_is_treated_alike(rule, shape, seed):
  optimizer = rule(0.1)
  grads = tf.random.stateless_normal(shape, [seed, 0])
  shaped, flat = [grads], [tf.reshape(grads, [-1])]
  state, flat_state = optimizer.initial_state(shaped), optimizer.initial_state(flat)
  for _ in range(2):
    updates, state = optimizer(shaped, state)
    flat_updates, flat_state = optimizer(flat, flat_state)
  assert updates[0].shape == shape
  np.testing.assert_allclose(np.ravel(updates[0]), flat_updates[0], rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_schedule_receives_the_step_counted_from_zero(rule):
  rates = [0.1, 0.2, 0.05]
  scheduled = rule(lambda step: tf.gather(tf.constant(rates), step))
  grads = [tf.constant([0.3, -2.0])]
  state = scheduled.initial_state(grads)
  for rate in rates:
    expected, _ = rule(rate)(grads, state)
    updates, state = scheduled(grads, state)
    np.testing.assert_allclose(updates[0], expected[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_keras_schedule_gives_what_it_gives_in_keras(name):
  make, make_twin = TWINS[name]
  schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
  gradients = [[tf.constant([1.0, -0.5])]] * 10
  for theta, expected in run_twins(make(schedule), make_twin(schedule), gradients):
    np.testing.assert_allclose(theta[0], expected[0].numpy(), rtol=1e-5)


@pytest.mark.parametrize("wrap", [tf.constant, tf.Variable, np.float32])
def test_the_learning_rate_may_be_a_scalar_tensor_or_variable(wrap):
  grads = [tf.constant([2.0])]
  optimizer = SGD(wrap(0.25))
  updates, _ = optimizer(grads, optimizer.initial_state(grads))
  np.testing.assert_allclose(updates[0], [-0.5])


def test_a_variable_learning_rate_is_read_at_every_step():
  rate = tf.Variable(1.0)
  optimizer = SGD(rate)
  grads = [tf.constant([1.0])]
  state = optimizer.initial_state(grads)
  rate.assign(3.0)
  np.testing.assert_allclose(optimizer(grads, state)[0][0], [-3.0])


@pytest.mark.parametrize("rule", RULES)
def test_derivatives_are_finite_where_all_gradients_are_zero(rule):
  optimizer = rule(0.1)
  grad = tf.zeros([3])
  with tf.GradientTape() as outer:
    outer.watch(grad)
    with tf.GradientTape() as inner:
      inner.watch(grad)
      state, theta = optimizer.initial_state([grad]), tf.zeros([3])
      for _ in range(3):
        updates, state = optimizer([grad], state)
        theta += updates[0]
    first = inner.gradient(theta, grad)
  second = outer.gradient(
    first, grad, unconnected_gradients=tf.UnconnectedGradients.ZERO
  )
  assert np.all(np.isfinite(first)) and np.all(np.isfinite(second))
  assert np.all(first < 0)


def test_adam_s_guard_of_the_root_does_not_change_the_smallest_steps():
  optimizer = Adam(0.1, epsilon=0.0)
  grads = [tf.constant([1e-10, -1e-12], tf.float64)]
  updates, _ = optimizer(grads, optimizer.initial_state(grads))
  np.testing.assert_allclose(updates[0], [-0.1, 0.1], rtol=1e-3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
  "rate", [0, 0.0, -1e-3, float("nan"), float("inf"), np.float32("nan"), "0.1", None]
)
def test_a_bad_learning_rate_is_an_error(rule, rate):
  with pytest.raises(ValueError, match=r"learning_rate=.* must be a positive, finite"):
    rule(rate)


def test_config_holds_the_constructor_arguments():
  assert Adam(0.1, beta_1=0.5).config == {
    "learning_rate": 0.1,
    "beta_1": 0.5,
    "beta_2": 0.999,
    "epsilon": 1e-7,
  }


def test_hand_designed_rules_have_no_weights():
  for rule in RULES:
    assert rule(0.1).variables == rule(0.1).trainable_variables == ()


@pytest.mark.parametrize("rule", RULES)
def test_descends_a_parabola(rule):
  optimizer = rule(0.05)
  theta = tf.constant([1.0, -1.0])
  state = optimizer.initial_state([theta])
  for _ in range(100):
    updates, state = optimizer([2.0 * theta], state)
    theta += updates[0]
  assert np.all(np.abs(theta) < 0.7)
