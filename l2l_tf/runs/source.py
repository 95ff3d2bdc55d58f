"""Reads the package's classes and functions from its source, without importing it."""

import ast
import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

_PACKAGE = pathlib.Path(__file__).parents[1]
_REGISTER = "register"  # the decorator, however it is imported

_Definition = ast.ClassDef | ast.FunctionDef


class Entry(NamedTuple):
  """A class or function that can be called, as its source defines it."""

  name: str
  signature: str  # arguments with their defaults
  parameters: tuple[str, ...]
  description: str  # the docstring's first line


@functools.cache
def entries(room: str, bases: tuple[str, ...]) -> dict[str, Entry]:
  """Returns a room's subclasses of the bases, and functions that return one, by name.

  Args:
    room: a module or package below l2l_tf, such as "optimizers".
    bases: names of classes; without any, all classes are returned.
  """
  public = _public(room)
  definitions = {node.name: node for node in _definitions(room)}
  classes = {k: v for k, v in definitions.items() if isinstance(v, ast.ClassDef)}
  found = {}
  for name, node in sorted(definitions.items(), key=lambda item: item[0].lower()):
    is_named = name in public or _is_registered(node)
    if is_named and _makes_one(node, classes, bases) and _takes_literals(node, classes):
      found[name] = _entry(node, classes)
  return found


def registered(room: str) -> set[str]:
  """Returns the names of all classes of a room that are registered."""
  return {node.name for node in _definitions(room) if _is_registered(node)}


@functools.cache
def _definitions(room: str) -> list[_Definition]:
  path = _PACKAGE / room
  files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
  trees = (ast.parse(file.read_text(encoding="utf-8")) for file in files)
  return [
    node
    for tree in trees
    for node in _with_constants(tree).body
    if isinstance(node, _Definition) and not node.name.startswith("_")
  ]


def _with_constants(tree: ast.Module) -> ast.Module:
  """Replaces a module's constants by their literals, such as in defaults."""
  constants = {
    node.targets[0].id: node.value
    for node in tree.body
    if isinstance(node, ast.Assign)
    and isinstance(node.targets[0], ast.Name)
    and isinstance(node.value, ast.Constant)
  }

  class Transformer(ast.NodeTransformer):
    def visit_Name(self, node):
      return constants.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

  return Transformer().visit(tree)


def _public(room: str) -> set[str]:
  """Returns the names that a package's __init__ imports, or that a module defines."""
  init = _PACKAGE / room / "__init__.py"
  if not init.exists():
    return {node.name for node in _definitions(room)}
  tree = ast.parse(init.read_text(encoding="utf-8"))
  imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
  return {alias.asname or alias.name for node in imports for alias in node.names}


def _makes_one(node, classes, bases) -> bool:
  if isinstance(node, ast.FunctionDef):
    made = _last(node.returns) if node.returns else None
    return made in bases or (
      made in classes and bool({*_ancestry(classes[made], classes)} & {*bases})
    )
  is_abstract = "ABC" in map(_last, node.bases)
  is_one = not bases or bool({*_ancestry(node, classes)} & {*bases})
  return is_one and not is_abstract


def _ancestry(node: ast.ClassDef, classes) -> Iterator[str]:
  """Yields the class's name and those of its ancestors."""
  yield node.name
  for base in map(_last, node.bases):
    if base in classes and base != node.name:
      yield from _ancestry(classes[base], classes)
    elif base:
      yield base


def _takes_literals(node: _Definition, classes) -> bool:
  """Whether no argument must be a function, which an expression cannot write."""
  return not any(
    default is None and annotation and "Callable" in ast.unparse(annotation)
    for _, annotation, default in _parameters(node, classes)
  )


def _entry(node: _Definition, classes) -> Entry:
  parameters = _parameters(node, classes)
  texts = [f"{n}={ast.unparse(d)}" if d else n for n, _, d in parameters]
  description = (ast.get_docstring(node) or "").partition("\n")[0]
  names = tuple(name for name, *_ in parameters)
  return Entry(node.name, ", ".join(texts), names, description)


def _parameters(node: _Definition, classes):
  """Returns (name, annotation, default) of each argument."""
  if isinstance(node, ast.FunctionDef):
    return _of_function(node, skipped=0)
  for member in node.body:
    if isinstance(member, ast.FunctionDef) and member.name == "__init__":
      return _of_function(member, skipped=1)
  inherited = []
  for base in map(_last, node.bases):
    if base in classes and base != node.name:
      inherited = _parameters(classes[base], classes)
  if "dataclass" in map(_last, node.decorator_list):
    fields = (member for member in node.body if isinstance(member, ast.AnnAssign))
    return inherited + [(f.target.id, f.annotation, f.value) for f in fields]
  return inherited


def _of_function(node: ast.FunctionDef, skipped: int):
  listed = [*node.args.posonlyargs, *node.args.args]
  defaults = [None] * (len(listed) - len(node.args.defaults)) + node.args.defaults
  pairs = [
    *list(zip(listed, defaults))[skipped:],
    *zip(node.args.kwonlyargs, node.args.kw_defaults),
  ]
  return [(a.arg, a.annotation, d) for a, d in pairs]


def _is_registered(node: _Definition) -> bool:
  return _REGISTER in map(_last, node.decorator_list)


def _last(node: ast.expr) -> str | None:
  """base.Optimizer -> Optimizer; dataclasses.dataclass(frozen=True) -> dataclass."""
  match node:
    case ast.Call(func=function):
      return _last(function)
    case ast.Attribute(attr=name) | ast.Name(id=name) | ast.Constant(value=name):
      return name
  return None
