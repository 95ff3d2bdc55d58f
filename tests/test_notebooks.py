"""The notebooks run from top to bottom, and what they keep can be shown."""

import json
import pathlib
import re

import pytest

DIRECTORY = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(DIRECTORY.glob("*.ipynb"))
# Their first cells read their sizes here.
SMALL = {"NOTEBOOK_EPOCHS": "2", "NOTEBOOK_EPISODES": "2", "NOTEBOOK_POINTS": "3"}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def cells(path, kind):
  notebook = json.loads(path.read_text(encoding="utf-8"))
  return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_is_one_for_each_door():
  names = {path.stem for path in NOTEBOOKS}
  assert names == {"use_in_keras", "train_your_own", "the_paper"}


@each
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
  import matplotlib.pyplot as plt

  plt.switch_backend("agg")
  monkeypatch.chdir(tmp_path)
  for name, value in SMALL.items():
    monkeypatch.setenv(name, value)
  namespace = {"__name__": "notebook"}
  for i, cell in enumerate(cells(path, "code")):
    code = compile("".join(cell["source"]), f"{path.name}, code cell {i}", "exec")
    exec(code, namespace)
  figures = plt.get_fignums()
  plt.close("all")
  assert len(figures) >= 3


@each
def test_keeps_the_outputs_of_one_run(path):
  code = cells(path, "code")
  assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
  outputs = [output for cell in code for output in cell["outputs"]]
  assert {output["output_type"] for output in outputs} <= {
    "stream", "display_data", "execute_result",
  }  # fmt: skip
  assert all(output.get("name") != "stderr" for output in outputs)
  pictures = [output for output in outputs if "image/png" in output.get("data", {})]
  assert len(pictures) >= 3
  assert all(len(picture["data"]["image/png"]) > 5000 for picture in pictures)


@each
def test_sizes_of_a_first_cell_are_read(path):
  first = "".join(cells(path, "code")[0]["source"])
  assert any(f'os.environ.get("{name}"' in first for name in SMALL)


@each
def test_links_lead_to_files(path):
  text = "".join(line for cell in cells(path, "markdown") for line in cell["source"])
  links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
  assert len(links) >= 4
  assert all((DIRECTORY / link).is_file() for link in links)
