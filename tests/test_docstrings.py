"""The examples in the docstrings run, and print what they say they print.

An example may use the public names of l2l_tf, NumPy, TensorFlow and Keras, and what
`names` adds: data, a model, and a working directory of its own. One that shows no
output need only run.
"""

import doctest
import importlib
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf.keras import LearnedOptimizer

_PACKAGE = pathlib.Path(l2l_tf.__file__).parent
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class _Checker(doctest.OutputChecker):
  def check_output(self, want, got, optionflags):
    return not want or super().check_output(want, got, optionflags)


def _examples():
  """Returns the docstrings with examples, of every module that has any."""
  finder = doctest.DocTestFinder(exclude_empty=True)
  found = {}
  for path in sorted(_PACKAGE.rglob("*.py")):
    if ">>>" not in path.read_text(encoding="utf-8"):
      continue
    parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    for test in finder.find(importlib.import_module(name), name):
      if test.examples:
        found[test.name] = test
  return list(found.values())


_EXAMPLES = _examples()


def build_model():
  return keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])


@pytest.fixture
def names(tmp_path, monkeypatch):
  """What an example can use without defining it."""
  monkeypatch.chdir(tmp_path)
  keras.utils.set_random_seed(0)
  rng = np.random.default_rng(0)
  x = rng.normal(size=[64, 4]).astype(np.float32)
  y = np.sum(x, axis=1, keepdims=True)
  model = build_model()
  model.compile(LearnedOptimizer("general"), loss="mse")
  public = {
    name: getattr(module, name)
    for module in (l2l_tf.optimizers, l2l_tf.problems, l2l_tf.preprocess, l2l_tf.keras)
    for name in vars(module)
    if not name.startswith("_")
  }
  return {
    **public,
    **{name: getattr(l2l_tf, name) for name in l2l_tf.__all__},
    **{"l2l_tf": l2l_tf, "keras": keras, "np": np, "tf": tf},
    **{"build_model": build_model, "model": model},
    **{"x": x[:48], "y": y[:48], "x_test": x[48:], "y_test": y[48:]},
  }


def run(example, names) -> str:
  """Returns what was wrong with an example, or nothing."""
  failures = []
  example.globs = names
  runner = doctest.DocTestRunner(_Checker(), verbose=False, optionflags=_FLAGS)
  runner.run(example, out=failures.append)
  return "".join(failures)


@pytest.mark.parametrize("example", _EXAMPLES, ids=lambda example: example.name)
def test_an_example_runs_as_written(example, names):
  failures = run(example, names)
  assert not failures, failures


@pytest.mark.parametrize(
  "text, complaint",
  [
    (">>> 1 + 1", ""),
    (">>> 1 + 1\n2", ""),
    (">>> 1 + 1\n3", "Got:\n    2"),
    (">>> 1 / 0", "ZeroDivisionError"),
    (">>> undefined", "NameError"),
  ],
)
def test_what_does_not_run_or_prints_something_else_is_found(text, complaint):
  example = doctest.DocTestParser().get_doctest(text, {}, "text", None, 0)
  failures = run(example, {})
  assert complaint in failures
  assert bool(failures) == bool(complaint)


def test_examples_are_found():
  found = {example.name for example in _EXAMPLES}
  assert {
    "l2l_tf.meta.trainer.MetaTrainer",
    "l2l_tf.problems.keras_model.keras_model",
  } <= found
