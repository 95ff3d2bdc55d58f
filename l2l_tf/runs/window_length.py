"""--unroll_length=auto: measures meta-gradients, and settles on a length of windows."""

import dataclasses
import pathlib

import tqdm

from l2l_tf.evaluation import plots, windows
from l2l_tf.evaluation.windows import Measurement
from l2l_tf.runs import training_run
from l2l_tf.runs.builders import build_trainer
from l2l_tf.runs.settings import AUTO, TrainingSettings
from l2l_tf.storage import files
from l2l_tf.storage.summaries import WINDOWS, TensorBoard

_WARM_UP = 10  # episodes before the meta-gradients are measured


def settled(
  settings: TrainingSettings,
) -> tuple[TrainingSettings, Measurement | None]:
  """Returns settings with a length in place of "auto", and what it was chosen by.

  A run that is resumed keeps the length that it began with. A new one is measured on an
  optimizer of its own, which a few episodes have trained; the run itself starts from
  fresh weights.

  Args:
    settings: resolved.

  Raises:
    ValueError: if there are no windows to compare, as with particles.
    ConfigurationError: if `save_path` cannot be that of a run.
  """
  if settings.unroll_length != AUTO:
    return settings, None
  former = training_run.saved_config(settings.save_path)
  if former is not None:  # Another configuration is refused when the run is opened.
    length = former.get("unroll_length")
    fits = isinstance(length, int) and settings.num_steps % length == 0
    length = length if fits else settings.num_steps
    return dataclasses.replace(settings, unroll_length=length), None
  lengths = windows.default_lengths(settings.num_steps)
  middle = lengths[len(lengths) // 2]
  trainer = build_trainer(dataclasses.replace(settings, unroll_length=middle))
  windows.check(trainer.meta_gradient, trainer.objective)
  for _ in tqdm.tqdm(trainer.train(_WARM_UP), total=_WARM_UP, desc="Warming up"):
    pass
  found = windows.measure(
    trainer.problem,
    trainer.optimizer,
    trainer.num_steps,
    lengths,
    trainer.meta_gradient,
    trainer.objective,
    seed=settings.seed,
    meta_batch_size=settings.meta_batch_size,
  )
  print(f"{found.table()}\n{found.reason}")
  return dataclasses.replace(settings, unroll_length=found.best), found


def record(found: Measurement, settings: TrainingSettings, board: TensorBoard) -> None:
  """Writes `windows.csv` and `windows.png` into the run's directory, and its logs."""
  path = pathlib.Path(settings.save_path)
  found.write(path / "windows.csv")
  title = f"{settings.problem}: meta-gradients; windows of {found.best} steps are taken"
  figure = plots.windows(path / "windows.csv", title)
  plots.save(figure, path / "windows.png")
  with files.writing(path):
    board.figure(WINDOWS, figure)
