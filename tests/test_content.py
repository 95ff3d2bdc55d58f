"""A run goes on where its content is the same, wherever that lies."""

import json
import shutil

import numpy as np
import pytest

from l2l_tf.optimizers import CoordinatewiseLSTM
from l2l_tf.problems import Simple
from l2l_tf.runs import training
from l2l_tf.runs.settings import TrainingSettings
from l2l_tf.runs.training_run import ConfigurationError
from l2l_tf.storage import export

SHORT = {"problem": "simple", "num_epochs": 1, "num_steps": 2, "unroll_length": 2}


def train(path, **given):
  settings = TrainingSettings(save_path=str(path / "run"), **SHORT, **given)
  return training.train(settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """The directory of an optimizer and of a run that started from it."""
  path = tmp_path_factory.mktemp("trained")
  export.save(CoordinatewiseLSTM((), seed=0), path / "start.l2l.npz")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Simple, "data_sources", lambda self: [("rows", [np.zeros(3)])])
    train(path, initial_path=str(path / "start.l2l.npz"))
  return path


@pytest.fixture
def moved(trained, tmp_path, monkeypatch):
  """A copy elsewhere, and the same data as then."""
  monkeypatch.setattr(Simple, "data_sources", lambda self: [("rows", [np.zeros(3)])])
  return shutil.copytree(trained, tmp_path / "moved")


def test_a_run_that_was_moved_with_its_start_goes_on(moved, capsys):
  start = str(moved / "start.l2l.npz")
  for _ in range(2):
    assert train(moved, initial_path=start) == 0
    assert capsys.readouterr().out.startswith("Already finished: 1 epochs")
  assert f"--initial_path={start}\n" in (moved / "run/flags.txt").read_text()


def test_another_start_at_the_same_place_is_refused(moved):
  start = moved / "start.l2l.npz"
  export.save(CoordinatewiseLSTM((), seed=1), start)
  with pytest.raises(ConfigurationError, match="started from another optimizer than"):
    train(moved, initial_path=str(start))


def test_other_data_are_refused(moved, monkeypatch):
  monkeypatch.setattr(Simple, "data_sources", lambda self: [("rows", [np.zeros(2)])])
  sentence = r"/run' holds .* other data, 3 rows \(.*, 2 rows \(.*; set TFDS_DATA_DIR "
  with pytest.raises(ConfigurationError, match=sentence + ".* another --save_path"):
    train(moved, initial_path=str(moved / "start.l2l.npz"))


def test_what_a_run_of_an_earlier_version_does_not_say_is_not_asked_for(trained, moved):
  file = moved / "run/config.json"
  config = json.loads(file.read_text())
  del config["data"], config["initial_optimizer"]
  file.write_text(json.dumps(config))
  assert train(moved, initial_path=str(trained / "start.l2l.npz")) == 0
  with pytest.raises(ConfigurationError, match=r"initial_path=.*, now .*; repeat that"):
    train(moved, initial_path=str(moved / "start.l2l.npz"))
