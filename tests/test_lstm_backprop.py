"""The pass over recorded gradients against the taped unroll and finite differences."""

import dataclasses
import functools

import hypothesis
import numpy as np
import numpy_lstm
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from l2l_tf import cores, seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import (
  MetaObjective,
  RecordedBPTT,
  TapedBPTT,
  TruncatedBPTT,
  all_ones,
  last_only,
)
from l2l_tf.optimizers import (
  GRADIENTS,
  PARAMETERS,
  SGD,
  Adagrad,
  Adam,
  CoordinatewiseLSTM,
  KernelwiseLSTM,
  Momentum,
  Nesterov,
  Optimizer,
  Partition,
  RMSprop,
  RNNprop,
  Where,
)
from l2l_tf.optimizers.lstm import backprop
from l2l_tf.preprocess import Clamp, Concat, LogAndSign
from l2l_tf.problems import Problem, Quadratic, SimpleMulti, digits_mlp

SEED = seeds.make(0, seeds.TRAINING, 0)
DOUBLE = {"dtype": "float64"}


class Filters(Problem):
  """A quartic in two convolution filters and a bias, on noise of its own each step."""

  def init(self, seed):
    shapes = [(2, 2, 1, 3), (2, 2, 3, 1), (3,)]
    keys = seeds.split(seed, len(shapes))
    return [seeds.normal(s, k, dtype=tf.float64) for s, k in zip(shapes, keys)], []

  def __call__(self, params, constants, seed):
    first, second, bias = params
    noise = seeds.normal([2, 2, 3, 3], seed, dtype=tf.float64)
    outputs = tf.reduce_sum(first * (bias + noise) * second)
    return tf.square(outputs - 1.0) + 0.01 * tf.reduce_sum(first**4)


def normalize(grads):
  """A preprocess in which every coordinate reads every other."""
  return (grads / (1e-3 + tf.norm(grads)))[:, tf.newaxis]


def partition(problem):
  return Partition(
    [
      (Where(path="param_0"), KernelwiseLSTM((2, 2), (2,), output_scale=0.3, **DOUBLE)),
      (Where(path="param_1"), Momentum(0.01)),
      (Where(rank=1), CoordinatewiseLSTM((3, 2), output_scale=0.3, **DOUBLE)),
    ],
    problem.parameters(),
  )


def quadratic():
  return Quadratic(3, 4, dtype=tf.float64)


def lstm(layers=(4, 3), preprocess="identity"):
  return lambda _: CoordinatewiseLSTM(layers, preprocess, 0.3, **DOUBLE)


def rnnprop(layers=(4, 3), **arguments):
  return lambda _: RNNprop(layers, output_scale=0.3, **arguments, **DOUBLE)


CASES = {
  "two layers": (quadratic, lstm()),
  "one layer": (quadratic, lstm((5,))),
  "three layers of different sizes": (quadratic, lstm((2, 5, 3))),
  "linear": (quadratic, lstm(())),
  "linear, two features": (quadratic, lstm((), "log_and_sign")),
  "log_and_sign": (quadratic, lstm((4,), "log_and_sign")),
  "clamp": (quadratic, lstm((4,), Clamp(-0.5, 0.5, scale=2.0))),
  "concatenated": (quadratic, lstm((4,), "log_and_sign+clamp(scale=20)")),
  "a preprocess that mixes coordinates": (quadratic, lstm((4,), normalize)),
  "rnnprop": (quadratic, rnnprop()),
  "rnnprop, linear": (quadratic, rnnprop(())),
  "rnnprop, two decays, with time": (
    quadratic,
    rnnprop((3,), beta_1=0.8, beta_2=0.99, time_scales=(2, 10)),
  ),
  "kernels, coordinates and momentum": (Filters, partition),
}
WEIGHTINGS = {
  "all_ones": all_ones,
  "last_only": last_only,
  "explicit": [0.5, 0.0, -2.0, 1.0, 3.0],
}
# The optimizer meets the weights as a vector, whatever they were made from.
WEIGHTED_CASES = [(name, "explicit") for name in CASES]
WEIGHTED_CASES += [("two layers", "all_ones"), ("two layers", "last_only")]


def randomize(optimizer, seed=0):
  rng = np.random.default_rng(seed)
  for v in optimizer.trainable_variables:
    v.assign_add(0.3 * rng.normal(size=v.shape))


def windows(problem, optimizer, meta_gradient, length, before=0):
  """The same window by both ways, after `before` steps, from a state that is not 0."""
  task, carry = unroll.start(problem, optimizer, SEED)
  carry, _ = unroll.unroll(problem, optimizer, task, carry, before)
  observe = lambda carry, updates: updates
  arguments = problem, optimizer, task, carry, length, observe
  objective = MetaObjective(meta_gradient.weights)
  ways = RecordedBPTT(), TapedBPTT()
  return [way(*arguments, objective)[0] for way in ways]


@functools.cache
def case(name):
  """The problem and the optimizer of a case; its windows share what is traced."""
  make_problem, make_optimizer = CASES[name]
  problem = make_problem()
  optimizer = make_optimizer(problem)
  randomize(optimizer)
  return problem, optimizer


def assert_equal(recorded, taped, rtol, atol=0.0):
  recorded, taped = tf.nest.flatten(recorded), tf.nest.flatten(taped)
  assert len(recorded) == len(taped)
  for x, y in zip(recorded, taped):
    scale = np.max(np.abs(y), initial=0.0)
    np.testing.assert_allclose(x, y, rtol=rtol, atol=atol + rtol * scale)


@pytest.mark.parametrize("name, weighting", WEIGHTED_CASES)
def test_it_equals_the_tape(name, weighting):
  problem, optimizer = case(name)
  assert optimizer.reads == {GRADIENTS}
  meta_gradient = TruncatedBPTT(WEIGHTINGS[weighting])
  recorded, taped = windows(problem, optimizer, meta_gradient, length=5, before=2)
  assert any(np.any(g) for g in taped.meta_gradient)
  assert_equal(recorded, taped, rtol=1e-10)


@pytest.mark.parametrize("is_bounded", [False, True])
@pytest.mark.parametrize("layers", [(), (3,), (3, 2)])
def test_it_equals_finite_differences_of_a_numpy_rederivation(layers, is_bounded):
  optimizer = (rnnprop if is_bounded else lstm)(layers)(None)
  randomize(optimizer)
  steps, size, rng = 4, 3, np.random.default_rng(1)
  grads = rng.normal(size=[steps + 1, 1, size])
  loss_weights = rng.normal(size=[steps])
  state = optimizer.initial_state([tf.zeros([size], tf.float64)])
  inputs = np.asarray(
    optimizer._inputs(tf.constant(grads[:-1]), state.moments if is_bounded else ())
  )

  def meta_loss(weights):
    """sum_k w_k f(theta_k), where f has the gradient g_k, whatever theta_k is."""
    state = [(np.zeros([size, n]), np.zeros([size, n])) for n in layers]
    theta, loss = np.zeros([size]), 0.0
    for t in range(steps):
      x = inputs[t].T
      outputs, state = numpy_lstm.network(weights, len(layers), x, state)
      outputs = np.tanh(outputs) if is_bounded else outputs
      theta = theta + 0.3 * outputs[:, 0]
      loss += loss_weights[t] * np.sum(grads[t + 1, 0] * theta)
    return loss

  weights = [v.numpy() for v in tf.nest.flatten(optimizer._network.weights)]
  expected = numpy_lstm.derivative(meta_loss, weights)
  found = optimizer.sequence_gradient(
    tf.constant(grads), state, tf.constant(loss_weights)
  )
  found = dict(zip((v.ref() for v in optimizer.trainable_variables), found))
  for v, y in zip(tf.nest.flatten(optimizer._network.weights), expected):
    np.testing.assert_allclose(found[v.ref()], y, rtol=1e-6, atol=1e-8)


@hypothesis.settings(max_examples=3, deadline=None)  # XLA compiles each anew.
@hypothesis.example(batch=64, length=3, before=0)
@hypothesis.example(batch=13, length=9, before=2)
@hypothesis.given(
  batch=st.integers(1, 64), length=st.integers(1, 9), before=st.integers(0, 2)
)
def test_it_equals_the_tape_for_any_number_of_coordinates_and_steps(
  batch, length, before
):
  # Up to 640 coordinates: a part of a block, whole blocks, with a rest and without.
  problem, optimizer = Quadratic(batch, 10, dtype=tf.float64), lstm((2,))(None)
  randomize(optimizer, seed=batch)
  both = windows(problem, optimizer, TruncatedBPTT(), length, before)
  assert_equal(*both, rtol=1e-9)


@pytest.mark.parametrize("make", [lambda: Quadratic(100, 10), digits_mlp])
def test_it_equals_the_tape_to_float32_s_rounding(make):
  optimizer = CoordinatewiseLSTM((20, 20), "log_and_sign", 0.1)
  randomize(optimizer)
  recorded, taped = windows(make(), optimizer, TruncatedBPTT(), length=10)
  assert_equal(recorded.meta_gradient, taped.meta_gradient, rtol=1e-4)
  assert_equal(recorded.carry.params, taped.carry.params, rtol=1e-4)


def test_a_block_that_reaches_back_counts_no_coordinate_twice(monkeypatch):
  monkeypatch.setattr(backprop, "_CPU_BLOCK", 7)  # 12 coordinates: 7 and 5
  both = windows(quadratic(), lstm((3,))(None), TruncatedBPTT(), length=4)
  assert_equal(*both, rtol=1e-10)


@pytest.mark.parametrize(
  "make, length",
  [(lstm((3,)), 4), (lstm((3,)), 5), (lstm(), 8), (rnnprop((3,)), 8), (lstm(()), 8)],
)
def test_a_long_window_s_segments_are_those_of_the_whole(monkeypatch, make, length):
  monkeypatch.setattr(backprop, "_SEGMENT", 3)  # 8 steps: 3, 3 and 2
  weights = [1.0, -0.5, 2.0, 0.0, 1.5, -1.0, 0.5, 3.0][-length:]  # each its own
  both = windows(quadratic(), make(None), TruncatedBPTT(weights), length)
  assert_equal(*both, rtol=1e-9)


def test_parameters_of_another_dtype_than_the_optimizer_s():
  optimizer = CoordinatewiseLSTM((3,), output_scale=0.3)
  randomize(optimizer)
  recorded, taped = windows(quadratic(), optimizer, TruncatedBPTT(), length=5)
  assert_equal(recorded.meta_gradient, taped.meta_gradient, rtol=1e-4)


class Normalized(Optimizer):
  """An update by a learned factor, with a memory, that mixes all coordinates."""

  reads = {GRADIENTS}
  config = {}

  def __init__(self):
    super().__init__()
    self.decay = tf.Variable(0.5, dtype=tf.float64)
    self.rate = tf.Variable(0.1, dtype=tf.float64)

  def initial_state(self, params):
    return [tf.zeros_like(p) for p in params]

  def __call__(self, grads, state, params=None, loss=None):
    state = [self.decay * s + g for s, g in zip(state, grads)]
    return [-self.rate * s / (1.0 + tf.linalg.global_norm(state)) for s in state], state


def test_any_optimizer_that_reads_gradients_alone_has_the_pass():
  optimizer = Normalized()
  both = windows(Filters(), optimizer, TruncatedBPTT(), length=6, before=1)
  assert_equal(*both, rtol=1e-10)


@pytest.mark.parametrize("rule", [SGD, Momentum, Nesterov, RMSprop, Adagrad, Adam])
def test_a_trainable_learning_rate_has_its_gradient(rule):
  rate = tf.Variable(0.01, dtype=tf.float64)
  both = windows(quadratic(), rule(rate), TruncatedBPTT(), length=6)
  assert both[0].meta_gradient[0] != 0.0
  assert_equal(*both, rtol=1e-10)


def test_a_variable_that_two_members_share_has_the_sum_of_their_gradients():
  rate = tf.Variable(0.01, dtype=tf.float64)
  routes = [(Where(rank=4), SGD(rate)), (Where(rank=1), Momentum(rate))]
  problem = Filters()
  optimizer = Partition(routes, problem.parameters())
  both = windows(problem, optimizer, TruncatedBPTT(), length=4)
  assert_equal(*both, rtol=1e-10)


def test_kernels_of_several_rows_fill_several_blocks(monkeypatch):
  class Kernels(Quadratic):
    def init(self, seed):
      return [seeds.normal([2, 2, 7, 30], seed, dtype=tf.float64)], []

    def __call__(self, params, constants, seed):
      return tf.reduce_mean(tf.square(tf.square(params[0]) - 0.5))

  optimizer = KernelwiseLSTM((2, 2), (3,), "log_and_sign", 0.3, **DOUBLE)
  randomize(optimizer)
  for number in (1, 3):
    monkeypatch.setattr(cores, "num_shards", lambda number=number: number)
    both = windows(Kernels(), optimizer, TruncatedBPTT(), length=4)
    assert_equal(*both, rtol=1e-10)


def test_no_coordinates_have_the_gradient_zero():
  optimizer = lstm((2,))(None)
  recorded = optimizer.record([tf.zeros([0, 3], tf.float64)])
  recorded = tf.stack([recorded] * 4)
  state = optimizer.initial_state([tf.zeros([0, 3], tf.float64)])
  for g in optimizer.sequence_gradient(recorded, state, tf.ones([3], tf.float64)):
    assert not np.any(g)


def test_a_preprocess_that_cannot_be_compiled_still_trains():
  def ranks(grads):
    order = tf.numpy_function(lambda g: np.sign(g), [grads], tf.float64)
    return tf.ensure_shape(order, grads.shape)[:, tf.newaxis]

  optimizer = lstm((2,), ranks)(None)
  both = windows(quadratic(), optimizer, TruncatedBPTT(), length=3)
  assert_equal(*both, rtol=1e-10)


def test_a_problem_need_not_be_hashable():
  @dataclasses.dataclass
  class Bowl(Problem):
    size: int
    jit_compile = True

    def init(self, seed):
      return [seeds.normal([self.size], seed, dtype=tf.float64)], []

    def __call__(self, params, constants, seed):
      return tf.reduce_sum(tf.square(params[0]))

  assert_equal(*windows(Bowl(3), lstm(())(None), TruncatedBPTT(), 3), rtol=1e-10)


def test_a_list_of_functions_can_be_concatenated():
  preprocess = Concat([LogAndSign(), Clamp()])
  both = windows(quadratic(), lstm((), preprocess)(None), TruncatedBPTT(), length=3)
  assert_equal(*both, rtol=1e-10)


class Reader(Normalized):
  """It reads the parameters too."""

  reads = {GRADIENTS, PARAMETERS}

  def __call__(self, grads, state, params=None, loss=None):
    updates, state = super().__call__(grads, state)
    return [u - 0.01 * self.decay * p for u, p in zip(updates, params)], state


def chosen(optimizer, meta_gradient, problem=None):
  """The way that a window takes."""
  problem = problem or quadratic()
  task, carry = unroll.start(problem, optimizer, SEED)
  window, _ = meta_gradient(problem, optimizer, task, carry, 2, lambda *_: ())
  assert len(window.meta_gradient) == len(optimizer.get_phi())
  return type(meta_gradient.method(problem, optimizer))


@pytest.mark.parametrize(
  "make, meta_gradient, way",
  [
    (lstm(()), TruncatedBPTT(), RecordedBPTT),
    (lstm(()), TruncatedBPTT(second_derivatives=True), TapedBPTT),
    (lstm(()), TruncatedBPTT(unroll=unroll.static_unroll), TapedBPTT),
    (lambda _: Normalized(), TruncatedBPTT(), RecordedBPTT),
    (lambda _: Reader(), TruncatedBPTT(), TapedBPTT),
  ],
)
def test_each_optimizer_takes_the_way_that_is_exact_for_it(make, meta_gradient, way):
  assert chosen(make(None), meta_gradient) is way


def test_a_partition_with_a_reader_of_parameters_is_taped():
  problem = SimpleMulti()
  routes = [
    (Where(path="param_0"), Reader()),
    (Where(path="param_1"), CoordinatewiseLSTM((2,))),
  ]
  routes[0][1].decay = tf.Variable(0.5)
  routes[0][1].rate = tf.Variable(0.1)
  optimizer = Partition(routes, problem.parameters())
  assert chosen(optimizer, TruncatedBPTT(), problem) is TapedBPTT


def test_a_nan_among_the_gradients_reaches_the_meta_gradient():
  class Broken(Quadratic):
    def __call__(self, params, constants, seed):
      return super().__call__(params, constants, seed) * float("nan")

  optimizer = lstm((2,))(None)
  recorded, taped = windows(
    Broken(2, 2, dtype=tf.float64), optimizer, TruncatedBPTT(), length=3
  )
  for way in (recorded, taped):
    assert not np.all(np.isfinite(way.meta_gradient[0]))
