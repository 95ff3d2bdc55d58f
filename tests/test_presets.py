"""Every name's problem and recipe fit together."""

import inspect
import re
import sys

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import MetaTrainer
from l2l_tf.meta import unroll
from l2l_tf.meta.trainer import check_lengths
from l2l_tf.optimizers import SGD
from l2l_tf.problems import DatasetUnavailableError, Quadratic
from l2l_tf.runs import builders
from l2l_tf.runs.presets import OWN, OWN_RECIPE, PRESETS, get, short_name
from l2l_tf.runs.settings import TrainingSettings


def make_problem(preset):
  try:
    return preset.make_problem()
  except DatasetUnavailableError as e:
    pytest.skip(str(e))


@pytest.mark.parametrize("name", PRESETS)
def test_a_window_of_its_recipe_can_be_traced(name):
  preset = get(name)
  problem = make_problem(preset)
  optimizer = builders.build_optimizer(TrainingSettings(problem=name).resolved())
  assert type(optimizer).__name__ == preset.optimizer.partition("(")[0]
  trainer = MetaTrainer(problem, optimizer, num_steps=2, unroll_length=2)
  assert trainer.trace_window().get_operations()


@pytest.mark.parametrize("name", PRESETS)
def test_its_problem_starts_with_a_finite_loss_and_gradient(name):
  _, carry = unroll.start(make_problem(get(name)), SGD(0.1), tf.constant([1, 2]))
  assert np.isfinite(carry.loss)
  assert all(np.isfinite(g).all() for g in carry.grads)
  assert any(np.any(g != 0) for g in carry.grads)


@pytest.mark.parametrize("name", PRESETS)
def test_its_settings_are_valid(name):
  preset = get(name)
  check_lengths(preset.num_steps, preset.unroll_length)
  assert 0 < preset.learning_rate < 1 and preset.clip_norm > 0
  assert min(preset.num_epochs, preset.evaluation_epochs, preset.num_draws) >= 1
  assert inspect.cleandoc(preset.description)


def test_a_name_gives_its_preset():
  assert get("simple") is PRESETS["simple"]


@pytest.mark.parametrize("name", ["cubic", "", "simple-multi"])
def test_an_unknown_name_lists_the_valid_ones(name):
  with pytest.raises(ValueError, match=f"Unknown problem '{name}'") as e:
    get(name)
  for valid in PRESETS:
    assert valid in str(e.value)


MINE = """
import dataclasses
import sizes
from l2l_tf import problems

@dataclasses.dataclass
class Size:
  num_dims: int = sizes.SIZE

assert __name__ != "__main__"

def make_problem():
  return problems.Quadratic(num_dims=Size().num_dims)

def returns_nothing():
  pass

def with_size(num_dims, batch_size=2):
  return problems.Quadratic(batch_size, num_dims)

class Own(problems.Simple):
  def __init__(self, size=1):
    self.size = size

def fails():
  raise ValueError("What came.")

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """A user's file, with a neighbour that it imports; away from where it is used."""
  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.delitem(sys.modules, "sizes", raising=False)
  (tmp_path / "project").mkdir()
  (tmp_path / "project" / "sizes.py").write_text("SIZE = 3")
  (tmp_path / "project" / "mine.py").write_text(MINE)
  monkeypatch.chdir(tmp_path)
  yield "project/mine.py"
  sys.modules.pop("sizes", None)


def test_a_function_in_a_file_makes_the_problem(mine):
  preset = get(f"{mine}:make_problem")
  assert preset == OWN_RECIPE._replace(problem=f"{mine}:make_problem")
  problem = preset.make_problem()
  assert isinstance(problem, Quadratic) and problem.num_dims == 3


def test_a_function_in_a_module_makes_the_problem(mine, tmp_path):
  sys.path.insert(0, str(tmp_path / "project"))
  assert get("mine:make_problem").make_problem().num_dims == 3


def test_the_home_directory_is_found(mine, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert get(f"~/{mine}:make_problem").make_problem().num_dims == 3


@pytest.mark.parametrize(
  "call", ["with_size(5)", "with_size(num_dims=5, batch_size=3)"]
)
def test_the_function_may_take_literals(mine, call):
  assert get(f"{mine}:{call}").make_problem().num_dims == 5


@pytest.mark.parametrize("call, size", [("Own", 1), ("Own()", 1), ("Own(size=-2)", -2)])
def test_a_class_in_a_file_is_the_problem(mine, call, size):
  assert get(f"{mine}:{call}").make_problem().size == size


def test_a_file_is_run_once(mine):
  first, second = (get(f"{mine}:Own").make_problem() for _ in range(2))
  assert type(first) is type(second) and first is not second


@pytest.mark.parametrize(
  "name, recipe",
  [
    ("Quadratic", "quadratic"),
    ("Quadratic(num_dims=3)", "quadratic"),
    ("Quadratic(num_dims=3, distribution='uniform')", "quadratic_uniform"),
    ("digits_mlp(layers=(40,))", "digits_mlp"),
  ],
)
def test_an_expression_has_the_recipe_of_the_preset_most_like_it(name, recipe):
  preset = get(name)
  assert preset.description == f"by the recipe of {recipe}"
  like = {"problem": name, "arguments": {}, "description": preset.description}
  assert preset == PRESETS[recipe]._replace(**like)


def test_an_expression_like_no_preset_has_the_recipe_of_ones_own():
  preset = get("ScaledLoss(Quadratic(2, num_dims=3), low=0.1)")
  assert preset.clip_norm == OWN_RECIPE.clip_norm
  assert preset.make_problem().init([1, 2])[0][0].shape == (2, 3)


@pytest.mark.parametrize(
  "name, sentence",
  [
    ("Quadrtic(num_dims=3)", "'Quadrtic' is unknown; did you mean Quadratic or quad"),
    ("RNNprop()", "'RNNprop' is unknown"),
    ("Quadratic(dims=3)", "'dims'; its arguments are batch_size, num_dims, distrib"),
    ("Quadratic(num_dims=0)", "num_dims=0; both must be at least 1"),
    ("Quadratic(num_dims='3')", "Quadratic cannot be made: '<' not supported"),
    ("ScaledLoss()", "missing a required argument: 'problem'; its arguments are prob"),
    ("Simple(1)", "Simple: too many positional arguments"),
  ],
)
def test_a_wrong_expression_is_one_sentence(name, sentence):
  with pytest.raises(ValueError, match=re.escape(sentence)):
    get(name).make_problem()


@pytest.mark.parametrize(
  "function, sentence",
  [
    ("missing", "mine.py has no function 'missing'; define it"),
    ("number", "mine.py has no function 'number'; define it"),
    ("with_size", "with_size: missing a required argument: 'num_dims'; its arguments"),
    (
      "returns_nothing",
      r"returns_nothing\(\) of .* returned None; it must return a pr",
    ),
  ],
)
def test_a_file_without_a_problem_is_one_sentence(mine, function, sentence):
  with pytest.raises(ValueError, match=sentence):
    get(f"{mine}:{function}").make_problem()


def test_an_error_of_the_users_code_is_the_cause(mine, tmp_path):
  with pytest.raises(RuntimeError, match=r"fails\(\) of .*mine.py failed") as e:
    get(f"{mine}:fails").make_problem()
  assert str(e.value.__cause__) == "What came."
  (tmp_path / "broken.py").write_text("def f(:")
  with pytest.raises(RuntimeError, match=r"broken.py could not be run") as e:
    get("broken.py:f").make_problem()
  assert isinstance(e.value.__cause__, SyntaxError)


@pytest.mark.parametrize("name", ["nowhere.py:f", "./nowhere:f", "~/nowhere.py:f"])
def test_a_file_that_is_not_there_is_one_sentence(name):
  with pytest.raises(ValueError, match=r"There is no file .*nowhere.*; check the path"):
    get(name)


@pytest.mark.parametrize("name", ["mine.py", "mine.py:", ":f", "a b c"])
def test_an_incomplete_name_says_how_a_function_is_named(name):
  with pytest.raises(ValueError, match=f"Unknown problem .* as in {OWN}"):
    get(name)


@pytest.mark.parametrize(
  "name, short",
  [
    ("quadratic", "quadratic"),
    ("a/b c/file.py:make", "file_make"),
    ("package.module:make", "module_make"),
    ("a/file.py:make(n=-3, s='a/b: c')", "file_make_n_-3_s_a_b_c"),
    ("Quadratic(num_dims=3)", "Quadratic_num_dims_3"),
  ],
)
def test_a_short_name_can_name_a_directory(name, short):
  assert short_name(name) == short


def test_a_long_name_is_cut_and_still_its_own():
  names = [f"MLP(digits(), layers=({'20, ' * 50}{n},))" for n in (1, 2)]
  short = [short_name(name) for name in names]
  assert len(set(short)) == 2 and {len(s) for s in short} == {80}
