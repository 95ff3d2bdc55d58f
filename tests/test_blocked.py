"""Coordinates cut into blocks: nothing is lost, and nothing else changes."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from l2l_tf import seeds
from l2l_tf.meta import execution, unroll
from l2l_tf.meta.gradients import TruncatedBPTT
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.optimizers import (
  COORDINATE,
  SGD,
  Adam,
  Blocked,
  CoordinatewiseLSTM,
  KernelwiseLSTM,
  Optimizer,
  RNNprop,
  layout,
)
from l2l_tf.optimizers.blocked import cut, joined
from l2l_tf.problems import Problem, digits_mlp

SHAPES = [(3, 4), (5,), (), (2, 1, 3)]  # 24 coordinates


def tensors(shapes, seed=0, dtype=tf.float32):
  return [tf.cast(seeds.normal(s, seeds.make(seed, i)), dtype)
          for i, s in enumerate(shapes)]  # fmt: skip


def lstm():
  return CoordinatewiseLSTM((5, 4), "log_and_sign", output_scale=0.1)


@given(
  shapes=st.lists(
    st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4
  ),
  count=st.integers(1, 6),
  types=st.lists(st.sampled_from(["float16", "float32", "float64"]), min_size=4),
)
@settings(deadline=None, max_examples=50)
def test_what_is_split_and_joined_is_the_same(shapes, count, types):
  given_tensors = [tf.cast(x, t) for x, t in zip(tensors(shapes), types)]
  laid_out = layout.Layout([tf.TensorSpec.from_tensor(x) for x in given_tensors], count)
  parts = laid_out.split(given_tensors)
  assert len(parts) == count
  assert {x.shape[0] for x in parts} == {-(-laid_out.size // count)}
  again = laid_out.join(parts)
  for x, y in zip(given_tensors, again, strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)
  cut = laid_out.cut(tf.concat(parts, axis=0)[tf.newaxis])
  assert [x.shape for x in cut] == [(1, math.prod(shape)) for shape in shapes]


@pytest.mark.parametrize("make", [lstm, lambda: RNNprop((4,), time_scales=(10,))])
def test_steps_block_by_block_are_those_of_all_at_once(make):
  optimizer, params = make(), tensors(SHAPES)
  blocked = Blocked(optimizer, 7)
  state, states = optimizer.initial_state(params), blocked.initial_state(params)
  assert len(states) == 4
  for seed in range(5):
    grads = tensors(SHAPES, seed)
    expected, state = optimizer(grads, state)
    updates, states = blocked(grads, states)
    for u, e in zip(updates, expected, strict=True):
      np.testing.assert_allclose(u, e, rtol=1e-5, atol=1e-7)
  whole = joined(states, 24)
  tf.nest.assert_same_structure(whole, state)
  for x, y in zip(tf.nest.flatten(whole), tf.nest.flatten(state)):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@given(size=st.integers(1, 12), count=st.integers(1, 5))
@settings(deadline=None, max_examples=20)
def test_a_state_cut_into_blocks_is_joined_again(size, count):
  state = [tf.range(size), (tf.random.normal([2, 3, size]), tf.constant(7))]
  blocks = cut(state, count)
  assert len(blocks) == count
  assert {tf.nest.flatten(b)[1].shape[-1] for b in blocks} == {-(-size // count)}
  for x, y in zip(tf.nest.flatten(state), tf.nest.flatten(joined(blocks, size))):
    np.testing.assert_array_equal(x, y)


class Leaky(Optimizer):
  """Moves against the gradient, towards 0, and the less the lower the loss is."""

  coupling = COORDINATE

  @property
  def config(self):
    return {}

  def initial_state(self, params):
    return tf.zeros([], tf.int32), [tf.zeros_like(p) for p in params]

  def __call__(self, grads, state, params=None, loss=None):
    step, sums = state
    sums = [s + g for s, g in zip(sums, grads)]
    updates = [-0.1 * loss * (s + p) for s, p in zip(sums, params)]
    return updates, (step + 1, sums)


@pytest.mark.parametrize("make", [Leaky, lambda: Adam(0.1), lambda: SGD(0.1)])
@pytest.mark.parametrize("size", [1, 5, 24, None])
def test_every_coordinatewise_optimizer_is_cut(make, size):
  optimizer, params = make(), tensors(SHAPES)
  blocked, others = Blocked(optimizer, size), list(params)
  state, states = optimizer.initial_state(params), blocked.initial_state(params)
  loss = tf.constant(0.5)
  for seed in range(3):
    grads = tensors(SHAPES, seed)
    updates, state = optimizer(grads, state, params=params, loss=loss)
    moves, states = blocked(grads, states, params=others, loss=loss)
    params = [p + u for p, u in zip(params, updates)]
    others = [p + u for p, u in zip(others, moves)]
  for x, y in zip(params, others, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5)


def test_what_cannot_be_cut_is_refused():
  with pytest.raises(ValueError, match="LSTM, whose coupling is TENSOR; only"):
    Blocked(KernelwiseLSTM((2, 2)), 5)
  with pytest.raises(ValueError, match="size=0; a block has at least one coordinate"):
    Blocked(SGD(0.1), 0)


def test_a_program_holds_few_blocks(monkeypatch):
  monkeypatch.setattr(execution, "_BLOCK", 1)
  params = tensors(SHAPES)

  def count(**kwargs):
    running = execution.arranged(Uncompiled(), lstm(), params, **kwargs)
    return len(running.initial_state(params))

  assert count() == 24
  assert count(is_compiled=True) == 8


class Uncompiled(Problem):
  """Digits, for which XLA compiles the optimizer's step alone."""

  def __init__(self):
    self._problem = digits_mlp()

  def init(self, seed):
    return self._problem.init(seed)

  def __call__(self, params, constants, seed):
    return self._problem(params, constants, seed)


@pytest.mark.parametrize(
  "make_problem, make",
  [
    (digits_mlp, lambda: RNNprop((4,))),  # whose state has parts of every kind
    (digits_mlp, lambda: SGD(tf.Variable(0.1))),
    (Uncompiled, lstm),
    (Uncompiled, lambda: SGD(tf.Variable(0.1))),
  ],
)
def test_a_window_is_the_same_whatever_the_blocks(monkeypatch, make_problem, make):
  optimizer, problem = make(), make_problem()
  task, params = unroll.draw(problem, seeds.make(0))
  observe = lambda carry, updates: [tf.reduce_sum(u) for u in updates]
  method, windows, counts = TruncatedBPTT(), [], []
  for size in (1 << 13, 600):  # of 1,510 coordinates
    monkeypatch.setattr(execution, "_BLOCK", size)
    running = method.arranged(problem, optimizer, params, MetaObjective())

    @tf.function(autograph=False)
    def run():
      carry = unroll.begin(problem, running, task, params)  # noqa: B023
      return method(problem, running, task, carry, tf.constant(6), observe)  # noqa: B023

    counts.append(isinstance(running, Blocked))
    window, _ = run()
    state = tf.nest.flatten(window.carry.state)
    windows.append(window._replace(carry=window.carry._replace(state=())))
    assert len(state) == len(tf.nest.flatten(running.initial_state(params)))
  assert counts == [False, True]
  for x, y in zip(*map(tf.nest.flatten, windows), strict=True):
    np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-5)
