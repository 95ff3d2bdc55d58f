"""Coordinates cut into blocks: nothing is lost, and nothing else changes."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import TruncatedBPTT
from l2l_tf.optimizers import SGD, Adam, CoordinatewiseLSTM, RNNprop, layout
from l2l_tf.problems import Problem, digits_mlp

SHAPES = [(3, 4), (5,), (), (2, 1, 3)]  # 24 coordinates


def tensors(shapes, seed=0, dtype=tf.float32):
  return [tf.cast(seeds.normal(s, seeds.make(seed, i)), dtype)
          for i, s in enumerate(shapes)]  # fmt: skip


def lstm():
  return CoordinatewiseLSTM((5, 4), "log_and_sign", output_scale=0.1)


@pytest.fixture
def small_blocks(monkeypatch):
  monkeypatch.setattr(layout, "_SIZE", 7)  # 24 coordinates: 4 blocks


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
  joined = laid_out.join(parts)
  for x, y in zip(given_tensors, joined, strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)
  cut = laid_out.cut(tf.concat(parts, axis=0)[tf.newaxis])
  assert [x.shape for x in cut] == [(1, math.prod(shape)) for shape in shapes]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("make", [lstm, lambda: RNNprop((4,), time_scales=(10,))])
def test_steps_block_by_block_are_those_of_all_at_once(make):
  optimizer, params = make(), tensors(SHAPES)
  blockwise = layout.Blockwise(optimizer, optimizer, params, in_one_program=False)
  state = optimizer.initial_state(params)
  assert blockwise.is_needed(state)
  states = blockwise.split(state)
  assert len(states) == 4
  for seed in range(5):
    grads = tensors(SHAPES, seed)
    expected, state = optimizer(grads, state)
    updates, states = blockwise(grads, states)
    for u, e in zip(updates, expected, strict=True):
      np.testing.assert_allclose(u, e, rtol=1e-5, atol=1e-7)
  joined = blockwise.join(states)
  tf.nest.assert_same_structure(joined, state)
  for x, y in zip(tf.nest.flatten(joined), tf.nest.flatten(state)):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_a_state_that_is_no_vector_s_is_left_whole():
  adam = Adam(0.1)
  needed = lambda optimizer, params: layout.Blockwise(
    optimizer, optimizer, params, in_one_program=False
  ).is_needed(optimizer.initial_state(params))
  assert not needed(adam, tensors(SHAPES))
  assert not needed(adam, tensors([(1, 24)]))
  assert needed(adam, tensors([(24,)]))
  assert not needed(adam, tensors([(24,)], dtype=tf.float16))  # kept in half
  assert needed(SGD(0.1), tensors(SHAPES))
  assert not needed(lstm(), tensors([(7,)]))  # one block


def test_a_program_holds_few_blocks(monkeypatch):
  monkeypatch.setattr(layout, "_SIZE", 1)
  optimizer, params = lstm(), tensors(SHAPES)
  count = lambda **kwargs: len(
    layout.Blockwise(optimizer, optimizer, params, **kwargs).split(
      optimizer.initial_state(params)
    )
  )
  assert count(in_one_program=False) == 24
  assert count(in_one_program=True) == 8


class Uncompiled(Problem):
  """Digits, for which XLA compiles the optimizer's step alone."""

  def __init__(self):
    self._problem = digits_mlp()

  def init(self, seed):
    return self._problem.init(seed)

  def __call__(self, params, constants, seed):
    return self._problem(params, constants, seed)


@pytest.mark.parametrize("make_problem", [digits_mlp, Uncompiled])
@pytest.mark.parametrize(
  "make", [lstm, lambda: RNNprop((4,)), lambda: SGD(tf.Variable(0.1))]
)
def test_a_window_is_the_same_whatever_the_blocks(monkeypatch, make_problem, make):
  optimizer, problem = make(), make_problem()
  task, carry = unroll.start(problem, optimizer, seeds.make(0))
  observe = lambda carry, updates: [tf.reduce_sum(u) for u in updates]
  windows = []
  for size in (1 << 13, 500):  # of 1,510 coordinates
    monkeypatch.setattr(layout, "_SIZE", size)
    run = tf.function(
      lambda: TruncatedBPTT()(problem, optimizer, task, carry, tf.constant(6), observe),
      autograph=False,
    )
    windows.append(run())
  for x, y in zip(*map(tf.nest.flatten, windows), strict=True):
    np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-5)
