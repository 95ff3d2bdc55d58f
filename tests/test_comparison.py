"""Several horizons of one run, rates selected for each on other draws."""

import math

import numpy as np
import pytest

from l2l_tf import seeds
from l2l_tf.evaluation.baselines import CARD_BASELINES, CardBaseline
from l2l_tf.evaluation.comparison import Trial
from l2l_tf.evaluation.runner import Runner
from l2l_tf.evaluation.tuning import last_tenth_loss
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM
from l2l_tf.pretraining import cards
from l2l_tf.problems import Quadratic, Simple


def trial(problem, **kwargs):
  return Trial("task", problem, (2, 20), num_draws=3, num_tuning_draws=2, **kwargs)


def test_everyone_runs_on_the_draws_that_are_reported():
  problem = Quadratic(2, 3)
  results = trial(problem).baseline("Adam at 0.001")
  losses = Runner(problem, Adam(0.001), 20)(0, seeds.EVALUATION, 3).losses
  assert [(r.steps, r.learning_rate) for r in results] == [(2, 0.001), (20, 0.001)]
  for r in results:
    np.testing.assert_allclose(r.loss, last_tenth_loss(losses, r.steps), rtol=1e-5)
  learned = trial(problem).learned(Adam(0.001))
  assert [r.loss for r in learned] == pytest.approx([r.loss for r in results])
  assert {r.optimizer for r in learned} == {cards.LEARNED}
  assert {r.learning_rate for r in learned} == {None}


def test_an_optimizer_that_xla_cannot_compile_runs_too():
  optimizer = CoordinatewiseLSTM((), lambda g: g[:, None], initializer="zeros")
  assert not optimizer.jit_compile
  with_updates_of_zero = trial(Quadratic(2, 3)).learned(optimizer)
  assert with_updates_of_zero[0].loss == with_updates_of_zero[1].loss


def test_a_baseline_that_always_diverges_is_reported_as_such(monkeypatch):
  always = CardBaseline("SGD", (1e20, 1e30))
  monkeypatch.setitem(CARD_BASELINES, "momentum", always)
  (result,) = Trial("task", Simple(), (50,)).baseline("momentum")
  assert (result.learning_rate, result.loss) == (1e20, math.inf)
