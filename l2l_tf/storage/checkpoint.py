"""Checkpoints of a running meta-training, and files written whole or not at all."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from absl import logging


class CheckpointError(OSError):
  """There are checkpoints, but not one that can be read."""


class WriteError(OSError):
  """A file that could not be written; those written before it are intact."""


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
  """Explains a failure to write `path`, whoever of Python or TensorFlow met it.

  Raises:
    WriteError: in place of their errors.
  """
  try:
    yield
  except (OSError, tf.errors.OpError) as e:
    reason = getattr(e, "strerror", None) or _first_line(e)
    # TensorFlow: "{{node ...}} the file; No space left on device [Op:SaveV2]".
    reason = re.sub(r" \[Op:\w+\]$", "", reason).split("; ")[-1]
    raise WriteError(
      f"{str(path)!r} could not be written ({reason}); what was written before is"
      " intact: free some space or permit writing, then start again."
    ) from None


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file, replacing a former one only once all is written.

  Raises:
    WriteError: if it cannot be written.
  """
  temporary = path.with_name(f".{path.name}.tmp")
  with writing(path):
    try:
      temporary.write_text(text)
      os.replace(temporary, path)
    except OSError:
      temporary.unlink(missing_ok=True)
      raise


class Checkpointer:
  """Saves and restores lists of variables, keyed by position.

  `tf.train.CheckpointManager` writes each checkpoint beside the former ones, so a
  process that dies while saving leaves those as they were.
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
    self._variables = [v for values in variables.values() for v in values]
    self._checkpoint = tf.train.Checkpoint(**{k: list(v) for k, v in variables.items()})
    make = lambda: tf.train.CheckpointManager(
      self._checkpoint, str(directory), max_to_keep=max_to_keep
    )
    try:
      self._manager = make()
    except ValueError:  # Its own list of checkpoints is damaged, and dispensable.
      (self._directory / "checkpoint").unlink()
      self._manager = make()

  def save(self, step: int) -> None:
    """Writes a checkpoint numbered `step`.

    Raises:
      WriteError: if it cannot be written; the former ones stay.
    """
    with writing(self._directory / f"ckpt-{step}"):
      self._manager.save(checkpoint_number=step)

  def restore(self) -> int | None:
    """Restores the latest good checkpoint.

    A damaged or foreign checkpoint is reported by name, and the one before it is
    tried.

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
      except Exception as e:  # Whatever foreign bytes provoke, the file is at fault.
        logging.warning(
          "Checkpoint %r is half-written, damaged or of another configuration (%s);"
          " going on without it.",
          path,
          _first_line(e),
        )
        for variable, value in zip(self._variables, fresh):
          variable.assign(value)  # What it held of use must not stay either.
    # The manager notes a checkpoint once it is whole: of one that it does not know,
    # the process died while saving it.
    finished = {os.path.basename(path) for path in self._manager.checkpoints}
    if finished & {os.path.basename(path) for path in paths}:
      raise CheckpointError(
        f"None of the {len(paths)} checkpoints in {str(self._directory)!r} can be read,"
        f" the last one {paths[0]!r}; remove the directory to start anew, or give"
        " another save_path."
      )
    return None

  def _paths(self) -> list[str]:
    """All checkpoints that the directory or the manager knows, the latest first."""
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


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or ["no message"]
  return f"{type(error).__name__}: {lines[0]}"
