"""What l2l-evaluate does, given its flags' values."""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from l2l_tf.evaluation import plots, report
from l2l_tf.evaluation import protocol as evaluate_lib
from l2l_tf.optimizers import Optimizer
from l2l_tf.pretraining import cards
from l2l_tf.runs import flagfile, presets
from l2l_tf.storage import files
from l2l_tf.storage.summaries import LEARNING_CURVES, TensorBoard


def evaluate(values: Mapping[str, Any]) -> None:
  """Runs the comparison, prints its table and writes its results."""
  name, rate = values["problem"], values["learning_rate"]
  preset = presets.get(name)
  learned = load(values["path"])
  num_draws = values["num_epochs"] or preset.num_draws
  problem = preset.make_problem()
  path = directory(values)
  with files.writing(path):
    path.mkdir(parents=True, exist_ok=True)
    files.write_text(path / "flags.txt", flagfile.as_flagfile(values))
  curves = evaluate_lib.compare(
    problem,
    learned,
    num_steps=values["num_steps"],
    num_draws=num_draws,
    seed=values["seed"],
    baselines=baselines(values["optimizer"]),
    num_tuning_draws=values["num_tuning_epochs"] or num_draws,
    learning_rates=[rate] if rate else evaluate_lib.LEARNING_RATES,
  )
  num_problems = len(next(iter(curves.values())).losses)
  print(report.table(report.summarize(curves)))
  title = f"{name}: {num_problems} fresh problems" if values["plot"] else None
  with files.writing(path):
    board = TensorBoard(path, "evaluation")
    board.flags(values)
    write_results(curves, set(learned), path, board, title)
  print(f"\nAll ran on the same problems, {num_problems}; written to {path}/")


def load(paths: Sequence[str]) -> dict[str, Optimizer]:
  """Loads pretrained and exported optimizers by names that tell them apart.

  A name has the directory of its file, and the whole path where that is not enough.
  """
  directories = [pathlib.Path(p).expanduser().resolve().parent.name for p in paths]
  learned = {}
  for path, name in zip(paths, directories):
    optimizer = cards.load(os.path.expanduser(path))
    kind = type(optimizer).__name__
    kind = "LSTM" if kind.endswith("LSTM") else kind
    is_short = directories.count(name) == 1 and not cards.is_pretrained(path)
    where = name if is_short else path
    learned[f"{kind} ({where})"] = optimizer
  return learned


def baselines(names: Sequence[str]) -> dict[str, Any]:
  """Returns the named hand-designed optimizers, as functions of a rate."""
  wanted = {name.lower() for name in names}
  return {k: v for k, v in evaluate_lib.BASELINES.items() if k.lower() in wanted}


def directory(values: Mapping[str, Any]) -> pathlib.Path:
  """Returns where the results go."""
  if values["save_path"]:
    return pathlib.Path(values["save_path"]).expanduser()
  if values["path"] and not cards.is_pretrained(values["path"][0]):
    return pathlib.Path(values["path"][0]).expanduser().parent / "evaluation"
  name = presets.short_name(values["problem"])
  return pathlib.Path("tensorboard_logs", name, "evaluation")


def write_results(
  curves: Mapping[str, evaluate_lib.Curves],
  learned: set[str],
  path: pathlib.Path,
  board: TensorBoard,
  title: str | None,
) -> None:
  """Writes CSV files, TensorBoard logs and, with a title, the picture."""
  _, curves_csv = report.write(curves, path)
  board.curves({name: c.losses.mean(axis=0) for name, c in curves.items()})
  if title is not None:
    figure = plots.learning_curves(curves_csv, learned, title)
    plots.save(figure, path / "curves.png")
    board.figure(LEARNING_CURVES, figure)
  board.close()
