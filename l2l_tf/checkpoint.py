"""Checkpoints of a running meta-training: written whole or not at all."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import tensorflow as tf
from absl import logging


class CheckpointError(RuntimeError):
  """A checkpoint that cannot be written, or none that can be read."""


class Checkpointer:
  """Saves and restores lists of variables, keyed by position.

  `tf.train.CheckpointManager` writes each checkpoint to temporary files and
  renames them, so a process that dies while saving leaves the former one.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    variables: Mapping[str, Sequence[tf.Variable]],
    max_to_keep: int = 3,
  ):
    """Initializes the manager; nothing is written yet.

    Args:
      directory: where the checkpoints lie.
      variables: lists of variables, by name.
      max_to_keep: how many of the latest checkpoints stay.
    """
    self._directory = pathlib.Path(directory)
    self._checkpoint = tf.train.Checkpoint(**{k: list(v) for k, v in variables.items()})
    self._manager = tf.train.CheckpointManager(
      self._checkpoint, str(directory), max_to_keep=max_to_keep
    )

  def save(self, step: int) -> None:
    """Writes a checkpoint numbered `step`.

    Raises:
      CheckpointError: if it cannot be written; the former ones stay.
    """
    try:
      self._manager.save(checkpoint_number=step)
    except (OSError, tf.errors.OpError) as e:
      raise CheckpointError(
        f"Checkpoint {step} could not be written to {str(self._directory)!r}"
        f" ({_first_line(e)}); the last one written before it is intact: free some"
        " space or permit writing, then start again to continue from there."
      ) from None

  def restore(self) -> int | None:
    """Restores the latest good checkpoint.

    A damaged or foreign checkpoint is reported by name, and the one before it is
    tried.

    Returns:
      The step of the restored checkpoint; None if there is none at all.

    Raises:
      CheckpointError: if there are checkpoints, but not one can be read.
    """
    paths = self._paths()
    for path in paths:
      try:
        self._check(path)
        self._checkpoint.restore(path).assert_consumed().expect_partial()
        return _number(path)
      except (ValueError, AssertionError, OSError, tf.errors.OpError) as e:
        logging.warning(
          "Checkpoint %r is damaged or of another configuration (%s); trying the one"
          " before it.",
          path,
          _first_line(e),
        )
    if paths:
      raise CheckpointError(
        f"None of the {len(paths)} checkpoints in {str(self._directory)!r} can be read,"
        f" the last one {paths[0]!r}; remove the directory to start anew, or give"
        " another save_path."
      )
    return None

  def _paths(self) -> list[str]:
    """All checkpoints, the latest first; the directory tells, not its index file."""
    found = [str(p)[: -len(".index")] for p in self._directory.glob("ckpt-*.index")]
    return sorted(
      (p for p in found if re.search(r"ckpt-\d+$", p)), key=_number, reverse=True
    )

  def _check(self, path: str) -> None:
    """Reads every tensor, so that nothing is restored from a damaged file."""
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)


def _number(path: str) -> int:
  return int(path.rsplit("-", 1)[1])


def _first_line(error: Exception) -> str:
  return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
