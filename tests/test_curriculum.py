"""Lengths of episodes and windows that change while meta-training goes on."""

import numpy as np
import pytest

from l2l_tf import Growing, MetaTrainer, RandomHorizon
from l2l_tf.optimizers import SGD, CoordinatewiseLSTM
from l2l_tf.problems import Quadratic
from l2l_tf.runs import builders
from l2l_tf.runs.settings import TrainingSettings
from l2l_tf.runs.training_run import TrainingRun


def trainer(curriculum, rate=0.01):
  optimizer = CoordinatewiseLSTM((3,), output_scale=0.1)
  return MetaTrainer(Quadratic(2, 3), optimizer, SGD(rate), curriculum=curriculum)


def test_random_horizons_are_log_uniform_multiples_of_the_window():
  curriculum = RandomHorizon(least=4, most=60, unroll_length=4, seed=3)
  drawn = np.array([curriculum.lengths(i).num_steps for i in range(600)])
  assert set(drawn) == set(range(4, 61, 4))
  assert 0.45 < np.mean(drawn < 16) < 0.55  # 1 to 3 windows, of 1 to 15: half of log 16
  again = RandomHorizon(least=4, most=60, unroll_length=4, seed=3)
  assert [again.lengths(i).num_steps for i in range(5)] == list(drawn[:5])
  assert curriculum.longest == (60, 4)


def test_a_stage_ends_when_validation_has_not_improved_for_a_while():
  curriculum = Growing(stages=((4, 2), (6, 3), (8, 2)), patience=2)
  assert curriculum.longest == (8, 3)
  stages = []
  for loss in (3.0, 2.0, 2.0, 2.5, 9.0, 8.0, 8.5, 8.1, 1.0, 1.0, 1.0, float("nan")):
    stages.append(curriculum.stage)
    curriculum.validated(loss)
  assert stages == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
  assert curriculum.lengths(0) == (8, 2)


def test_lengths_change_without_tracing_again():
  own = trainer(Growing(stages=((4, 2), (6, 3), (9, 3)), patience=1))
  counts = []
  for episode in range(3):
    metrics = own.train_episode(episode)
    counts.append((len(metrics["losses"]), len(metrics["meta_loss"])))
    own.curriculum.validated(1.0)
    own.curriculum.validated(1.0)
  assert counts == [(5, 2), (7, 2), (10, 3)] and own.num_traces == 1


def run(path, num_epochs):
  # A meta-optimizer that hardly moves: the validation soon improves no more.
  own = trainer(Growing(stages=((2, 2), (4, 2), (8, 2)), patience=1), rate=1e-12)
  own_run = TrainingRun(
    own, path, {}, num_epochs, evaluation_period=2, evaluation_epochs=2
  )
  lengths = [len(epoch.metrics["losses"]) - 1 for epoch in own_run.epochs()]
  return lengths, own_run


def test_its_stage_is_resumed(tmp_path):
  whole, one = run(tmp_path / "whole", 16)
  begun, _ = run(tmp_path / "resumed", 8)
  ended, two = run(tmp_path / "resumed", 16)
  assert begun + ended == whole and len(set(whole)) > 1
  for x, y in zip(one.trainer.optimizer.variables, two.trainer.optimizer.variables):
    np.testing.assert_array_equal(x, y)
  assert one.trainer.curriculum.stage == two.trainer.curriculum.stage


def test_a_run_without_a_finite_window_is_refused_at_its_validation(tmp_path):
  class Broken(Quadratic):
    def __call__(self, params, constants, seed):
      return super().__call__(params, constants, seed) * float("nan")

  own = MetaTrainer(
    Broken(2, 3), CoordinatewiseLSTM((3,)), curriculum=RandomHorizon(2, 8, 2)
  )
  with pytest.raises(ValueError, match="All windows of 2 epochs were skipped"):
    list(TrainingRun(own, tmp_path, {}, 4, evaluation_period=2).epochs())


@pytest.mark.parametrize(
  "build, message",
  [
    (lambda: RandomHorizon(5, 10, 2), "num_steps=5 must be a positive multiple"),
    (lambda: RandomHorizon(10, 4, 2), "least=10 and most=4; swap them"),
    (lambda: Growing(()), "Growing got no stages; give pairs"),
    (lambda: Growing(((5, 2),)), "num_steps=5 must be a positive multiple"),
    (lambda: Growing((4, 2)), "Growing got stages="),
    (lambda: Growing(((4, 2),), patience=0), "patience=0; it must be at least 1"),
  ],
)
def test_wrong_lengths_are_refused_in_one_sentence(build, message):
  with pytest.raises(ValueError, match=message):
    build()


GROWING = "Growing(stages=((4, 2), (8, 2)))"


@pytest.mark.parametrize(
  "given, message",
  [
    ({"num_steps": 4}, "--num_steps was given with --curriculum=Growing"),
    ({"schedule": "cosine"}, "leaves open; give --schedule=constant"),
    ({"curriculum": "Grow()"}, "Grow is unknown|'Grow'"),
  ],
)
def test_flags_that_do_not_fit_are_refused(given, message):
  with pytest.raises(ValueError, match=message):
    TrainingSettings(**({"curriculum": GROWING} | given)).resolved()


def test_the_flag_names_a_curriculum_and_makes_the_schedule_constant():
  settings = TrainingSettings(curriculum=GROWING).resolved()
  assert (settings.curriculum, settings.schedule) == (GROWING, "constant")
  assert settings.resolved() == settings  # as a flagfile of the run repeats it
  own = TrainingSettings(curriculum=GROWING, meta_optimizer="Adam(0.01)").resolved()
  assert own.resolved() == own
  settings = TrainingSettings(curriculum="RandomHorizon(20, 100)", seed=5).resolved()
  built = builders.build_trainer(settings)
  expected = RandomHorizon(20, 100, seed=5)
  lengths = lambda curriculum: [curriculum.lengths(i) for i in range(9)]
  assert lengths(built.curriculum) == lengths(expected)
