import logging
import pathlib
import random
import shutil

import numpy as np
import pytest
import tensorflow as tf
from disk import largest_file

from l2l_tf.storage.checkpoint import Checkpointer, CheckpointError
from l2l_tf.storage.files import WriteError

VALUES = {
  "weights": [
    np.float32([[0.1, -0.0, np.inf], [np.nan, 1e-45, -3.0]]),
    np.float64(1 / 3),
    np.zeros([0, 2], np.float32),
  ],
  "progress": [np.int64(2**60 + 1), np.bool_(True)],
}


def variables(shift=0):
  """Fresh ones; `shift` changes every number."""
  return {
    name: [tf.Variable(v + np.asarray(shift, np.asarray(v).dtype)) for v in values]
    for name, values in VALUES.items()
  }


def bits(held):
  return {k: [v.numpy().tobytes() for v in values] for k, values in held.items()}


@pytest.fixture
def warnings():
  """The warnings of the package, as texts."""
  texts = []

  class Handler(logging.Handler):
    def emit(self, record):
      texts.append(record.getMessage())

  handler = Handler(logging.WARNING)
  logging.getLogger("absl").addHandler(handler)
  yield texts
  logging.getLogger("absl").removeHandler(handler)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
  """A directory with the checkpoints 9 and 10; 10 holds `VALUES`."""
  directory = tmp_path_factory.mktemp("two")
  held = variables(shift=1)
  checkpointer = Checkpointer(directory, held)
  checkpointer.save(9)
  for value, new in zip(tf.nest.flatten(held), tf.nest.flatten(variables())):
    value.assign(new)
  checkpointer.save(10)
  return directory


@pytest.fixture
def directory(two_checkpoints, tmp_path):
  return pathlib.Path(shutil.copytree(two_checkpoints, tmp_path / "run"))


def files(directory, step=10):
  found = sorted(directory.glob(f"ckpt-{step}.*"))
  assert len(found) == 2  # index and data
  return found


def assert_falls_back(directory, warnings):
  """Number 9 is restored, and a warning names number 10."""
  held = variables(shift=5)
  assert Checkpointer(directory, held).restore() == 9
  assert bits(held) == bits(variables(shift=1))
  (warning,) = warnings
  assert "half-written, damaged or of another configuration" in warning
  assert str(directory / "ckpt-10") in warning and "\n" not in warning


def test_an_empty_or_missing_directory_restores_nothing(tmp_path):
  held = variables()
  assert Checkpointer(tmp_path, held).restore() is None
  assert Checkpointer(tmp_path / "missing", held).restore() is None
  assert bits(held) == bits(variables())
  assert not list(tmp_path.iterdir())


def test_the_latest_is_restored_bit_for_bit(directory, warnings):
  held = variables(shift=5)
  assert Checkpointer(directory, held).restore() == 10
  assert bits(held) == bits(variables())
  assert not warnings


def test_only_the_last_three_stay_also_of_an_earlier_process(directory):
  for step in 11, 12:
    checkpointer = Checkpointer(directory, variables())
    checkpointer.save(step)
  found = {p.name.split(".")[0] for p in directory.glob("ckpt-*")}
  assert found == {"ckpt-10", "ckpt-11", "ckpt-12"}


@pytest.mark.parametrize("kind", ["data", "index"])
def test_a_truncated_file_falls_back(directory, warnings, kind):
  (file,) = directory.glob(f"ckpt-10.{kind}*")
  whole = file.read_bytes()
  for size in {0, 1, len(whole) // 3, len(whole) - 48, len(whole) - 1}:
    file.write_bytes(whole[:size])
    assert_falls_back(directory, warnings)
    warnings.clear()


@pytest.mark.parametrize("kind", ["data", "index"])
def test_no_flipped_bit_is_restored(directory, warnings, kind):
  (file,) = directory.glob(f"ckpt-10.{kind}*")
  whole = file.read_bytes()
  draw, found = random.Random(0), []
  for _ in range(40):
    damaged = bytearray(whole)
    damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    file.write_bytes(damaged)
    held = variables(shift=5)
    found.append(Checkpointer(directory, held).restore())
    # Some bits carry nothing; then the values are the true ones.
    assert bits(held) == bits(variables(shift=0 if found[-1] == 10 else 1))
    assert found[-1] == 10 or str(directory / "ckpt-10") in warnings.pop()
  assert found.count(9) > 20


def test_garbage_falls_back(directory, warnings):
  for file in files(directory):
    file.write_bytes(random.Random(0).randbytes(3000))
  assert_falls_back(directory, warnings)


@pytest.mark.parametrize("kind", ["data", "index"])
def test_half_a_checkpoint_is_not_the_last_good_one(directory, kind):
  for file in directory.glob(f"ckpt-10.{kind}*"):
    file.unlink()
  held = variables(shift=5)
  assert Checkpointer(directory, held).restore() == 9
  assert bits(held) == bits(variables(shift=1))


def _fewer():
  return {"weights": variables()["weights"][:2], "progress": variables()["progress"]}


def _more():
  return {"weights": [*variables()["weights"], tf.Variable(1.0)], **_progress()}


def _progress():
  return {"progress": variables()["progress"]}


def _other_shape():
  first, *rest = variables()["weights"]
  return {"weights": [tf.Variable(tf.transpose(first)), *rest], **_progress()}


def _other_type():
  first, *rest = variables()["weights"]
  return {"weights": [tf.Variable(tf.cast(first, tf.float64)), *rest], **_progress()}


def _other_name():
  return {"others": variables()["weights"], **_progress()}


@pytest.mark.parametrize(
  "make", [_fewer, _more, _other_shape, _other_type, _other_name]
)
def test_a_foreign_checkpoint_falls_back(directory, warnings, make):
  for file in files(directory):
    file.unlink()
  Checkpointer(directory, make()).save(10)
  assert_falls_back(directory, warnings)


def test_a_checkpoint_without_an_object_graph_falls_back(directory, warnings):
  for file in files(directory):
    file.unlink()
  tf.raw_ops.SaveV2(
    prefix=str(directory / "ckpt-10"),
    tensor_names=["weights", "_CHECKPOINTABLE_OBJECT_GRAPH"],
    shape_and_slices=["", ""],
    tensors=[tf.zeros([3]), tf.constant(b"\xff no graph")],
  )
  assert_falls_back(directory, warnings)


def test_when_none_is_good_the_error_names_the_last(directory, warnings):
  for step in 9, 10:
    for file in files(directory, step):
      file.write_bytes(b"")
  with pytest.raises(CheckpointError, match="None of the 2 checkpoints") as e:
    Checkpointer(directory, variables()).restore()
  assert str(directory / "ckpt-10") in str(e.value)
  assert "remove the directory" in str(e.value)
  assert len(warnings) == 2


@pytest.mark.parametrize("index", [b"", b"half"])
def test_a_first_checkpoint_that_is_half_written_counts_for_none(
  tmp_path, warnings, index
):
  (tmp_path / "ckpt-3.data-00000-of-00001").write_bytes(b"half")
  (tmp_path / "ckpt-3.index").write_bytes(index)
  held = variables()
  checkpointer = Checkpointer(tmp_path, held)
  assert checkpointer.restore() is None
  (warning,) = warnings
  assert str(tmp_path / "ckpt-3") in warning and "half-written" in warning
  checkpointer.save(3)
  assert Checkpointer(tmp_path, held).restore() == 3


@pytest.mark.parametrize(
  "content", [None, b"", b"model_checkpoint_path: 3", b"\xff\xfe"]
)
def test_the_managers_own_file_may_be_lost_or_damaged(directory, content):
  if content is None:
    (directory / "checkpoint").unlink()
  else:
    (directory / "checkpoint").write_bytes(content)
  held = variables(shift=5)
  checkpointer = Checkpointer(directory, held)
  assert checkpointer.restore() == 10
  assert bits(held) == bits(variables())
  checkpointer.save(11)
  assert Checkpointer(directory, variables()).restore() == 11


def test_leftovers_of_a_process_that_died_while_saving_are_harmless(directory):
  (directory / "ckpt-11_temp").mkdir()
  (directory / "ckpt-11_temp" / "part-00000-of-00001.data-00000-of-00001").touch()
  (directory / "ckpt-11.data-00000-of-00001").write_bytes(b"half")
  (directory / "ckpt-best.index").touch()
  (directory / "checkpoint.tmp0123").write_bytes(b"half")
  held = variables(shift=5)
  checkpointer = Checkpointer(directory, held)
  assert checkpointer.restore() == 10
  checkpointer.save(11)
  assert not (directory / "ckpt-11_temp").exists()
  assert Checkpointer(directory, held).restore() == 11


def test_a_full_disk_leaves_the_former_checkpoints(directory):
  large = tf.Variable(tf.random.stateless_normal([5000], [0, 0]))
  held = {"large": [large]}
  checkpointer = Checkpointer(directory / "large", held)
  checkpointer.save(1)
  large.assign_add(tf.ones([5000]))
  with (
    largest_file(10_000),
    pytest.raises(WriteError, match=r"ckpt-2' could not be written .*what was written"),
  ):
    checkpointer.save(2)
  expected = large.numpy() - 1
  assert Checkpointer(directory / "large", held).restore() == 1
  np.testing.assert_allclose(large.numpy(), expected, atol=1e-6)
  checkpointer.save(2)
  assert Checkpointer(directory / "large", held).restore() == 2
