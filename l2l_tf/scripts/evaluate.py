"""Compares optimizers on fresh problems: learned ones as they are, baselines tuned.

  l2l-evaluate --problem=quadratic --path=tensorboard_logs/quadratic/optimizer.l2l.npz

Everyone runs through the same loop, on the same tasks and mini-batches, for the
same number of steps; each baseline's learning rate is selected on other tasks
than the reported ones. Prints the table, and writes summary.csv, curves.csv,
curves.png and TensorBoard logs.
"""

from l2l_tf.scripts import quiet  # noqa: F401 isort: skip

import pathlib

from absl import flags

from l2l_tf import evaluate, export, plots, presets, report
from l2l_tf.scripts import launch
from l2l_tf.summaries import TensorBoard

_PROBLEM = flags.DEFINE_string(
  "problem", "quadratic", f"One of {', '.join(presets.PRESETS)}."
)
_PATH = flags.DEFINE_list(
  "path", [], "Exported optimizers to evaluate, separated by commas."
)
_OPTIMIZER = flags.DEFINE_list(
  "optimizer",
  list(evaluate.BASELINES),
  "Hand-designed optimizers to compare with, separated by commas; empty for none.",
)
_LEARNING_RATE = flags.DEFINE_float(
  "learning_rate", None, "Of the hand-designed optimizers; by default each is tuned."
)
_NUM_EPOCHS = flags.DEFINE_integer(
  "num_epochs",
  None,
  "Draws of the problem; one draw of quadratics holds 128 of them, of others one task."
  " By default the problem's recipe says.",
)
_NUM_TUNING_EPOCHS = flags.DEFINE_integer(
  "num_tuning_epochs",
  None,
  "Draws on which each learning rate of the grid runs; by default as --num_epochs.",
)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 100, "Steps per task.")
_SEED = flags.DEFINE_integer("seed", 0, "Names the tasks.")
_SAVE_PATH = flags.DEFINE_string(
  "save_path",
  None,
  "Directory of the results; by default evaluation/ beside the first exported"
  " optimizer, else tensorboard_logs/<problem>/evaluation.",
)
_PLOT = flags.DEFINE_bool("plot", True, "Whether to draw curves.png.")


def baselines(names: list[str]):
  """Returns the named hand-designed optimizers, as functions of a rate."""
  known = {name.lower(): name for name in evaluate.BASELINES}
  unknown = [name for name in names if name.lower() not in known]
  if unknown:
    raise ValueError(
      f"Unknown optimizer {unknown[0]!r}; choose from {', '.join(evaluate.BASELINES)},"
      " or give an exported one with --path."
    )
  return {known[n.lower()]: evaluate.BASELINES[known[n.lower()]] for n in names}


def label(path: pathlib.Path) -> str:
  """Names an exported optimizer after its directory."""
  return f"LSTM ({path.parent.name})" if path.parent.name else path.stem


def write_results(curves, learned: set[str], title: str, path: pathlib.Path) -> str:
  """Writes CSV files, the picture and TensorBoard logs; returns the table."""
  path.mkdir(parents=True, exist_ok=True)
  _, curves_csv = report.write(curves, path)
  board = TensorBoard(path)
  for name, c in curves.items():
    board.trajectory(name, c.losses.mean(axis=0))
  if _PLOT.value:
    figure = plots.learning_curves(curves_csv, learned, title)
    figure.savefig(path / "curves.png")
    board.figure("learning curves", figure)
  board.close()
  return report.table(report.summarize(curves))


def main() -> None:
  preset = presets.get(_PROBLEM.value)
  if _LEARNING_RATE.value is not None and not 0 < _LEARNING_RATE.value < float("inf"):
    raise ValueError(
      f"learning_rate={_LEARNING_RATE.value} must be a positive, finite number."
    )
  paths = [pathlib.Path(p) for p in _PATH.value]
  learned = {label(path): export.load(path) for path in paths}
  to_compare = baselines(_OPTIMIZER.value)
  if not learned and not to_compare:
    raise ValueError("Nothing to evaluate: give --path or --optimizer.")
  num_draws = _NUM_EPOCHS.value or preset.num_draws
  curves = evaluate.compare(
    preset.make_problem(),
    learned,
    _NUM_STEPS.value,
    num_draws,
    _SEED.value,
    to_compare,
    _NUM_TUNING_EPOCHS.value or num_draws,
    [_LEARNING_RATE.value] if _LEARNING_RATE.value else evaluate.LEARNING_RATES,
  )
  default = (
    paths[0].parent if paths else pathlib.Path("tensorboard_logs", _PROBLEM.value)
  )
  path = pathlib.Path(_SAVE_PATH.value or default / "evaluation")
  num_problems = len(next(iter(curves.values())).losses)
  title = f"{_PROBLEM.value}: {num_problems} fresh problems"
  print(write_results(curves, set(learned), title, path))
  print(f"\n{num_problems} problems, the same for all; written to {path}/")


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
