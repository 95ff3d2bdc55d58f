"""The command l2l-train, as a function of its settings.

From Python: `training.train(TrainingSettings(problem="quadratic", num_epochs=100))`.
"""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import contextlib
import dataclasses
import pathlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
import tqdm

from l2l_tf.evaluation import plots
from l2l_tf.evaluation.windows import Measurement
from l2l_tf.meta.trace_graph import trace_graph
from l2l_tf.runs import (
  content,
  flagfile,
  messages,
  own_files,
  strategies,
  window_length,
)
from l2l_tf.runs.builders import build_trainer
from l2l_tf.runs.settings import AUTO, TrainingSettings
from l2l_tf.runs.training_run import (
  OPTIMIZER,
  VALIDATIONS,
  ConfigurationError,
  Epoch,
  TrainingRun,
  stop_signals,
)
from l2l_tf.storage import files
from l2l_tf.storage.summaries import TRAJECTORIES, TensorBoard

# Settings that do not affect a run's result; they may differ when it is resumed.
_PRESENTATION = (
  "log_period",
  "save_path",
  "trace_graph",
  "imports",
  "strategy",
  "worker_timeout",
)
# Settings that only decide when a run is validated and when it ends; they may differ as
# well.
_ENDING = ("evaluation_period", "patience")
_HYPER_PARAMETERS = [
  "problem", "optimizer", "layers", "preprocess", "output_scale", "learning_rate",
  "schedule", "meta_optimizer", "clip_norm", "num_steps", "unroll_length", "curriculum",
  "meta_batch_size", "relative_loss", "task_clip_norm", "imitation",
  "imitation_weight", "imitation_half_life", "second_derivatives",
  "meta_gradient", "seed",
]  # fmt: skip
_PICTURE_PERIOD = 15.0  # seconds between pictures, each of which takes 0.3
_TICK = 2.0  # seconds between moves of the bar within an epoch
_STOPPING = "\nStopping after this epoch, with a checkpoint; once more stops at once.\n"


def train(settings: TrainingSettings) -> int:
  """Starts a run or resumes it, and trains until it ends or a signal arrives.

  Progress is shown on the terminal; logs, checkpoints and the best optimizer are
  written to `settings.save_path`.

  Args:
    settings: what to train, on what, and how.

  Returns:
    The exit code: 0, or 128 plus the number of the signal that ended it.

  Raises:
    ValueError: for settings that do not fit together.
    ConfigurationError: if the directory belongs to another run.
    WriteError: if a result cannot be written; the run can resume from its checkpoint.
  """
  # First of all, for TensorFlow must not have been used.
  with strategies.joined(settings.strategy, settings.worker_timeout) as strategy:
    return _train_with(strategy, settings)


def _train_with(
  strategy: tf.distribute.Strategy | None, settings: TrainingSettings
) -> int:
  own_files.run_all(settings.imports)
  settings = settings.resolved()
  if strategy is not None and settings.unroll_length == AUTO:
    raise ValueError(
      "unroll_length=auto measures in one process; measure without strategy, then give"
      " the number that it chose."
    )
  settings, measured = window_length.settled(settings)
  run = open_run(settings, strategy)
  return _train(run, settings, measured) if run.replicas.is_chief else _follow(run)


def open_run(
  settings: TrainingSettings, strategy: tf.distribute.Strategy | None = None
) -> TrainingRun:
  """Opens the run in its directory, new or to be resumed.

  Args:
    settings: resolved, with a number as `unroll_length`; here and below.
    strategy: shares out the work.

  Raises:
    ConfigurationError: as in `TrainingRun`.
  """
  may_change = _ENDING
  if settings.curriculum is not None:  # It may follow the validations.
    may_change = ("patience",)
  if settings.schedule != "cosine":
    may_change = ("num_epochs", *may_change)
  trainer = build_trainer(settings, strategy)
  values = dataclasses.asdict(settings)
  config = {k: v for k, v in values.items() if k not in _PRESENTATION}
  config |= content.known(settings, trainer.problem)
  try:
    return TrainingRun(
      trainer,
      settings.save_path,
      config,
      num_epochs=settings.num_epochs,
      evaluation_period=settings.evaluation_period,
      evaluation_epochs=settings.evaluation_epochs,
      patience=settings.patience,
      may_change=(*may_change, *content.may_change(config)),
    )
  except ConfigurationError as e:
    export_path = pathlib.Path(settings.save_path, OPTIMIZER)
    if e.changes.keys() != {"num_epochs"} or not export_path.exists():
      raise content.explained(e, settings) from None
    former, given = e.changes["num_epochs"]
    raise ConfigurationError(
      f"The learning rate's cosine of the run in {settings.save_path!r} was laid out"
      f" for {former} epochs, not {given}; train its optimizer further with"
      f" --initial_path={export_path} and another --save_path, or repeat"
      f" --num_epochs={former}."
    ) from None


def _follow(run: TrainingRun) -> int:
  """Trains as a worker that is not the chief, and neither shows nor writes anything."""
  with stop_signals() as received:
    for _ in run.epochs():
      if stopping := _asked_to_stop(run, received):
        if not run.is_finished:
          run.save()
        return 128 + stopping
  return 0


def _asked_to_stop(run: TrainingRun, received: list[int]) -> int:
  """Returns the number of a signal that any of the workers has received, or 0."""
  if not run.replicas.any(bool(received)):
    return 0
  return received[0] if received else signal.SIGTERM


def _train(
  run: TrainingRun, settings: TrainingSettings, measured: Measurement | None = None
) -> int:
  path, values = pathlib.Path(settings.save_path), dataclasses.asdict(settings)
  print(messages.opening(run, settings))
  if run.changes or not run.is_finished:
    files.write_text(path / "flags.txt", flagfile.as_flagfile(values))
  if not run.is_finished:
    with files.writing(path):
      board = _open_board(run, path, values)
    if measured is not None:
      window_length.record(measured, settings, board)
    signal_number = _loop(run, board, settings)
    with files.writing(path):
      board.close()
    if signal_number:
      return 128 + signal_number
  print(messages.closing(run, settings))
  return 0


def _open_board(
  run: TrainingRun, path: pathlib.Path, values: Mapping[str, Any]
) -> TensorBoard:
  """Opens the logs, and writes the flags and, on request, the graph."""
  graph = None
  if values["trace_graph"] and run.resumed_from is None:
    trainer = run.trainer
    is_second = getattr(trainer.meta_gradient, "second_derivatives", False)
    graph = trace_graph(
      trainer.problem, trainer.optimizer, second_derivatives=is_second
    )
  board = TensorBoard(path, "training", after=run.resumed_from)
  if run.resumed_from is None:
    board.flags(values, _HYPER_PARAMETERS)
  elif run.changes:
    board.flags(values, step=run.resumed_from)
  if graph is not None:
    board.graph(graph)
  return board


def _loop(run: TrainingRun, board: TensorBoard, settings: TrainingSettings) -> int:
  """Trains and shows progress; returns the signal that ended the loop, or 0."""
  recent: list[float] = []
  picture = _Picture(board, settings)
  with (
    stop_signals(_STOPPING) as received,
    tqdm.tqdm(
      total=settings.num_epochs,
      initial=int(run.epoch),
      unit="epoch",
      desc="Meta-training",
      dynamic_ncols=True,
    ) as bar,
    _moving_within_epochs(bar, run),
  ):
    for epoch in run.epochs(lambda e: _log(run, board, picture, e, settings.save_path)):
      recent.append(float(epoch.metrics["losses"][-1]))
      if epoch.number % settings.log_period == 0:
        bar.write(messages.progress(epoch.number, recent, run))
        recent.clear()
      bar.set_postfix_str(messages.standing(run), refresh=False)
      bar.n = epoch.number - 1  # A part of the epoch may have been shown.
      bar.update()
      stopping = _asked_to_stop(run, received)
      if stopping and run.is_finished:  # What comes after it shall not start.
        picture.draw()
        return stopping
      if stopping:
        run.save()
        bar.write(
          f"Stopped after epoch {epoch.number}; the same command goes on from there."
        )
        picture.draw()
        return stopping
  picture.draw()
  return 0


@contextlib.contextmanager
def _moving_within_epochs(bar: tqdm.tqdm, run: TrainingRun) -> Iterator[None]:
  """Moves a bar on while an epoch lasts, as some take minutes."""
  is_over = threading.Event()

  def move():
    while not is_over.wait(_TICK):
      reached = round(int(run.epoch) + run.trainer.share_done, 2)
      if reached > bar.n:
        bar.n = reached
        bar.refresh()

  thread = threading.Thread(target=move, daemon=True)
  thread.start()
  try:
    yield
  finally:
    is_over.set()
    thread.join()


class _Picture:
  """A plot of all validations so far, drawn at most every `_PICTURE_PERIOD`."""

  def __init__(self, board: TensorBoard, settings: TrainingSettings):
    self._board, self._path = board, pathlib.Path(settings.save_path)
    self._title = f"{settings.problem}: mean loss of the validation's tasks"
    self._time, self._epoch = time.monotonic(), None

  def note(self, epoch: int) -> None:
    """Notes a validation, and draws unless the last plot is recent."""
    self._epoch = epoch
    if time.monotonic() - self._time > _PICTURE_PERIOD:
      self.draw()

  def draw(self) -> None:
    """Draws all validations, if there is one that has not been drawn yet."""
    if self._epoch is not None:
      with files.writing(self._path):
        figure = plots.trajectories(self._path / VALIDATIONS, self._title)
        self._board.figure(TRAJECTORIES, figure, self._epoch)
    self._time, self._epoch = time.monotonic(), None


def _log(
  run: TrainingRun, board: TensorBoard, picture: _Picture, epoch: Epoch, path: str
) -> None:
  """Writes TensorBoard logs; if they cannot be written, saves the run and raises."""
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
