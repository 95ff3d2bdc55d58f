"""Rates: the best on the tuning draws, for each horizon; what is reported with them."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from l2l_tf import seeds
from l2l_tf.evaluation import baselines, protocol, tuning
from l2l_tf.evaluation.comparison import Trial
from l2l_tf.evaluation.runner import Runner
from l2l_tf.evaluation.tuning import last_step_loss, last_tenth_loss
from l2l_tf.optimizers import SGD, Adam, Momentum, RMSprop
from l2l_tf.problems import Quadratic, Simple

RATES = (1e-3, 1e-2, 1e-1, 1.0, 1e30)
DRAWS = {"num_draws": 3, "num_tuning_draws": 2, "seed": 4}


def problem():
  return Quadratic(batch_size=4, num_dims=3)


def plainly_tuned(problem, make, rates, horizons, criterion, jit_compile=False):
  """What `tune` promises, run by run: horizon -> (rate, reported losses)."""
  rate = tf.Variable(0.0, dtype=tf.float64, trainable=False)
  runner = Runner(problem, make(lambda step: rate), max(horizons), jit_compile)

  @functools.cache  # One run serves all horizons.
  def losses(value, branch, num_draws):
    rate.assign(value)
    return runner(DRAWS["seed"], branch, num_draws).losses

  found = {}
  for steps in horizons:
    tuning_losses = [losses(r, seeds.TUNING, DRAWS["num_tuning_draws"]) for r in rates]
    values = [criterion(x, steps) for x in tuning_losses]
    best = rates[values.index(min(values))]
    found[steps] = best, losses(best, seeds.EVALUATION, DRAWS["num_draws"])
  return found


def mean_at_end(losses, steps):
  mean = np.mean(losses[:, steps], dtype=np.float64)
  return mean if np.isfinite(mean) else np.inf


def mean_of_tail(losses, steps):
  tail = losses[:, steps + 1 - max(1, steps // 10) : steps + 1]
  mean = np.mean(tail, dtype=np.float64)
  return mean if mean <= np.mean(losses[:, 0], dtype=np.float64) else np.inf


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_comparison_is_tuned_as_by_hand(name):
  make = baselines.BASELINES[name]
  curves = protocol.compare(
    problem(), {}, 5, baselines={name: make}, learning_rates=RATES, **DRAWS
  )[name]
  rate, losses = plainly_tuned(problem(), make, RATES, [5], mean_at_end)[5]
  assert curves.learning_rate == rate
  np.testing.assert_array_equal(curves.losses, losses)


@pytest.mark.parametrize(
  "name, make",
  [("Adam", Adam), ("momentum", Momentum), ("RMSprop", RMSprop)],
)
def test_a_trial_is_tuned_as_by_hand(name, make):
  horizons = (2, 20)
  results = Trial("task", problem(), horizons, **DRAWS).baseline(name)
  rates = baselines.CARD_BASELINES[name].learning_rates
  assert problem().jit_compile
  expected = plainly_tuned(problem(), make, rates, horizons, mean_of_tail, True)
  for result, (steps, (rate, losses)) in zip(results, expected.items(), strict=True):
    assert (result.steps, result.learning_rate) == (steps, rate)
    assert result.loss == mean_of_tail(losses, steps)


def tune(problem, make, rates, horizons, criterion=last_step_loss, **kwargs):
  return tuning.tune(problem, make, rates, horizons, criterion, **DRAWS, **kwargs)


def test_horizons_may_want_different_rates():
  """x^2 from 1: momentum's large rate is the best early and overshoots later."""
  early, late = tune(Simple(), Momentum, (0.03, 0.3), (2, 60), last_tenth_loss).values()
  assert (early.learning_rate, late.learning_rate) == (0.3, 0.03)
  assert early.losses.shape == late.losses.shape == (3, 60 + 1)


def test_a_single_rate_is_not_tuned(monkeypatch):
  branches = []
  make = seeds.make
  monkeypatch.setattr(seeds, "make", lambda *a: (branches.append(a[1]), make(*a))[1])
  curves = tune(Simple(), SGD, [0.3], [2, 4])
  assert [c.learning_rate for c in curves.values()] == [0.3, 0.3]
  assert branches == [seeds.EVALUATION] * 3


@pytest.fixture
def warnings(monkeypatch):
  """What is warned of."""
  texts = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: texts.append(text % args))
  return texts


@pytest.mark.parametrize(
  "rates, is_end",
  [((0.1, 0.01, 1e-3), True), ((1e-3, 0.01, 0.1), True), ((0.01, 0.1, 1e30), False)],
)
def test_a_best_rate_at_the_end_of_the_grid_is_told(warnings, rates, is_end):
  curves = tune(Simple(), SGD, rates, [5])[5]
  assert curves.learning_rate == 0.1
  told = "The best learning rate, 0.1, is at the end of the grid; extend the grid."
  assert warnings == [told] * is_end


def test_where_every_rate_diverges_it_is_refused_or_reported(warnings):
  rates = (1e20, 1e30)
  with pytest.raises(ValueError, match=r"diverged at every .* from 1e\+20 to 1e\+30;"):
    tune(Simple(), SGD, rates, [1, 50])
  curves = tune(Simple(), SGD, rates, [50], may_diverge=True)[50]
  assert curves.learning_rate == 1e20 and not np.isfinite(curves.losses[:, -1]).any()
  assert not warnings


def test_the_loss_of_the_last_step_is_the_mean_over_problems():
  assert last_step_loss(np.array([[9.0, 1.0, 5.0], [9.0, 2.0, 7.0]]), 2) == 6
  assert last_step_loss(np.array([[9.0, 1.0, 5.0], [9.0, 2.0, 7.0]]), 1) == 1.5
  for end in np.nan, np.inf:
    assert last_step_loss(np.array([[9.0, end], [9.0, 1.0]]), 1) == math.inf


def test_the_loss_of_the_last_tenth_is_the_mean_over_its_steps():
  losses = np.stack([np.arange(101.0)[::-1], np.full(101, 7.0)])
  assert last_tenth_loss(losses, 100) == np.mean([*range(10), *[7.0] * 10])
  assert last_tenth_loss(losses, 20) == (np.mean([80, 81]) + 7) / 2
  assert last_tenth_loss(losses, 5) == (95 + 7) / 2  # one step at least


@pytest.mark.parametrize("end", [np.nan, np.inf, 1.01])
def test_who_is_not_finite_or_ends_above_the_start_has_diverged(end):
  assert last_tenth_loss(np.array([[1.0, 0.5, end]]), 2) == math.inf
  assert last_tenth_loss(np.array([[1.0, 0.5, end]]), 1) == 0.5
