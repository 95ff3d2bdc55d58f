"""Files are whole or as they were, whoever writes them and whatever fails."""

import csv
import os
import pathlib
import signal
import stat
import tempfile

import matplotlib.figure
import numpy as np
import pytest
import tensorflow as tf
from disk import largest_file, read_only, unchanged

from l2l_tf.evaluation import diagnose, plots, report
from l2l_tf.evaluation.runner import Curves
from l2l_tf.optimizers import CoordinatewiseLSTM
from l2l_tf.pretraining import cards
from l2l_tf.storage import checkpoint, export, files
from l2l_tf.storage.files import WriteError
from l2l_tf.storage.summaries import TensorBoard
from l2l_tf.storage.validations import Validations


def write_diagnosis(directory, n):
  curve = np.full(3, 1.0 / n)
  run = diagnose.Run(np.ones([2, 1]), np.full([2, 1], 1.0 / n), {})
  diagnose.write(diagnose.Response(*[curve] * 4), {"tiny": run}, directory)


def draw(directory, n):
  plots.save(matplotlib.figure.Figure(figsize=(n, 1)), directory / "curves.png")


def write_card(directory, n):
  card = cards.Card("a", "b", ("c",), 0, 1, n, 1, ())
  cards.write(card, directory / "a.json")


def write_validation(directory, n):
  Validations(directory / "validation.csv", 0).add(n, np.ones(3))


def cut_events(directory, n):
  """Writes epochs until there are three, then cuts off all but n."""
  board = TensorBoard(directory, "training", after=4 - n)
  for epoch in range(5 - n, 5):
    board.validation(epoch, np.ones([1, 3]))
  board.close()


# (directory, n) -> what writes files of other contents for another n.
EXPLAINED = {
  "text": lambda d, n: files.write_text(d / "a.txt", "some text " * n),
  "csv": lambda d, n: files.write_csv(d / "a.csv", [["column"], ["cell" * n]]),
  "card": write_card,
  "picture": draw,
  "report": lambda d, n: report.write({"a": Curves(np.full([2, 3], n), {})}, d),
  "diagnosis": write_diagnosis,
  "validations": write_validation,
}
PLAIN = {
  "bytes": lambda d, n: files.write_atomically(d / "a", b"some bytes " * n),
  "export": lambda d, n: export.save(CoordinatewiseLSTM((n,)), d / "o.l2l.npz"),
  "events": cut_events,
}
WRITERS = [
  *(pytest.param(write, WriteError, id=name) for name, write in EXPLAINED.items()),
  *(pytest.param(write, OSError, id=name) for name, write in PLAIN.items()),
]
every_writer = pytest.mark.parametrize("write, error", WRITERS)


def contents(directory):
  return {p.name: p.read_bytes() for p in directory.iterdir()}


@every_writer
def test_a_file_is_replaced_and_nothing_is_left_beside_it(write, error, tmp_path):
  write(tmp_path, 1)
  before = contents(tmp_path)
  write(tmp_path, 2)
  after = contents(tmp_path)
  assert before and not set(before.items()) & set(after.items())
  assert set(before) <= set(after)
  assert not [name for name in after if name.startswith(".")]


@every_writer
def test_a_full_disk_leaves_the_former_file(write, error, tmp_path):
  write(tmp_path, 1)
  with (
    unchanged(tmp_path),
    largest_file(5),
    pytest.raises(error, match="File too large") as raised,
  ):
    write(tmp_path, 2)
  assert isinstance(raised.value, WriteError) == (error is WriteError)


@pytest.fixture
def folder():
  """A folder that everyone may read, unlike pytest's."""
  with tempfile.TemporaryDirectory() as name:
    yield pathlib.Path(name)


@every_writer
def test_a_folder_without_permission_keeps_the_former_file(write, error, folder):
  write(folder, 1)
  denied = error if error is WriteError else PermissionError
  with (
    unchanged(folder),
    read_only(folder),
    pytest.raises(denied, match="Permission denied"),
  ):
    write(folder, 2)


@every_writer
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupt_leaves_the_former_file(write, error, call, tmp_path, monkeypatch):
  def interrupt(*args):
    raise KeyboardInterrupt

  write(tmp_path, 1)
  monkeypatch.setattr(os, call, interrupt)
  with unchanged(tmp_path), pytest.raises(KeyboardInterrupt):
    write(tmp_path, 2)


@every_writer
def test_what_a_file_may_be_used_for_is_as_the_umask_says(write, error, tmp_path):
  former = os.umask(0o027)
  try:
    write(tmp_path, 1)
    write(tmp_path, 2)
  finally:
    os.umask(former)
  assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o640}


KILLED = """
import os, signal, sys
from l2l_tf.storage import files
setattr(os, sys.argv[2], lambda *args: os.kill(os.getpid(), signal.SIGKILL))
files.write_atomically(sys.argv[1], b"new" * 1000)
"""


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_process_that_is_killed_leaves_the_former_file(library_forks, tmp_path, call):
  path = tmp_path / "a.tfevents"
  files.write_atomically(path, b"old")
  assert library_forks.run("", path, call, code=KILLED).code == -signal.SIGKILL
  assert path.read_bytes() == b"old"
  (left,) = (p.name for p in tmp_path.iterdir() if p != path)
  assert left.startswith(".") and "tfevents" not in left  # which TensorBoard reads
  files.write_atomically(path, b"new")
  assert path.read_bytes() == b"new"


def test_a_folder_or_a_place_below_a_file_cannot_be_written(tmp_path):
  (tmp_path / "folder").mkdir()
  (tmp_path / "file").write_text("mine")
  with unchanged(tmp_path):
    with pytest.raises(IsADirectoryError):
      files.write_atomically(tmp_path / "folder", b"new")
    with pytest.raises(NotADirectoryError):
      files.write_atomically(tmp_path / "file" / "a", b"new")
    with pytest.raises(FileNotFoundError):
      files.write_atomically(tmp_path / "missing" / "a", b"new")


def test_a_text_is_utf_8_and_a_csv_read_back(tmp_path):
  files.write_text(tmp_path / "a.txt", "Tür\r\n")
  assert (tmp_path / "a.txt").read_bytes() == "Tür\r\n".encode()
  files.write_csv(tmp_path / "a.csv", [["a", "b, c"], [None, 0.1], ['"', "\n"]])
  with (tmp_path / "a.csv").open(newline="") as f:
    assert list(csv.reader(f)) == [["a", "b, c"], ["", "0.1"], ['"', "\n"]]


@pytest.mark.parametrize(
  "error, reason",
  [
    (OSError(28, "No space left on device"), r"\(No space left on device\)"),
    (OSError("in a word"), r"\(OSError: in a word\)"),
    (OSError(), r"\(OSError: no message\)"),
    (
      tf.errors.ResourceExhaustedError(
        None, None, "{{node save}} a/b.tempstate12; No space left on device [Op:SaveV2]"
      ),
      r"\(No space left on device\)",
    ),
    (
      tf.errors.UnknownError(None, None, "in a word\nand more"),
      r"\(UnknownError: in a word\)",
    ),
  ],
)
def test_a_failure_to_write_is_one_sentence(error, reason):
  match = f"^'a/b' could not be written {reason}"
  with pytest.raises(WriteError, match=match) as e, files.writing("a/b"):
    raise error
  assert "\n" not in str(e.value) and str(e.value).endswith("then start again.")


def test_a_fault_is_no_failure_to_write():
  with pytest.raises(KeyError), files.writing("a"):
    raise KeyError("a")


def test_an_error_that_names_its_file_is_not_explained_again(tmp_path):
  match = r"^'.*/a/b' could not be written \(No such file"
  with pytest.raises(WriteError, match=match), files.writing(tmp_path):
    files.write_text(tmp_path / "a" / "b", "text")


def test_the_names_of_version_0_1_0_are_the_same_ones():
  for name in "WriteError", "write_text", "writing":
    assert getattr(checkpoint, name) is getattr(files, name)
