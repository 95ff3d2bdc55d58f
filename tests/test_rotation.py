"""Training on problems in turn: what they share, and in what order they come."""

import collections
import gc
import itertools
import weakref

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import ExponentialHorizon, RotatingTrainer, seeds
from l2l_tf.evaluation.log_ratios import LogRatios
from l2l_tf.meta.gradients import StaggeredBPTT
from l2l_tf.meta.objective import MetaObjective, log_relative_loss
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import SGD, Adam, CoordinatewiseLSTM
from l2l_tf.problems import Polynomial, Problem, Quadratic, Simple
from l2l_tf.runs.training_run import TrainingRun

PROBLEMS = {
  "x^2": Simple,
  "quadratic": lambda: Quadratic(1, 3),
  "polynomial": lambda: Polynomial(2, 8),
}
LENGTHS = {"num_steps": 4, "unroll_length": 2}


def lstm():
  return CoordinatewiseLSTM((3,), output_scale=0.1, seed=1)


def rotating(**options):
  return RotatingTrainer(PROBLEMS, lstm(), Adam(0.01), **{**LENGTHS, **options})


def phi(trainer):
  return [v.numpy() for v in trainer.optimizer.variables]


def assert_same(one, other):
  for x, y in zip(one, other, strict=True):
    np.testing.assert_array_equal(x, y)


def test_every_round_visits_every_problem_in_an_order_that_the_seed_names():
  trainer = rotating(repeats=2)
  names = [trainer.problem_of(i) for i in range(6 * 40)]
  assert names[::2] == names[1::2]
  rounds = [tuple(names[i : i + 6 : 2]) for i in range(0, len(names), 6)]
  assert all(set(order) == {*PROBLEMS} for order in rounds)
  assert len(collections.Counter(rounds)) == 6
  assert names == [rotating(repeats=2).problem_of(i) for i in range(6 * 40)]
  assert names != [rotating(repeats=2, seed=1).problem_of(i) for i in range(6 * 40)]


def test_episodes_are_those_of_single_trainers_that_hand_phi_and_moments_on():
  trainer, optimizer, meta_optimizer = rotating(), lstm(), Adam(0.01)
  objective = MetaObjective(function=log_relative_loss)
  singles = {
    name: MetaTrainer(make(), optimizer, meta_optimizer, objective=objective, **LENGTHS)
    for name, make in PROBLEMS.items()
  }
  state = None
  for episode in range(5):
    found = trainer.train_episode(episode)
    single = singles[found["problem"]]
    if state is not None:
      for variable, value in zip(single.meta_state_variables, state, strict=True):
        variable.assign(value)
    expected = single.train_episode(episode)
    state = [v.numpy() for v in single.meta_state_variables]
    np.testing.assert_array_equal(found["losses"], expected["losses"])
    assert trainer.problem_of(episode) == found["problem"]
  assert_same(phi(trainer), [v.numpy() for v in optimizer.variables])
  assert_same([v.numpy() for v in trainer.meta_state_variables], state)
  assert isinstance(trainer.problem, Problem)


def test_a_dropped_problem_is_made_again_and_its_graph_is_freed():
  made, models = [], []

  def make(name):
    def one():
      made.append(name)
      models.append(weakref.ref(problem := PROBLEMS[name]()))
      return problem

    return one

  problems = {name: make(name) for name in PROBLEMS}
  options = {**LENGTHS, "most_compiled": 1}
  trainer = RotatingTrainer(problems, lstm(), Adam(0.01), **options)
  for _ in trainer.train(6):
    pass
  # One that ends a round and begins the next one is still there.
  turns = [trainer.problem_of(i) for i in range(6)]
  assert made == [name for name, _ in itertools.groupby(turns)]
  gc.collect()
  assert sum(model() is not None for model in models) == 1
  every = rotating()
  for _ in every.train(6):
    pass
  assert_same(phi(trainer), phi(every))


def run(path, num_epochs):
  curriculum = ExponentialHorizon(1, 2, most_windows=3, most_length=4)
  trainer = RotatingTrainer(PROBLEMS, lstm(), Adam(0.01), curriculum=curriculum)
  runner = LogRatios({"x^2": Simple}, trainer.optimizer, 3)
  own = TrainingRun(
    trainer, path, {}, num_epochs, 2, 1, may_change=["num_epochs"], runner=runner
  )
  return [epoch.metrics["problem"] for epoch in own.epochs()], trainer


def test_a_training_goes_on_where_it_was_stopped(tmp_path):
  whole, one = run(tmp_path / "whole", 6)
  begun, _ = run(tmp_path / "resumed", 4)
  ended, two = run(tmp_path / "resumed", 6)
  assert begun + ended == whole and len(ended) == 2
  assert_same(phi(one), phi(two))
  assert_same(one.meta_state_variables, two.meta_state_variables)


def test_the_optimizer_learns_to_lower_all_of_them():
  trainer = RotatingTrainer(
    {"x^2": Simple, "polynomial": lambda: Polynomial(2, 32)},
    CoordinatewiseLSTM((5,), output_scale=0.1),
    Adam(0.03),
    num_steps=10,
    unroll_length=10,
  )
  meta_losses = collections.defaultdict(list)
  for metrics in trainer.train(60):
    meta_losses[metrics["problem"]].append(metrics["meta_loss"].mean())
  for found in meta_losses.values():
    assert np.mean(found[-5:]) < np.mean(found[:5]) - 0.3


class Lost(Simple):
  """x^2 that is not finite after the first step of a large rate."""

  def __call__(self, params, constants, seed):
    loss = super().__call__(params, constants, seed)
    return tf.where(loss > 4.0, float("nan"), loss)


def test_log_ratios_count_problems_alike_and_a_lost_one_as_the_most():
  problems = {"x^2": Simple, "quadratic": lambda: Quadratic(2, 3), "lost": Lost}
  ratios = LogRatios(problems, SGD(0.1), 3)
  curves = ratios(0, seeds.VALIDATION, 2).losses
  assert curves.shape == (2 + 4 + 2, 4)
  np.testing.assert_allclose(curves[:, 0], 0.0, atol=1e-5)
  np.testing.assert_allclose(curves[0], 2 * np.arange(4) * np.log(0.8), atol=1e-5)
  assert [*ratios.by_problem(0, seeds.VALIDATION, 1)] == [*problems]
  lost = LogRatios({"lost": Lost}, SGD(10.0), 2)(0, seeds.VALIDATION, 1).losses
  np.testing.assert_allclose(lost[:, 1:], np.log(1e6))


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: RotatingTrainer({}, lstm()), "got 0 problems, repeats=1"),
    (lambda: rotating(repeats=0), "repeats=0 and most_compiled=None; all must be"),
    (lambda: rotating(most_compiled=0), "most_compiled=0; all must be at least 1"),
    (
      lambda: rotating(meta_gradient=StaggeredBPTT(lanes=2)).train_episode(0),
      "StaggeredBPTT has a state for one problem, which RotatingTrainer",
    ),
  ],
)
def test_what_cannot_be_is_refused_in_one_sentence(make, message):
  with pytest.raises(ValueError, match=message):
    make()
