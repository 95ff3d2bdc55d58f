"""Settings as a file of flags, with which a run is repeated."""

from collections.abc import Mapping
from typing import Any


def as_flagfile(given: Mapping[str, Any]) -> str:
  """Writes values as flags, one per line; those that are None are left out."""
  lines = [f"--{k}={_text(v)}" for k, v in given.items() if v is not None]
  return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
  if isinstance(value, (list, tuple)):
    return ",".join(map(str, value))
  return str(value).lower() if isinstance(value, bool) else str(value)
