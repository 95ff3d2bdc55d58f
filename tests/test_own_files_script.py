"""The commands with problems, optimizers and meta-gradients of one's own."""

import signal

import pytest
from processes import rows
from short_run import latest

MINE = """
import keras
import l2l_tf
import numpy as np
import tensorflow as tf
from l2l_tf import problems
from l2l_tf.optimizers import Optimizer


def build_model():
  layers = keras.layers
  return keras.Sequential([layers.Dense(4), layers.Dropout(0.1), layers.Dense(1)])

def make_problem():
  x = np.random.default_rng(0).normal(size=[40, 3])
  return problems.keras_model(build_model, "mse", (x, x[:, :1]), held_out=(x, x[:, :1]))

def wrong_data():
  return problems.keras_model(build_model, "mse", (np.ones(1), np.ones(2)))

def wrong_type():
  return build_model

@l2l_tf.register
class Halves:
  config = {}

  def __call__(self, grads):
    return 0.5 * grads[..., tf.newaxis]

@l2l_tf.register
class Half:
  config = {}

  def __call__(self, x):
    return 0.5 * x

@l2l_tf.register
class Scaled(Optimizer):
  def __init__(self, units=2, squash=Half(), seed=0):
    super().__init__()
    self._config = {"units": units, "squash": squash, "seed": seed}
    self._squash = squash
    start = tf.random.stateless_normal([units], [seed, 0])
    self.scales = tf.Variable(-0.01 * tf.abs(start))

  @property
  def config(self):
    return self._config

  def initial_state(self, params):
    return ()

  def __call__(self, grads, state, params=None, loss=None):
    return [self._squash(tf.reduce_sum(self.scales)) * g for g in grads], state

class Unregistered(Scaled):
  pass

class Patient(l2l_tf.TruncatedBPTT):
  def __init__(self, factor):
    super().__init__(second_derivatives=True)
    object.__setattr__(self, "factor", factor)

  def __call__(self, *args):
    window, state = super().__call__(*args)
    return window._replace(meta_loss=self.factor * window.meta_loss), state
"""


@pytest.fixture
def mine(tmp_path):
  """A user's own file."""
  (tmp_path / "mine.py").write_text(MINE)


def test_ones_own_classes_are_trained_killed_resumed_and_evaluated(
  forks, mine, tmp_path
):
  # fmt: off
  flags = [
    "--problem=mine.py:make_problem", "--num_epochs=40", "--evaluation_period=2",
    "--evaluation_epochs=1", "--num_steps=4", "--unroll_length=2",
    "--optimizer=mine.py:Scaled(units=3, squash=Half())",
    "--meta_gradient=mine.py:Patient(factor=2.0)",
  ]
  # fmt: on
  path = tmp_path / "tensorboard_logs" / "mine_make_problem"
  whole = forks.start("train", *flags, "--save_path=whole", cwd=tmp_path)
  process = forks.start("train", *flags, cwd=tmp_path)
  process.wait_until(lambda: latest(path))
  assert process.kill().code == -signal.SIGKILL
  ended = forks.run("train", *flags, cwd=tmp_path)
  assert ended.code == 0, ended.err  # It may warn of a checkpoint that was cut short.
  assert "Going on after epoch" in ended.out
  opening = "Training on mine.py:make_problem (your own): 40 epochs,"
  assert whole.wait().out.startswith(opening)
  files = path / "optimizer.l2l.npz", tmp_path / "whole" / "optimizer.l2l.npz"
  assert files[0].read_bytes() == files[1].read_bytes()

  # The file of the problem registers the optimizer; else another flag names it.
  export = f"--path={files[0]}"
  rule = "--optimizer=mine.py:Scaled(seed=4)"
  named = "--optimizer=CoordinatewiseLSTM(preprocess=Halves()),Scaled"
  short = "--num_steps=4", "--num_epochs=2", "--plot=false"
  ended = forks.run("evaluate", flags[0], export, rule, *short, cwd=tmp_path)
  assert ended.code == 0 and not ended.err
  found = rows(path / "evaluation" / "summary.csv")
  names = {row["optimizer"] for row in found}
  assert names == {"Scaled (mine_make_problem)", rule.partition("=")[2]}
  assert all(float(row["held_out_loss"]) > 0 for row in found)
  ended = forks.run("diagnose", export, cwd=tmp_path)
  ended.assert_mistake("'Scaled', which is not registered", "--imports=path/to/file.py")
  imports = "--imports=mine.py"
  ended = forks.run("evaluate", imports, named, *short, "--num_epochs=1", cwd=tmp_path)
  assert ended.code == 0 and not ended.err
  forks.run("evaluate", named, cwd=tmp_path).assert_mistake("'Halves' is unknown")
  ended = forks.run("diagnose", export, imports, "--plot=false", cwd=tmp_path)
  assert ended.code == 0 and ended.out.startswith(f"Scaled of {files[0]}")
  ended = forks.run(
    "train", f"--initial_path={files[0]}", imports, "--save_path=on",
    "--problem=simple", "--num_epochs=1", "--num_steps=2", "--unroll_length=2",
    cwd=tmp_path,
  )  # fmt: skip
  assert ended.code == 0 and not ended.err


def test_an_optimizer_that_could_not_be_exported_is_not_trained(forks, mine, tmp_path):
  flag = "--optimizer=mine.py:Unregistered()"
  ended = forks.run("train", flag, cwd=tmp_path)
  ended.assert_mistake(
    "Unregistered", "cannot be exported", "decorator l2l_tf.register"
  )
  assert [p.name for p in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_a_mistake_in_ones_own_file_costs_nothing(forks, mine, tmp_path, script):
  def run(name):
    return forks.run(script, f"--problem=mine.py:{name}", cwd=tmp_path)

  run("missing").assert_mistake("mine.py has no function 'missing'", "define it there")
  run("wrong_type").assert_mistake("wrong_type() of mine.py returned", "a problem")
  ended = run("wrong_data")
  assert ended.code == 1 and "Traceback" in ended.err[0]
  shown = "\n".join(ended.err)
  assert 'mine.py", line ' in shown
  assert "in wrong_data" in shown
  assert "ValueError: The data have shapes (1,), (2,); all must be arrays" in shown
  assert ended.err[-1] == "RuntimeError: wrong_data() of mine.py failed, see above."
  assert [p.name for p in tmp_path.iterdir()] == ["mine.py"]


def test_a_flag_of_ones_own_that_the_command_has_is_named(forks, tmp_path):
  (tmp_path / "mine.py").write_text(
    'from absl import flags\nflags.DEFINE_string("save_path", "", "")\n'
  )
  ended = forks.run("train", "--problem=mine.py:make", cwd=tmp_path)
  ended.assert_mistake("defines the flag --save_path", "call yours by another name")
