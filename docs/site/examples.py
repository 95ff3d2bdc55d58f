"""Shows the examples of docstrings as Python, and not as quotations."""

import re

import griffe

# Lines from `>>>` on, up to an empty line.
_EXAMPLE = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)


class Examples(griffe.Extension):
  """Puts a fence around every example."""

  def on_object(self, *, obj, **_):
    if obj.docstring:
      text = obj.docstring.value
      obj.docstring.value = _EXAMPLE.sub(_fenced, text)


def _fenced(match: re.Match) -> str:
  return f"```pycon\n{match[0].rstrip()}\n```\n"
