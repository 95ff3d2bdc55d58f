"""Lengths of episodes and windows that change while meta-training goes on."""

import numpy as np
import pytest

from l2l_tf import ExponentialHorizon, Growing, MetaTrainer, RandomHorizon
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


def shares(scale, least, most):
  """Returns the probabilities of least, ..., most; x is rounded, and cut off."""
  edges = np.maximum(0.0, np.arange(most - least + 2) - 0.5)
  below = 1 - np.exp(-edges / scale)
  return np.diff(below) / below[-1]


def test_exponential_horizons_have_their_distribution_between_their_bounds():
  curriculum = ExponentialHorizon(3.0, 8.0, 2, 5, most_windows=9, most_length=20)
  drawn = [curriculum.lengths(i) for i in range(2000)]
  lengths = np.array([x.unroll_length for x in drawn])
  windows, rest = np.divmod([x.num_steps for x in drawn], lengths)
  assert not rest.any() and curriculum.longest == (9 * 20, 20)
  for found, (scale, least, most) in [(windows, (3, 2, 9)), (lengths, (8, 5, 20))]:
    p, values = shares(scale, least, most), np.arange(least, most + 1)
    assert (found.min(), found.max()) == (least, most)
    mean, variance = p @ values, p @ values**2 - (p @ values) ** 2
    assert abs(found.mean() - mean) < 4 * (variance / 2000) ** 0.5
    counted = np.array([(found == v).mean() for v in values])
    assert np.all(np.abs(counted - p) < 4.5 * np.sqrt(p * (1 - p) / 2000))
  assert abs(np.corrcoef(windows, lengths)[0, 1]) < 4 / 2000**0.5


def test_exponential_horizons_far_from_their_limit_have_the_mean_of_the_scale():
  curriculum = ExponentialHorizon(40, 200, least_length=50, most_windows=10**6, seed=4)
  drawn = [curriculum.lengths(i) for i in range(1000)]
  windows = np.array([x.num_steps // x.unroll_length for x in drawn])
  assert abs(windows.mean() - 41) < 4 * 40 / 1000**0.5
  assert ExponentialHorizon(2.5, 20).longest == (11 * 81, 81)  # 1 + 4 scales


def test_a_few_lengths_stand_for_the_distribution_in_equal_parts():
  curriculum = ExponentialHorizon(2.0, 40.0, least_length=5, num_lengths=4)
  drawn = [curriculum.lengths(i).unroll_length for i in range(800)]
  cut = 1 - np.exp(-160.5 / 40)  # 4 scales above the least
  medians = [-40 * np.log(1 - share * cut) for share in (1 / 8, 3 / 8, 5 / 8, 7 / 8)]
  expected = {5 + round(x): 0.25 for x in medians}
  found = {length: drawn.count(length) / 800 for length in sorted({*drawn})}
  assert found == pytest.approx(expected, abs=4 * (3 / 16 / 800) ** 0.5)
  assert curriculum.longest == (9 * max(drawn), max(drawn))


def test_an_episodes_number_names_its_exponential_lengths():
  one, same, other = (ExponentialHorizon(5, 20, seed=seed) for seed in (1, 1, 2))
  assert [one.lengths(i) for i in (5, 3)] == [same.lengths(i) for i in (5, 3)]
  assert [one.lengths(i) for i in range(9)] != [other.lengths(i) for i in range(9)]
  metrics = trainer(ExponentialHorizon(1, 2)).train_episode(7)
  num_steps, length = ExponentialHorizon(1, 2).lengths(7)
  assert len(metrics["losses"]) == num_steps + 1
  assert len(metrics["meta_loss"]) == num_steps // length


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
    (lambda: ExponentialHorizon(0, 5), "windows_scale=0 and least_windows=1; the sc"),
    (lambda: ExponentialHorizon(2, 5, least_length=0), "least_length=0; the scale"),
    (lambda: ExponentialHorizon(2, 5, 4, 1, 3), "most_windows=3; swap them"),
    (lambda: ExponentialHorizon(2, 5, num_lengths=0), "num_lengths=0; it must be at"),
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
