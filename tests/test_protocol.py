"""The protocol: the same draws for everyone, rates selected on other ones."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.evaluation.protocol import compare
from l2l_tf.optimizers import SGD, CoordinatewiseLSTM
from l2l_tf.problems import Problem, Quadratic

RATES = (1e-3, 1e-1, 1e30)
SMALL = {"num_steps": 3, "num_draws": 2, "num_tuning_draws": 2}


class Noisy(Problem):
  """theta squared, plus noise from the mini-batch alone; reports held-out scalars."""

  def init(self, seed):
    return [tf.ones([2])], [tf.random.stateless_uniform([], seed)]

  def __call__(self, params, constants, seed):
    noise = tf.random.stateless_uniform([], seed)
    return tf.reduce_sum(tf.square(params[0])) + noise

  def held_out(self, params, constants):
    return {"task": constants[0], "held_out_loss": tf.reduce_sum(params[0] ** 2)}


class Spoiled(Noisy):
  """Not a number after the first step."""

  def __call__(self, params, constants, seed):
    moved = tf.reduce_any(params[0] != 1.0)
    return super().__call__(params, constants, seed) * tf.where(moved, np.nan, 1.0)


def quadratic():
  return Quadratic(batch_size=4, num_dims=3)


@pytest.mark.parametrize("make_problem", [quadratic, Noisy])
def test_everyone_meets_the_same_draws_and_mini_batches(make_problem):
  curves = compare(
    make_problem(),
    {"a": SGD(0.1), "b": SGD(0.1), "lstm": CoordinatewiseLSTM(())},
    baselines={"SGD": SGD},
    learning_rates=[0.1],
    **SMALL,
  )
  assert list(curves) == ["a", "b", "lstm", "SGD"]
  for twin in ("b", "SGD"):
    np.testing.assert_array_equal(curves[twin].losses, curves["a"].losses)
    for name, values in curves["a"].held_out.items():
      np.testing.assert_array_equal(curves[twin].held_out[name], values)
  np.testing.assert_array_equal(curves["lstm"].losses[:, 0], curves["a"].losses[:, 0])
  assert curves["a"].learning_rate is None and curves["SGD"].learning_rate == 0.1


def test_tuning_draws_are_never_reported(monkeypatch):
  drawn = {seeds.TUNING: set(), seeds.EVALUATION: set()}
  make = seeds.make

  def record(seed, branch, index):
    key = make(seed, branch, index)
    drawn[branch].add(tuple(key.numpy()))
    return key

  monkeypatch.setattr(seeds, "make", record)
  for seed in (0, 1):
    compare(
      Noisy(),
      {"learned": SGD(0.1)},
      num_steps=1,
      num_draws=3,
      num_tuning_draws=5,
      seed=seed,
      baselines={"SGD": SGD},
      learning_rates=RATES,
    )
  tuning, reported = drawn.values()
  assert (len(tuning), len(reported)) == (2 * 5, 2 * 3)
  assert not tuning & reported


def test_the_branches_of_one_seed_never_meet():
  branches = range(5)
  keys = [tuple(seeds.make(3, b, i).numpy()) for b in branches for i in range(4)]
  assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("rates", [(1e30, 1e-1), (1e-1, 1e30)])
def test_rates_that_diverge_are_survived(rates):
  curves = compare(
    quadratic(), {}, baselines={"SGD": SGD}, learning_rates=rates, **SMALL
  )["SGD"]
  assert curves.learning_rate == 0.1
  assert np.isfinite(curves.losses).all()


def test_a_baseline_that_always_diverges_is_refused():
  with pytest.raises(ValueError, match=r"diverged at every .* from 0\.001 to 1e\+30;"):
    compare(Spoiled(), {}, baselines={"SGD": SGD}, learning_rates=RATES, **SMALL)


def test_a_single_rate_is_taken_as_it_is():
  curves = compare(
    Spoiled(), {}, baselines={"SGD": SGD}, learning_rates=[0.3], **SMALL
  )["SGD"]
  assert curves.learning_rate == 0.3
  assert np.isnan(curves.losses[:, 1:]).all()


def test_a_learned_optimizer_that_diverges_is_reported_as_it_is():
  curves = compare(Spoiled(), {"lstm": SGD(0.1)}, baselines={}, **SMALL)["lstm"]
  np.testing.assert_array_equal(
    np.isnan(curves.losses), [[False, True, True, True]] * 2
  )


@pytest.mark.parametrize("name", ["num_steps", "num_draws", "num_tuning_draws"])
def test_counts_below_one_are_refused(name):
  with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
    compare(Noisy(), {}, **{**SMALL, name: 0})


@pytest.mark.parametrize("rates", [[], [0.1, np.nan], [0.0], [-1.0], [np.inf]])
def test_rates_that_are_none_are_refused(rates):
  with pytest.raises(ValueError, match=r"learning_rates=.* positive, finite"):
    compare(Noisy(), {}, learning_rates=rates, **SMALL)
