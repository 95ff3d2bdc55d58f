"""Lets commands read their flags and build what these name, and then do nothing.

`commands` and `scripts` change what the functions behind them do, for the process.
"""

import argparse
import dataclasses
import sys

import numpy as np
from absl import app, flags


def commands():
  """Lets the functions behind the commands only build what their settings name."""
  from l2l_tf.runs import (
    benchmark,
    diagnosis,
    evaluation,
    few_shot,
    local_workers,
    pretraining,
    reproduction,
    style,
    training,
    vocabulary,
  )

  for kind in vocabulary.KINDS:
    vocabulary.describe(kind)  # takes a second, and is kept
  _without_large_data()
  benchmark.run = benchmark._tasks
  evaluation.evaluate = _evaluate
  few_shot.few_shot = lambda settings: settings.resolved() and None
  training.train = _train
  local_workers.launch = lambda command, settings: None
  diagnosis.diagnose = pretraining.make = lambda settings: None
  reproduction.reproduce = style.style = lambda settings: None


def scripts():
  """Lets a script end once it has read its flags."""
  parse = argparse.ArgumentParser.parse_args

  def parse_and_exit(self, *args, **kwargs):
    parse(self, *args, **kwargs)
    sys.exit(0)

  argparse.ArgumentParser.parse_args = parse_and_exit
  app.run = lambda main: flags.FLAGS(sys.argv)


def _evaluate(settings):
  from l2l_tf.runs import evaluation, own_files, presets

  own_files.run_all(settings.imports)
  presets.get(settings.problem).make_problem()
  evaluation.named(settings.optimizer)


def _train(settings):
  from l2l_tf.runs import builders, own_files
  from l2l_tf.runs.settings import AUTO

  own_files.run_all(settings.imports)
  settings = settings.resolved()
  if settings.initial_path is not None:  # An earlier command would have made it.
    change = {"initial_path": None, "optimizer": "RNNprop()"}
    settings = dataclasses.replace(settings, **change)
  if settings.unroll_length == AUTO:
    settings = dataclasses.replace(settings, unroll_length=1)
  builders.build_trainer(settings)


def _without_large_data():
  """Puts black pictures in place of those that take seconds to read."""
  from l2l_tf.problems.data import datasets

  def black(*shape):
    images = np.zeros([100, *shape], "uint8"), np.arange(100) % 10
    return lambda: datasets.as_dataset(*images, *images)

  datasets.mnist, datasets.cifar10 = black(28, 28, 1), black(32, 32, 3)
