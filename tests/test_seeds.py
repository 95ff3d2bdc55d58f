import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from l2l_tf import seeds

INTEGERS = st.integers(-(2**31), 2**31 - 1)
STREAMS = [
  seeds.WEIGHTS,
  seeds.TRAINING,
  seeds.VALIDATION,
  seeds.TUNING,
  seeds.EVALUATION,
]
BRANCHES = st.lists(st.integers(0, 2**31 - 1), max_size=3)


def key(*args):
  return tuple(seeds.make(*args).numpy().tolist())


@settings(max_examples=50, deadline=None)
@given(INTEGERS, BRANCHES)
def test_a_seed_is_two_integers_and_repeats(seed, path):
  made = seeds.make(seed, *path)
  assert made.dtype == tf.int32
  assert made.shape == [2]
  assert tuple(made.numpy()) == key(seed, *path)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(INTEGERS, BRANCHES.map(tuple)), max_size=6, unique=True))
def test_different_names_are_different_draws(names):
  assert len({key(seed, *path) for seed, path in names}) == len(names)


def test_every_draw_of_many_runs_is_its_own():
  names = list(itertools.product(range(4), STREAMS, range(50)))
  assert len({key(*name) for name in names}) == len(names)


def test_what_selects_is_on_other_branches_than_what_trains_or_is_reported():
  assert len(set(STREAMS)) == 5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_branch_may_be_a_tensor_in_a_compiled_function(jit_compile):
  @tf.function(jit_compile=jit_compile)
  def make(epoch):
    return seeds.make(7, seeds.TRAINING, epoch)

  for epoch in (0, 1, 123_456):
    for dtype in (tf.int32, tf.int64):
      made = make(tf.constant(epoch, dtype))
      assert tuple(made.numpy()) == key(7, seeds.TRAINING, epoch)


@pytest.mark.parametrize("draw", [seeds.uniform, seeds.normal])
@pytest.mark.parametrize("seed", range(5))
def test_xla_draws_the_same_numbers(draw, seed):
  def numbers(epoch):
    keys = seeds.split(seeds.make(seed, seeds.TRAINING, epoch), 3)
    return draw([100], keys[2]), seeds.integers([100], keys[1], 1437)

  epoch = tf.constant(seed)
  plain = tf.function(numbers)(epoch)
  compiled = tf.function(numbers, jit_compile=True)(epoch)
  np.testing.assert_allclose(plain[0], compiled[0], rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(plain[1], compiled[1])


def test_draws_follow_their_distributions():
  uniform = seeds.uniform([100_000], seeds.make(0, 1)).numpy()
  normal = seeds.normal([100_000], seeds.make(0, 2), stddev=2.0).numpy()
  assert uniform.min() >= 0 and uniform.max() < 1
  assert stats.kstest(uniform, "uniform").pvalue > 0.01
  assert stats.kstest(normal / 2, "norm").pvalue > 0.01
  assert np.isfinite(normal).all()


@pytest.mark.parametrize(
  "name, expected",
  [
    ((0,), (0, 0)),
    ((-1,), (2**31 - 1, 2**31 - 1)),
    ((2**40,), (0, 512)),
    ((0, seeds.TRAINING), (1738211982, 1)),
    ((0, seeds.TRAINING, 3), (743979181, 3)),
    ((42, seeds.EVALUATION, 0), (1135745222, 0)),
  ],
)
def test_the_draws_never_change(name, expected):
  assert key(*name) == expected
