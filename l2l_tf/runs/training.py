"""What l2l-train does, given its settings."""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import os
import pathlib
import time
from typing import Any

import keras
import numpy as np
import tqdm

from l2l_tf.evaluation import plots
from l2l_tf.meta import gradients as meta_gradients
from l2l_tf.meta.trace_graph import trace_graph
from l2l_tf.meta.trainer import MetaTrainer, check_lengths
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM, Optimizer, RNNprop
from l2l_tf.runs import flagfile, presets
from l2l_tf.runs.training_run import (
  OPTIMIZER,
  VALIDATIONS,
  ConfigurationError,
  Epoch,
  TrainingRun,
  stop_signals,
)
from l2l_tf.storage import export, files
from l2l_tf.storage.summaries import TRAJECTORIES, TensorBoard

# What a run's result does not depend on; it may differ when a run is resumed.
_PRESENTATION = ("log_period", "save_path", "trace_graph")
# What decides only when a run is validated and when it ends; it may change as well.
_ENDING = ("evaluation_period", "patience")
_HYPER_PARAMETERS = [
  "problem", "optimizer", "layers", "preprocess", "output_scale", "learning_rate",
  "schedule", "clip_norm", "num_steps", "unroll_length", "meta_batch_size",
  "relative_loss", "second_derivatives", "seed",
]  # fmt: skip
_FINAL_RATE = 0.02  # of the first one, at the end of the cosine
_ARCHITECTURE = ["optimizer", "layers", "preprocess", "output_scale", "initializer"]
_PICTURE_PERIOD = 15.0  # seconds between pictures, each of which takes 0.3
_STOPPING = "\nStopping after this epoch, with a checkpoint; once more stops at once.\n"


def settings(given: dict[str, Any]) -> dict[str, Any]:
  """Returns the flags' values, those not given taken from the problem's recipe."""
  recipe = presets.get(given["problem"])._asdict()
  values = {k: recipe.get(k) if v is None else v for k, v in given.items()}
  path = (
    values["save_path"] or f"tensorboard_logs/{presets.short_name(values['problem'])}"
  )
  values["save_path"] = os.path.expanduser(path)  # Shells leave --save_path=~/x alone.
  if values["initial_path"] is None:
    values["layers"] = [int(units) for units in values["layers"]]
    if values["optimizer"] == "RNNprop":
      values["preprocess"] = _no_preprocess(given)
    return values
  conflicting = [k for k in _ARCHITECTURE if given[k] is not None]
  if conflicting:
    raise ValueError(
      f"--{conflicting[0]} was given with --initial_path, whose file says it already;"
      " leave out one of the two."
    )
  return values | dict.fromkeys(_ARCHITECTURE)


def _no_preprocess(given: dict[str, Any]) -> None:
  if given["preprocess"] is not None:
    raise ValueError(
      "--preprocess was given with --optimizer=RNNprop, which reads gradients as Adam"
      " normalizes them; leave out one of the two."
    )


def build_optimizer(values: dict[str, Any]) -> Optimizer:
  """Builds a fresh optimizer, or loads the one to go on from."""
  if values["initial_path"] is not None:
    return export.load(pathlib.Path(values["initial_path"]).expanduser())
  arguments = {k: values[k] for k in ("layers", "output_scale", "initializer", "seed")}
  if values["optimizer"] == "RNNprop":
    return RNNprop(**arguments)
  return CoordinatewiseLSTM(preprocess=values["preprocess"], **arguments)


def build_trainer(values: dict[str, Any]) -> MetaTrainer:
  """Builds what the settings describe."""
  check_lengths(values["num_steps"], values["unroll_length"])
  rate = values["learning_rate"]
  if values["schedule"] == "cosine":
    num_windows = values["num_steps"] // values["unroll_length"]
    num_updates = values["num_epochs"] * num_windows
    rate = keras.optimizers.schedules.CosineDecay(rate, num_updates, _FINAL_RATE)
  weights = {"sum": meta_gradients.all_ones, "last": meta_gradients.last_only}
  return MetaTrainer(
    presets.get(values["problem"]).make_problem(),
    build_optimizer(values),
    Adam(rate),
    meta_gradients.TruncatedBPTT(
      weights[values["meta_loss"]], values["second_derivatives"]
    ),
    num_steps=values["num_steps"],
    unroll_length=values["unroll_length"],
    clip_norm=values["clip_norm"],
    seed=values["seed"],
    jit_compile=values["jit_compile"],
    meta_batch_size=values["meta_batch_size"],
    relative_loss=values["relative_loss"],
  )


def build_run(values: dict[str, Any]) -> TrainingRun:
  """Opens the run in its directory, where it may have been before."""
  depends_on_length = values["schedule"] == "cosine"
  try:
    return TrainingRun(
      build_trainer(values),
      values["save_path"],
      {k: v for k, v in values.items() if k not in _PRESENTATION},
      num_epochs=values["num_epochs"],
      evaluation_period=values["evaluation_period"],
      evaluation_epochs=values["evaluation_epochs"],
      patience=values["patience"],
      may_change=_ENDING if depends_on_length else ("num_epochs", *_ENDING),
    )
  except ConfigurationError as e:
    export_path = pathlib.Path(values["save_path"], OPTIMIZER)
    if e.changes.keys() != {"num_epochs"} or not export_path.exists():
      raise
    former, given = e.changes["num_epochs"]
    raise ConfigurationError(
      f"The learning rate's cosine of the run in {values['save_path']!r} was laid out"
      f" for {former} epochs, not {given}; train its optimizer further with"
      f" --initial_path={export_path} and another --save_path, or repeat"
      f" --num_epochs={former}."
    ) from None


def train(run: TrainingRun, values: dict[str, Any]) -> int:
  """Trains to the end or to a signal, with logs; returns the exit code."""
  path = pathlib.Path(values["save_path"])
  print(_opening(run, values))
  if run.changes or not run.is_finished:
    files.write_text(path / "flags.txt", flagfile.as_flagfile(values))
  if not run.is_finished:
    graph = _graph(run, values) if values["trace_graph"] else None
    with files.writing(path):
      board = TensorBoard(path, "training", after=run.resumed_from)
      if run.resumed_from is None:
        board.flags(values, _HYPER_PARAMETERS)
      elif run.changes:
        board.flags(values, step=run.resumed_from)
      if graph is not None and run.resumed_from is None:
        board.graph(graph)
    signal_number = _loop(run, board, values)
    with files.writing(path):
      board.close()
    if signal_number:
      return 128 + signal_number
  print(_closing(run, values))
  return 0


def _graph(run: TrainingRun, values: dict[str, Any]):
  return trace_graph(
    run.trainer.problem,
    run.trainer.optimizer,
    second_derivatives=values["second_derivatives"],
  )


def _loop(run: TrainingRun, board: TensorBoard, values: dict[str, Any]) -> int:
  """Shows progress; returns the number of the signal that ended it, or 0."""
  recent: list[float] = []
  picture = _Picture(board, values)
  with (
    stop_signals(_STOPPING) as received,
    tqdm.tqdm(
      total=values["num_epochs"],
      initial=int(run.epoch),
      unit="epoch",
      desc="Meta-training",
      dynamic_ncols=True,
    ) as bar,
  ):
    for epoch in run.epochs():
      _log(run, board, picture, epoch, values["save_path"])
      recent.append(float(epoch.metrics["losses"][-1]))
      if epoch.number % values["log_period"] == 0:
        bar.write(_line(epoch.number, recent, run))
        recent.clear()
      bar.set_postfix_str(_standing(run), refresh=False)
      bar.update()
      if received and not run.is_finished:
        run.save()
        bar.write(
          f"Stopped after epoch {epoch.number}; the same command goes on from there."
        )
        picture.draw()
        return received[0]
  picture.draw()
  return 0


class _Picture:
  """The trajectories of all validations so far, drawn now and then."""

  def __init__(self, board: TensorBoard, values: dict[str, Any]):
    self._board, self._path = board, pathlib.Path(values["save_path"])
    self._title = f"{values['problem']}: mean loss of the validation's tasks"
    self._time, self._epoch = time.monotonic(), None

  def note(self, epoch: int) -> None:
    """Takes note of a validation, and draws unless it did so a moment ago."""
    self._epoch = epoch
    if time.monotonic() - self._time > _PICTURE_PERIOD:
      self.draw()

  def draw(self) -> None:
    """Draws up to the last validation, if it has not been drawn yet."""
    if self._epoch is not None:
      with files.writing(self._path):
        figure = plots.trajectories(self._path / VALIDATIONS, self._title)
        self._board.figure(TRAJECTORIES, figure, self._epoch)
    self._time, self._epoch = time.monotonic(), None


def _log(
  run: TrainingRun, board: TensorBoard, picture: _Picture, epoch: Epoch, path: str
) -> None:
  """Writes TensorBoard's logs; if they cannot be written, the run still is saved."""
  try:
    with files.writing(path):
      board.training(epoch.number, epoch.metrics, 1.0 / epoch.seconds)
      if epoch.validation is not None:
        board.validation(epoch.number, epoch.validation.losses)
        picture.note(epoch.number)
        board.flush()
  except files.WriteError:
    run.save()
    raise


def _opening(run: TrainingRun, values: dict[str, Any]) -> str:
  path, num_epochs = values["save_path"], values["num_epochs"]
  changes = ", ".join(f"{k}={new}, was {old}" for k, (old, new) in run.changes.items())
  changes = f" ({changes})" if changes else ""
  if run.is_finished:
    return (
      f"Already finished: {int(run.epoch)} epochs, saved in {path}{changes};"
      f" {_way_on(run, values)}, or give another --save_path to train anew."
    )
  if run.resumed_from is not None:
    return (
      f"Going on after epoch {run.resumed_from} of {num_epochs}{changes}, saved in"
      f" {path}."
    )
  problem = values["problem"]
  return (
    f"Training on {problem} ({presets.get(problem).description}): {num_epochs} epochs,"
    f" saved in {path}."
  )


def _way_on(run: TrainingRun, values: dict[str, Any]) -> str:
  """Says how a finished run is trained further."""
  if int(run.epoch) < values["num_epochs"]:
    return "go on with a higher --patience"
  if values["schedule"] == "constant":
    return "go on with a higher --num_epochs"
  return f"train its optimizer further with --initial_path={run.export_path}"


def _closing(run: TrainingRun, values: dict[str, Any]) -> str:
  if not np.isfinite(run.best_loss):
    raise ValueError(
      "Not one validation of the run had a finite loss, so no optimizer was exported;"
      " try a lower --learning_rate, with another --save_path."
    )
  best = f"Best validation loss {float(run.best_loss):.4g}: {run.export_path}"
  if int(run.epoch) == values["num_epochs"]:
    return best
  return (
    f"Ended early: {values['patience']} validations in a row without improvement.\n"
    + best
  )


def _line(epoch: int, recent: list[float], run: TrainingRun) -> str:
  line = f"epoch {epoch:5d}  final loss {np.mean(recent):<8.4g}  {_standing(run)}"
  return line.rstrip()


def _standing(run: TrainingRun) -> str:
  best, skipped = float(run.best_loss), int(run.num_skipped)
  parts = [f"best validation {best:.4g}"] if np.isfinite(best) else []
  if skipped:
    parts.append(f"{skipped} windows skipped, not finite")
  return "  ".join(parts)
