"""Checkpoints of a running meta-training."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import tensorflow as tf
from absl import logging

from l2l_tf.storage import files

# These were part of this module in version 0.1.0, and can still be imported from it.
from l2l_tf.storage.files import WriteError, write_text, writing  # noqa: F401


class CheckpointError(OSError):
  """There are checkpoints, but none of them can be read."""


class Checkpointer:
  """Saves and restores lists of variables, keyed by position.

  `tf.train.CheckpointManager` writes each checkpoint next to the earlier ones, so that
  a process that is killed while saving leaves those as they were.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    variables: Mapping[str, Sequence[tf.Variable]],
    max_to_keep: int = 3,
  ):
    """Initializes the manager; nothing is written yet.

    Args:
      directory: the directory of the checkpoints.
      variables: lists of variables, by name.
      max_to_keep: how many of the latest checkpoints to keep.
    """
    self._directory = pathlib.Path(directory)
    self._variables = [v for values in variables.values() for v in values]
    self._checkpoint = tf.train.Checkpoint(**{k: list(v) for k, v in variables.items()})
    make = lambda: tf.train.CheckpointManager(
      self._checkpoint, str(directory), max_to_keep=max_to_keep
    )
    try:
      self._manager = make()
    except ValueError:  # The manager's list of checkpoints is damaged; not needed.
      (self._directory / "checkpoint").unlink()
      self._manager = make()

  def save(self, step: int) -> None:
    """Writes a checkpoint numbered `step`.

    Raises:
      WriteError: if it cannot be written; the earlier ones are kept.
    """
    with files.writing(self._directory / f"ckpt-{step}"):
      self._manager.save(checkpoint_number=step)

  def restore(self) -> int | None:
    """Restores the latest good checkpoint.

    A damaged checkpoint, or one of another configuration, is reported by name, and the
    one before it is tried.

    Returns:
      The step of the restored checkpoint; None if none was ever finished.

    Raises:
      CheckpointError: if checkpoints were finished, but not one can be read.
    """
    paths = self._paths()
    fresh = [v.numpy() for v in self._variables]
    for path in paths:
      try:
        self._check(path)
        self._checkpoint.restore(path).assert_consumed().expect_partial()
        return _number(path)
      except Exception as e:  # Damaged files may raise anything.
        logging.warning(
          "Checkpoint %r is half-written, damaged or of another configuration (%s);"
          " going on without it.",
          path,
          files.first_line(e),
        )
        for variable, value in zip(self._variables, fresh):
          variable.assign(value)  # Some may have been restored before it failed.
    # The manager lists a checkpoint once it is complete. If one is not in the list, the
    # process was killed while saving it.
    finished = {os.path.basename(path) for path in self._manager.checkpoints}
    if finished & {os.path.basename(path) for path in paths}:
      raise CheckpointError(
        f"None of the {len(paths)} checkpoints in {str(self._directory)!r} can be read,"
        f" the last one {paths[0]!r}; remove the directory to start anew, or give"
        " another save_path."
      )
    return None

  def _paths(self) -> list[str]:
    """Returns all checkpoints in the directory or the manager's list, latest first."""
    found = {p.stem for p in self._directory.glob("ckpt-*.index")}
    found |= {os.path.basename(p) for p in self._manager.checkpoints}
    names = [name for name in found if re.fullmatch(r"ckpt-\d+", name)]
    return [str(self._directory / n) for n in sorted(names, key=_number, reverse=True)]

  def _check(self, path: str) -> None:
    """Reads every tensor, so that nothing is restored from a damaged file."""
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)


def _number(path: str) -> int:
  return int(path.rsplit("-", 1)[1])
