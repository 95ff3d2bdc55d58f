"""The scripts in examples/, as a user starts them, for a few steps."""

import pathlib
import re

import pytest

_EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(library_forks, tmp_path):
  """Runs the example of that name in `tmp_path`; returns what it prints."""

  def run(name, *flags, before=""):
    script = str(_EXAMPLES / name)
    code = f"{before}\nimport runpy; runpy.run_path({script!r}, run_name='__main__')"
    ended = library_forks.run(name, *flags, cwd=tmp_path, code=code)
    if ended.code and "DatasetUnavailableError" in ended.err[-1]:
      pytest.skip(ended.err[-1])
    assert ended.code == 0, ended.err
    return ended.out

  return run


def test_every_example_is_tested_and_has_help():
  tested = re.findall(r'run\(\s*"(\w+\.py)"', pathlib.Path(__file__).read_text())
  elsewhere = {"extensions.py"}  # in test_extensions.py
  assert {path.name for path in _EXAMPLES.glob("*.py")} == set(tested) | elsewhere


_STEPS = "--epochs=1", "--steps_per_epoch=3", "--logdir=logs"


# Images of MNIST's sizes, as reading those takes seconds.
_BLANK = """
import numpy as np
from l2l_tf.problems.data import datasets
blank = lambda n: (np.zeros([n, 28, 28, 1], "uint8"), np.arange(n) % 10)
datasets.mnist = lambda: datasets.as_dataset(*blank(60000), *blank(10000))
"""


def test_mnist_mlp_fit(run, tmp_path):
  printed = run("mnist_mlp_fit.py", "--optimizer=general", *_STEPS, before=_BLANK)
  assert "Test accuracy: 0." in printed
  assert (tmp_path / "logs" / "optimizer").exists()


def test_mnist_mlp_fit_with_an_optimizer_of_keras(run, tmp_path):
  printed = run("mnist_mlp_fit.py", "--optimizer=adam", *_STEPS, before=_BLANK)
  assert "Test accuracy: 0." in printed
  assert (tmp_path / "logs" / "train").exists()
  assert not (tmp_path / "logs" / "optimizer").exists()


def accuracy(printed):
  return float(re.search(r"Held-out accuracy: (\d\.\d+)", printed)[1])


def test_custom_loop(run):
  printed = run("custom_loop.py", "--steps=60")
  assert accuracy(printed) > 0.5  # chance is 0.1


def test_sonnet_loop(run):
  printed = run("sonnet_loop.py", "--steps=60")
  assert accuracy(printed) > 0.5


def test_meta_train_your_model(run, tmp_path):
  flags = ["--num_episodes=2", "--num_draws=1", "--results_path=mine"]
  printed = run("meta_train_your_model.py", *flags)
  assert "Epoch 4/4" in printed and "Learning curves: mine/curves.png" in printed
  assert re.search(r"^learned .*\nAdam|^Adam .*", printed, re.MULTILINE)
  names = {path.name for path in (tmp_path / "mine").iterdir()}
  assert names == {"curves.csv", "curves.png", "optimizer.l2l.npz", "summary.csv"}


def test_multi_worker_fit(run, tmp_path):
  path = tmp_path / "backup"
  flags = "--epochs=1", f"--backup_dir={path}"
  assert accuracy(run("multi_worker_fit.py", *flags)) > 0.5
  assert not path.exists()


def test_influence_balancing(run, tmp_path):
  flags = ["--num_episodes=2", "--num_seeds=1", "--windows=1"]
  printed = run("influence_balancing.py", *flags)
  assert -0.3 < float(re.search(r"PES ends at phi = (\S+);", printed)[1]) < 0.0
  assert (tmp_path / "influence_balancing.png").stat().st_size > 10_000
