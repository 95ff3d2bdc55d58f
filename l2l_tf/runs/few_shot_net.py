"""A net trained on all training classes, from which two few-shot baselines start."""

import pathlib
import time
from collections.abc import Sequence

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import SGD, Adam, LearnedStart
from l2l_tf.problems import AllClasses, FewShot
from l2l_tf.runs.few_shot_training import STOPPING, Clock, configuration
from l2l_tf.runs.settings import FewShotSettings
from l2l_tf.runs.training_run import OPTIMIZER, claim, stop_signals
from l2l_tf.storage import checkpoint, export, files

_DEPENDS_ON = "dataset", "learner", "learning_rate", "seed"
_STEPS = 50  # of one compiled call
_SAVED = 60.0  # seconds of training between checkpoints
_HEAD = 2  # parameters of the head, the last ones


def train(problem: FewShot, settings: FewShotSettings, path: pathlib.Path) -> int:
  """Trains the net for `settings.minutes`, or goes on with that.

  Args:
    problem: with the training classes.
    settings: resolved.
    path: of the checkpoints and the exported features.

  Returns:
    0, or 128 plus the number of the signal that ended it.

  Raises:
    ConfigurationError: if the directory belongs to another net.
  """
  claim(path, configuration("net", problem, settings, _DEPENDS_ON), may_change=())
  clock = Clock(path, 60.0 * settings.minutes)
  limit = settings.num_updates * settings.num_steps
  net = _Net(problem, settings, path)
  if (path / OPTIMIZER).exists() and (clock.is_over or net.step >= limit):
    print(f"Net on all training classes: {net.step} steps, trained already.")
    return 0
  saved = time.monotonic()
  with (
    stop_signals(STOPPING) as received,
    clock.bar("Net on all training classes") as bar,
  ):
    while not received and not clock.is_over and net.step < limit:
      before = time.perf_counter()
      loss = net.advance()
      text = f"{net.step} steps, loss {loss:.4g}"
      bar.advance(time.perf_counter() - before, text)
      if time.monotonic() - saved > _SAVED:
        net.save()
        clock.save()
        saved = time.monotonic()
    net.save()
    clock.save()
    if received:
      return 128 + received[0]
  net.export()
  return 0


def start(path: pathlib.Path, problem: FewShot) -> list[tf.Tensor]:
  """Returns the net's features, with a head of zeros for a few-shot problem.

  Args:
    path: where `train` has trained it.
    problem: with the same learner.
  """
  optimizer: LearnedStart = export.load(path / OPTIMIZER)
  shapes = [p.shape for p in problem.parameters()]
  return with_new_head(optimizer.start, shapes)


def with_new_head(
  params: Sequence[tf.Tensor], shapes: Sequence[Sequence[int]]
) -> list[tf.Tensor]:
  """Returns parameters with zeros, of these shapes, in place of the last two."""
  kept = [tf.convert_to_tensor(p) for p in params[:-_HEAD]]
  return [*kept, *(tf.zeros(shape) for shape in shapes[-_HEAD:])]


class _Net:
  """A net and the state of its optimizer, in checkpoints."""

  def __init__(self, problem: FewShot, settings: FewShotSettings, path: pathlib.Path):
    self._problem, self._path = problem, path
    training, adam = AllClasses(problem), Adam(settings.learning_rate)
    key = seeds.make(settings.seed, seeds.TRAINING)
    task, carry = unroll.start(training, adam, key, unroll.second_order)
    self._structure = carry
    self._variables = [tf.Variable(x) for x in tf.nest.flatten(carry)]

    @tf.function(autograph=False)
    def advance(values):
      carry = tf.nest.pack_sequence_as(self._structure, values)
      arguments = training, adam, task, carry, _STEPS
      end, losses = unroll.unroll(*arguments, evaluate=unroll.second_order)
      return tf.nest.flatten(end), tf.reduce_mean(losses)

    self._advance = advance
    directory = path / "checkpoints"
    self._checkpointer = checkpoint.Checkpointer(directory, {"net": self._variables})
    self._checkpointer.restore()

  @property
  def _carry(self) -> unroll.Carry:
    values = [v.read_value() for v in self._variables]
    return tf.nest.pack_sequence_as(self._structure, values)

  @property
  def step(self) -> int:
    """Steps that have been taken."""
    return int(self._carry.step)

  def advance(self) -> float:
    """Takes some steps; returns their mean loss."""
    values, loss = self._advance([v.read_value() for v in self._variables])
    for variable, value in zip(self._variables, values):
      variable.assign(value)
    return float(loss)

  def save(self) -> None:
    with files.writing(self._path):
      self._path.mkdir(parents=True, exist_ok=True)
    self._checkpointer.save(self.step)

  def export(self) -> None:
    """Writes the features as a learned start, with a head of zeros."""
    shapes = [p.shape for p in self._problem.parameters()]
    params = with_new_head(self._carry.params, shapes)
    optimizer = LearnedStart(SGD(0.1), shapes).begin_at(params)
    with files.writing(self._path / OPTIMIZER):
      export.save(optimizer, self._path / OPTIMIZER)
