"""The command l2l-diagnose, as a function of its settings."""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from l2l_tf import tables
from l2l_tf.evaluation import diagnose as diagnose_lib
from l2l_tf.evaluation import findings as findings_lib
from l2l_tf.evaluation import plots
from l2l_tf.evaluation.diagnose import Response, Run
from l2l_tf.evaluation.findings import Finding
from l2l_tf.optimizers import Optimizer
from l2l_tf.pretraining import cards
from l2l_tf.runs import own_files
from l2l_tf.runs.settings import DiagnosisSettings
from l2l_tf.storage import files


def diagnose(settings: DiagnosisSettings) -> None:
  """Diagnoses each optimizer in an export; prints and writes the results.

  Raises:
    ExportError: if the file is not a valid export.
    WriteError: if a result cannot be written.
  """
  own_files.run_all(settings.imports)
  export_path = pathlib.Path(settings.path).expanduser()
  members = diagnose_lib.members(cards.load(str(export_path)))
  path = directory(settings.save_path, export_path)
  with files.writing(path):
    path.mkdir(parents=True, exist_ok=True)
  for name, optimizer in members.items():
    title = " ".join([*([name] if name else []), type(optimizer).__name__])
    title = f"{title} of {export_path}"
    diagnose_one(optimizer, title, path / name, settings)
  print(f"Written to {path}/")


def directory(save_path: str | None, export_path: pathlib.Path) -> pathlib.Path:
  """Returns the directory of the results."""
  if save_path:
    return pathlib.Path(save_path).expanduser()
  return export_path.parent / "diagnosis"


def diagnose_one(
  optimizer: Optimizer, title: str, path: pathlib.Path, settings: DiagnosisSettings
) -> None:
  """Diagnoses one optimizer; its results go to the directory `path`."""
  response = diagnose_lib.response(optimizer, warmup=settings.warmup)
  runs = diagnose_lib.behaviour(optimizer, settings.num_steps, settings.seed)
  found = as_text(findings_lib.findings(response, runs))
  print(f"{title}\n\n{table(response, runs)}\n\n{found}\n")
  csv_files = diagnose_lib.write(response, runs, path)
  files.write_text(path / "findings.txt", found + "\n")
  if settings.plot:
    figure = plots.diagnosis(*csv_files, title)
    plots.save(figure, path / "diagnosis.png")


def as_text(found: Sequence[Finding]) -> str:
  """Formats one line per finding, with faults marked."""
  return "\n".join(f"{'!' if f.is_fault else ' '} {f.text}" for f in found)


def table(response: Response, runs: Mapping[str, Run]) -> str:
  """Formats the response at the runs' gradients, and the runs' sums of updates."""
  header = ["gradient", "first update", "after equal", "after alternating", "sum"]
  lines = [header]
  for name, run in runs.items():
    for n, g in enumerate(run.gradients[0]):
      if name != "noise":
        at = np.abs(response.gradients - g).argmin()
        answers = [curve[at] for curve in response[1:]]
        lines.append([tables.number(x, 3) for x in (g, *answers, run.totals[-1, n])])
  ends = runs["noise"].totals[-1]
  mean, deviation = (tables.number(x, 2) for x in (ends.mean(), ends.std()))
  lines.append(["noise", "", "", "", f"{mean} +/- {deviation}"])
  return tables.aligned(lines, num_left=0, has_rule=True)
