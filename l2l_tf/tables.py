"""Tables and their numbers as text."""

from collections.abc import Sequence


def number(value: float | None, digits: int) -> str:
  """Formats a number to `digits` significant digits; integers in full, None as "-"."""
  if value is None:
    return "-"
  return str(value) if isinstance(value, int) else f"{value:.{digits}g}"


def aligned(
  rows: Sequence[Sequence[str]], num_left: int = 1, has_rule: bool = False
) -> str:
  """Formats rows of cells as lines, with two spaces between columns.

  Args:
    rows: of equal length; the first one is the header.
    num_left: how many columns, from the first, are aligned on the left; the others
      are aligned on the right.
    has_rule: whether to put a line of dashes below the header.

  Returns:
    A line per row, without trailing spaces.
  """
  widths = [max(map(len, column)) for column in zip(*rows)]
  if has_rule:
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i < num_left else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths))
    ).rstrip()
    for row in rows
  )


def markdown(rows: Sequence[Sequence[str]]) -> str:
  """Formats rows of cells as a Markdown table; the first one is the header."""
  lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)
