"""The scripts in examples/, as a user starts them, for a few steps."""

import pathlib
import re
import subprocess
import sys

import pytest

from l2l_tf.problems import DatasetUnavailableError
from l2l_tf.problems.data import datasets

_EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def run(name, *flags, cwd):
  command = [sys.executable, str(_EXAMPLES / name), *flags]
  done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def test_every_example_is_tested_and_has_help():
  tested = re.findall(r'run\(\s*"(\w+\.py)"', pathlib.Path(__file__).read_text())
  elsewhere = {"extensions.py"}  # in test_extensions.py
  assert {path.name for path in _EXAMPLES.glob("*.py")} == set(tested) | elsewhere


@pytest.mark.parametrize("optimizer", ["general", "adam"])
def test_mnist_mlp_fit(tmp_path, optimizer):
  try:
    datasets.mnist()
  except DatasetUnavailableError as e:
    pytest.skip(str(e))
  flags = ["--epochs=1", "--steps_per_epoch=3", "--logdir=logs"]
  printed = run("mnist_mlp_fit.py", f"--optimizer={optimizer}", *flags, cwd=tmp_path)
  assert "Test accuracy: 0." in printed
  assert (tmp_path / "logs" / "optimizer").exists() == (optimizer == "general")


def accuracy(printed):
  return float(re.search(r"Held-out accuracy: (\d\.\d+)", printed)[1])


def test_custom_loop(tmp_path):
  printed = run("custom_loop.py", "--steps=60", cwd=tmp_path)
  assert accuracy(printed) > 0.5  # chance is 0.1


def test_sonnet_loop(tmp_path):
  printed = run("sonnet_loop.py", "--steps=60", cwd=tmp_path)
  assert accuracy(printed) > 0.5


def test_meta_train_your_model(tmp_path):
  flags = ["--num_episodes=2", "--num_draws=1", "--save_path=mine"]
  printed = run("meta_train_your_model.py", *flags, cwd=tmp_path)
  assert "Epoch 4/4" in printed and "Learning curves: mine/curves.png" in printed
  assert re.search(r"^learned .*\nAdam|^Adam .*", printed, re.MULTILINE)
  names = {path.name for path in (tmp_path / "mine").iterdir()}
  assert names == {"curves.csv", "curves.png", "optimizer.l2l.npz", "summary.csv"}
