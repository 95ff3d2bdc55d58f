"""Texts that call constructors: read as literals, never evaluated."""

import dataclasses
from typing import NamedTuple

import pytest
import sonnet as snt
from hypothesis import given
from hypothesis import strategies as st

from l2l_tf.runs import expressions
from l2l_tf.runs.expressions import Call, build, parse, split

LITERALS = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(),
  lambda inner: (
    st.lists(inner)
    | st.lists(inner).map(tuple)
    | st.dictionaries(st.integers(0) | st.text(), inner)
  ),
  max_leaves=10,
)


class Recorder:
  """Keeps what it was called with."""

  def __init__(self, *positional, **keywords):
    self.given = positional, keywords


@given(positional=st.lists(LITERALS), keywords=st.dictionaries(st.just("k"), LITERALS))
def test_all_literals_arrive_as_they_were_written(positional, keywords):
  texts = [*map(repr, positional), *(f"{k}={v!r}" for k, v in keywords.items())]
  expression = parse(f"Recorder({', '.join(texts)})")
  assert parse(expression.text) == expression
  made = build(expression.call, {"Recorder": Recorder}.get)
  assert repr(made.given) == repr((tuple(positional), keywords))


@given(parts=st.lists(LITERALS.map(lambda x: f"f({x!r})"), min_size=1))
def test_a_list_is_split_between_its_expressions(parts):
  assert split(",".join(parts)) == parts
  assert split(" , ".join(parts) + ",") == parts


@given(text=st.text())
def test_any_text_is_read_or_refused_in_one_sentence(text):
  try:
    expression = parse(text)
  except ValueError as e:
    assert str(e).endswith(".") and "\n" not in str(e)
  else:
    assert isinstance(expression.call, Call)
  assert isinstance(split(text), list)


@pytest.mark.parametrize(
  "text",
  [
    "f(__import__('os').system('true'))",
    "__import__('os').system('true')",
    "f(os.path)",
    "f.g()",
    "f()()",
    "f(x[0])",
    "f([x for x in 'ab'])",
    "f({x for x in 'ab'})",
    "f({'a', 'b'})",
    "f({**{}})",
    "f(**{'a': 1})",
    "f(*[1])",
    "f(a=1, a=2)",
    "f(x := 1)",
    "f(f'{x}')",
    "f(lambda: 1)",
    "f(1 if True else 2)",
    "f(1 + 1)",
    "f(9 ** 9)",
    "f(not True)",
    "f(~1)",
    "f(-'a')",
    "f(-True)",
    "f(1 < 2)",
    "f(True and False)",
    "f(1j)",
    "f(b'a')",
    "f(...)",
    "f({(1, 2): 3})",
    "f({g(): 3})",
    "f((yield))",
    "f(await x)",
    "lambda: 1",
    "[f()]",
    "1",
    "'f'",
    "",
    " ",
    "f(",
    "f())",
    "f() g()",
    "f(); g()",
    "import os",
    "f(\0)",
    "f(" + "[" * 500 + "]" * 500 + ")",
    "f(" + "-" * 5000 + "1)",
    "f(" + "9" * 5000 + ")",
    ":f()",
  ],
)
def test_all_else_is_refused(text):
  with pytest.raises(ValueError, match=r"\.$") as e:
    parse(text)
  assert len(str(e.value)) < 700


@pytest.mark.parametrize(
  "text, source, plain",
  [
    ("f", None, "f"),
    (" f ( a = 'x' , b = -1 ) ", None, "f(a='x', b=-1)"),
    ('f(a="x:y")', None, "f(a='x:y')"),
    ("a/b c.py:f(1,2)", "a/b c.py", "a/b c.py:f(1, 2)"),
    ("package.module:f", "package.module", "package.module:f"),
  ],
)
def test_a_source_stands_before_a_colon_and_spaces_do_not_matter(text, source, plain):
  assert parse(text)[1:] == (source, plain)


class Point(NamedTuple):
  x: int
  y: int = 0


@dataclasses.dataclass
class Pair:
  left: object
  right: object = None


class Module(snt.Module):
  def __init__(self, units, seed=0):
    super().__init__()
    if units == "many":
      raise TypeError("units must be a number")
    if not units:
      raise ValueError("units=0 must be positive.")
    self.given = units, seed


def double(x):
  return 2 * x


KNOWN = {"Point": Point, "Pair": Pair, "Module": Module, "double": double}


def made(text, **defaults):
  return build(parse(text).call, KNOWN.__getitem__, defaults)


def test_calls_may_be_nested():
  assert made("Pair([Point(1), Point(x=2, y=-3)], {'a': (double(4),)})") == Pair(
    [Point(1), Point(2, -3)], {"a": (8,)}
  )


def test_a_name_alone_is_an_instance_of_a_class_and_else_itself():
  known = {**KNOWN, "Origin": type("Origin", (), {"at": 0})}
  call = parse("Pair(double, right=[Origin])").call
  pair = build(call, known.__getitem__)
  assert pair.left is double
  assert isinstance(pair.right[0], known["Origin"])


def test_defaults_are_for_what_is_taken_and_not_given():
  assert made("Module(3)", seed=7, other=1).given == (3, 7)
  assert made("Module(3, 5)", seed=7).given == (3, 5)
  assert made("Module(seed=5)", seed=7, units=2).given == (2, 5)
  assert made("Pair(Module(1), Module(2, seed=3))", seed=7).left.given == (1, 0)


def test_what_is_for_everywhere_is_for_calls_in_arguments_too():
  call = parse("Pair([Module(1), Module(2, seed=3)], Module(4, 5))").call
  pair = build(call, KNOWN.__getitem__, everywhere={"seed": 7})
  assert [m.given for m in (*pair.left, pair.right)] == [(1, 7), (2, 3), (4, 5)]


@pytest.mark.parametrize(
  "text, sentence",
  [
    ("Module(unit=3)", "Module: .*unexpected.*'unit'; its arguments are units, seed"),
    ("Module()", "Module: missing a required argument: 'units'; its arguments"),
    ("Module(1, 2, 3)", "Module: too many positional arguments; its arguments"),
    ("Module(1, units=3)", "Module: multiple values for argument 'units'; its arg"),
    ("Pair(Point(z=1))", "Point: .*'z'; its arguments are x, y"),
    ("Module('many')", "Module cannot be made: units must be a number; its arguments"),
    ("Module(0)", "^units=0 must be positive"),
  ],
)
def test_wrong_arguments_are_one_sentence(text, sentence):
  with pytest.raises(ValueError, match=sentence):
    made(text)


def test_names_are_those_of_all_calls():
  call = parse("a(b(c=[d, (e(),)]), f={'g': h(1, 'i')})").call
  assert [*expressions.names(call)] == ["a", "b", "d", "e", "h"]


def test_an_unknown_name_has_close_ones_or_all():
  known = ["Adam", "RNNprop", "SGD"]
  assert expressions.unknown("rnnprob", known) == (
    "'rnnprob' is unknown; did you mean RNNprop"
  )
  assert expressions.unknown("xyz", known).endswith("known are Adam, RNNprop, SGD")
