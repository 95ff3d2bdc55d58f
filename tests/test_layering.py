"""The house's floors: a module imports only from floors below its own.

Read from the source alone, so that imports inside functions count too.
"""

import ast
import pathlib

import pytest

_PACKAGE = pathlib.Path(__file__).parents[1] / "l2l_tf"
_PUBLIC_NAMES = "__init__"  # l2l_tf itself

# From the top. Those on one floor never import each other; inside a package
# (problems, optimizers, scripts) files import one another freely.
_FLOORS = [
  ["__main__"],
  ["scripts"],
  [_PUBLIC_NAMES],
  ["runs"],
  ["reproductions"],
  ["benchmark"],
  ["evaluation", "keras"],
  ["pretraining"],
  ["meta", "storage"],
  ["optimizers", "problems"],
  ["preprocess"],
  ["cores", "dtypes", "registry", "seeds", "tables"],
]
_DEPTH = {name: depth for depth, names in enumerate(_FLOORS) for name in names}

# Imported from outside -> the only place that may: a package or a single file.
_RESERVED = {
  "absl.app": "l2l_tf.scripts",
  "absl.flags": "l2l_tf.scripts",
  "argparse": "l2l_tf.scripts",
  "importlib": "l2l_tf.__init__",  # it would hide from this test what is imported
  "PIL": "l2l_tf.problems.data",
  "keras.applications": "l2l_tf.problems.data",
  "keras.datasets": "l2l_tf.problems.data",
  "sklearn.datasets": "l2l_tf.problems.data",
  "tensorflow_datasets": "l2l_tf.problems.data",
  "urllib.request": "l2l_tf.problems.data",
}


def _violations(module: str, source: str) -> list[str]:
  """Returns one sentence per import in `module` that the house forbids."""
  own = _room(module)
  if own not in _DEPTH:
    return [f"{module} has no floor; give {own!r} one in tests/test_layering.py."]
  found = []
  for line, name in _imports(module, ast.parse(source)):
    where = f"{module}:{line} imports {name}, but"
    if _is_within(name, "l2l_tf"):
      other = _room(name) if _room(name) in _DEPTH else _PUBLIC_NAMES
      if other != own and _DEPTH[other] <= _DEPTH[own]:
        found.append(f"{where} {other!r} is not on a floor below {own!r}.")
    for reserved, place in _RESERVED.items():
      if _is_within(name, reserved) and not _is_within(module, place):
        found.append(f"{where} only {place} may import {reserved}.")
  return found


def _imports(module, tree):
  """Yields (line, dotted name) for everything that `tree` imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      parents = module.split(".")[: -node.level] if node.level else []
      base = parents + ([node.module] if node.module else [])
      for alias in node.names:
        yield node.lineno, ".".join([*base, alias.name])


def _room(name: str) -> str:
  """l2l_tf.problems.synthetic -> problems."""
  return [*name.split("."), _PUBLIC_NAMES][1]


def _is_within(name: str, place: str) -> bool:
  return f"{name}.".startswith(f"{place}.")


def _modules():
  """Yields (dotted name, path); packages keep their `__init__`."""
  for path in sorted(_PACKAGE.rglob("*.py")):
    parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
    yield ".".join(parts), path


@pytest.mark.parametrize(
  "module, path", [pytest.param(*m, id=m[0]) for m in _modules()]
)
def test_imports_only_from_floors_below(module, path):
  violations = _violations(module, path.read_text(encoding="utf-8"))
  assert not violations, "\n".join(violations)


def test_every_file_of_the_package_is_read():
  names = [name for name, _ in _modules()]
  assert {"l2l_tf.__init__", "l2l_tf.meta.unroll", "l2l_tf.problems.base"} <= set(names)


@pytest.mark.parametrize(
  "module, source, complaint",
  [
    ("l2l_tf.meta.unroll", "from l2l_tf import evaluation", "'evaluation' is not on"),
    ("l2l_tf.meta.unroll", "import l2l_tf.runs.x as m", "'runs' is not on a"),
    ("l2l_tf.meta.unroll", "def f():\n  from l2l_tf.runs import x", "unroll:2 imports"),
    ("l2l_tf.meta.unroll", "from ..runs import x", "'runs' is not"),
    ("l2l_tf.meta.unroll", "from .. import runs", "'runs' is not on a floor"),
    ("l2l_tf.meta.unroll", "from l2l_tf import Quadratic", "'__init__' is not on a"),
    ("l2l_tf.meta.unroll", "import l2l_tf", "'__init__' is not on a floor"),
    ("l2l_tf.seeds", "from l2l_tf import preprocess", "'preprocess' is not on a"),
    ("l2l_tf.problems.base", "from l2l_tf import optimizers", "'optimizers' is not"),
    ("l2l_tf.problems.base", "from ..optimizers import base", "'optimizers' is not"),
    ("l2l_tf.optimizers.x", "from l2l_tf.problems import x", "'problems' is not on"),
    ("l2l_tf.runs.training", "from absl import flags", "only l2l_tf.scripts may"),
    ("l2l_tf.runs.training", "import absl.flags", "only l2l_tf.scripts may"),
    ("l2l_tf.problems.base", "import tensorflow_datasets", "problems.data may"),
    ("l2l_tf.problems.base", "from sklearn import datasets", "problems.data may"),
    ("l2l_tf.meta.unroll", "from importlib import import_module", "__init__ may"),
    ("l2l_tf.attic.x", "", "l2l_tf.attic.x has no floor; give 'attic' one"),
  ],
)
def test_a_violation_is_found(module, source, complaint):
  (violation,) = _violations(module, source)
  assert complaint in violation


def test_a_relative_import_in_a_package_starts_at_the_package():
  source = "from ..optimizers import base\nfrom .base import Problem"
  (violation,) = _violations("l2l_tf.problems.__init__", source)
  assert "__init__:1 imports l2l_tf.optimizers.base, but" in violation


@pytest.mark.parametrize(
  "module, source",
  [
    ("l2l_tf.runs.x", "from l2l_tf import meta\nfrom absl import logging"),
    ("l2l_tf.scripts.train", "from absl import flags\nimport l2l_tf"),
    ("l2l_tf.problems.data.x", "import tensorflow_datasets\nfrom . import base"),
    ("l2l_tf.optimizers.partition", "from l2l_tf.optimizers import base"),
    ("l2l_tf.__init__", "import importlib\nfrom l2l_tf.optimizers import Adam"),
  ],
)
def test_what_the_house_allows_passes(module, source):
  assert not _violations(module, source)
