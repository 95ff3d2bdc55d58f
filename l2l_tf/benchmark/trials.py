"""One training of a Keras model by a Keras optimizer, and what it reached."""

import dataclasses
import itertools
import json
import math
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems import KerasModel
from l2l_tf.storage import files

_POINTS = 20  # places along a training at which the held-out loss is taken
_tracing = threading.Lock()  # Keras's models are traced by one thread at a time.
_PARTS = 100  # of a training, whose mean train losses are kept


@dataclasses.dataclass(frozen=True)
class Trial:
  """What a training reached.

  Attributes:
    task: its name.
    contender: the optimizer's name.
    rate: its learning rate; None for one that has none to tune.
    seed: index of the initialisation and the mini-batches.
    num_steps: of the training.
    first: train loss of the first mini-batch.
    last: mean train loss over the last tenth of the steps; infinite if it diverged,
      that is, if it is above the first or not finite.
    curve: mean train losses of up to a hundred equal parts of the training; NaN for
      what a training that diverged did not reach.
    held_out: loss on all held-out examples, at twenty places along the training.
    accuracy: on the same examples at the same places; empty if there is none.
    num_held_out: number of held-out examples.
  """

  task: str
  contender: str
  rate: float | None
  seed: int
  num_steps: int
  first: float
  last: float
  curve: tuple[float, ...]
  held_out: tuple[float, ...]
  accuracy: tuple[float, ...]
  num_held_out: int

  @property
  def diverged(self) -> bool:
    return not math.isfinite(self.last)


def write(trial: Trial, path: pathlib.Path) -> None:
  """Writes a trial as JSON, whole or not at all."""
  with files.writing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(path, json.dumps(dataclasses.asdict(trial)) + "\n")


def read(path: pathlib.Path) -> Trial:
  """Reads what `write` wrote."""
  fields = json.loads(path.read_text(encoding="utf-8"))
  as_tuple = lambda x: tuple(x) if isinstance(x, list) else x
  return Trial(**{name: as_tuple(value) for name, value in fields.items()})


class Racer:
  """Trains a problem's model with one optimizer; traced once for all seeds and rates.

  The trainings of equal seeds start from the same weights and see the same mini-batches
  in the same order, whatever the optimizer.
  """

  def __init__(
    self,
    task: str,
    problem: KerasModel,
    contender: str,
    make: Callable[..., keras.optimizers.Optimizer],
    num_steps: int,
  ):
    """Initializes a racer; nothing is traced yet.

    Args:
      task: name of the problem.
      problem: what to train.
      contender: name of the optimizer.
      make: as in `Contender`.
      num_steps: of most trainings.
    """
    self._most = -(-num_steps // _POINTS)  # steps in one call
    self._names, self._problem, self._make = (task, contender), problem, make
    self._rate = tf.Variable(1.0, trainable=False)
    self._optimizer: keras.optimizers.Optimizer | None = None

  def __call__(self, num_steps: int, rate: float | None, branch: int, seed: int):
    """Returns the `Trial` of one training.

    Args:
      num_steps: of the training.
      rate: learning rate, or None.
      branch: `seeds.TUNING` or `seeds.EVALUATION`.
      seed: index below that branch.
    """
    key, fixed = self.start(num_steps, rate, branch, seed)
    losses, held_out = [], []
    ends = [num_steps * (point + 1) // _POINTS for point in range(_POINTS)]
    for first, end in itertools.pairwise([0, *ends]):
      losses += [self._some(key, fixed, *part) for part in self._parts(first, end)]
      found = self._evaluate(self._values(), fixed)
      held_out.append({name: float(value) for name, value in found.items()})
      if losses and not np.all(np.isfinite(losses[-1])):
        break
    return self._trial(np.concatenate(losses), held_out, num_steps, rate, seed)

  @property
  def is_ready(self) -> bool:
    """Whether it was started."""
    return self._optimizer is not None

  def seconds(self, count: int) -> float:
    """Returns the seconds that a step takes, if `count` more are taken now."""
    key, fixed = self._last
    start = time.perf_counter()
    for part in self._parts(0, count):
      self._some(key, fixed, *part)
    return (time.perf_counter() - start) / count

  def start(self, num_steps: int, rate: float | None, branch: int, seed: int):
    """Sets weights and state to those of the first step; arguments as for a trial.

    Returns:
      The seed of the mini-batches, and the constants of the task.
    """
    init, key = seeds.split(seeds.make(0, branch, seed), 2)
    params, fixed = self._problem.init(init)
    self._last = key, fixed
    self._rate.assign(1.0 if rate is None else rate)
    fresh = self._make(self._rate, num_steps)
    if self._optimizer is None:
      with _tracing:
        self._trace(params, fixed, fresh)
      return self._last
    for variable, value in zip(self._variables, params, strict=True):
      variable.assign(value)
    fresh.build(self._variables)  # Some states start from the weights.
    for variable, start in zip(self._optimizer.variables, fresh.variables, strict=True):
      variable.assign(start)
    return self._last

  def _trace(self, params, fixed, optimizer) -> None:
    self._variables, self._optimizer = self._problem.variables(params), optimizer
    optimizer.build(self._variables)
    key, number = self._last[0], tf.constant(0)
    compiled = self._problem.jit_compile
    advance = tf.function(self._steps, autograph=False, jit_compile=compiled)
    self._advance = advance.get_concrete_function(key, fixed, number, number)
    evaluate = tf.function(self._problem.held_out, autograph=False)
    self._evaluate = evaluate.get_concrete_function(self._values(), fixed)

  def _values(self) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(v.value) for v in self._variables]

  def _parts(self, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Splits steps into calls; yields the first step and the number of each."""
    for start in range(first, end, self._most):
      yield start, min(self._most, end - start)

  def _some(self, key, fixed, first: int, count: int) -> np.ndarray:
    numbers = tf.constant(first), tf.constant(count)
    return self._advance(key, fixed, *numbers).numpy()[:count]

  def _steps(self, key, fixed, first, count) -> tf.Tensor:
    """Takes `count` steps; returns their losses, in a tensor of constant length."""

    def body(i, losses):
      values = self._values()
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        loss = self._problem(values, fixed, seeds.fold_in(key, first + i))
      self._optimizer.scale_loss(loss)  # which an optimizer may read
      self._optimizer.apply(tape.gradient(loss, values), self._variables)
      return i + 1, losses.write(i, tf.cast(loss, tf.float32))

    losses = tf.TensorArray(tf.float32, self._most, element_shape=[])
    loop = tf.while_loop(lambda i, _: i < count, body, (0, losses))
    return loop[1].stack()

  def _trial(self, losses, held_out, num_steps, rate, seed) -> Trial:
    tail = losses[-max(1, num_steps // 10) :].astype(np.float64)
    last = float(tail.mean()) if np.all(np.isfinite(tail)) else math.inf
    is_whole = len(losses) == num_steps
    whole = np.pad(losses, (0, num_steps - len(losses)), constant_values=np.nan)
    parts = np.array_split(whole, min(_PARTS, num_steps))
    series = lambda name: tuple(h[name] for h in held_out if name in h)
    return Trial(
      *self._names,
      rate,
      seed,
      num_steps,
      first=float(losses[0]),
      last=last if is_whole and last <= losses[0] else math.inf,
      curve=tuple(float(part.mean()) for part in parts),
      held_out=series("held_out_loss"),
      accuracy=series("held_out_accuracy"),
      num_held_out=self._problem.num_held_out,
    )
