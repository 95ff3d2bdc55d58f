"""A meta-training run that can be stopped at any moment and started again.

It runs the episodes of a `MetaTrainer`, one per epoch, and adds validation on tasks
that training never draws, export of the best optimizer, early stopping and checkpoints.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.evaluation import protocol
from l2l_tf.meta.replicas import ReplicaError, Replicas
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.storage import checkpoint, export, files
from l2l_tf.storage.validations import Validations

_CONFIG = "config.json"
_CHECKPOINTS = "checkpoints"
_EPOCH = "progress/0/.ATTRIBUTES/VARIABLE_VALUE"  # finished epochs, in a checkpoint
OPTIMIZER = "optimizer.l2l.npz"
VALIDATIONS = "validation.csv"


class ConfigurationError(ValueError):
  """The save path belongs to a run of another configuration."""

  def __init__(
    self, message: str, changes: Mapping[str, tuple[Any, Any]] | None = None
  ):
    """Takes the message, and the differing values by name, as (found, given)."""
    super().__init__(message)
    self.changes = dict(changes or {})


class Epoch(NamedTuple):
  """The results of one epoch, which is one episode of meta-training."""

  number: int  # counted from 1
  metrics: dict[str, Any]  # from `MetaTrainer.train_episode`
  validation: protocol.Curves | None  # if there was a validation after this epoch
  is_best: bool  # whether the validation is the best so far
  seconds: float  # of training alone


class TrainingRun:
  """Runs a trainer's episodes, resuming where an earlier process ended.

  The exported file always holds the weights with the lowest validation loss.

  A run, even a finished one, goes on for more epochs when it is opened with a higher
  `num_epochs`. Its weights and meta-optimizer end bit for bit as if it had had that
  number from the start, provided that the trainer does not depend on the number, as it
  would through a learning-rate schedule. The same is true of the export, with one
  exception: the last epoch of the shorter run was validated even if no evaluation
  period ended there, and if that validation was the best, its optimizer stays until a
  better one is found. Such a validation never counts against `patience`.

  The processes of a trainer with a strategy each open the run, with the same arguments,
  and call the same methods. The chief's alone reads and writes the directory. A run
  that goes on with another number of replicas differs by rounding from there.
  """

  def __init__(
    self,
    trainer: MetaTrainer,
    save_path: str | os.PathLike[str],
    config: Mapping[str, Any],
    num_epochs: int,
    evaluation_period: int = 100,
    evaluation_epochs: int = 10,
    patience: int | None = None,
    may_change: Collection[str] = (),
    runner: Callable[[int, int, int], protocol.Curves] | None = None,
  ):
    """Opens `save_path` and restores the last checkpoint that it holds.

    Args:
      trainer: what to run; its weights are overwritten by a restored checkpoint.
      save_path: directory of the checkpoints and the exported optimizer.
      config: description of the run that can be written as JSON; a directory with
        another one is refused.
      num_epochs: total number of epochs.
      evaluation_period: epochs between validations, each of which is followed by
        a checkpoint.
      evaluation_epochs: draws in a validation, always the same ones.
      patience: validations in a row without improvement that end the run; None for
        no early end.
      may_change: keys of `config` whose values may differ from those in the directory,
        which are then replaced. Only what decides when the run is validated and when
        it ends may be among them.
      runner: runs a validation, as `protocol.Runner` does, whose last losses choose the
        best optimizer; by default on the trainer's problem.

    Raises:
      ValueError: for a count below one.
      ConfigurationError: if `save_path` is not a directory, belongs to another
        configuration, lacks a file that the run needs, or has taken more epochs than
        `num_epochs` already.
      CheckpointError: if its checkpoints cannot be read.
      WriteError: if it is new and cannot be written.
    """
    counts = {
      "num_epochs": num_epochs,
      "evaluation_period": evaluation_period,
      "evaluation_epochs": evaluation_epochs,
      "patience": 1 if patience is None else patience,
    }
    for name, count in counts.items():
      if count < 1:
        raise ValueError(f"{name}={count} must be at least 1.")
    self.trainer = trainer
    self._path = pathlib.Path(save_path)
    self._num_epochs = num_epochs
    self._period = evaluation_period
    self._evaluation_epochs = evaluation_epochs
    self._patience = patience
    self.replicas = getattr(trainer, "replicas", None) or Replicas()
    shared = {"replicas": self.replicas} if self.replicas.spans_processes else {}
    self._runner = runner or protocol.Runner(
      trainer.problem, trainer.optimizer, trainer.num_steps, **shared
    )
    config = json.loads(json.dumps(config))
    if self.replicas.spans_processes:
      self._check_alike(config)
    if self.replicas.count > 1:
      config["replicas"] = self.replicas.count
    may_change = (*may_change, "replicas")
    claimed = self.replicas.led(lambda: claim(self._path, config, may_change))
    self.changes = claimed or {}  # name -> (former, new); the chief's
    if "replicas" in self.changes:  # It is not noted of one.
      self.changes["replicas"] = tuple(n or 1 for n in self.changes["replicas"])
    self.epoch = tf.Variable(0, dtype=tf.int64)  # finished epochs
    self.num_skipped = tf.Variable(0, dtype=tf.int64)  # windows that were not finite
    self.best_loss = tf.Variable(np.inf, dtype=tf.float64)
    self._stale = tf.Variable(0, dtype=tf.int64)  # validations since the best
    groups = {
      "optimizer": trainer.optimizer.variables,
      "meta_optimizer": trainer.meta_state_variables,
      "progress": [self.epoch, self.num_skipped, self.best_loss, self._stale],
    }
    if trainer.estimator_state_variables:
      groups["meta_gradient"] = trainer.estimator_state_variables
    self._curriculum = getattr(trainer, "curriculum", None)
    if self._curriculum is not None and self._curriculum.variables:
      groups["curriculum"] = self._curriculum.variables
    self.resumed_from = self._restored(groups)
    self._saved = self.resumed_from
    # An episode has at least one window, and a validation follows a finite one.
    is_validated = bool(np.isfinite(self.best_loss))
    self._has_learned = is_validated or int(self.num_skipped) < int(self.epoch)
    self._validations = self.replicas.led(self._opened)
    self._check_end()
    if self.changes:
      _write(self._path, config)

  @property
  def export_path(self) -> pathlib.Path:
    """The file of the best optimizer, for `l2l_tf.load`."""
    return self._path / OPTIMIZER

  @property
  def is_finished(self) -> bool:
    """Whether all epochs are done or patience has run out."""
    if self._patience is not None and int(self._stale) >= self._patience:
      return True
    return int(self.epoch) >= self._num_epochs

  def save(self) -> None:
    """Writes a checkpoint of the last finished epoch, unless there is one.

    Raises:
      WriteError: if it cannot be written; the earlier ones are kept.
    """
    epoch = int(self.epoch)
    if epoch != self._saved:
      if self.replicas.spans_processes:
        self.trainer.synchronize()
      self.replicas.led(lambda: self._checkpointer.save(epoch))
      self._saved = epoch

  def epochs(
    self, record: Callable[[Epoch], None] = lambda epoch: None
  ) -> Iterator[Epoch]:
    """Trains, yielding each epoch when it is done and, after a validation, saved.

    To stop early without losing an epoch, stop iterating and call `save`.

    Args:
      record: is called with each epoch before it is saved. If the process dies
        between the two, the epoch is trained, and recorded, again.

    Raises:
      WriteError: if a result cannot be written; the earlier ones are kept.
      ValueError: if, at a validation, no window of the run has been finite so far.
    """
    while not self.is_finished:
      number = int(self.epoch) + 1
      before = time.perf_counter()
      metrics = self.trainer.train_episode(number - 1)
      seconds = time.perf_counter() - before
      self.epoch.assign(number)
      self.num_skipped.assign_add(int(metrics["skipped"].sum()))
      self._has_learned |= not metrics["skipped"].all()
      validation, is_best = None, False
      ends_period = number % self._period == 0
      if ends_period or number == self._num_epochs:
        self._check_progress()
        validation, is_best = self._validate()
        if is_best:
          self._stale.assign(0)
        elif ends_period:  # A longer run would not have the last epoch's validation.
          self._stale.assign_add(1)
        if ends_period and self._curriculum is not None:
          self._curriculum.validated(_final_loss(validation))
      epoch = Epoch(number, metrics, validation, is_best, seconds)
      self.replicas.led(lambda epoch=epoch: record(epoch))
      if validation is not None:
        self.save()
      yield epoch

  def conclude(self) -> None:
    """Validates and saves after the last finished epoch, unless that is done.

    For a run that is ended by something else than its number of epochs.

    Raises:
      WriteError: if a result cannot be written.
      ValueError: if no window has been finite so far.
    """
    is_done = self.replicas.is_chief and int(self.epoch) in self._validations
    if int(self.epoch) == 0 or self.replicas.any(is_done):
      return
    self._check_progress()
    self._validate()
    self.save()

  def _check_alike(self, config: Mapping[str, Any]) -> None:
    """Refuses to train with processes that would train something else."""
    described = [config, self._num_epochs, self._period, tf.__version__, _package()]
    if not self.replicas.alike(json.dumps(described).encode()):
      raise ConfigurationError(
        "The workers were started with different settings, or have different versions"
        " of l2l_tf or TensorFlow; start all of them with the same command in the same"
        " environment."
      )

  def _restored(self, groups: Mapping[str, list[tf.Variable]]) -> int | None:
    """Restores the last checkpoint, in all processes; returns its epoch."""
    path = self._path / _CHECKPOINTS
    make = lambda: checkpoint.Checkpointer(path, groups)
    self._checkpointer = self.replicas.led(make)
    restored = self.replicas.led(lambda: self._checkpointer.restore())
    variables = [v for values in groups.values() for v in values]
    number = tf.constant(-1 if restored is None else restored)
    values, number = self.replicas.from_chief(([v.value() for v in variables], number))
    if self.replicas.spans_processes:
      for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return None if int(number) < 0 else int(number)

  def _opened(self) -> Validations:
    """Reads the validations so far, if all that the run needs is there."""
    if np.isfinite(self.best_loss) and not self.export_path.exists():
      raise ConfigurationError(
        f"{str(self.export_path)!r}, the best optimizer of the run so far, is missing;"
        " put it back, or give another save_path to start anew."
      )
    return Validations(self._path / VALIDATIONS, int(self.epoch))

  def _check_end(self) -> None:
    """Refuses to lower num_epochs to what the run has taken already, or below."""
    epoch = int(self.epoch)
    is_shortened = epoch == self._num_epochs and "num_epochs" in self.changes
    if epoch > self._num_epochs or is_shortened:
      raise ConfigurationError(
        f"num_epochs={self._num_epochs} cannot end the run in {str(self._path)!r},"
        f" which has taken {epoch} epochs already; give a higher number, or another"
        " save_path."
      )

  def _check_progress(self) -> None:
    if not self._has_learned:
      raise ValueError(
        f"All windows of {int(self.epoch)} epochs were skipped: the loss or its"
        f" gradient is never finite; check {type(self.trainer.problem).__name__}, or"
        " give a lower output_scale."
      )

  def _validate(self) -> tuple[protocol.Curves, bool]:
    if self.replicas.spans_processes:
      self._check_weights()
    curves = self._runner(self.trainer.seed, seeds.VALIDATION, self._evaluation_epochs)
    loss = _final_loss(curves)
    is_best = bool(np.isfinite(loss) and loss < self.best_loss)
    if is_best:
      self.best_loss.assign(loss)
    self.replicas.led(lambda: self._write_validation(curves, is_best))
    return curves, is_best

  def _write_validation(self, curves: protocol.Curves, is_best: bool) -> None:
    if is_best:
      with files.writing(self.export_path):
        export.save(self.trainer.optimizer, self.export_path)
    self._validations.add(int(self.epoch), curves.losses.mean(axis=0))

  def _check_weights(self) -> None:
    """Makes sure that all processes have come to the same weights."""
    learned = [*self.trainer.optimizer.variables, *self.trainer.meta_state_variables]
    if not self.replicas.alike(*(v.numpy().tobytes() for v in learned)):
      raise ReplicaError(
        f"The workers' weights have parted before epoch {int(self.epoch)}, so one of"
        " them computes wrongly; the same command goes on from the last checkpoint."
      )


def _package() -> str:
  """Returns a digest of the package's source."""
  digest = hashlib.sha256()
  for path in sorted(pathlib.Path(__file__).parents[1].rglob("*.py")):
    digest.update(path.read_bytes())
  return digest.hexdigest()


def _final_loss(curves: protocol.Curves) -> float:
  return float(curves.losses[:, -1].mean(dtype=np.float64))


def saved_config(save_path: str | os.PathLike[str]) -> dict[str, Any] | None:
  """Returns the configuration of the run in that directory; None for a new one.

  Raises:
    ConfigurationError: if `save_path` is a file, or holds the results of something
      else, or its configuration is damaged.
  """
  path = pathlib.Path(save_path)
  file = path / _CONFIG
  if path.exists() and not path.is_dir():
    raise ConfigurationError(
      f"save_path={str(path)!r} is a file; give a directory for the run's results."
    )
  if file.exists():
    return _read_config(file)
  if (path / OPTIMIZER).exists() or any(path.glob("checkpoints/ckpt-*")):
    raise ConfigurationError(
      f"{str(path)!r} holds an optimizer or checkpoints but no {_CONFIG}, so it is no"
      " run of l2l-train; give another save_path."
    )
  return None


def finished_epochs(save_path: str | os.PathLike[str]) -> int:
  """Returns the number of epochs that the run in that directory has taken."""
  directory = str(pathlib.Path(save_path) / _CHECKPOINTS)
  return int(tf.train.load_checkpoint(directory).get_tensor(_EPOCH))


@contextlib.contextmanager
def stop_signals(notice: str = "") -> Iterator[list[int]]:
  """Turns SIGINT and SIGTERM into a request to stop, which the loop can check.

  Args:
    notice: shown on stderr when a signal arrives.

  Yields:
    A list, to which the number of a signal is appended when it arrives. A second
    signal has its usual effect.
  """
  received: list[int] = []

  def receive(number, unused_frame):
    received.append(number)
    os.write(2, notice.encode())  # `print` is not safe in a signal handler.
    for caught, handler in former.items():
      signal.signal(caught, handler)

  former = {s: signal.signal(s, receive) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield received
  finally:
    for caught, handler in former.items():
      signal.signal(caught, handler)


_Changes = dict[str, tuple[Any, Any]]  # name -> (found, given)


def claim(
  path: pathlib.Path, config: Mapping[str, Any], may_change: Collection[str]
) -> _Changes:
  """Writes the configuration into a new directory, or compares it with an old one.

  Returns:
    The differences, all of which are allowed.

  Raises:
    ConfigurationError: for others, or as in `saved_config`.
    WriteError: if the directory is new and cannot be written.
  """
  found = saved_config(path)
  if found is not None:
    return _compare(path, found, config, may_change)
  with files.writing(path):
    path.mkdir(parents=True, exist_ok=True)
  _write(path, config)
  return {}


def _write(path: pathlib.Path, config: Mapping[str, Any]) -> None:
  files.write_text(path / _CONFIG, json.dumps(config, indent=2) + "\n")


def _read_config(file: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(file.read_text())
  except ValueError:
    found = None
  if not isinstance(found, dict):
    raise ConfigurationError(
      f"{str(file)!r} is damaged; give another save_path, or remove the directory to"
      " start anew."
    )
  return found


def _compare(
  path: pathlib.Path,
  found: Mapping[str, Any],
  config: Mapping[str, Any],
  may_change: Collection[str],
) -> _Changes:
  """Returns the allowed differences; refuses a directory with any other."""
  changes = {
    k: (found.get(k), config.get(k))
    for k in sorted({*config, *found})
    if config.get(k) != found.get(k)
  }
  refused = {k: change for k, change in changes.items() if k not in may_change}
  if refused:
    shown = ", ".join(f"{k}={old!r}, now {new!r}" for k, (old, new) in refused.items())
    raise ConfigurationError(
      f"{str(path)!r} belongs to a run of another configuration, with"
      f" {shown}; repeat that with its flagfile, or give another save_path.",
      refused,
    )
  return changes
