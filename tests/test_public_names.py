"""What `import l2l_tf` offers, and what it costs."""

import importlib
import inspect
import subprocess
import sys

import pytest

import l2l_tf


@pytest.mark.parametrize("name", l2l_tf.__all__)
def test_a_public_name_resolves_and_is_documented(name):
  value = getattr(l2l_tf, name)
  assert inspect.getdoc(value)
  assert name in dir(l2l_tf)
  if not inspect.ismodule(value):
    assert value.__name__ == name
    assert getattr(importlib.import_module(value.__module__), name) is value


def test_names_are_listed_once_and_all_are_imported_by_a_star():
  assert len(set(l2l_tf.__all__)) == len(l2l_tf.__all__)
  namespace = {}
  exec("from l2l_tf import *", namespace)
  assert set(l2l_tf.__all__) <= set(namespace)


def test_submodules_are_modules():
  assert l2l_tf.optimizers is importlib.import_module("l2l_tf.optimizers")
  assert l2l_tf.problems.Quadratic and l2l_tf.optimizers.Adam


def test_an_unknown_attribute_is_an_attribute_error():
  with pytest.raises(AttributeError, match="'l2l_tf' has no attribute 'nothing'"):
    _ = l2l_tf.nothing
  assert not hasattr(l2l_tf, "nothing")
  with pytest.raises(ImportError, match="nothing"):
    from l2l_tf import nothing  # noqa: F401


def test_importing_the_package_alone_is_quick():
  code = (
    "import sys, l2l_tf; dir(l2l_tf)\n"
    "heavy = {'tensorflow', 'sonnet', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
    "assert not heavy, heavy"
  )
  assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("old", l2l_tf._MOVED)
def test_a_module_is_found_where_it_was_in_version_0_1_0(old):
  module = importlib.import_module(f"l2l_tf.{old}")
  new = importlib.import_module(f"l2l_tf.{l2l_tf._MOVED[old]}")
  assert module is new and new.__spec__.name == new.__name__
