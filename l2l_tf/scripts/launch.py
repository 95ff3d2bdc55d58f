"""Runs a script: shows its flags in --help, and reports a mistake in one sentence.

Neither this module nor a script's own imports TensorFlow, so that `--help` and a wrong
flag are answered at once.
"""

import functools
import logging as python_logging
import math
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from absl import app, flags, logging

from l2l_tf.runs import expressions, own_files, presets, vocabulary
from l2l_tf.runs.settings import check_baseline

_Settings = TypeVar("_Settings")

flags.disclaim_key_flags()  # Flags that are defined here belong to the script.


def run(
  main: Callable[..., int | None],
  module: str,
  argument: str | None = None,
  takes_command: bool = False,
) -> None:
  """Runs `main` through absl.

  Args:
    main: returns the exit code. If it raises an exception that reports a user's
      mistake, the process prints one sentence on stderr and exits with code 2
      (`--verbosity=1` shows the traceback).
    module: name of the module that defines the flags.
    argument: the flag whose value may also be given by itself, without its name.
    takes_command: whether a command of its own, with flags of its own, follows the
      flags, with or without -- before it; `main` is given its words.
  """
  for flag in flags.FLAGS.flags_by_module_dict()[module]:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  sys.modules["__main__"].__doc__ = sys.modules[module].__doc__

  def guarded(argv: list[str]) -> int | None:
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    sys.stdout.reconfigure(line_buffering=True)  # also if it is a file or a pipe
    form = python_logging.Formatter("%(levelname)s: %(message)s")
    logging.get_absl_handler().setFormatter(form)
    try:
      if takes_command:
        return main(argv[1:])
      if len(argv) > 1:
        raise ValueError(f"{argv[1]!r} is no flag; write --name=value, see --help.")
      return main()
    except KeyboardInterrupt:
      print("Interrupted.", file=sys.stderr)
      return 130
    except Exception as e:
      if not _is_mistake(e):
        raise
      logging.debug("traceback", exc_info=True)
      return _fail(_sentence(e))

  # Flags may follow what is none, but not what follows a command: they are its own.
  flags.FLAGS.set_gnu_getopt(not takes_command)
  app.run(guarded, flags_parser=functools.partial(_parse, argument=argument))


def problem(name: str) -> None:
  """Makes a flag refuse what is neither a preset nor a problem expression."""
  _validate(name, presets.get)


def expression(name: str, kind: str) -> None:
  """Makes a flag refuse what is no expression of a kind in `vocabulary.KINDS`."""
  _validate(name, lambda text: text is None or vocabulary.check(text, kind, _imports()))


def expressions_or_baselines(name: str) -> None:
  """Makes a list flag refuse what `settings.check_baseline` refuses."""
  _validate(name, lambda texts: [check_baseline(text, _imports()) for text in texts])


def files(name: str) -> None:
  """Makes a list flag refuse files that do not exist."""
  _validate(name, lambda sources: [own_files.check(source) for source in sources])


def choices(name: str, among: Sequence[str]) -> None:
  """Makes a list flag refuse what is not among some names."""

  def check(values):
    for value in values:
      if value not in among:
        raise ValueError(f"{value!r} is none of {', '.join(among)}")

  _validate(name, check)


def _imports() -> bool:
  """Whether --imports names files, which may register names of their own."""
  return bool(flags.FLAGS["imports"].value)


def _validate(name: str, check: Callable[[Any], Any]) -> None:
  def is_valid(value: Any) -> bool:
    try:
      check(value)
    except ValueError as e:
      raise flags.ValidationError(str(e).rstrip(".")) from e
    return True

  flags.register_validator(name, is_valid)


def define_expressions(name: str, default: Sequence[str], help: str) -> None:
  """Defines a flag for a list, which is split at the commas outside of brackets."""
  parser = _Expressions()
  flags.DEFINE(parser, name, list(default), help, serializer=_Serializer())


class _Expressions(flags.ArgumentParser):
  """Parses expressions separated by commas."""

  def parse(self, argument: str | list[str]) -> list[str]:
    if isinstance(argument, list):
      return argument
    return expressions.split(argument)

  def flag_type(self) -> str:
    return "comma separated list of expressions"


class _Serializer(flags.ArgumentSerializer):
  def serialize(self, value: list[str]) -> str:
    return ",".join(value)


def positive_number(name: str) -> None:
  """Makes a flag refuse what is not a positive, finite number."""
  flags.register_validator(
    name,
    lambda value: value is None or 0 < value < math.inf,
    "it must be a positive, finite number",
  )


def settings(
  settings_class: type[_Settings],
  module: str,
  given: flags.FlagValues = flags.FLAGS,
  leave_out: Sequence[str] = (),
  **convert: Callable[[Any], Any],
) -> _Settings:
  """Returns the values of the module's flags as settings.

  Args:
    settings_class: a class of `runs.settings`, whose fields are the flags.
    module: name of the module that defines the flags.
    given: the flags' values.
    leave_out: flags that are no settings.
    **convert: functions from a flag's value to the field's value, if they differ.
  """
  names = [f.name for f in flags.FLAGS.flags_by_module_dict()[module]]
  values = {name: given[name].value for name in names if name not in leave_out}
  for name, value in values.items():
    if value is not None and name in convert:
      values[name] = convert[name](value)
    elif isinstance(value, list):
      values[name] = tuple(value)
  return settings_class(**values)


def _parse(argv: list[str], argument: str | None) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    if argument is not None and len(rest) > 1:
      if len(rest) > 2 or flags.FLAGS[argument].present:
        raise flags.Error(f"give one {argument} at a time, not {' '.join(rest[1:])}")
      return flags.FLAGS([rest[0], f"--{argument}={rest[1]}"])
    return rest
  except flags.Error as e:
    sys.exit(_fail(f"{_in_words(e)}; see --help."))
  except SystemExit:  # absl has shown the help, and exits as if that were a failure.
    sys.exit(0)


def _in_words(error: flags.Error) -> str:
  """Returns what is wrong with the flags; absl says a sentence for each missing one."""
  missing = re.findall(r"Flag (--\w+) must have a value other than None", str(error))
  if missing:
    return f"give {', '.join(f'{flag}=...' for flag in missing)}"
  return " ".join(str(error).split())


def _is_mistake(error: Exception) -> bool:
  """Whether an error reports a user's mistake in one sentence."""
  own = type(error).__module__.startswith("l2l_tf.")
  own = own or isinstance(error.__cause__, flags.DuplicateFlagError)
  return own or (isinstance(error, (ValueError, OSError)) and "\n" not in str(error))


def _sentence(error: Exception) -> str:
  if isinstance(error, OSError) and error.strerror:
    file = pathlib.Path(error.filename or "a file")
    return (
      f"{str(file)!r} could not be read or written ({error.strerror}); check the path,"
      " its permissions and the free space."
    )
  if isinstance(error.__cause__, flags.DuplicateFlagError):
    name = str(error.__cause__).split("'")[1]
    return (
      f"A file of your own defines the flag --{name}, which this command has already;"
      " call yours by another name."
    )
  return str(error)


def _fail(sentence: str) -> int:
  print(f"Error: {sentence}", file=sys.stderr)
  return 2
