"""Turns formulas into MathML, which browsers show without scripts or fonts."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(
  r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL
)


def on_page_content(content, **_):
  """Replaces what the extension `arithmatex` has marked."""
  return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match) -> str:
  formula = html.unescape(match[3])
  if match[2] == "(":
    return convert(formula)
  # On a narrow screen a long formula scrolls by itself, without the page.
  return f'<div style="overflow-x: auto">{convert(formula, display="block")}</div>'
