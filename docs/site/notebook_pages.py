"""Shows notebooks as pages, with the outputs that they keep."""

import base64
import json
import pathlib
from collections.abc import Iterator


def as_markdown(path: pathlib.Path) -> str:
  """Returns a notebook's cells and outputs; pictures are links to `pictures`."""
  parts = [f'!!! note "This page is the notebook `notebooks/{path.name}`"\n']
  for i, cell in enumerate(_cells(path)):
    source = "".join(cell["source"])
    is_code = cell["cell_type"] == "code"
    parts.append(f"```python\n{source}\n```" if is_code else source)
    for output in cell.get("outputs", []):
      if "text" in output:
        parts.append(f"```text\n{''.join(output['text'])}```")
      elif "image/png" in output["data"]:
        parts.append(f"![What the cell above draws]({_picture(path, i)})")
  return "\n\n".join(parts)


def pictures(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  """Yields the name and the content of each picture of a notebook."""
  for i, cell in enumerate(_cells(path)):
    for output in cell.get("outputs", []):
      if "image/png" in output.get("data", {}):
        png = "".join(output["data"]["image/png"])
        yield _picture(path, i), base64.b64decode(png)


def _cells(path):
  return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _picture(path, cell):
  return f"{path.stem}_{cell}.png"
