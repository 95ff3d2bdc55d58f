"""Generates the reference: a page per package from its docstrings, and the cards."""

import ast
import collections
from collections.abc import Iterable

from links import ROOT
from mkdocs.structure.files import File

import l2l_tf
from l2l_tf import tables

from l2l_tf.runs import quiet  # noqa: F401 isort: skip
from l2l_tf.pretraining import cards

# Page -> what it is about, and modules that it shows beside those whose names the
# package exports, whole.
_PACKAGES = {
  "optimizers": ("Optimizers, learned and hand-designed", ()),
  "problems": ("Problems, what is optimized", ("problems.suites",)),
  "meta": ("Meta-training: objectives, curricula, trainers", ()),
  "meta.gradients": ("Estimators of the meta-gradient", ()),
  "keras": ("Learned optimizers in Keras", ()),
  "evaluation": (
    "Comparison under one protocol, and diagnosis",
    ("evaluation.tuning", "evaluation.quasi_newton", "evaluation.windows"),
  ),
  "pretraining": ("The optimizers that come with the package", ()),
  "storage": ("Saving and loading", ()),
}
_MODULES = ("preprocess", "seeds", "registry")  # with a page of their own


def on_files(files, config):
  """Adds the generated pages."""
  pages = {"reference/cards.md": _cards()}
  for package, (title, whole) in _PACKAGES.items():
    pages[f"reference/{package}.md"] = _package(package, title, whole)
  for module in _MODULES:
    pages[f"reference/{module}.md"] = f"# `l2l_tf.{module}`\n\n{_entry(module)}"
  for uri, content in pages.items():
    files.append(File.generated(config, uri, content=content))
  return files


def _package(package: str, title: str, whole: Iterable[str]) -> str:
  exported = collections.defaultdict(set)
  for module, name in (*_imported(package), *_top_level(package)):
    exported[module].add(name)
  entries = [_entry(module, names) for module, names in sorted(exported.items())]
  entries += [_entry(module) for module in whole]
  return "\n".join([f"# `l2l_tf.{package}`\n\n{title}.\n", *entries])


def _imported(package: str) -> Iterable[tuple[str, str]]:
  """Yields what the package's `__init__` imports from its own modules."""
  path = ROOT / "l2l_tf" / package.replace(".", "/") / "__init__.py"
  for node in ast.parse(path.read_text(encoding="utf-8")).body:
    if isinstance(node, ast.ImportFrom) and node.module.startswith(
      f"l2l_tf.{package}."
    ):
      for alias in node.names:
        yield node.module.removeprefix("l2l_tf."), alias.name


def _top_level(package: str) -> Iterable[tuple[str, str]]:
  """Yields the names of `l2l_tf` itself that come from modules of the package."""
  for name, module in l2l_tf._PUBLIC.items():
    if module.rpartition(".")[0] == package:
      yield module, name


def _entry(module: str, names: Iterable[str] | None = None) -> str:
  """Returns what mkdocstrings replaces by the docstrings of a module."""
  lines = [f"::: l2l_tf.{module}"]
  if names is not None:
    lines += ["    options:", f"      members: [{', '.join(sorted(names))}]"]
  return "\n".join(lines) + "\n"


def _cards() -> str:
  introduction = (
    'Each comes with the package: `l2l_tf.keras.LearnedOptimizer("general")`, or'
    ' `l2l_tf.load("general")`. `print(l2l_tf.pretrained()["general"])` prints these'
    " cards. Losses are those on tasks held out from training, beside optimizers whose"
    " rates were tuned for the task and the number of steps."
  )
  parts = [_card(card) for card in cards.pretrained().values()]
  return "\n\n".join(["# Pretrained optimizers", introduction, *parts])


def _card(card: cards.Card) -> str:
  fails = card.fails or ["On none of the held-out tasks is tuned Adam better."]
  commands = "\n".join(["```sh", *card.commands, "```"])
  return "\n\n".join(
    [
      f"## {card.name}",
      f"Trained on {card.trained_on}: {card.num_updates:,} meta-updates in"
      f" {card.minutes:.0f} minutes.",
      card.summary(),
      _folded("Commands that trained it", commands),
      _folded("Where it fails", "\n".join(f"- {text}" for text in fails)),
      _folded("Losses on held-out tasks", tables.markdown(card.rows())),
    ]
  )


def _folded(title: str, text: str) -> str:
  """Returns what is shown once its title is clicked."""
  lines = [f"    {line}" for line in text.splitlines()]
  return "\n".join([f'??? note "{title}"', "", *lines])
