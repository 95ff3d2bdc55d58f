"""Meta-training of one few-shot method for a given time."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import tqdm

from l2l_tf import seeds
from l2l_tf.evaluation.few_shot import EpisodeRunner
from l2l_tf.meta.gradients import Reptile, TruncatedBPTT
from l2l_tf.meta.objective import MetaObjective, last_only
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import SGD, Adam, ConstantGates, GateLSTM, LearnedStart
from l2l_tf.problems import FewShot
from l2l_tf.problems.fingerprint import fingerprint
from l2l_tf.runs.settings import FEW_SHOT_METHODS, FewShotSettings
from l2l_tf.runs.training_run import TrainingRun, stop_signals
from l2l_tf.storage import files
from l2l_tf.storage.summaries import TensorBoard

# Settings that a method's training depends on; the others may differ when it goes on.
_DEPENDS_ON = (
  "dataset", "ways", "shots", "queries", "learner", "statistics", "num_steps",
  "meta_batch_size", "learning_rate", "clip_norm", "evaluation_period",
  "validation_episodes", "seed",
)  # fmt: skip
_SECONDS = "seconds.txt"  # of training so far
_LOG_PERIOD = 50  # meta-updates
_RATE = 0.1  # that first-order MAML starts with, and of Reptile's inner steps
_STEP = 0.2  # of Reptile's start towards the end of an episode
_MOST_SHOTS = 10  # of Reptile's episodes in training, as in its paper
STOPPING = "\nStopping soon, with a checkpoint; once more stops at once.\n"

_CELLS = {
  "gate_lstm": lambda seed: GateLSTM(seed=seed),
  "gate_lstm_memory": lambda seed: GateLSTM(memory=True, seed=seed),
  "maml": lambda seed: ConstantGates(_RATE),
  "reptile": lambda seed: ConstantGates(_RATE),
}


def make_trainer(
  method: str, problem: FewShot, settings: FewShotSettings
) -> MetaTrainer:
  """Returns the trainer of a method, whose start is a fresh learner.

  Args:
    method: one of `settings.FEW_SHOT_METHODS` that is meta-trained.
    problem: with the training classes.
    settings: resolved.
  """
  start = problem.init(seeds.make(settings.seed, seeds.WEIGHTS))[0]
  shapes = [p.shape for p in start]
  optimizer = LearnedStart(_CELLS[method](settings.seed), shapes).begin_at(start)
  lengths = {"num_steps": settings.num_steps, "unroll_length": settings.num_steps}
  common = {"seed": settings.seed, "meta_batch_size": settings.meta_batch_size}
  if method == "reptile":
    objective = MetaObjective(last_only)
    how = SGD(_STEP), Reptile()
    problem = with_all_images(problem)
  else:
    objective = MetaObjective(last_only, clip_norm=settings.clip_norm)
    how = Adam(settings.learning_rate), TruncatedBPTT()
  return MetaTrainer(problem, optimizer, *how, objective=objective, **lengths, **common)


def with_all_images(problem: FewShot) -> FewShot:
  """Returns the episodes that Reptile trains on.

  It has no query set: the images of an episode, ten of a class at most, are one set,
  and a step takes a batch of them (Nichol et al. 2018, section 6.1), here as large as
  two support sets.
  """
  shots = min(_MOST_SHOTS, problem.shots + problem.queries - 1)
  shots = max(shots, problem.shots)
  batch = problem.ways * min(shots, 2 * problem.shots)
  return FewShot(
    problem.classes, problem.learner, problem.ways, shots, 1, batch, "batch"
  )


def train(
  method: str,
  problem: FewShot,
  validation: FewShot,
  num_episodes: int,
  settings: FewShotSettings,
  path: pathlib.Path,
) -> int:
  """Trains a method for `settings.minutes`, in all processes that did so together.

  The exported optimizer is the one with the lowest query loss in a validation.

  Args:
    method: as for `make_trainer`.
    problem: with the training classes.
    validation: with the classes of validations.
    num_episodes: of a validation.
    settings: resolved.
    path: of checkpoints, logs and the exported optimizer.

  Returns:
    0, or 128 plus the number of the signal that ended it.
  """
  trainer = make_trainer(method, problem, settings)
  run = TrainingRun(
    trainer,
    path,
    configuration(method, problem, settings, _DEPENDS_ON),
    settings.num_updates,
    settings.evaluation_period,
    num_episodes,
    runner=EpisodeRunner(validation, trainer.optimizer, settings.num_steps),
  )
  clock = Clock(path, 60.0 * settings.minutes)
  if clock.is_over or run.is_finished:
    run.conclude()  # A signal may have come before its last validation.
    print(f"{FEW_SHOT_METHODS[method]}: {int(run.epoch)} updates, trained already.")
    return 0
  with files.writing(path):
    board = TensorBoard(path, "training", after=run.resumed_from)
  code = _loop(method, run, board, clock)
  with files.writing(path):
    board.close()
  return code


def configuration(
  method: str, problem: FewShot, settings: FewShotSettings, names: Sequence[str]
) -> dict[str, Any]:
  """Returns what a directory of results must have been made with."""
  values = dataclasses.asdict(settings)
  made_with = {name: values[name] for name in names}
  return {"method": method, "data": fingerprint(problem), **made_with}


def _loop(method: str, run: TrainingRun, board: TensorBoard, clock: "Clock") -> int:
  record = lambda epoch: _log(run, board, epoch, clock)
  with stop_signals(STOPPING) as received, clock.bar(FEW_SHOT_METHODS[method]) as bar:
    for epoch in run.epochs(record):
      bar.advance(epoch.seconds, f"{epoch.number} updates, {_standing(run)}")
      if received or clock.is_over:
        break
    if not received:
      run.conclude()
    run.save()
    clock.save()
    return 128 + received[0] if received else 0


def _standing(run: TrainingRun) -> str:
  return f"best query loss {float(run.best_loss):.4g}"


def _log(run: TrainingRun, board: TensorBoard, epoch: Any, clock: "Clock") -> None:
  """Writes logs now and then; every update would cost as much as a small one takes."""
  if epoch.number % _LOG_PERIOD and epoch.validation is None:
    return
  try:
    with files.writing("the logs of TensorBoard"):
      board.training(epoch.number, epoch.metrics, 1.0 / epoch.seconds)
      if epoch.validation is not None:
        board.validation(epoch.number, epoch.validation.losses)
        accuracy = epoch.validation.held_out["accuracy"].mean()
        board.scalars({"2_validation/accuracy": accuracy}, epoch.number)
        clock.save()
      board.flush()
  except files.WriteError:
    run.save()
    raise


def minutes(path: pathlib.Path) -> float:
  """Returns how long the training in a directory has taken so far."""
  return Clock(path, 0.0).spent / 60.0


class Clock:
  """Counts seconds of training, over all processes that worked in a directory."""

  def __init__(self, path: pathlib.Path, limit: float):
    """Reads what earlier processes have spent; `limit` is in seconds."""
    self._file, self._limit = path / _SECONDS, limit
    self._spent = float(self._file.read_text()) if self._file.exists() else 0.0

  @property
  def spent(self) -> float:
    """Seconds so far."""
    return self._spent

  @property
  def is_over(self) -> bool:
    return self._spent >= self._limit

  def save(self) -> None:
    """Writes the seconds that have been spent.

    Raises:
      WriteError: if they cannot be written.
    """
    with files.writing(self._file):
      self._file.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(self._file, f"{self._spent:.3f}\n")

  def bar(self, title: str) -> "_Bar":
    """Returns a progress bar over the time."""
    return _Bar(self, title)

  def spend(self, seconds: float) -> float:
    """Adds seconds; returns how many of them are within the limit."""
    before = self._spent
    self._spent += seconds
    return max(0.0, min(self._limit, self._spent) - before)

  @property
  def spent_and_limit(self) -> tuple[float, float]:
    """Seconds that have been spent, at most the limit, and the limit."""
    return min(self._spent, self._limit), self._limit


class _Bar:
  """A progress bar in seconds of training."""

  def __init__(self, clock: Clock, title: str):
    self._clock = clock
    spent, limit = clock.spent_and_limit
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s{postfix}"
    self._bar = tqdm.tqdm(
      total=limit, initial=spent, desc=title, bar_format=form, dynamic_ncols=True
    )

  def advance(self, seconds: float, text: str) -> None:
    self._bar.set_postfix_str(text, refresh=False)
    self._bar.update(self._clock.spend(seconds))

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._bar.close()
