"""Training on a suite of problems: the stage of a recipe that l2l-train cannot run."""

import csv
import logging
import pathlib
import time
from typing import NamedTuple

import keras
import tensorflow as tf
import tqdm

from l2l_tf.meta.suite import SuiteTrainer
from l2l_tf.optimizers import Adam, Optimizer
from l2l_tf.pretraining.recipes import Suite
from l2l_tf.runs.training_run import OPTIMIZER
from l2l_tf.storage import export, files
from l2l_tf.storage.checkpoint import Checkpointer

_UPDATES = "updates.csv"
_COLUMNS = ("update", "fitness", "diverged", "meta_gradient_norm", "problems")
_PERIOD = 5  # updates between checkpoints


class Trained(NamedTuple):
  """What a training on a suite ends with."""

  optimizer: Optimizer
  num_updates: int
  seconds: float


def train(suite: Suite, path: pathlib.Path, seed: int, num_updates: int) -> Trained:
  """Trains an optimizer; started again with the same `path`, it goes on.

  The fitness of every update is in updates.csv, and the optimizer, once it is trained,
  in optimizer.l2l.npz.

  Args:
    suite: what to train, and on what.
    path: of the run's files.
    seed: names all draws.
    num_updates: meta-steps; the meta-learning rate falls to zero by a cosine.
  """
  # TensorFlow would warn of too many functions: there are two for each problem.
  logging.getLogger("tensorflow").setLevel(logging.ERROR)
  optimizer = suite.optimizer()
  schedule = keras.optimizers.schedules.CosineDecay(suite.learning_rate, num_updates)
  problems = {name: make() for name, make in suite.problems().items()}
  trainer = SuiteTrainer(
    problems, optimizer, Adam(schedule), seed=seed, **suite.options()
  )
  seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
  with files.writing(path):
    path.mkdir(parents=True, exist_ok=True)
  variables = {
    "phi": optimizer.variables,
    "meta_state": trainer.meta_state_variables,
    "seconds": [seconds],
  }
  checkpointer = Checkpointer(path / "checkpoints", variables)
  first = checkpointer.restore() or 0
  rows = _rows(path / _UPDATES, first)
  if first > num_updates:
    raise ValueError(
      f"{str(path)!r} has finished {first} updates, more than num_epochs={num_updates};"
      " give at least as many, or another save_path."
    )
  if 0 < first < num_updates:
    print(f"Going on after update {first} of {num_updates}.")
  bar = tqdm.tqdm(range(first, num_updates), "Training", num_updates, initial=first)
  for index in bar:
    start = time.monotonic()
    metrics = trainer.update(index)
    bar.set_postfix_str(f"fitness {metrics['fitness']:.3f}")
    rows.append([index, *(metrics[name] for name in _COLUMNS[1:-1])])
    rows[-1].append("; ".join(metrics["problems"]))
    seconds.assign_add(time.monotonic() - start)
    if (index + 1) % _PERIOD == 0 or index + 1 == num_updates:
      files.write_csv(path / _UPDATES, [_COLUMNS, *rows])
      checkpointer.save(index + 1)
  export.save(optimizer, path / OPTIMIZER)
  return Trained(optimizer, num_updates, float(seconds))


def _rows(path: pathlib.Path, count: int) -> list[list[str]]:
  """Returns the rows of the updates that the checkpoint knows of."""
  if not count or not path.exists():
    return []
  with path.open(newline="", encoding="utf-8") as file:
    return list(csv.reader(file))[1 : count + 1]
