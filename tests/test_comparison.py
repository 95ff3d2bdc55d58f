"""Several horizons of one run, rates selected for each on other draws."""

import math

import numpy as np
import pytest

from l2l_tf import seeds
from l2l_tf.evaluation import comparison, protocol
from l2l_tf.evaluation.comparison import Trial, final_loss
from l2l_tf.meta import execution
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM, Momentum, RMSprop
from l2l_tf.pretraining import cards
from l2l_tf.problems import Quadratic, Simple

RATES = (1e-3, 1e-2, 1e-1)


@pytest.fixture
def baselines(monkeypatch):
  """The same rules with few rates."""
  few = {
    name: (make, rates if len(rates) == 1 else RATES)
    for name, (make, rates) in comparison.BASELINES.items()
  }
  monkeypatch.setattr(comparison, "BASELINES", few)


def trial(problem, **kwargs):
  return Trial("task", problem, (2, 20), num_draws=3, num_tuning_draws=2, **kwargs)


def test_a_final_loss_is_the_mean_over_the_last_tenth_of_the_steps():
  losses = np.stack([np.arange(101.0)[::-1], np.full(101, 7.0)])
  assert final_loss(losses, 100) == np.mean([*range(10), *[7.0] * 10])
  assert final_loss(losses, 20) == (np.mean([80, 81]) + 7) / 2
  assert final_loss(losses, 5) == (95 + 7) / 2  # one step at least


@pytest.mark.parametrize("end", [np.nan, np.inf, 1.01])
def test_who_is_not_finite_or_ends_above_the_start_has_diverged(end):
  assert final_loss(np.array([[1.0, 0.5, end]]), 2) == math.inf
  assert final_loss(np.array([[1.0, 0.5, end]]), 1) == 0.5


def test_everyone_runs_on_the_draws_that_are_reported(baselines):
  problem = Quadratic(2, 3)
  results = trial(problem).baseline("Adam at 0.001")
  losses = protocol.Runner(problem, Adam(0.001), 20)(0, seeds.EVALUATION, 3).losses
  assert [(r.steps, r.learning_rate) for r in results] == [(2, 0.001), (20, 0.001)]
  for r in results:
    np.testing.assert_allclose(r.loss, final_loss(losses, r.steps), rtol=1e-5)
  learned = trial(problem).learned(Adam(0.001))
  assert [r.loss for r in learned] == pytest.approx([r.loss for r in results])
  assert {r.optimizer for r in learned} == {cards.LEARNED}
  assert {r.learning_rate for r in learned} == {None}


@pytest.mark.parametrize("name, make", [("momentum", Momentum), ("RMSprop", RMSprop)])
def test_the_rate_is_the_best_on_other_draws_for_each_horizon(baselines, name, make):
  problem = Quadratic(2, 3)
  results = trial(problem, seed=4).baseline(name)
  for r in results:
    tuning = {
      rate: protocol.Runner(problem, make(rate), 20)(4, seeds.TUNING, 2).losses
      for rate in RATES
    }
    best = min(RATES, key=lambda rate: final_loss(tuning[rate], r.steps))
    assert r.learning_rate == best
    reported = protocol.Runner(problem, make(best), 20)(4, seeds.EVALUATION, 3).losses
    np.testing.assert_allclose(r.loss, final_loss(reported, r.steps), rtol=1e-5)


def test_horizons_may_want_different_rates(baselines, monkeypatch):
  """x^2 from 1: momentum's large rate is the best early and overshoots later."""
  monkeypatch.setitem(comparison.BASELINES, "momentum", (Momentum, (0.03, 0.3)))
  early, late = Trial("x", Simple(), (2, 60)).baseline("momentum")
  assert (early.learning_rate, late.learning_rate) == (0.3, 0.03)


def test_an_optimizer_that_xla_cannot_compile_runs_too():
  optimizer = CoordinatewiseLSTM((), lambda g: g[:, None], initializer="zeros")
  assert not execution.compiles(optimizer)
  with_updates_of_zero = trial(Quadratic(2, 3)).learned(optimizer)
  assert with_updates_of_zero[0].loss == with_updates_of_zero[1].loss


def test_the_baselines_are_those_that_a_card_compares_with():
  assert list(comparison.BASELINES) == [
    "Adam", "momentum", "RMSprop", "Adam at 0.001",
  ]  # fmt: skip
  for _, rates in comparison.BASELINES.values():
    assert list(rates) == sorted(rates)
