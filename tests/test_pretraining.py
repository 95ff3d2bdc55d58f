"""Pretrained optimizers are made by one command, which can be stopped anywhere."""

import copy
import csv
import dataclasses
import signal

import processes
import pytest
from absl import flags

from l2l_tf.evaluation import comparison
from l2l_tf.evaluation import few_shot as protocol
from l2l_tf.meta.trainer import check_lengths
from l2l_tf.optimizers import GeneralRule
from l2l_tf.pretraining import cards
from l2l_tf.pretraining import recipes as pretraining
from l2l_tf.pretraining.recipes import RECIPES, Recipe, Suite
from l2l_tf.problems import Simple, few_shot
from l2l_tf.runs import few_shot as fewshot
from l2l_tf.runs import presets
from l2l_tf.runs import pretraining as pretrained
from l2l_tf.runs.settings import FewShotSettings, PretrainingSettings
from l2l_tf.scripts import train
from l2l_tf.storage import export

COMMAND = "from l2l_tf.scripts import pretrain; pretrain.run()"
# Two stages, of many epochs that take no time, and a task that takes none either.
SMALL = f"""
from l2l_tf.pretraining import recipes as pretraining
def held_out():
  from l2l_tf import problems
  return {{"x^2": problems.Simple}}
stage = ("--problem=simple", "--num_steps=2", "--unroll_length=2",
         "--evaluation_period=20")
recipe = pretraining.Recipe("x^2", (("--layers=", *stage), stage), held_out)
pretraining.RECIPES = {{"general": recipe}}
{COMMAND}
"""


@pytest.mark.parametrize(
  "args, words",
  [
    (
      ["--name=large"],
      "value should be one of <quadratic|mnist_mlp|general|general_fast|",
    ),
    (["--horizons=100,0"], "positive integers separated by commas"),
    (["--horizons="], "positive integers separated by commas"),
    (["--num_draws=0"], "--num_draws=0"),
  ],
)
def test_a_wrong_flag_is_one_sentence(args, words, tmp_path):
  ended = processes.cold(COMMAND, *args, cwd=tmp_path)
  assert not ended.out
  ended.assert_mistake(words)
  assert not list(tmp_path.iterdir())


def test_stopped_and_started_again_it_ends_with_weights_and_card(
  library_forks, tmp_path
):
  args = ["--horizons=2,20", "--num_draws=2", "--num_epochs=80",
          "--save_path=run", "--output_path=out"]  # fmt: skip
  process = library_forks.start("pretrain", *args, code=SMALL, cwd=tmp_path)
  process.wait_until(lambda: list(tmp_path.glob("run/1/checkpoints/*.index")))
  ended = process.kill(signal.SIGTERM)
  assert ended.code == 128 + signal.SIGTERM, ended.err
  assert "Stopped after epoch" in ended.out
  assert not (tmp_path / "out").exists() and not (tmp_path / "run" / "2").exists()
  seconds = float((tmp_path / "run/1/seconds.txt").read_text())
  assert seconds > 0

  again = library_forks.run("pretrain", *args, code=SMALL, cwd=tmp_path)
  assert again.code == 0, again.err
  assert "Going on after epoch" in again.out
  assert not any("Traceback" in line for line in again.err)
  card = cards.read(tmp_path / "out/general.json")
  assert str(card) in again.out
  assert card.num_updates == 2 * 80 and card.num_draws == 2
  assert float((tmp_path / "run/1/seconds.txt").read_text()) > seconds
  assert card.commands == (
    "l2l-train --layers= --problem=simple --num_steps=2 --unroll_length=2"
    " --evaluation_period=20 --seed=0 --num_epochs=80 --save_path=general/1",
    "l2l-train --problem=simple --num_steps=2 --unroll_length=2 --evaluation_period=20"
    " --seed=0 --initial_path=general/1/optimizer.l2l.npz --num_epochs=80"
    " --save_path=general/2",
  )
  assert {(r.task, r.steps) for r in card.results} == {("x^2", 2), ("x^2", 20)}
  made = export.load(tmp_path / "out/general.l2l.npz")
  trained = export.load(tmp_path / "run/2/optimizer.l2l.npz")
  for x, y in zip(made.variables, trained.variables, strict=True):
    assert (x.numpy() == y.numpy()).all()
  with (tmp_path / "run/comparison.csv").open(newline="") as f:
    _, *rows = csv.reader(f)
  losses = {(row[0], int(row[1]), row[2]): float(row[-2]) for row in rows}
  assert losses == {(r.task, r.steps, r.optimizer): r.loss for r in card.results}


class FakeTrial:
  """Counts what is run."""

  ran: list = []

  def __init__(self, task, problem, horizons, *settings):
    self._task, self._horizons = task, horizons

  def baseline(self, name):
    self.ran.append((name, self._task))
    return [cards.Result(self._task, n, name, 0.1, 1.0 / n) for n in self._horizons]

  def learned(self, optimizer):
    self.ran.append((cards.LEARNED, self._task))
    return [
      cards.Result(self._task, n, cards.LEARNED, None, float("inf"))
      for n in self._horizons
    ]


def test_a_comparison_goes_on_with_what_is_missing(tmp_path, monkeypatch):
  monkeypatch.setattr(comparison, "Trial", FakeTrial)
  monkeypatch.setattr(FakeTrial, "ran", [])
  recipe = Recipe("x^2", (), lambda: {"a": Simple, "b": Simple})
  path = tmp_path / "comparison.csv"
  settings = PretrainingSettings(horizons=(2, 4), num_draws=1)
  first = pretrained._compare(recipe, None, path, settings)
  assert len(FakeTrial.ran) == len(set(FakeTrial.ran)) == 2 * 5
  assert [r.task for r in first] == ["a"] * 10 + ["b"] * 10

  lines = path.read_text().splitlines()
  path.write_text("\n".join(lines[:9]) + "\n")  # four of ten runs
  FakeTrial.ran.clear()
  assert pretrained._compare(recipe, None, path, settings) == first
  assert len(FakeTrial.ran) == 6
  FakeTrial.ran.clear()
  assert pretrained._compare(recipe, None, path, settings) == first
  assert not FakeTrial.ran
  pretrained._compare(recipe, None, path, dataclasses.replace(settings, num_draws=2))
  assert len(FakeTrial.ran) == 10


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if r.method is None])
def test_the_stages_of_a_recipe_are_flags_that_l2l_train_takes(name):
  commands = RECIPES[name].commands("runs", 3)
  for i, command in enumerate(commands, 1):
    known = copy.deepcopy(flags.FLAGS)
    assert known(["l2l-train", *command]) == ["l2l-train"]
    settings = train.settings(known).resolved()
    check_lengths(settings.num_steps, settings.unroll_length)
    assert settings.seed == 3 and settings.save_path == f"runs/{i}"
    # Else a higher --num_epochs went on with a stage whose successor has begun.
    assert settings.schedule == "cosine"
    former = f"runs/{i - 1}/optimizer.l2l.npz" if i > 1 else None
    assert settings.initial_path == former


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if r.method])
def test_a_few_shot_recipe_is_of_flags_that_l2l_fewshot_takes(light_forks, name):
  (command,) = RECIPES[name].commands("runs", 3)
  ended = light_forks.run("fewshot", *command, "--help")
  assert "--dataset" in ended.out, ended.err
  assert f"--methods={RECIPES[name].method}" in command


def test_every_recipe_is_for_a_problem_with_a_plain_name():
  assert list(pretraining.RECIPES) == [
    "quadratic", "mnist_mlp", "general", "general_fast", "general_lstm", "neural_art",
    "omniglot_5way",
  ]  # fmt: skip
  for name, recipe in RECIPES.items():
    assert bool(recipe.stages) == (recipe.suite is None)
    if recipe.method:
      continue
    problem = name.removesuffix("_lstm")
    assert problem in presets.PRESETS or recipe.suite is not None
    assert all(f"--problem={problem}" in flags for flags in recipe.stages)


def test_a_few_shot_recipe_ends_with_accuracies(tmp_path, monkeypatch):
  tiny = {"dataset": "digits", "ways": 3, "queries": 2, "learner": "dense"}
  tasks = lambda: {"digits": lambda: few_shot(**tiny, split="test")}
  horizons = {"horizons": (2, 3), "num_draws": 4, "num_tuning_draws": 1}
  recipe = Recipe("digits", ((),), tasks, **horizons, method="gate_lstm")
  monkeypatch.setattr(pretraining, "RECIPES", {"omniglot_5way": recipe})

  def train(script, flags, path):
    assert script == "fewshot" and flags == ["--seed=0", "--num_updates=2", where]
    few = {"validation_episodes": 1, "test_episodes": 2, "gate_tasks": 2}
    how = {"methods": ("gate_lstm",), "num_steps": 2, "num_updates": 2}
    settings = FewShotSettings(**tiny, **few, **how, save_path=str(path))
    return fewshot.few_shot(settings)

  run, out = tmp_path / "run", tmp_path / "out"
  where = f"--save_path={run}/1"
  monkeypatch.setattr(pretrained, "_train", train)
  paths = {"save_path": str(run), "output_path": str(out)}
  settings = PretrainingSettings("omniglot_5way", num_epochs=2, **paths)
  assert pretrained.make(settings) == 0
  card = cards.read(out / "omniglot_5way.json")
  assert card.num_updates == 2 and card.num_draws == 4 and card.minutes >= 0
  assert card.commands[0].startswith("l2l-fewshot --seed=0 --num_updates=2")
  found = {(r.steps, r.optimizer): r for r in card.results}
  optimizer = export.load(out / "omniglot_5way.l2l.npz")
  scores = protocol.scores(tasks()["digits"](), optimizer, 3, 4, seed=0)
  learned = found[3, cards.LEARNED]
  assert learned.accuracy == pytest.approx(scores.mean)
  assert learned.loss == pytest.approx(scores.losses.mean())
  assert len(found) == 2 * 5 and found[2, cards.TUNED_ADAM].learning_rate > 0
  assert f"({learned.accuracy:.1%})" in str(card) and "learned start" in str(card)
  # Read back from the file of comparisons, they are the same.
  assert pretrained.make(settings) == 0
  assert cards.read(out / "omniglot_5way.json").results == card.results


def test_a_recipe_with_a_suite_trains_on_it(tmp_path, monkeypatch):
  problems = lambda: {"x^2": Simple}
  options = lambda: {"horizon": (3, 6), "pairs": 1, "tasks": 1}
  suite = Suite(lambda: GeneralRule(None), problems, 9, 0.1, options)
  recipes = {"general": Recipe("x^2", (), problems, suite)}
  monkeypatch.setattr(pretraining, "RECIPES", recipes)
  settings = PretrainingSettings(
    num_epochs=2,
    horizons=(2, 4),
    num_draws=1,
    save_path=str(tmp_path / "run"),
    output_path=str(tmp_path / "out"),
  )
  assert pretrained.make(settings) == 0
  card = cards.read(tmp_path / "out/general.json")
  assert card.num_updates == 2
  assert card.commands == ("l2l-pretrain --name=general --seed=0 --num_epochs=2",)
  assert {(r.task, r.steps) for r in card.results} == {("x^2", 2), ("x^2", 4)}
  made = export.load(tmp_path / "out/general.l2l.npz")
  assert isinstance(made, GeneralRule)
  assert (made.variables[0].numpy() != GeneralRule(None).variables[0].numpy()).all()
