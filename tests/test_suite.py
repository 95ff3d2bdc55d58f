"""Meta-training on a suite: what an update draws, estimates, and remembers."""

import math

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.meta import suite as suite_lib
from l2l_tf.meta.suite import Draw, Ended, Fitness, SuiteTrainer
from l2l_tf.optimizers import SGD, Adam, GeneralRule
from l2l_tf.optimizers.general_rule import Constants
from l2l_tf.pretraining.recipes import Suite
from l2l_tf.problems import Simple, SimpleMulti, suites
from l2l_tf.runs import suite_training

PROBLEMS = {"x^2": Simple(), "x^2 + y^2": SimpleMulti()}
SMALL = {"horizon": (4, 9), "pairs": 2, "tasks": 2}


def trainer_of(**settings):
  return SuiteTrainer(PROBLEMS, GeneralRule(None), **{**SMALL, **settings})


def phi(optimizer):
  return [v.numpy() for v in optimizer.variables]


def test_fitness_counts_losses_relative_to_the_first():
  ended = Ended(first=2.0, mean=1.0, last=0.5, held_out=0.8)
  log = lambda ratio: math.log(ratio + 0.01)
  expected = log(0.25) + 0.2 * log(0.5) + 0.5 * (log(0.4) - log(0.25))
  assert Fitness()(ended) == pytest.approx(expected)
  scaled = Ended(*(1000 * x for x in ended))
  assert Fitness()(scaled) == pytest.approx(expected)


@pytest.mark.parametrize("last", [math.nan, math.inf, 1e9, -1.0])
def test_a_diverged_episode_has_a_bounded_fitness(last):
  worst = Fitness()(Ended(2.0, 20.0, 20.0, 20.0))
  assert Fitness()(Ended(2.0, math.nan, last, last)) == pytest.approx(worst)


def test_the_same_index_draws_the_same():
  one, other = trainer_of(untold=0.5), trainer_of(untold=0.5)
  drawn = [one._draw(i) for i in range(20)]
  for i, draws in enumerate(drawn):
    again = other._draw(i)
    assert [d[:3] for d in draws] == [d[:3] for d in again]
    np.testing.assert_array_equal([d.seed for d in draws], [d.seed for d in again])
  every = [d for draws in drawn for d in draws]
  assert {d.problem for d in every} == set(PROBLEMS)
  assert all(4 <= d.num_steps <= 9 for d in every)
  assert {d.total_steps == d.num_steps for d in every} == {True, False}
  assert {d.total_steps for d in every if d.total_steps != d.num_steps} == {0}


def test_an_episode_equals_the_rule_run_by_hand():
  trainer = trainer_of()
  seed = tf.constant([3, 4])
  ended = trainer.run(Draw("x^2", 20, 20, seed), phi(trainer.optimizer))
  rule, x, losses = trainer.optimizer, [tf.ones([])], []
  state = rule.with_total_steps(rule.initial_state(x), 20)
  for _ in range(20):
    updates, state = rule([2 * x[0]], state, params=x)
    x = [x[0] + updates[0]]
    losses.append(float(x[0] ** 2))
  expected = 1.0, np.mean(losses), np.mean(losses[-2:]), np.mean(losses[-2:])
  np.testing.assert_allclose(ended, expected, rtol=1e-4)


def test_an_update_follows_the_mean_of_the_pairs_differences(monkeypatch):
  """G = sum over pairs of eps (F(phi + eps) - F(phi - eps)) / (2 sigma^2) / pairs."""
  trainer = trainer_of(meta_optimizer=SGD(1.0), stddev=0.2)
  start, seen = phi(trainer.optimizer), []

  def run(draw, weights):
    seen.append(weights[0])
    return Ended(1.0, 1.0, float(np.exp(0.1 * weights[0][0]) - 0.01), 0.0)

  monkeypatch.setattr(trainer, "run", run)
  monkeypatch.setattr(suite_lib.cores, "num_shards", lambda: 1)  # in order
  trainer._fitness = Fitness(mean_weight=0.0, held_out_weight=0.0)
  metrics = trainer.update(0)
  plus, minus = np.array(seen[::2]), np.array(seen[1::2])
  eps = (plus - minus) / 2
  np.testing.assert_allclose((plus + minus) / 2, np.tile(start[0], (4, 1)), rtol=1e-5)
  slopes = 0.1 * 2 * eps[:, 0] / (2 * 0.2**2)
  expected = np.mean(slopes[:, np.newaxis] * eps, axis=0)
  (found,) = phi(trainer.optimizer)
  np.testing.assert_allclose(start[0] - found, expected, rtol=1e-3, atol=1e-6)
  assert metrics["meta_gradient_norm"] == pytest.approx(np.linalg.norm(expected), 1e-3)


def test_a_weight_without_a_spread_stays():
  spread = np.full(len(Constants._fields), 0.1)
  spread[[3, 7]] = 0.0
  trainer = trainer_of(stddev=[spread])
  before = phi(trainer.optimizer)[0]
  trainer.update(0)
  is_same = phi(trainer.optimizer)[0] == before
  np.testing.assert_array_equal(is_same, spread == 0.0)


def test_steps_are_in_proportion_to_the_spreads():
  spread = np.full(len(Constants._fields), 0.1)
  spread[[3, 7]] = 0.001
  trainer = trainer_of(meta_optimizer=Adam(0.05), stddev=[spread])
  before = phi(trainer.optimizer)[0]
  trainer.update(0)  # Adam's first step is as long as its rate, whatever the gradient.
  moved = np.abs(phi(trainer.optimizer)[0] - before)
  np.testing.assert_allclose(moved, 0.05 * spread / 0.1, rtol=0.01)


def test_a_pairs_difference_is_clipped(monkeypatch):
  trainer = trainer_of(meta_optimizer=SGD(1.0), clip=0.5, tasks=1, pairs=1)
  fitness = iter([Ended(1.0, 1.0, 9.0, 9.0), Ended(1.0, 1.0, 0.0, 0.0)])
  monkeypatch.setattr(trainer, "run", lambda *_: next(fitness))
  monkeypatch.setattr(suite_lib.cores, "num_shards", lambda: 1)
  metrics = trainer.update(0)
  (eps,) = trainer._noise(phi(trainer.optimizer), suite_lib.seeds.make(0, 5, 0))[:1]
  assert metrics["meta_gradient_norm"] < 0.5 / (2 * 0.1) * 2 * np.linalg.norm(eps)


def test_a_rate_that_is_too_low_is_learned():
  low = GeneralRule(None)
  constants = low.constants._replace(vector_rate=1e-3)
  rule = GeneralRule(None, [float(x) for x in constants])
  trainer = SuiteTrainer(PROBLEMS, rule, Adam(0.2), horizon=(9, 20), pairs=50, tasks=2)
  for i in range(6):
    trainer.update(i)
  assert float(rule.constants.vector_rate) > 2e-3


@pytest.mark.parametrize(
  "wrong", [{"horizon": (9, 4)}, {"pairs": 0}, {"tasks": 0}, {"stddev": 0.0}]
)
def test_bad_settings(wrong):
  with pytest.raises(
    ValueError, match="they must be positive, the lower horizon first"
  ):
    trainer_of(**wrong)


class Killed(BaseException):
  """Like SIGKILL, nothing catches it."""


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, capsys):
  recipe = Suite(lambda: GeneralRule(None), lambda: LAZY, 6, 0.1, lambda: SMALL)
  monkeypatch.setattr(suite_training, "_PERIOD", 2)
  expected = suite_training.train(recipe, tmp_path / "whole", 0, 6)
  update = SuiteTrainer.update

  def fragile(self, index):
    if index == 3:
      raise Killed
    return update(self, index)

  monkeypatch.setattr(SuiteTrainer, "update", fragile)
  with pytest.raises(Killed):
    suite_training.train(recipe, tmp_path / "killed", 0, 6)
  assert not (tmp_path / "killed/optimizer.l2l.npz").exists()
  monkeypatch.setattr(SuiteTrainer, "update", update)
  found = suite_training.train(recipe, tmp_path / "killed", 0, 6)
  assert "Going on after update 2 of 6" in capsys.readouterr().out
  for x, y in zip(phi(found.optimizer), phi(expected.optimizer), strict=True):
    np.testing.assert_array_equal(x, y)
  one, other = (
    (tmp_path / name / "updates.csv").read_text() for name in ("whole", "killed")
  )
  assert one == other and one.count("\n") == 7
  assert found.num_updates == 6 and found.seconds > 0
  again = suite_training.train(recipe, tmp_path / "killed", 0, 6)
  np.testing.assert_array_equal(phi(again.optimizer)[0], phi(found.optimizer)[0])
  with pytest.raises(
    ValueError, match="has finished 6 updates, more than num_epochs=5"
  ):
    suite_training.train(recipe, tmp_path / "killed", 0, 5)


LAZY = {"x^2": Simple, "x^2 + y^2": SimpleMulti}


@pytest.mark.parametrize(
  "name",
  ["digits, attention", "text, GRU", "diabetes, 2 x 64 relu", "iris, 16 sigmoid"],
)
def test_tasks_of_the_suite_have_losses_and_held_out_losses(name):
  problem = suites.GENERAL_TRAINING[name]()
  params, constants = problem.init(tf.constant([0, 1]))
  assert np.isfinite(problem(params, constants, tf.constant([0, 2])))
  assert np.isfinite(problem.held_out(params, constants)["held_out_loss"])


def test_held_out_tasks_share_no_data_with_training():
  data = lambda tasks: {name.split(",")[0] for name in tasks}
  training, held_out = map(data, (suites.GENERAL_TRAINING, suites.GENERAL_HELD_OUT))
  made = {"shifted digits", "taught classes"}
  assert training == {"digits", "wine", "iris", "diabetes", "text"} | made
  assert held_out == {"breast_cancer", "MNIST", "polynomials"}
