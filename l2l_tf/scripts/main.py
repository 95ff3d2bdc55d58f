"""The command l2l, whose subcommands are the other commands: l2l train is l2l-train.

It imports a subcommand when that is called, and TensorFlow not at all, so that the list
of subcommands is shown at once.
"""

import pkgutil
import re
import sys
from typing import NamedTuple

import l2l_tf


class Command(NamedTuple):
  """A subcommand: its module in `l2l_tf.scripts`, and what it does in one line."""

  module: str
  description: str


# In the order in which they are listed. setup.py names each of them a second time, as
# the program l2l-<name>; tests/test_main.py compares.
COMMANDS = {
  "train": Command(
    "train", "Meta-trains an optimizer on a problem and exports the best one found."
  ),
  "evaluate": Command(
    "evaluate",
    "Compares optimizers on fresh problems: learned ones as they are, baselines tuned.",
  ),
  "benchmark": Command(
    "benchmark",
    "Compares learned optimizers, untuned, with tuned optimizers of Keras.",
  ),
  "diagnose": Command(
    "diagnose",
    "Shows what a trained optimizer does with gradients, and why it may not learn.",
  ),
  "reproduce": Command(
    "reproduce", "Makes a figure of the paper again: trains, evaluates, draws."
  ),
  "pretrain": Command(
    "pretrain",
    "Makes one of the pretrained optimizers: trains it, compares it, writes its card.",
  ),
  "fewshot": Command(
    "fewshot",
    "Trains optimizers for few-shot tasks, and compares them on classes never seen.",
  ),
  "style": Command("style", "Paints a photograph in the style of a painting."),
  "launch": Command(
    "launch_workers",
    "Starts the workers of a cluster on this machine: one command, several processes.",
  ),
}
_OPTIONS = ["--help", "--version", "--completion=SHELL"]
_OLD_NAMES = re.compile(rf"\bl2l-(?=({'|'.join(COMMANDS)})\b)")
_USAGE = """\
Learned optimizers for TensorFlow 2, Sonnet 2 and Keras 3.

  l2l SUBCOMMAND --flag=value ...
  l2l SUBCOMMAND --help
  l2l --version
  l2l --completion=SHELL

{}

Each one is also a program of its own, such as l2l-train. --completion prints a script
for bash, zsh, fish, tcsh or powershell, which completes subcommands and flags."""


def run() -> None:
  """The console command."""
  name, *args = sys.argv[1:] or ["--help"]
  if name in COMMANDS:
    _run(name, args)
  elif name in ("--help", "-h"):
    print(_USAGE.format(_listing()))
  elif name == "--version":
    print(f"l2l_tf {l2l_tf.__version__}")
  elif name.startswith("--completion="):
    sys.exit(_complete(name.partition("=")[2]))
  else:
    from l2l_tf.runs import expressions

    known = _OPTIONS if name.startswith("-") else COMMANDS
    sys.exit(_fail(f"{expressions.unknown(name, known, most=1)}; see l2l --help."))


def _run(name: str, args: list[str]) -> None:
  """Runs a subcommand as its own program does, but under the name l2l calls it by."""
  module = pkgutil.resolve_name(f"l2l_tf.scripts.{COMMANDS[name].module}")
  from absl import flags

  module.__doc__ = _OLD_NAMES.sub("l2l ", module.__doc__)
  for flag in flags.FLAGS.flags_by_module_dict()[module.__name__]:
    flag.help = _OLD_NAMES.sub("l2l ", flag.help)
  sys.argv = [f"l2l {name}", *args]
  module.run()


def _listing() -> str:
  width = max(map(len, COMMANDS))
  lines = [f"  {name:<{width}}  {c.description}" for name, c in COMMANDS.items()]
  return "\n".join(lines)


def _complete(shell: str) -> int:
  """Prints the completion script of a shell; returns the exit code."""
  try:
    from l2l_tf.scripts import completion
  except ImportError as e:
    return _fail(f"--completion needs the package {e.name}: pip install {e.name}.")
  if shell not in completion.SHELLS:
    shells = ", ".join(completion.SHELLS)
    return _fail(f"--completion={shell} is for no known shell; known are {shells}.")
  print(completion.script(shell, COMMANDS))
  return 0


def _fail(sentence: str) -> int:
  print(f"Error: {sentence}", file=sys.stderr)
  return 2
