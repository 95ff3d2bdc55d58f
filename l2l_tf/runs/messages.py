"""The messages of l2l-train on the terminal."""

import numpy as np

from l2l_tf.runs import presets
from l2l_tf.runs.settings import TrainingSettings
from l2l_tf.runs.training_run import TrainingRun


def opening(run: TrainingRun, settings: TrainingSettings) -> str:
  """Returns the line on a run that begins, resumes, or is finished already."""
  path, num_epochs = settings.save_path, settings.num_epochs
  changes = ", ".join(f"{k}={new}, was {old}" for k, (old, new) in run.changes.items())
  changes = f" ({changes})" if changes else ""
  if run.is_finished:
    return (
      f"Already finished: {int(run.epoch)} epochs, saved in {path}{changes};"
      f" {_way_on(run, settings)}, or give another --save_path to train anew."
    )
  if run.resumed_from is not None:
    return (
      f"Going on after epoch {run.resumed_from} of {num_epochs}{changes}, saved in"
      f" {path}."
    )
  problem = settings.problem
  return (
    f"Training on {problem} ({presets.get(problem).description}): {num_epochs} epochs,"
    f" saved in {path}."
  )


def _way_on(run: TrainingRun, settings: TrainingSettings) -> str:
  """Returns how a finished run can be trained further."""
  if int(run.epoch) < settings.num_epochs:
    return "go on with a higher --patience"
  if settings.schedule != "cosine":
    return "go on with a higher --num_epochs"
  return f"train its optimizer further with --initial_path={run.export_path}"


def closing(run: TrainingRun, settings: TrainingSettings) -> str:
  """Returns the lines on a run that has ended.

  Raises:
    ValueError: if no validation was finite, so that no optimizer was exported.
  """
  if not np.isfinite(run.best_loss):
    raise ValueError(
      "Not one validation of the run had a finite loss, so no optimizer was exported;"
      " try a lower --learning_rate, with another --save_path."
    )
  best = f"Best validation loss {float(run.best_loss):.4g}: {run.export_path}"
  if int(run.epoch) == settings.num_epochs:
    return best
  return (
    f"Ended early: {settings.patience} validations in a row without improvement.\n"
    + best
  )


def progress(epoch: int, recent: list[float], run: TrainingRun) -> str:
  """Returns the line on a running training, with the mean of recent final losses."""
  line = f"epoch {epoch:5d}  final loss {np.mean(recent):<8.4g}  {standing(run)}"
  return line.rstrip()


def standing(run: TrainingRun) -> str:
  """Returns the best validation loss and the number of skipped windows, as text."""
  best, skipped = float(run.best_loss), int(run.num_skipped)
  parts = [f"best validation {best:.4g}"] if np.isfinite(best) else []
  if skipped:
    parts.append(f"{skipped} windows skipped, not finite")
  return "  ".join(parts)
