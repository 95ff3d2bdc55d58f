"""Completes the subcommands of l2l and their flags in a shell, by the library shtab."""

import argparse
import pkgutil
from collections.abc import Mapping

import shtab
from absl import flags

SHELLS = shtab.SUPPORTED_SHELLS


def script(shell: str, commands: Mapping[str, tuple[str, str]]) -> str:
  """Returns what a shell has to read for `l2l <Tab>` to work.

  Args:
    shell: one of `SHELLS`.
    commands: a module in `l2l_tf.scripts`, and a description, by the subcommand's name.
  """
  # shtab reads parsers of argparse: this one describes the flags, and parses nothing.
  parser = argparse.ArgumentParser("l2l")
  parser.add_argument("--version", action="store_true", help="Show the version.")
  subparsers = parser.add_subparsers()
  for name, (module, description) in commands.items():
    subparser = subparsers.add_parser(name, description=description, help=description)
    for flag in _flags(f"l2l_tf.scripts.{module}"):
      _add(subparser, flag)
  return shtab.complete(parser, shell)


def _flags(module: str) -> list[flags.Flag]:
  """Returns a script's flags, and makes room for those of the next, named alike."""
  pkgutil.resolve_name(module)
  found = [*flags.FLAGS.flags_by_module_dict()[module]]
  flags.FLAGS.remove_flag_values([flag.name for flag in found])
  return found


def _add(parser: argparse.ArgumentParser, flag: flags.Flag) -> None:
  sentence = flag.help.split(">: ")[-1].split(". ")[0].split("\n")[0]
  summary = sentence.rstrip(".:").replace("%", "%%")  # argparse formats it
  if flag.boolean:
    names = [f"--{flag.name}", f"--no{flag.name}"]
    parser.add_argument(*names, action="store_true", help=summary)
    return
  choices = getattr(flag.parser, "enum_values", None)
  action = parser.add_argument(f"--{flag.name}", choices=choices, help=summary)
  if choices is None and flag.flag_type() not in ("int", "float"):
    action.complete = shtab.FILE
