"""The output of several workers on one terminal, told apart by their numbers."""

import contextlib
import os
from typing import IO, TextIO

_READ = 1 << 20  # bytes; more than a pipe holds
ERASE = "\r\x1b[K"  # what a terminal's last line shows, such as a progress bar


class NumberedLines:
  """Copies what a worker writes, line by line, with the worker's number before each.

  Lines appear when they are complete. Of one that carriage returns have rewritten, the
  last state is copied: all states would fill the screen, and an incomplete one would
  be torn by another worker's lines.
  """

  def __init__(self, source: IO[bytes], target: TextIO, number: int):
    """Initializes the copy.

    Args:
      source: end of the pipe that the worker writes to.
      target: where the lines go.
      number: the worker's.
    """
    self._source = source
    self._target = target
    erase = ERASE if target.isatty() else ""
    self._prefix = f"{erase}[{number}] ".encode()
    self._pending = b""  # a line's beginning

  def copy(self) -> bool:
    """Copies what the pipe holds; returns False at its end."""
    data = os.read(self._source.fileno(), _READ)
    *lines, pending = (self._pending + data).split(b"\n")
    before, separator, state = pending.rpartition(b"\r")
    self._pending = _last_state(before) + separator + state
    self._write(lines)
    return bool(data)

  def finish(self) -> None:
    """Copies what is left in the pipe, and a last line without an end."""
    # What the worker has started may hold the other end, and write no more.
    os.set_blocking(self._source.fileno(), False)
    with contextlib.suppress(BlockingIOError):
      self.copy()
    if _last_state(self._pending):
      self._write([self._pending])
    self._pending = b""

  def _write(self, lines: list[bytes]) -> None:
    text = b"".join(self._prefix + _last_state(line) + b"\n" for line in lines)
    self._target.buffer.write(text)  # at once, so that nothing comes in between
    self._target.flush()


def _last_state(line: bytes) -> bytes:
  """Returns what was written last to a line; blanks only erase what was there."""
  states = [state for state in line.split(b"\r") if state.strip()]
  return states[-1] if states else b""
