"""The benchmark: its trainings are Keras's, its tuning is whole, its scores right."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_models import X, Y, sequential
from processes import rows

from l2l_tf import seeds
from l2l_tf.benchmark import contenders, pictures, scores, trials
from l2l_tf.benchmark.contenders import ADAM, BASELINES, Contender
from l2l_tf.benchmark.contest import Contest, Result
from l2l_tf.benchmark.trials import Racer, Trial
from l2l_tf.optimizers import GeneralRule
from l2l_tf.problems import KerasModel
from l2l_tf.problems.benchmark_tasks import BENCHMARK_TASKS
from l2l_tf.runs import benchmark, settings

STEPS = 40
LEARNED = contenders.learned(GeneralRule())
SGD = Contender(lambda rate, steps: keras.optimizers.SGD(lambda: rate), (0.01, 0.0316))


@pytest.fixture(scope="module")
def problem():
  build = lambda: sequential(True)
  return KerasModel(build, "mse", (X[:48], Y[:48]), (X[48:], Y[48:]), 8)


def race(problem, contender, rate=0.01, seed=0, racer=None):
  racer = racer or Racer("task", problem, "it", contender.make, STEPS)
  return racer(STEPS, rate if contender.is_tuned else None, seeds.EVALUATION, seed)


def test_a_trial_is_gradient_descent_on_the_problem(problem):
  init, key = seeds.split(seeds.make(0, seeds.EVALUATION, 3), 2)
  params, constants = problem.init(init)
  losses = []
  for step in range(STEPS):
    with tf.GradientTape() as tape:
      tape.watch(params)
      loss = problem(params, constants, seeds.fold_in(key, step))
    params = [
      p - 0.02 * g for p, g in zip(params, tape.gradient(loss, params), strict=True)
    ]
    losses.append(float(loss))
  trial = race(problem, SGD, 0.02, 3)
  np.testing.assert_allclose(trial.curve, losses, rtol=1e-4)  # 40 parts of one step
  assert trial.first == pytest.approx(losses[0], rel=1e-5)
  assert trial.last == pytest.approx(np.mean(losses[-4:]), rel=1e-4)
  held_out = float(problem.held_out(params, constants)["held_out_loss"])
  assert len(trial.held_out) == 20
  assert trial.held_out[-1] == pytest.approx(held_out, rel=1e-4)
  assert trial.num_held_out == 16 and trial.accuracy == () and not trial.diverged


@pytest.mark.parametrize("name", [*BASELINES, "learned"])
def test_every_trial_starts_afresh(problem, name):
  contender = LEARNED if name == "learned" else BASELINES[name]
  racer = Racer("task", problem, name, contender.make, STEPS)
  first, _, again = (race(problem, contender, seed=s, racer=racer) for s in (0, 1, 0))
  assert first.curve == again.curve and first.held_out == again.held_out
  assert first.first == pytest.approx(race(problem, SGD).first, rel=1e-6)


def test_rates_fall_by_a_cosine_or_stay(problem):
  for name, factors in [(ADAM, (1.0, 0.5, 0.0)), ("Adam", (1.0, 1.0, 1.0))]:
    optimizer = BASELINES[name].make(tf.Variable(0.3), 10)
    optimizer.build([keras.Variable(1.0)])
    for step, factor in zip((0, 5, 10), factors):
      optimizer.iterations.assign(step)
      rate = float(optimizer._get_current_learning_rate())
      assert rate == pytest.approx(0.3 * factor, abs=1e-7)


def test_a_diverged_trial_ends_and_says_so(problem):
  trial = race(problem, SGD, 1e6)
  assert trial.diverged and len(trial.held_out) < 20
  assert len(trial.curve) == STEPS and math.isnan(trial.curve[-1])
  lost = Result(None, (trial,), (trial,), 0.1)
  results = {"t": {ADAM: result(1.0, rate=0.1), "l": lost}}
  assert pictures.curves(results, "x").axes  # NaN and all
  assert scores.steps_to(lost, 0.0) is None


def test_a_baseline_that_diverged_counts_as_if_it_had_stayed():
  assert scores.ratio(1.0, math.inf, first=10.0) == pytest.approx(1.1 / 10.1)
  assert scores.ratio(math.inf, 1.0, first=10.0) == math.inf


def test_copies_have_the_paths_and_constraints_of_the_models_variables():
  build = lambda: sequential(True, kernel_constraint="non_neg")
  problem = KerasModel(build, "mse", (X, Y))
  params, _ = problem.init(seeds.make(0))
  variables = problem.variables(params)
  assert [v.path for v in variables] == [p.path for p in problem.parameters()]
  assert [v.constraint is not None for v in variables] == [True, False, False, False]
  variables[0].assign(variables[0] + 1)
  assert not np.allclose(variables[0], problem.variables(params)[0])


class Recorded:
  """Stands for a racer: the loss is least at a rate, and every call is noted."""

  def __init__(self, best, calls):
    self.best, self.calls, self.is_ready = best, calls, True

  def __call__(self, num_steps, rate, branch, seed):
    self.calls.append((rate, branch, seed))
    last = 0.1 + abs(math.log10(rate / self.best))
    return Trial("t", "c", rate, seed, num_steps, 9.0, last, (1,), (1,), (), 4)


@pytest.mark.parametrize(
  "best, tried",
  [
    (0.0316, [0.01, 0.0316, 0.1]),
    (0.3, [0.01, 0.0316, 0.1, 0.316, 1.0]),
    (0.001, [0.01, 0.0316, 0.1, 0.00316, 0.001, 0.000316]),
  ],
)
def test_the_best_rate_lies_within_the_grid(problem, tmp_path, best, tried):
  field = {"c": Contender(SGD.make, (0.01, 0.0316, 0.1))}
  contest, calls = Contest("t", problem, field, tmp_path, STEPS, 2), []
  contest._racers["c"] = Recorded(best, calls)
  rate = contest._tuned("c")
  assert rate == pytest.approx(best, rel=0.06)
  assert calls == [(r, seeds.TUNING, 0) for r in tried]
  contest._reported("c", rate)
  assert calls[len(tried) :] == [(rate, seeds.EVALUATION, i) for i in range(2)]


def test_a_contest_that_was_stopped_goes_on(problem, tmp_path, monkeypatch):
  field = {ADAM: SGD, "learned": LEARNED}
  counted = []
  run = lambda: Contest(
    "t", problem, field, tmp_path, STEPS, 2, lambda: counted.append(1)
  )()
  results = run()
  files = list(tmp_path.glob("*/*.json"))
  assert len(counted) >= len(files) >= 4 + 4
  assert results["learned"].rate is None and len(results["learned"].shorter) == 2
  files[0].unlink()
  raced = []
  call = Racer.__call__
  counting = lambda self, *args: raced.append(args) or call(self, *args)
  monkeypatch.setattr(Racer, "__call__", counting)
  again = run()
  assert len(raced) == 1
  for name, r in results.items():
    assert again[name].last == r.last and again[name].seconds == r.seconds


def result(last, held_out=(2.0,), accuracy=(0.5,), rate=None, seconds=0.1, shorter=1.0):
  make = lambda last: Trial(
    "t", "c", rate, 0, 100, 10.0, last, (5.0, last), held_out, accuracy, 100
  )
  fewer = () if rate is not None else (make(shorter),)
  return Result(rate, (make(last),), fewer, seconds)


def test_scores_are_shares_and_geometric_means_over_the_tasks():
  adam = lambda *args: result(*args, rate=0.1)
  other = result(0.5, rate=0.1)
  results = {
    "a": {ADAM: adam(1.0, (2.0, 3.0)), "o": other, "l": result(0.4, (2.5, 3.1))},
    "b": {
      ADAM: adam(1.0),
      "o": other,
      "l": result(0.9, (1.9, 2.2), (0.44,), None, 0.2),
    },
    "c": {ADAM: adam(0.0), "o": other, "l": result(math.inf, (9.0,), (0.1,))},
  }
  found = scores.score(results, "l")
  assert found.num_tasks == 3 and found.diverged == 1
  assert found.no_worse_than_best == pytest.approx(1 / 3)
  assert found.no_worse_than_adam == pytest.approx(2 / 3)
  assert found.held_out_best == pytest.approx(1 / 3)
  assert found.held_out_end == pytest.approx(1 / 3)  # 3.1 of 3.0; 2.2 of 2.0 is more
  assert found.accuracy == pytest.approx(1 / 3)  # the error of 0.5 of 100 is 0.05
  assert found.time_to_adam == pytest.approx(2 ** (1 / 3))
  assert found.ratio_to_adam == math.inf
  del results["c"]
  found = scores.score(results, "l")
  assert found.ratio_to_adam == pytest.approx(math.sqrt(0.5 / 1.1 * 1.0 / 1.1))
  assert found.ratio_in_equal_time == pytest.approx(1.0)
  assert scores.steps_to(result(0.4), 0.5) == 100
  assert scores.steps_to(result(0.6), 0.5) is None
  assert "diverged" in scores.task_table({ADAM: adam(1.0), "l": result(math.inf)})
  for figure in pictures.profile(results, "x"), pictures.curves(results, "x"):
    assert figure.axes


def test_a_training_may_be_shorter_than_the_places_along_it(problem):
  racer = Racer("task", problem, "it", LEARNED.make, STEPS)
  trial = racer(3, None, seeds.EVALUATION, 0)
  assert len(trial.curve) == 3 and len(trial.held_out) == 20
  assert racer(2 * STEPS, None, seeds.EVALUATION, 0).num_steps == 2 * STEPS


def test_trials_are_files(tmp_path):
  trial = result(math.inf).trials[0]
  trials.write(trial, tmp_path / "new" / "trial.json")
  assert trials.read(tmp_path / "new" / "trial.json") == trial


def test_trials_of_an_edited_model_run_anew(tmp_path):
  own = tmp_path / "own.py"
  versions = []
  for text in OWN, OWN + "\nx = 1\n", OWN:
    own.write_text(text)
    versions.append(benchmark._version(f"{own}:problem"))
  assert versions[0] == versions[2] != versions[1] and benchmark._version(None) == ""


def test_tasks_and_settings_are_complete():
  assert list(settings.CONTENDERS) == list(BASELINES)
  assert len(BENCHMARK_TASKS) >= 16
  assert all(len(c.rates) >= 6 for c in BASELINES.values())


OWN = """
import keras, numpy as np
from l2l_tf.problems import Simple, keras_model
x = np.random.RandomState(0).normal(size=(64, 4)).astype("float32")
y = (x[:, 0] > 0).astype("int32")

def problem():
  layers = [keras.Input([4]), keras.layers.Dense(2, "softmax")]
  build = lambda: keras.Sequential(layers)
  return keras_model(build, "sparse_categorical_crossentropy", (x, y), held_out=(x, y))

simple = Simple
"""


def test_the_command_compares_on_a_model_of_ones_own(forks, tmp_path):
  (tmp_path / "own.py").write_text(OWN)
  flags = ["benchmark", "--problem=own.py:problem", "--num_steps=20", "--num_seeds=1"]
  flags += ["--baselines=Adam", "--save_path=results"]
  ended = forks.run(*flags, cwd=tmp_path)
  assert ended.code == 0, ended.err
  assert "no worse than the best" in ended.out and "results/" in ended.out
  path = tmp_path / "results"
  found = rows(path / "results.csv")
  assert [r["optimizer"].split()[0] for r in found] == ["Adam", "Adam", "general"]
  assert all(float(r["last"]) < float(r["first"]) for r in found)
  for name in "profile.png", "curves.png":
    assert (path / name).read_bytes().startswith(b"\x89PNG")
  again = forks.run(*flags, cwd=tmp_path)
  assert again.code == 0 and rows(path / "results.csv") == found


@pytest.mark.parametrize(
  "flag, words",
  [
    ("--baselines=SGD", ["'SGD'", "Adam + cosine"]),
    ("--tasks=CIFAR", ["Unknown task 'CIFAR'", "'CIFAR: mixer'"]),
    ("--problem=own.py:simple", ["Simple", "keras_model"]),
    ("--num_steps=19", ["num_steps"]),
    ("--path=", ["no learned optimizer", "--path"]),
  ],
)
def test_mistakes_are_one_sentence(forks, tmp_path, flag, words):
  (tmp_path / "own.py").write_text(OWN)
  forks.run("benchmark", flag, cwd=tmp_path).assert_mistake(*words)
