"""The examples in the docstrings run, and print what they say they print.

An example may use the public names of l2l_tf, NumPy, TensorFlow and Keras, data and a
model (see `names`), and a working directory of its own. An example that shows no output
need only run.
"""

import doctest
import importlib
import inspect
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


class _Finder(doctest.DocTestFinder):
  def _from_module(self, module, object):
    # Sonnet wraps the methods of its modules by functions from a module of its own.
    return super()._from_module(module, inspect.unwrap(object))


def _examples():
  """Returns the docstrings with examples, of every module that has any."""
  finder = _Finder(exclude_empty=True)
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


def compiled_model():
  model = build_model()
  model.compile(LearnedOptimizer("general"), loss="mse")
  return model


def names(example):
  """Returns what an example can use without defining it."""
  modules = l2l_tf.optimizers, l2l_tf.problems, l2l_tf.keras
  public = {
    name: value
    for module in modules
    for name, value in vars(module).items()
    if not name.startswith("_")
  }
  keras.utils.set_random_seed(0)
  x = np.random.default_rng(0).normal(size=[64, 4]).astype(np.float32)
  y = np.sum(x, axis=1, keepdims=True)
  return {
    **public,
    **{name: getattr(l2l_tf, name) for name in l2l_tf.__all__},
    **{"l2l_tf": l2l_tf, "keras": keras, "np": np, "tf": tf},
    **{"x": x[:48], "y": y[:48], "x_test": x[48:], "y_test": y[48:]},
    **{"build_model": build_model},
    **({"model": compiled_model()} if "model." in example.docstring else {}),
  }


def run(example, names) -> str:
  """Returns what was wrong with an example, or nothing."""
  failures = []
  example.globs = names
  runner = doctest.DocTestRunner(_Checker(), verbose=False, optionflags=_FLAGS)
  runner.run(example, out=failures.append)
  return "".join(failures)


@pytest.mark.parametrize("example", _EXAMPLES, ids=lambda example: example.name)
def test_an_example_runs_as_written(example, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  failures = run(example, names(example))
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


_NEEDS_NO_EXAMPLE = {
  "Problem",  # abstract
  "Parameter",  # a description that problems return
  "Episode",  # likewise
  "Learner",  # abstract
  "DatasetUnavailableError",
  "TaskBatch",  # made by the trainer
  "mnist_mlp",  # MNIST may be missing
  "Coupling",  # its values are public names, too
  "Reads",
  "Curriculum",  # abstract, like the next
  "MetaGradient",
  "Window",  # what a meta-gradient returns
}


def _documented():
  """Returns the names of the objects whose own docstring has an example."""
  return {example.name.rsplit(".", 1)[-1] for example in _EXAMPLES}


def _callables(module):
  """Returns the names in a module of the package's classes and functions."""
  return {
    name
    for name, value in vars(module).items()
    if callable(value) and getattr(value, "__module__", "").startswith("l2l_tf.")
  }


def test_every_problem_has_an_example():
  assert _callables(l2l_tf.problems) - _documented() <= _NEEDS_NO_EXAMPLE


def test_every_public_name_and_every_optimizer_has_an_example():
  public = {name for name in l2l_tf.__all__ if callable(getattr(l2l_tf, name))}
  for module in l2l_tf.optimizers, l2l_tf.preprocess, l2l_tf.seeds, l2l_tf.keras:
    public |= {name for name in _callables(module) if not name.startswith("_")}
  assert public - _documented() <= _NEEDS_NO_EXAMPLE
