"""l2l-reproduce: what it trains, evaluates and leaves, and does only once."""

import re
import shutil

import numpy as np
import pytest
import tqdm
from processes import rows

from l2l_tf.evaluation import panel_plots
from l2l_tf.evaluation.runner import Curves
from l2l_tf.pretraining import cards
from l2l_tf.reproductions import FIGURES, figure
from l2l_tf.reproductions.figure import Figure, Learned, Panel
from l2l_tf.runs import presets, reproduction, vocabulary
from l2l_tf.runs.settings import ReproductionSettings, TrainingSettings

_NAMES = list(FIGURES)
_STAGE = {
  "problem": "simple",
  "num_epochs": 3,
  "num_steps": 4,
  "unroll_length": 2,
  "evaluation_period": 2,
}
TINY = Figure(
  name="tiny",
  title="A parabola",
  source="section 0",
  claim="It goes down.",
  needs=(),
  minutes=0,
  megabytes=0,
  learned={"linear": Learned(stages=(_STAGE, {**_STAGE, "learning_rate": 0.001}))},
  panels=(
    Panel("x^2", "simple", {"learned": "linear"}, 8, 4, 1, 1, 1, ("SGD",)),
    Panel("x^2 + y^2", "simple_multi", {"learned": "linear"}, 4, None, 1, 1, 1, ()),
  ),
  summarizes=True,
  traced="linear",
)


def make(directory):
  return reproduction.reproduce(ReproductionSettings("tiny", save_path=str(directory)))


@pytest.fixture(scope="module", autouse=True)
def tiny():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(FIGURES, "tiny", TINY)
    yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The directory of a finished figure."""
  directory = tmp_path_factory.mktemp("figures")
  assert make(directory) == 0
  return directory / "tiny"


def test_a_figure_is_trained_evaluated_and_written(made):
  table = (made / "table.txt").read_text()
  assert re.search(r"x\^2 +SGD +[\d.]+ +[\d.e-]+ +0 +1\n", table)
  lines = (made / "table.md").read_text().splitlines()
  assert lines[1] == "| --- | --- | --- | --- | --- | --- |" and len(lines) == 2 + 3
  points = rows(made / "curves.csv")
  assert len(points) == 2 * 9 + 5 and float(points[0]["mean"]) == 1.0
  assert (made / "figure.png").read_bytes().startswith(b"\x89PNG")
  stages = made.parent / "trainings" / "linear"
  second = (stages / "2" / "flags.txt").read_text()
  assert f"--initial_path={stages / '1' / 'optimizer.l2l.npz'}\n" in second
  assert "--learning_rate=0.001\n" in second


def test_what_is_finished_is_not_done_again(made, monkeypatch, capsys):
  before = (made / "table.txt").read_text()
  for done in ("_run", "_tuned"):
    monkeypatch.setattr(reproduction.Panel, done, None)
  monkeypatch.setattr("l2l_tf.evaluation.gradient_sizes.measure", None)
  monkeypatch.setattr("l2l_tf.meta.trainer.MetaTrainer.train_episode", None)
  (made / "table.txt").unlink()
  assert make(made.parent) == 0
  assert (made / "table.txt").read_text() == before
  printed = capsys.readouterr().out
  assert before in printed and "The paper: It goes down." in printed


def test_a_figure_that_was_moved_is_not_done_again(made, tmp_path, monkeypatch):
  moved = shutil.copytree(made.parent, tmp_path / "moved")
  monkeypatch.setattr(reproduction.Panel, "_run", None)
  monkeypatch.setattr("l2l_tf.meta.trainer.MetaTrainer.train_episode", None)
  assert make(moved) == 0
  flags = (moved / "trainings/linear/2/flags.txt").read_text()
  assert f"--initial_path={moved}/trainings/linear/1/" in flags


def test_the_bar_ends_full_whatever_was_planned():
  bar = tqdm.tqdm(total=30, disable=True)
  for planned, steps in ((10, [5, 5]), (10, [8, 8]), (10, [])):
    with reproduction._counted(bar, planned, "") as progress:
      for n in steps:
        progress(n)
        bar.n += n  # A bar that is not shown counts nothing.
  assert bar.total == bar.n == 26


@pytest.mark.parametrize("seed, place", [(0, "."), (1, "seed_1")])
def test_another_seed_has_a_directory_of_its_own(tmp_path, monkeypatch, seed, place):
  trained = []
  monkeypatch.setattr(reproduction.training, "train", lambda s: trained.append(s) or 2)
  reproduction.reproduce(ReproductionSettings("tiny", False, seed, str(tmp_path)))
  assert trained[0].save_path == str(tmp_path / place / "trainings/linear/1")
  assert trained[0].seed == seed and (tmp_path / place / "tiny").is_dir()


def test_a_training_that_a_signal_ended_ends_the_command(tmp_path, monkeypatch):
  monkeypatch.setattr(reproduction.training, "train", lambda settings: 130)
  assert make(tmp_path) == 130
  assert not (tmp_path / "tiny" / "figure.png").exists()


def test_missing_data_are_reported_before_anything_is_trained(tmp_path, forks):
  code = """
import os, urllib.request
os.environ["TFDS_DATA_DIR"] = "empty"
def refuse(*args, **kwargs):
  raise OSError("no network")
urllib.request.OpenerDirector.open = refuse
from l2l_tf.scripts.reproduce import run; run()
"""
  ended = forks.run("reproduce", "transfer", cwd=tmp_path, code=code)
  ended.assert_mistake("MNIST", "TFDS_DATA_DIR", "download")
  assert not ended.out


def test_a_quick_figure_says_that_it_is_one(forks, tmp_path):
  ended = forks.run("reproduce", "--quick", "quadratics", cwd=tmp_path)
  assert ended.code == 0 and not ended.err and ended.bar
  path = tmp_path / "reproductions" / "quadratics_quick"
  assert "nothing can be concluded" in (path / "table.txt").read_text()
  assert {row["optimizer"] for row in rows(path / "curves.csv")} == {
    "LSTM", "RMSprop", "Adam"
  }  # fmt: skip
  picture = panel_plots.panels([plot()], "title", mark="quick settings")
  assert [text.get_text() for text in picture.texts if text.get_rotation() == 20] == [
    "quick settings"
  ]


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("make", [lambda f: f, figure.quick], ids=["whole", "quick"])
def test_what_a_figure_names_is_known(name, make):
  shown = make(FIGURES[name])
  assert shown.panels and shown.claim.endswith(".") and shown.all_minutes > 0
  for learned in shown.learned.values():
    assert bool(learned.stages) != bool(learned.pretrained)
    assert not learned.pretrained or cards.is_pretrained(learned.pretrained)
    for stage in learned.stages:
      assert TrainingSettings(**stage).resolved().num_epochs > 0
  for panel in shown.panels:
    assert {*panel.learned.values()} <= {*shown.learned}
    assert presets.get(panel.problem)
    vocabulary.check(presets.get(panel.problem).problem, "problem")


def test_a_quick_figure_has_one_training_of_each_kind():
  stages = [
    {**_STAGE, "problem": p, "seed": s, "num_epochs": n, "evaluation_period": n}
    for p, s, n in (("a", 0, 3), ("b", 0, 4), ("a", 1, 3))
  ]
  learned = {name: Learned(stages=(stage,)) for name, stage in zip("xyz", stages)}
  panels = [
    Panel("one", "simple", {"LSTM": "x", "LSTM-sub": "y", "other": "z"}),
    Panel("two", "simple", {"LSTM": "y"}),
    Panel("three", "simple", {"pretrained": "p"}),
  ]
  learned["p"] = Learned("quadratic")
  quick = figure.quick(TINY._replace(learned=learned, panels=tuple(panels)))
  assert list(quick.learned) == ["x", "z", "p"]
  assert [panel.learned for panel in quick.panels] == [
    {"LSTM": "x", "other": "z"}, {"LSTM": "x"}, {"pretrained": "p"}
  ]  # fmt: skip


def test_all_figures_are_listed(light_forks, tmp_path):
  ended = light_forks.run("reproduce", "--list", cwd=tmp_path)
  assert ended.code == 0 and not ended.err
  table, _, about = ended.out.partition("\n\n")
  header, _, *lines = table.splitlines()
  assert header.split() == ["name", "figure", "needs", "minutes", "MB"]
  assert [line.split()[0] for line in lines] == _NAMES
  assert "L2L_PHOTOS" in about and "two cores" in about


def curves(last, rate=None):
  return Curves(np.geomspace([1.0, 1.0], [last, 2 * last], 5, axis=1), {}, rate)


def plot(size=None, **options):
  if size is not None:
    options["sizes"] = np.full([4, 5], size) * np.float32([1, 2, 3, 4, 5])
  shown = {"LSTM": curves(0.1), "Adam": curves(0.2, 0.01), "SGD": curves(np.nan, 1.0)}
  return panel_plots.Plot("a net", shown, **options)


def test_a_figure_may_end_on_the_mean_of_its_last_steps():
  shown = {"LSTM": Curves(np.array([[9.0, 4, 3, 2, 1], [9, 6, 3, 2, 3]]), {})}
  header, row = reproduction._table({"a net": shown}, 0.5)
  assert header[3:5] == ["mean loss, last 50% of steps", "+/-"]
  assert row[3:5] == ["2", "0.98"]  # of 1.5 and 2.5
  header, row = reproduction._table({"a net": shown}, 0.0)
  assert header[3] == "final loss" and row[3:5] == ["2", "1.96"]  # of 1 and 3
  picture = panel_plots.panels([plot()], "title", True, "", 0.1)
  assert picture.axes[-1].get_ylabel() == "mean loss, last 10% of steps"


def test_a_picture_has_a_panel_for_each_problem_and_a_summary():
  picture = panel_plots.panels([plot(trained_steps=2), plot()], "title", True)
  first, second, summary = picture.axes
  assert first.get_title() == second.get_title() == "a net"
  learned, *baselines = first.lines[:3]
  assert learned.get_linestyle() == "-" and {x.get_linestyle() for x in baselines} == {
    "--"
  }
  np.testing.assert_allclose(learned.get_ydata()[-1], 0.15)
  assert [text.get_text().strip() for text in first.texts] == ["trained up to here"]
  assert not second.texts and first.get_ylim()[1] < 10  # SGD does not stretch it.
  assert [t.get_text() for t in summary.get_xticklabels()] == ["a net", "a net"]
  (legend,) = picture.legends
  assert [t.get_text() for t in legend.get_texts()] == ["LSTM", "Adam", "SGD"]


def test_gradients_are_drawn_beside_those_of_training():
  picture = panel_plots.panels([plot(size=1.0), plot(size=100.0)], "title")
  _, _, first, second = picture.axes
  medians = [[line.get_ydata()[0] for line in axes.lines] for axes in (first, second)]
  assert medians == [[3.0, 3.0], [3.0, 300.0]]
  assert first.get_ylim() == second.get_ylim()
