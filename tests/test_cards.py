"""Cards say what is true of their figures, and pretrained weights load and run."""

import math
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import l2l_tf
from l2l_tf import problems
from l2l_tf.evaluation import protocol
from l2l_tf.optimizers import CoordinatewiseLSTM
from l2l_tf.pretraining import cards
from l2l_tf.pretraining import recipes as pretraining
from l2l_tf.pretraining.cards import Card, Result, Score
from l2l_tf.problems import vgg
from l2l_tf.storage import export

ROOT = pathlib.Path(__file__).parents[1]
WEIGHTS = "l2l_tf/pretraining/weights"
INF = math.inf
# task -> steps -> losses of: learned, tuned Adam, Adam at 0.001
LOSSES = {
  "easy": {100: (0.1, 0.2, 0.3), 1000: (0.01, 0.02, 0.03)},
  "even": {100: (0.2, 0.1, 0.3), 1000: (0.01, 0.01, 0.01)},
  "hard": {100: (0.4, 0.1, 0.3), 1000: (0.05, 0.01, 0.03)},
  "wild": {100: (0.4, 0.1, 0.3), 1000: (INF, 0.01, 0.03)},
  "lost": {100: (0.4, 0.5, 0.3), 1000: (0.05, INF, 0.06)},
}


def card(losses=LOSSES, name="tiny"):
  names = [cards.LEARNED, cards.TUNED_ADAM, cards.DEFAULT_ADAM]
  results = [
    Result(task, steps, optimizer, None if optimizer == cards.LEARNED else 0.001, loss)
    for task, by_steps in losses.items()
    for steps, values in by_steps.items()
    for optimizer, loss in zip(names, values)
  ]
  commands = ("l2l-train --problem=simple",)
  return Card(name, "x^2", commands, 0, 1200, 3.4, 3, tuple(results))


@pytest.fixture
def directory(tmp_path, monkeypatch):
  """A directory of pretrained optimizers, with one."""
  monkeypatch.setattr(cards, "DIRECTORY", tmp_path)
  export.save(CoordinatewiseLSTM((2,), seed=7), tmp_path / "tiny.l2l.npz")
  cards.write(card(), tmp_path / "tiny.json")
  return tmp_path


def test_a_score_counts_tasks():
  assert card().score(1000) == Score(5, 3, 2, 1)
  assert card().score(100) == Score(5, 2, 2, 1)
  assert card().summary() == (
    "Of 5 held-out tasks, untuned, after 100, 1,000 steps: no worse than tuned Adam on"
    " 2, 3, better than Adam at 0.001 on 2, 2; diverged on 1."
  )


def test_what_fails_is_told_from_the_figures_the_worst_first():
  assert card().fails == [
    "wild: diverged within 1,000 steps.",
    "hard: 4, 5 times tuned Adam's loss after 100, 1,000 steps.",
    "even: 2 times tuned Adam's loss after 100 steps.",
  ]
  assert card({"easy": LOSSES["easy"]}).fails == []
  nothing = card({"solved": {1000: (0.0, 0.0, 0.1)}})
  assert nothing.fails == [] and nothing.score() == Score(1, 1, 1, 0)
  assert card({"solved": {1000: (0.1, 0.0, 0.1)}}).fails


def test_a_card_reads_as_text_with_the_failures_before_the_table():
  text = str(card())
  order = ["tiny: trained on x^2", "Where it fails", "wild: diverged", "Of 5 held-out",
           "held-out task", "1,200 meta-updates", "l2l-train"]  # fmt: skip
  places = [text.index(words) for words in order]
  assert places == sorted(places)
  assert max(map(len, text.splitlines())) <= 88
  header, *lines = card().table().splitlines()
  assert header.split() == [
    "held-out", "task", "steps", "learned", "Adam", "Adam", "at", "0.001",
  ]  # fmt: skip
  assert lines[7].split() == ["wild", "1,000", "diverged", "0.01", "0.03"]
  assert len(lines) == 10
  assert "tuned Adam better" in str(card({"easy": LOSSES["easy"]}))


def test_the_table_character_for_character():
  losses = {name: LOSSES[name] for name in ("easy", "wild")}
  assert card(losses).table().splitlines() == [
    "held-out task  steps   learned  Adam  Adam at 0.001",
    "easy             100       0.1   0.2            0.3",
    "easy           1,000      0.01  0.02           0.03",
    "wild             100       0.4   0.1            0.3",
    "wild           1,000  diverged  0.01           0.03",
  ]


def test_a_written_card_reads_back(tmp_path):
  path = tmp_path / "tiny.json"
  cards.write(card(), path)
  assert cards.read(path) == card()
  assert "Infinity" not in path.read_text()  # which is no JSON


def test_what_comes_with_the_package_is_listed(directory):
  found = l2l_tf.pretrained()
  assert dict(found) == {"tiny": card()}
  text = " ".join(str(found).split())
  assert "tiny: trained on x^2" in text and card().summary() in text
  assert "Fails on 3 tasks, most on wild: diverged" in text


def test_a_name_loads_its_weights(directory, monkeypatch):
  optimizer = l2l_tf.load("tiny")
  assert optimizer.config["seed"] == 7
  monkeypatch.chdir(directory)
  export.save(CoordinatewiseLSTM((2,), seed=8), "tiny")
  assert l2l_tf.load("tiny").config["seed"] == 7
  for path in ("./tiny", directory / "tiny", pathlib.Path("tiny.l2l.npz").resolve()):
    assert l2l_tf.load(path).config["seed"] == (7 if "npz" in str(path) else 8)


def test_neither_name_nor_file_lists_the_names(directory):
  with pytest.raises(FileNotFoundError) as e:
    l2l_tf.load("large")
  assert str(e.value) == (
    "No exported optimizer at 'large'; give the path of a file that l2l-train or"
    " l2l_tf.save wrote, or a pretrained name: 'tiny'."
  )


SHIPPED = sorted(cards.pretrained())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_pretrained_optimizer_is_small_and_its_card_complete(name):
  for suffix in (".json", cards.SUFFIX):
    assert 0 < (cards.DIRECTORY / f"{name}{suffix}").stat().st_size < 200_000
  shipped, recipe = cards.pretrained()[name], pretraining.RECIPES[name]
  assert shipped.name == name and shipped.trained_on == recipe.trained_on
  flags = recipe.commands(name, shipped.seed)
  commands = [f"l2l-{recipe.script} {' '.join(f)}" for f in flags]
  if recipe.suite is not None:
    commands = [f"l2l-pretrain --name={name} --seed={shipped.seed}"]
    assert shipped.num_updates == recipe.suite.num_updates
  assert list(shipped.commands) == commands
  assert shipped.num_updates > 0 and shipped.minutes > 0
  found = {(r.task, r.steps, r.optimizer) for r in shipped.results}
  names = ["learned", "Adam", "momentum", "RMSprop", "Adam at 0.001"]
  assert found == {
    (task, steps, optimizer)
    for task in recipe.held_out()
    for steps in recipe.horizons
    for optimizer in names
  }
  assert len(found) == len(shipped.results)
  assert all(0 <= r.loss <= INF for r in shipped.results)
  assert all((r.learning_rate is None) == (r.optimizer == "learned")
             for r in shipped.results)  # fmt: skip


def held_out(name, task):
  return lambda: pretraining.RECIPES[name].held_out()[task]()


def picture():
  """A photograph painted by features of random convolutions."""
  flower = problems.datasets.photograph()
  return problems.NeuralStyle([flower], [flower], 16, vgg.untrained((2, 3, 4)))


def five_digits():
  """Few-shot episodes on images of Omniglot's size: digits, three times as large."""
  images, labels = problems.datasets.digits()[:2]
  larger = np.kron(images.numpy()[..., 0], np.ones([3, 3]))
  padded = np.pad(larger, [(0, 0), (2, 2), (2, 2)])[..., np.newaxis]
  data = padded.astype(np.float32), labels.numpy()
  return problems.few_shot(data, 5, 1, 2, split="train", statistics="batch")


# A task for each that needs no download.
TASKS = {
  "general": held_out("general", "breast_cancer, 32 relu"),
  "general_fast": held_out("general_fast", "breast_cancer, 32 relu"),
  "general_lstm": held_out("general_lstm", "breast_cancer, 32 relu"),
  "mnist_mlp": held_out("mnist_mlp", "digits, 20 sigmoid"),
  "neural_art": picture,
  "omniglot_5way": five_digits,
  "quadratic": held_out("quadratic", "quadratics"),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_pretrained_optimizer_optimizes(name):
  losses = protocol.Runner(TASKS[name](), l2l_tf.load(name), 60)(0, 0, 1).losses
  assert losses[:, -10:].mean() < 0.7 * losses[:, 0].mean()


def test_a_wheel_holds_them(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q",
     "-w", tmp_path / "dist", copied(tmp_path / "source")],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  (wheel,) = (tmp_path / "dist").iterdir()
  files = zipfile.ZipFile(wheel).namelist()
  for name in [*SHIPPED, "tiny"]:
    assert f"{WEIGHTS}/{name}.json" in files
    assert f"{WEIGHTS}/{name}.l2l.npz" in files


def copied(target):
  """The package's sources and one more optimizer, where a build may write."""
  shutil.copytree(ROOT / "l2l_tf", target / "l2l_tf")
  for name in ("setup.py", "README.md", "pyproject.toml"):
    shutil.copy(ROOT / name, target)
  weights = target / WEIGHTS
  export.save(CoordinatewiseLSTM((2,)), weights / "tiny.l2l.npz")
  cards.write(card(), weights / "tiny.json")
  return target
