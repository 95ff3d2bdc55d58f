"""The names that the command line knows: optimizers, problems, meta-gradients.

They are what the package's rooms name, read from the source: `--help` and a wrong
name are answered without TensorFlow, and a new class needs no entry here.
"""

import ast
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from l2l_tf.runs import expressions, own_files
from l2l_tf.runs.expressions import Expression

_PACKAGE = pathlib.Path(__file__).parents[1]
_REGISTER = "register"  # the decorator, however it is imported


class _Kind(NamedTuple):
  """One of the things that a flag can name."""

  room: str  # the module or package that names them
  bases: tuple[str, ...]  # what they are: a subclass of one of these
  noun: str


KINDS = {
  "optimizer": _Kind("optimizers", ("Optimizer",), "an optimizer"),
  "problem": _Kind("problems", ("Problem",), "a problem"),
  "meta_gradient": _Kind(
    "meta/gradients", ("MetaGradient", "TruncatedBPTT"), "a meta-gradient"
  ),
}
# What can only be an argument: any class that is registered, and these functions.
_ARGUMENTS = {"preprocess": (), "problems/data/datasets": ("Dataset",)}
_VALUES = ("all_ones", "last_only")  # of meta/gradients: arguments, not calls


class Entry(NamedTuple):
  """A name that can be called, as its source has it."""

  name: str
  signature: str  # arguments with their defaults
  parameters: tuple[str, ...]
  description: str  # the docstring's first line


@functools.cache
def listing(kind: str) -> dict[str, Entry]:
  """Returns the names of one of `KINDS`, in alphabetical order."""
  room, bases, _ = KINDS[kind]
  return _entries(room, bases)


@functools.cache
def _nested() -> set[str]:
  """The names that may stand within an expression."""
  found = {name for kind in KINDS for name in listing(kind)}
  for room, bases in _ARGUMENTS.items():
    found |= set(_entries(room, bases))
  registered = {n.name for n in _definitions("optimizers") if _is_registered(n)}
  return found | registered | set(_VALUES)


def describe(kind: str) -> str:
  """Lists the names with their arguments and what they are, one per line."""
  entries = listing(kind).values()
  return "\n".join(f"{e.name}({e.signature}): {e.description}" for e in entries)


def check(text: str, kind: str) -> Expression:
  """Reads an expression and checks what can be checked without running anything.

  Raises:
    ValueError: for what is no expression, a name that is unknown, or a file that is
      not there.
  """
  expression = expressions.parse(text)
  if expression.source is not None:
    own_files.check(expression.source)
    return expression
  name, *others = expressions.names(expression.call)
  if name not in listing(kind):
    raise ValueError(
      f"{expressions.unknown(name, listing(kind))}; one of your own is named as in"
      f" {expressions.OWN}."
    )
  for other in others:
    if other not in _nested():
      raise ValueError(f"{expressions.unknown(other, _nested())}.")
  return expression


def build(text: str, kind: str, **defaults: Any) -> Any:
  """Makes what an expression describes.

  Args:
    text: such as "RNNprop(layers=(20, 20))" or "path/to/file.py:MyOptimizer()".
    kind: one of `KINDS`.
    **defaults: arguments for its constructor, if it takes them and the text does not
      say them.

  Raises:
    ValueError: as `check`, for wrong arguments, and for what is not of that kind.
    RuntimeError: if code of the user's own fails.
  """
  expression = check(text, kind)
  if expression.source is None:
    found = expressions.build(expression.call, resolve, **defaults)
    where = expression.text
  else:
    found = _build_own(expression, kind, defaults)
    where = f"{expression.call.name}() of {expression.source}"
  _, base = _room_and_base(kind)
  if not isinstance(found, base):
    example = ", such as l2l_tf.problems.keras_model(build_model, loss, dataset)"
    raise ValueError(
      f"{where} returned {found!r}; it must return {KINDS[kind].noun}"
      f"{example if kind == 'problem' else ''}."
    )
  return found


def callable_of(expression: Expression, kind: str) -> Callable[..., Any]:
  """Returns the class or function that an expression calls."""
  if expression.source is None:
    return resolve(expression.call.name)
  found = own_files.run(expression.source)
  name = expression.call.name
  if not callable(found.get(name)):
    raise ValueError(
      f"{expression.source} has no function {name!r}; define it there, or a class of"
      f" that name, to make {KINDS[kind].noun}."
    )
  return found[name]


def resolve(name: str) -> Any:
  """Returns what a name of the package, or a registered one, stands for."""
  from l2l_tf import optimizers, preprocess, problems, registry
  from l2l_tf.meta import gradients
  from l2l_tf.problems.data import datasets

  registered = registry.registered()
  if name in registered:
    return registered[name]
  if name in _nested():
    for room in (optimizers, problems, gradients, preprocess, datasets):
      if hasattr(room, name):
        return getattr(room, name)
  raise ValueError(f"{expressions.unknown(name, {*_nested(), *registered})}.")


def _build_own(expression: Expression, kind: str, defaults) -> Any:
  """Calls the user's function or class; what it raises keeps its traceback."""
  function = callable_of(expression, kind)
  own = own_files.run(expression.source)
  find = lambda name: own[name] if callable(own.get(name)) else resolve(name)
  positional, keywords = expressions.arguments(
    expression.call, function, find, defaults
  )
  try:
    return function(*positional, **keywords)
  except Exception as error:
    name = f"{expression.call.name}() of {expression.source}"
    raise RuntimeError(f"{name} failed, see above.") from error


def _room_and_base(kind: str) -> tuple[Any, type]:
  from l2l_tf import optimizers, problems
  from l2l_tf.meta import gradients

  rooms = {"optimizer": optimizers, "problem": problems, "meta_gradient": gradients}
  room = rooms[kind]
  (base, *_) = (getattr(room, b) for b in KINDS[kind].bases if hasattr(room, b))
  return room, base


# From here on, the source is read.

_Definition = ast.ClassDef | ast.FunctionDef


def _entries(room: str, bases: tuple[str, ...]) -> dict[str, Entry]:
  """The names of a room: subclasses of its bases, and functions that return one."""
  public = _public(room)
  definitions = {node.name: node for node in _definitions(room)}
  classes = {k: v for k, v in definitions.items() if isinstance(v, ast.ClassDef)}
  found = {}
  for name, node in sorted(definitions.items(), key=lambda item: item[0].lower()):
    is_named = name in public or _is_registered(node)
    if is_named and _makes_one(node, classes, bases) and _takes_literals(node, classes):
      found[name] = _entry(node, classes)
  return found


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
  """Puts literals where a module's constants stand, such as those of defaults."""
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
  """What a package's __init__ names, or all that a module defines."""
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
  """Whether no argument has to be a function, which no expression can write."""
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
