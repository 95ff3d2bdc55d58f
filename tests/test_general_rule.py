"""The rule against a NumPy re-derivation, and what it does not depend on."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.optimizers import GeneralRule
from l2l_tf.optimizers.general_rule import Constants, rate
from l2l_tf.optimizers.orthogonal import orthogonalized
from l2l_tf.problems import Parameter

SHAPES = [(6, 4), (4,), (3, 3, 2, 5), (), (1,)]
# All terms matter: a decay, a correction of the bias, a warm-up of several steps.
CONSTANTS = Constants(
  fast=0.8,
  slow=0.95,
  second=0.9,
  raw=0.3,
  slow_weight=0.2,
  agreement=0.25,
  rate=0.04,
  horizon_power=-0.4,
  depth_power=-0.3,
  warm_up=0.3,
  cooling=1.3,
  end=0.01,
  least_size=0.8,
  size_power=0.6,
  vector_rate=0.1,
  decay=0.05,
  decay_power=0.7,
  decline_power=0.8,
  open_rate=0.01,
  open_power=-0.5,
)


def normal(shapes, seed, scale=1.0, dtype=np.float64):
  rng = np.random.RandomState(seed)
  return [tf.constant(scale * rng.normal(size=s), dtype) for s in shapes]


def run(optimizer, params, grads, total_steps=None):
  """Returns the parameters after every step."""
  state, path = optimizer.initial_state(params), []
  if total_steps is not None:
    state = optimizer.with_total_steps(state, total_steps)
  for g in grads:
    updates, state = optimizer(g, state, params=params)
    params = [p + u for p, u in zip(params, updates, strict=True)]
    path.append(params)
  return path


def hat(average, beta, t):
  return average / (1 - beta ** (t + 1))


def rule(params, grads, c, total, block):
  """The class docstring's equations, tensor by tensor."""
  path, kernels = [], sum(np.ndim(p) > 1 for p in params)
  params = [np.array(p) for p in params]
  m, s, v = ([np.zeros_like(p) for p in params] for _ in range(3))
  largest = np.zeros(len(params))
  for t, step_grads in enumerate(grads):
    f = t / total
    eta = c.rate * (total / 1000) ** c.horizon_power * (kernels / 3) ** c.depth_power
    eta *= min(1, (t + 1) / (c.warm_up * total))
    eta *= (1 - f) ** c.cooling * (1 - c.end) + c.end
    for i, g in enumerate(map(np.array, step_grads)):
      m[i] = c.fast * m[i] + (1 - c.fast) * g
      s[i] = c.slow * s[i] + (1 - c.slow) * g
      v[i] = c.second * v[i] + (1 - c.second) * g**2
      momentum = (1 - c.raw) * hat(m[i], c.fast, t) + c.raw * g
      momentum = momentum + c.slow_weight * hat(s[i], c.slow, t)
      second, w = hat(v[i], c.second, t), params[i]
      is_kernel = w.ndim > 1
      epsilon = 0.0 if is_kernel else 1e-8
      d = momentum / np.sqrt(second + epsilon * np.mean(second))
      rho = np.sqrt(np.mean(d**2))
      if not is_kernel:
        params[i] = w - eta * c.vector_rate * d * rho**-c.agreement
        continue
      fan = w.size // w.shape[-1]
      if block:
        flat = tf.constant(momentum.reshape(fan, -1))
        d = rho * orthogonalized(flat, block).numpy().reshape(w.shape)
      size = max(np.sqrt(np.mean(w**2)), c.least_size / np.sqrt(fan))
      unit = size**c.size_power * fan ** (-(1 - c.size_power) / 2)
      largest[i] = max(largest[i], np.mean(second))
      decline = max(np.sqrt(np.mean(second) / largest[i]), 1e-3)
      decay = c.decay * (total / 1000) ** c.decay_power * decline**-c.decline_power
      params[i] = (1 - decay * eta) * w - eta * unit * d * rho**-c.agreement
    path.append([p.copy() for p in params])
  return path


@pytest.mark.parametrize("block", [None, 3, 32])
def test_it_follows_its_equations(block):
  params = normal(SHAPES, 0, 0.3)
  grads = [normal(SHAPES, k + 1, 10.0 ** (2 - abs(k - 3))) for k in range(6)]
  optimizer = GeneralRule(block, CONSTANTS)
  for found, expected in zip(
    run(optimizer, params, grads, 6), rule(params, grads, CONSTANTS, 6, block)
  ):
    for x, y in zip(found, expected, strict=True):
      np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7)  # phi is float32


def test_the_two_kernels_of_a_recurrent_layer_count_as_one():
  names = ["gru/kernel", "gru/recurrent_kernel", "gru/bias", "dense/kernel"]
  shapes = [(3, 15), (5, 15), (2, 15), (5, 4)]
  known = [Parameter(n, s, "variable") for n, s in zip(names, shapes)]
  optimizer = GeneralRule(32, CONSTANTS).with_parameters(known)
  state = optimizer.initial_state(normal(shapes, 0))
  told = optimizer.with_total_steps(state, 1000)._replace(step=tf.constant(500))
  done = 1 - 500 / 1000
  falling = done**CONSTANTS.cooling * (1 - CONSTANTS.end) + CONSTANTS.end
  expected = CONSTANTS.rate * (2 / 3) ** CONSTANTS.depth_power * falling
  np.testing.assert_allclose(optimizer.decay_rate(told), expected, rtol=1e-5)


@pytest.mark.parametrize("block", [None, 32])
@pytest.mark.parametrize("scale", [1e-14, 1e-7, 1e7, 1e16])
def test_the_scale_of_the_loss_does_not_matter(block, scale):
  params = normal(SHAPES, 0, dtype=np.float32)
  scaled = lambda s: [normal(SHAPES, k + 1, s, np.float32) for k in range(4)]
  optimizer = GeneralRule(block)
  (*_, expected), (*_, found) = (
    run(optimizer, params, scaled(s), 10) for s in (1.0, scale)
  )
  for x, y, p in zip(found, expected, params, strict=True):
    np.testing.assert_allclose(x - p, y - p, rtol=1e-3, atol=1e-5)


def test_gradients_of_a_large_kernel_may_be_as_large():
  params = normal([(300, 400)], 0, dtype=np.float32)
  gradient = normal([(300, 400)], 1, 1e16, np.float32)
  ((moved,),) = run(GeneralRule(None), params, [gradient], 10)
  assert np.all(np.isfinite(moved)) and not np.allclose(moved, params[0])


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_steps_of_kernels_grow_with_their_size_to_the_power_a(scale):
  """The parametrisation matters less than to Adam, whose steps would not change."""
  optimizer = GeneralRule(constants=CONSTANTS._replace(least_size=1e-9, decay=1e-9))
  params, grads = normal([(5, 4)], 0), normal([(5, 4)], 1)
  ((plain,),) = run(optimizer, params, [grads], 10)
  ((scaled,),) = run(optimizer, [scale * params[0]], [[g / scale for g in grads]], 10)
  moved = np.array(scaled - scale * params[0]) / np.array(plain - params[0])
  np.testing.assert_allclose(moved, scale**CONSTANTS.size_power, rtol=1e-4)


def test_rows_of_an_embedding_without_gradient_rest():
  optimizer = GeneralRule().with_parameters(
    [Parameter("layer/embeddings", (5, 3), "variable")]
  )
  params, (g,) = normal([(5, 3)], 0), normal([(5, 3)], 1)
  first = tf.constant([1.0, 1.0, 0.0, 0.0, 0.0], tf.float64)[:, tf.newaxis] * g
  second = tf.constant([0.0, 1.0, 0.0, 1.0, 0.0], tf.float64)[:, tf.newaxis] * g
  state = optimizer.initial_state(params)
  updates, state = optimizer([first], state, params=params)
  np.testing.assert_array_equal(updates[0][2:], np.zeros([3, 3]))
  before = [np.array(x[0]) for x in state[2:6]]
  updates, state = optimizer([second], state, params=params)
  np.testing.assert_array_equal(updates[0][0], np.zeros(3))
  for old, new in zip(before, state[2:6]):
    np.testing.assert_array_equal(old[0], new[0][0])
  np.testing.assert_array_equal(state.counts[0], [1, 2, 0, 1, 0])


def test_a_row_moves_as_if_the_steps_without_it_had_not_been():
  """The correction of the averages' bias counts a row's own steps."""
  parameters = [Parameter("layer/embeddings", (2, 4), "variable")]
  optimizer = GeneralRule().with_parameters(parameters)
  params, (g,) = normal([(2, 4)], 0), normal([(1, 4)], 1)
  zeros = tf.zeros_like(g)
  late, state = optimizer.initial_state(params), optimizer.initial_state(params)
  for rows in ([g, zeros], [g, zeros], [zeros, g]):
    _, late = optimizer([tf.concat(rows, 0)], late, params=params)
  _, state = optimizer([tf.concat([zeros, g], 0)], state, params=params)
  for x, y in zip(late[2:], state[2:6]):
    np.testing.assert_array_equal(x[0][1], y[0][1])


@pytest.mark.parametrize("path", ["gru/bias", "attention/query/bias", "norm/gamma"])
def test_biases_of_rank_two_move_as_biases_do(path):
  params, grads = normal([(2, 6)], 0), normal([(2, 6)], 1)
  named = GeneralRule().with_parameters([Parameter(path, (2, 6), "bias")])
  ((found,),) = run(named, params, [grads], 10)
  flat = lambda tensors: [tf.reshape(x, [-1]) for x in tensors]
  ((expected,),) = run(GeneralRule(), flat(params), [flat(grads)], 10)
  np.testing.assert_array_equal(tf.reshape(found, [-1]), expected)


def test_the_number_of_kernels_matters_not_that_of_tensors():
  grads = normal([(4, 3)], 1)
  ((alone,),) = run(GeneralRule(), grads, [grads], 10)
  ((with_bias, _),) = run(
    GeneralRule(), [*grads, grads[0][0]], [[*grads, grads[0][0]]], 10
  )
  ((of_two, _),) = run(GeneralRule(), 2 * grads, [2 * grads], 10)
  np.testing.assert_array_equal(alone, with_bias)
  assert np.abs(of_two - grads[0]).sum() < np.abs(alone - grads[0]).sum()


@pytest.mark.parametrize("block", [None, 32])
def test_no_gradient_no_step(block):
  params = normal([(4, 3), (3,)], 0)
  optimizer = GeneralRule(block, Constants(*CONSTANTS)._replace(decay=1e-30))
  zeros = [tf.zeros_like(p) for p in params]
  for path in run(optimizer, params, [zeros, zeros], 10):
    for x, y in zip(path, params):
      np.testing.assert_array_equal(x, y)


def test_empty_tensors_are_left_alone():
  params = [tf.zeros([0, 3]), tf.zeros([0]), tf.ones([3, 2])]
  (path,) = run(GeneralRule(), params, [params], 10)
  assert [x.shape for x in path] == [p.shape for p in params]
  assert np.all(np.isfinite(path[2]))


def test_half_precision_has_averages_in_float32():
  params = [tf.ones([3, 2], tf.bfloat16), tf.zeros([2], tf.float16)]
  optimizer = GeneralRule()
  updates, state = optimizer(params, optimizer.initial_state(params), params=params)
  assert [u.dtype for u in updates] == [tf.bfloat16, tf.float16]
  assert {x.dtype for x in state.fast + state.slow + state.second} == {tf.float32}


def test_the_rate_stays_at_its_last_value_beyond_the_end():
  c = GeneralRule().constants
  at = lambda step, total: float(rate(c, tf.constant(step), tf.constant(total), 3))
  assert at(99, 100) == at(100, 100) == at(10_000, 100) > 0
  assert at(50, 100) > at(90, 100) > at(99, 100)


def test_a_larger_number_of_steps_goes_on_as_if_it_had_always_been_known():
  c = GeneralRule().constants
  optimizer, params = GeneralRule(), [tf.ones([3, 3])]
  state = optimizer.with_total_steps(optimizer.initial_state(params), 100)
  state = state._replace(step=tf.constant(100))
  state = optimizer.with_total_steps(state, 400)
  expected = rate(c, tf.constant(100), tf.constant(400), 1)
  assert float(optimizer.decay_rate(state)) == float(expected)


def test_without_a_number_of_steps_the_rate_falls_and_never_ends():
  c = GeneralRule().constants
  rates = [float(rate(c, tf.constant(t), tf.constant(0), 3)) for t in (30, 300, 3000)]
  assert rates[0] > rates[1] > rates[2] > 0


def test_constants_can_be_given_and_are_what_it_learns():
  optimizer = GeneralRule(constants=CONSTANTS)
  for name, found in optimizer.constants._asdict().items():
    np.testing.assert_allclose(found, getattr(CONSTANTS, name), rtol=1e-5, err_msg=name)
  (phi,) = optimizer.get_phi()
  moved = optimizer.with_phi([phi + 0.1])
  assert float(moved.constants.rate) == pytest.approx(0.04 * np.exp(0.1), rel=1e-5)
  assert 0 < float(moved.constants.fast) < 0.8  # remembers for a shorter time


def test_bad_arguments():
  with pytest.raises(ValueError, match="block=0; a block has at least one row"):
    GeneralRule(block=0)
  with pytest.raises(ValueError, match="got 2 constants; it has 20: fast, slow"):
    GeneralRule(constants=(0.9, 0.9))
  optimizer, params = GeneralRule(), [tf.ones([2, 2])]
  with pytest.raises(ValueError, match="reads the parameters and was not given them"):
    optimizer(params, optimizer.initial_state(params))
