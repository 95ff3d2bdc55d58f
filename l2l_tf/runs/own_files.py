"""Runs a user's own Python files, for the names that they define."""

import pathlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_ran: dict[str, Mapping[str, Any]] = {}  # by absolute path, or by a module's name


def run(source: str) -> Mapping[str, Any]:
  """Runs a file as `python file.py` would, but under another name than __main__.

  Each file runs once per process, so that its classes are registered once, and are the
  same for every caller.

  Args:
    source: path of the file, or the dotted name of a module.

  Returns:
    The values that it defines, by name.

  Raises:
    ValueError: if there is no such file.
    RuntimeError: if the file raises; the cause keeps its traceback.
  """
  check(source)
  path = pathlib.Path(source).expanduser()
  key = str(path.resolve()) if is_file(source) else source
  if key not in _ran:
    if is_file(source):  # It may import modules from its directory.
      sys.path.insert(0, str(path.resolve().parent))
    try:
      is_path = is_file(source)
      _ran[key] = runpy.run_path(str(path)) if is_path else runpy.run_module(source)
    except Exception as error:
      raise RuntimeError(f"{source} could not be run, see above.") from error
  return _ran[key]


def run_all(sources: Sequence[str]) -> None:
  """Runs files for the classes that they register."""
  for source in sources:
    run(source)


def check(source: str) -> None:
  """Raises ValueError if `source` is the path of a file that does not exist."""
  if is_file(source) and not pathlib.Path(source).expanduser().is_file():
    raise ValueError(f"There is no file {source!r}; check the path.")


def is_file(source: str) -> bool:
  """Whether `source` is a path, and not the name of a module."""
  return source.endswith(".py") or "/" in source
