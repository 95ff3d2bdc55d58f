"""Settings as a flag file, with which a run can be repeated."""

from collections.abc import Mapping
from typing import Any


def as_flagfile(given: Mapping[str, Any]) -> str:
  """Formats values as flags, one per line, without those that are None."""
  lines = [f"--{k}={_text(v)}" for k, v in given.items() if v is not None]
  return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
  if isinstance(value, (list, tuple)):
    return ",".join(map(str, value))
  return str(value).lower() if isinstance(value, bool) else str(value)
