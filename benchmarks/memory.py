"""What this process holds of memory, by Linux's own accounting."""

import pathlib
from collections.abc import Callable

_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")


def held() -> float:
  """MiB resident now."""
  return _read("VmRSS")


def peak(function: Callable) -> float:
  """MiB resident at the worst moment of a call."""
  _CLEAR.write_text("5")  # resets the high-water mark
  function()
  return _read("VmHWM")


def _read(field: str) -> float:
  lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
  return int(lines[field].split()[0]) / 1024
