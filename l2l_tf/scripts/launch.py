"""Starts a script: its flags in --help, and one sentence for a user's mistake."""

import sys
from collections.abc import Callable

from absl import app, flags, logging

from l2l_tf.checkpoint import CheckpointError
from l2l_tf.problems.datasets import DatasetUnavailableError

_MISTAKES = (ValueError, OSError, CheckpointError, DatasetUnavailableError)


def run(main: Callable[[], int | None], module: str) -> None:
  """Runs `main` through absl.

  Args:
    main: returns the exit code; a mistake that it raises ends the process with
      one sentence on stderr and code 2 (`--verbosity=1` shows the traceback).
    module: name of the module that defines the flags.
  """
  for flag in flags.FLAGS.flags_by_module_dict().get(module, []):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  sys.modules["__main__"].__doc__ = sys.modules[module].__doc__

  def guarded(argv: list[str]) -> int | None:
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    try:
      if len(argv) > 1:
        raise ValueError(f"{argv[1]!r} is no flag; write --name=value, see --help.")
      return main()
    except _MISTAKES as e:
      logging.debug("traceback", exc_info=True)
      print(f"Error: {e}", file=sys.stderr)
      return 2

  app.run(guarded)


def write_flags(path, module: str, overrides: dict) -> None:
  """Writes the module's flags, one per line, for `--flagfile=path`."""
  lines = []
  for flag in flags.FLAGS.flags_by_module_dict()[module]:
    value = overrides.get(flag.name, flag.value)
    if value is not None:
      lines.append(f"--{flag.name}={_text(value)}")
  path.write_text("\n".join(lines) + "\n")


def _text(value) -> str:
  if isinstance(value, (list, tuple)):
    return ",".join(map(str, value))
  return str(value).lower() if isinstance(value, bool) else str(value)
