"""Fixtures of several test files.

They import TensorFlow themselves: the process that hands out the tests does without.
"""

import before_imports  # noqa: F401 isort: skip

import functools
import gc
import sys

import processes
import pytest
import quick_graphs


def pytest_collection_finish():
  """Saves the tests what their many small graphs would spend most on."""
  gc.set_threshold(10_000, 10, 10)  # And only among what is made from here on.
  gc.enable()
  gc.freeze()
  if tensorflow := sys.modules.get("tensorflow"):
    # A tenth of a test's time, for graphs that run once. Processes that tests start,
    # as users do, keep it.
    off = {"disable_meta_optimizer": True}
    tensorflow.config.optimizer.set_experimental_options(off)
    quick_graphs.make()


def pytest_collection_modifyitems(items):
  """Puts files that wait for processes first, lest a worker waits for one alone."""
  waiting = {i.path for i in items if any("forks" in f for f in i.fixturenames)}
  items.sort(key=lambda item: item.path not in waiting)


@pytest.fixture(params=[True, False], ids=["input", "no_input"], scope="module")
def sequential(request):
  """Returns what builds a model of two layers, with an `Input` and without one."""
  import keras_models

  return functools.partial(keras_models.sequential, request.param)


@pytest.fixture(scope="session")
def library_forks(tmp_path_factory):
  """Starts processes that import this package themselves, but nothing it builds on."""
  path = tmp_path_factory.mktemp("libraries")
  forks = processes.Forks(path, processes.LIBRARIES)
  yield forks
  forks.close()


@pytest.fixture(scope="session")
def forks(library_forks, tmp_path_factory):
  """Starts processes that have TensorFlow and this package imported already."""
  path = tmp_path_factory.mktemp("forks")
  forks = processes.Forks(path, processes.ALL, library_forks)
  yield forks
  forks.close()


@pytest.fixture(scope="session")
def light_forks(tmp_path_factory):
  """Starts processes without TensorFlow."""
  forks = processes.Forks(tmp_path_factory.mktemp("light"), processes.SCRIPTS)
  yield forks
  forks.close()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
  """A training that nothing disturbed: how it ended, and its directory."""
  import short_run

  path = tmp_path_factory.mktemp("reference") / "run"
  command = processes.COMMAND.format("train")
  return processes.cold(command, *short_run.TINY, f"--save_path={path}"), path


@pytest.fixture
def exported(tmp_path):
  """Two exports of the same weights, in directories of the same name."""
  from l2l_tf.optimizers import CoordinatewiseLSTM
  from l2l_tf.storage import export

  paths = [f"{parent}/run/optimizer.l2l.npz" for parent in ("one", "two")]
  for path in paths:
    export.save(CoordinatewiseLSTM((4,), "log_and_sign", 0.1), tmp_path / path)
  return paths
