"""The names that the command line knows: optimizers, problems, meta-gradients.

They are read from the source of the package's rooms: `--help` and a wrong name are
answered without TensorFlow, and a new class needs no entry here.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from l2l_tf import registry
from l2l_tf.runs import expressions, own_files, source
from l2l_tf.runs.expressions import Expression


class _Kind(NamedTuple):
  """One kind of object that a flag can name."""

  room: str  # the module or package that they are public in
  bases: tuple[str, ...]  # they are subclasses of one of these
  noun: str


KINDS = {
  "optimizer": _Kind("optimizers", ("Optimizer",), "an optimizer"),
  "problem": _Kind("problems", ("Problem",), "a problem"),
  "meta_gradient": _Kind(
    "meta/gradients", ("MetaGradient", "TruncatedBPTT"), "a meta-gradient"
  ),
  "curriculum": _Kind("meta/curriculum", ("Curriculum",), "a curriculum"),
}
# Rooms of names that can only be arguments; all registered classes can be, too.
_ARGUMENTS = {"preprocess": (), "problems/data/datasets": ("Dataset",)}
_VALUES = ("all_ones", "last_only")  # functions that are themselves arguments


def listing(kind: str) -> dict[str, source.Entry]:
  """Returns the names of one of `KINDS`, in alphabetical order."""
  room, bases, _ = KINDS[kind]
  return source.entries(room, bases)


@functools.cache
def _nested() -> set[str]:
  """Returns the names that may be used in an expression."""
  found = {name for kind in KINDS for name in listing(kind)}
  for room, bases in _ARGUMENTS.items():
    found |= set(source.entries(room, bases))
  for kind in KINDS.values():
    found |= source.registered(kind.room)
  return found | set(_VALUES)


def describe(kind: str) -> str:
  """Lists the names with their arguments and descriptions, one per line."""
  entries = listing(kind).values()
  return "\n".join(f"{e.name}({e.signature}): {e.description}" for e in entries)


def check(text: str, kind: str, may_be_registered: bool = False) -> Expression:
  """Reads an expression and checks what can be checked without running anything.

  Args:
    text: such as "RNNprop(layers=(20, 20))" or "path/to/file.py:MyOptimizer()".
    kind: one of `KINDS`.
    may_be_registered: whether a file that is yet to be run may register a name that
      is unknown.

  Raises:
    ValueError: for a text that is not an expression, an unknown name, or a file that
      does not exist.
  """
  expression = expressions.parse(text)
  if expression.source is not None:
    own_files.check(expression.source)
  elif not may_be_registered:
    own = set(registry.registered())
    name, *others = expressions.names(expression.call)
    if name not in listing(kind) and name not in own - _nested():
      raise ValueError(
        f"{expressions.unknown(name, listing(kind))}; one of your own is named as in"
        f" {expressions.OWN}."
      )
    for other in others:
      if other not in _nested() | own:
        raise ValueError(f"{expressions.unknown(other, _nested())}.")
  return expression


def parameters(name: str, kind: str) -> tuple[str, ...]:
  """Returns the argument names of a class or function that `check` accepts."""
  if name in listing(kind):
    return listing(kind)[name].parameters
  return tuple(expressions.signature_of(resolve(name)).parameters)


def build(
  text: str, kind: str, everywhere: Mapping[str, Any] = {}, **defaults: Any
) -> Any:
  """Makes the object that an expression describes.

  Args:
    text: as for `check`.
    kind: one of `KINDS`.
    everywhere: arguments for all constructors that it calls, if they take them and
      the text does not give them.
    **defaults: arguments likewise for the outermost constructor alone.

  Raises:
    ValueError: as in `check`, for wrong arguments, and for an object of another kind.
    RuntimeError: if the user's own code fails.
  """
  expression = check(text, kind)
  if expression.source is None:
    found = expressions.build(expression.call, resolve, defaults, everywhere)
    where = expression.text
  else:
    found = _build_own(expression, kind, defaults, everywhere)
    where = f"{expression.call.name}() of {expression.source}"
  if not isinstance(found, _base(kind)):
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
  """Returns the object with a name in the package, or with a registered name."""
  from l2l_tf import optimizers, preprocess, problems
  from l2l_tf.meta import curriculum, gradients
  from l2l_tf.problems.data import datasets

  registered = registry.registered()
  if name in registered:
    return registered[name]
  if name in _nested():
    rooms = optimizers, problems, gradients, curriculum, preprocess, datasets
    for room in rooms:
      if hasattr(room, name):
        return getattr(room, name)
  raise ValueError(f"{expressions.unknown(name, {*_nested(), *registered})}.")


def _build_own(expression: Expression, kind: str, defaults, everywhere) -> Any:
  """Calls the user's function or class; an exception keeps its traceback."""
  function = callable_of(expression, kind)
  own = own_files.run(expression.source)
  find = lambda name: own[name] if callable(own.get(name)) else resolve(name)
  positional, keywords = expressions.arguments(
    expression.call, function, find, defaults, everywhere
  )
  try:
    return function(*positional, **keywords)
  except Exception as error:
    name = f"{expression.call.name}() of {expression.source}"
    raise RuntimeError(f"{name} failed, see above.") from error


def _base(kind: str) -> type:
  """Returns the class of which everything of a kind is an instance."""
  from l2l_tf import optimizers, problems
  from l2l_tf.meta import curriculum, gradients

  rooms = {
    "optimizer": optimizers,
    "problem": problems,
    "meta_gradient": gradients,
    "curriculum": curriculum,
  }
  return next(
    getattr(rooms[kind], name)
    for name in KINDS[kind].bases
    if hasattr(rooms[kind], name)
  )
