"""Files that are written whole or not at all."""

import contextlib
import csv
import errno
import io
import os
import pathlib
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf


class WriteError(OSError):
  """A file that could not be written; those written before it are intact."""


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns an error of Python or TensorFlow while writing `path` into a `WriteError`.

  Its message is one sentence that names the file and the cause.

  Raises:
    WriteError: instead of those errors; a `WriteError` from inside, which names its
      own file, passes unchanged.
  """
  try:
    yield
  except WriteError:
    raise
  except (OSError, tf.errors.OpError) as e:
    reason = getattr(e, "strerror", None) or first_line(e)
    # TensorFlow: "{{node ...}} the file; No space left on device [Op:SaveV2]".
    reason = re.sub(r" \[Op:\w+\]$", "", reason).split("; ")[-1]
    raise WriteError(
      f"{str(path)!r} could not be written ({reason}); what was written before is"
      " intact: free some space or permit writing, then start again."
    ) from None


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file; an existing one is replaced only once the new one is on the disk.

  A process that is killed while writing leaves an existing file as it was, and perhaps
  a hidden temporary file next to it.

  Raises:
    OSError: if it cannot be written; an existing file is left as it was.
  """
  path = pathlib.Path(path)
  # Without the file's own name: TensorBoard reads any file named like an event file.
  temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
  file = temporary.open("xb")
  try:
    with file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink()
    raise


def check_writable(path: str | os.PathLike[str]) -> None:
  """Finds out, before any work is done, whether `write_atomically` could write a file.

  Raises:
    WriteError: if it could not.
  """
  path = pathlib.Path(path)
  with writing(path):
    if path.is_dir():
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with tempfile.TemporaryFile(dir=path.parent):
      pass


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text as UTF-8, with `write_atomically`.

  Raises:
    WriteError: if it cannot be written.
  """
  with writing(path):
    write_atomically(path, text.encode())


def write_csv(path: str | os.PathLike[str], rows: Iterable[Sequence[Any]]) -> None:
  """Writes rows of cells as CSV, with `write_atomically`; None is an empty cell.

  Raises:
    WriteError: if it cannot be written.
  """
  text = io.StringIO()
  csv.writer(text).writerows(rows)
  write_text(path, text.getvalue())


def name_of(text: str) -> str:
  """Returns a text as the name of a file or a directory.

  >>> from l2l_tf.storage import files
  >>> files.name_of("CIFAR: 2 x 512")
  'CIFAR_2_x_512'
  """
  return re.sub(r"[^\w.-]+", "_", text).strip("_")


def first_line(error: Exception) -> str:
  """Returns an error's type and the first line of its message."""
  lines = str(error).strip().splitlines() or ["no message"]
  return f"{type(error).__name__}: {lines[0]}"
