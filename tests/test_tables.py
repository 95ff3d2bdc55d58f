"""Tables, character for character."""

import numpy as np
import pytest

from l2l_tf import tables

ROWS = [["name", "x", "y"], ["a", "1", "-0.25"], ["longer", "", "3"]]


def lines(*args, **kwargs):
  return tables.aligned(*args, **kwargs).split("\n")


def test_names_stand_on_the_left_and_numbers_on_the_right():
  assert lines(ROWS) == [
    "name    x      y",
    "a       1  -0.25",
    "longer         3",
  ]


def test_a_rule_stands_below_the_header():
  assert lines(ROWS, has_rule=True) == [
    "name    x      y",
    "------  -  -----",
    "a       1  -0.25",
    "longer         3",
  ]


@pytest.mark.parametrize(
  "num_left, row", [(0, "     a  1  -0.25"), (2, "a       1  -0.25")]
)
def test_columns_are_aligned_as_they_are_told(num_left, row):
  assert lines(ROWS, num_left)[1] == row


def test_no_line_ends_with_spaces():
  assert lines([["a", "b"], ["c", ""]], num_left=2) == ["a  b", "c"]
  assert lines([["only a header"]]) == ["only a header"]


@pytest.mark.parametrize(
  "value, text",
  [
    (None, "-"),
    (12345, "12345"),
    (12345.0, "1.234e+04"),
    (0.1, "0.1"),
    (np.float32(0.1), "0.1"),
    (np.nan, "nan"),
    (np.inf, "inf"),
  ],
)
def test_a_number_has_four_digits_unless_it_is_whole(value, text):
  assert tables.number(value, 4) == text
