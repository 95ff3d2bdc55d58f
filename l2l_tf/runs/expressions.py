"""Constructor calls as text, such as RNNprop(layers=(20, 20)), read without eval.

The text is parsed by Python's grammar; anything but a literal, a name or a call of a
name is refused. Names have no meaning here: the caller of `build` looks them up.
"""

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# How to write a function or class in a file of one's own.
OWN = "path/to/file.py:function"

_NUMBERS = (int, float)
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


class Call(NamedTuple):
  """A name with arguments: literals, `Call`s, or sequences and dicts of them."""

  name: str
  positional: tuple[Any, ...] = ()
  keywords: Mapping[str, Any] = {}
  is_bare: bool = False  # without parentheses


class Expression(NamedTuple):
  """A parsed text: a call of a name in the package, or in a file or module."""

  call: Call
  source: str | None  # a Python file or the dotted name of a module
  text: str  # equal for texts that differ in spaces or quotes only

  @property
  def is_bare(self) -> bool:
    """Whether it is just a name of the package, without arguments."""
    return self.source is None and self.call.is_bare


def parse(text: str) -> Expression:
  """Parses a call or a name, either of them with or without "path/to/file.py:".

  Raises:
    ValueError: if the text is anything else.
  """
  head = text.partition("(")[0]
  source, colon, _ = head.rpartition(":")
  own = text[len(source) + len(colon) :].strip()
  if colon and not source:
    raise ValueError(f"{_shown(text)} names no file before the colon; write {OWN}.")
  try:
    tree = ast.parse(own, mode="eval").body
    call = _read(tree, text)
    plain = ast.unparse(tree)
  except (SyntaxError, RecursionError, MemoryError) as e:
    reason = getattr(e, "msg", None) or "it is nested too deeply"
    raise ValueError(
      f"{_shown(text)} is no expression such as 'RNNprop(layers=(20, 20))': {reason}."
    ) from None
  if not isinstance(call, Call):
    raise ValueError(
      f"{_shown(text)} is no name and no call of one, such as"
      " 'RNNprop(layers=(20, 20))'."
    )
  return Expression(call, source or None, f"{source}:{plain}" if source else plain)


def split(text: str) -> list[str]:
  """Splits at the commas outside of brackets and quotes."""
  parts, closing, quote, escaped = [""], [], None, False
  for c in text:
    if c == "," and not closing and not quote:
      parts.append("")
      continue
    parts[-1] += c
    if quote:
      quote = None if c == quote and not escaped else quote
      escaped = c == "\\" and not escaped
    elif c in "'\"":
      quote, escaped = c, False
    elif c in _BRACKETS:
      closing.append(_BRACKETS[c])
    elif closing and c == closing[-1]:
      closing.pop()
  return [part.strip() for part in parts if part.strip()]


def names(value: Any) -> Iterator[str]:
  """Yields the names that a call and its arguments use."""
  if isinstance(value, Call):
    yield value.name
    value = [*value.positional, *value.keywords.values()]
  if isinstance(value, dict):
    value = value.values()
  if not isinstance(value, str) and isinstance(value, Iterable):
    for part in value:
      yield from names(part)


def build(
  call: Call,
  find: Callable[[str], Any],
  defaults: Mapping[str, Any] = {},
  everywhere: Mapping[str, Any] = {},
) -> Any:
  """Makes the object that a call of the package's names describes.

  Args:
    call: the call, with its arguments.
    find: returns what a name stands for. In arguments, a class without parentheses
      stands for an instance.
    defaults: arguments for the outermost call, if it takes them and does not give them.
    everywhere: arguments likewise for the outermost call and all calls inside it.

  Raises:
    ValueError: if arguments do not fit, with a list of those that do; or if the
      constructor raises TypeError or ValueError.
  """
  function = find(call.name)
  positional, keywords = arguments(call, function, find, defaults, everywhere)
  try:
    return function(*positional, **keywords)
  except TypeError as e:
    raise ValueError(f"{call.name} cannot be made: {e}; {_taken_by(function)}.") from e


def arguments(
  call: Call,
  function: Callable[..., Any],
  find: Callable[[str], Any],
  defaults: Mapping[str, Any] = {},
  everywhere: Mapping[str, Any] = {},
) -> tuple[list[Any], dict[str, Any]]:
  """Returns the positional and keyword arguments of a call; Args are as in `build`."""

  def made(value: Any) -> Any:
    if isinstance(value, Call):
      is_value = value.is_bare and not isinstance(found := find(value.name), type)
      return found if is_value else build(value, find, everywhere=everywhere)
    if isinstance(value, (list, tuple)):
      return type(value)(map(made, value))
    if isinstance(value, dict):
      return {k: made(v) for k, v in value.items()}
    return value

  positional = [made(v) for v in call.positional]
  keywords = {k: made(v) for k, v in call.keywords.items()}
  signature = signature_of(function)
  try:
    given = signature.bind_partial(*positional, **keywords).arguments
    taken = {*signature.parameters} - {*given}
    missing = {**everywhere, **defaults}
    keywords |= {k: v for k, v in missing.items() if k in taken}
    signature.bind(*positional, **keywords)
  except TypeError as e:
    raise ValueError(f"{call.name}: {e}; {_taken_by(function)}.") from None
  return positional, keywords


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
  """Returns the signature of a function or a constructor, without self."""
  # Sonnet's classes are called through a metaclass that takes any arguments.
  if isinstance(function, type) and function.__init__ is not object.__init__:
    signature = inspect.signature(function.__init__)
    return signature.replace(parameters=[*signature.parameters.values()][1:])
  return inspect.signature(function)


def unknown(name: str, known: Iterable[str], most: int = 3) -> str:
  """Returns a message on an unknown name, with close names, or else all known ones."""
  known = sorted(known)
  by_lower = {k.lower(): k for k in known}
  close = difflib.get_close_matches(name.lower(), by_lower, most)
  if close:
    return (
      f"{name!r} is unknown; did you mean {' or '.join(by_lower[c] for c in close)}"
    )
  return f"{name!r} is unknown; known are {', '.join(known)}"


def _taken_by(function: Callable[..., Any]) -> str:
  listed = ", ".join(signature_of(function).parameters)
  return f"its arguments are {listed}" if listed else "it takes no arguments"


def _read(node: ast.expr, text: str) -> Any:
  """Turns a part of the parsed text into literals and calls, or raises ValueError."""
  read = lambda n: _read(n, text)
  match node:
    case ast.Constant(value=value) if value is None or isinstance(
      value, (bool, str, *_NUMBERS)
    ):
      return value
    case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=value)) if (
      type(value) in _NUMBERS
    ):
      return -value if isinstance(node.op, ast.USub) else value
    case ast.List(elts=parts):
      return [read(part) for part in parts]
    case ast.Tuple(elts=parts):
      return tuple(read(part) for part in parts)
    case ast.Dict(keys=keys, values=values) if None not in keys:
      return {_key(k, text): read(v) for k, v in zip(keys, values)}
    case ast.Name(id=name):
      return Call(name, is_bare=True)
    case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
      given = [k.arg for k in keywords]
      if None not in given and len(set(given)) == len(given):
        return Call(
          name, tuple(map(read, args)), {k.arg: read(k.value) for k in keywords}
        )
  raise ValueError(
    f"{_shown(ast.unparse(node))} in {_shown(text)} is not allowed; arguments are"
    " numbers, strings, lists, tuples, dicts, True, False, None, and calls of known"
    " names with each argument once."
  )


def _shown(text: str, most: int = 200) -> str:
  return repr(text) if len(text) <= most else f"{text[:most]!r}..."


def _key(node: ast.expr, text: str) -> Any:
  if isinstance(node, ast.Constant):
    return _read(node, text)
  raise ValueError(
    f"{_shown(ast.unparse(node))} in {_shown(text)} is not allowed as a key; keys are"
    " numbers and strings."
  )
