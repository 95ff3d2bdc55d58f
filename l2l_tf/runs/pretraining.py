"""The command l2l-pretrain, as a function of its settings."""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import contextlib
import csv
import io
import json
import logging
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import tqdm

from l2l_tf.evaluation import baselines, comparison
from l2l_tf.optimizers import Optimizer
from l2l_tf.pretraining import cards
from l2l_tf.pretraining import recipes as pretraining
from l2l_tf.problems import FewShot
from l2l_tf.runs import suite_training
from l2l_tf.runs.settings import PretrainingSettings
from l2l_tf.runs.suite_training import Trained
from l2l_tf.runs.training_run import OPTIMIZER, finished_epochs
from l2l_tf.storage import export, files

_RUN = "from l2l_tf.scripts import {0}; {0}.run()"
_SECONDS = "seconds.txt"
_COMPARISON = "comparison.csv"


def make(settings: PretrainingSettings) -> int:
  """Trains, compares, and writes weights and a card; returns the exit code."""
  name, seed = settings.name, settings.seed
  recipe = pretraining.RECIPES[name]
  path = pathlib.Path(settings.save_path or f"tensorboard_logs/pretrain_{name}")
  path = path.expanduser()
  epochs = settings.num_epochs
  length = "num_epochs" if recipe.method is None else "num_updates"
  extra = () if epochs is None else (f"--{length}={epochs}",)
  if recipe.suite is not None:
    count = recipe.suite.num_updates if epochs is None else epochs
    trained = suite_training.train(recipe.suite, path / "1", seed, count)
    commands = [" ".join([f"l2l-pretrain --name={name} --seed={seed}", *extra])]
  else:
    for stage, flags in enumerate(recipe.commands(str(path), seed, extra), 1):
      code = _train(recipe.script, flags, path / str(stage))
      if code:
        return code
    trained = _trained_by_stages(recipe, path)
    listed = recipe.commands(name, seed, extra)
    commands = [f"l2l-{recipe.script} {' '.join(flags)}" for flags in listed]
  optimizer = trained.optimizer
  results = _compare(recipe, optimizer, path / _COMPARISON, settings)
  card = cards.Card(
    name=name,
    trained_on=recipe.trained_on,
    commands=tuple(commands),
    seed=seed,
    num_updates=trained.num_updates,
    minutes=round(trained.seconds / 60, 1),
    num_draws=settings.num_draws or recipe.num_draws,
    results=tuple(results),
  )
  output = pathlib.Path(settings.output_path or cards.DIRECTORY).expanduser()
  with files.writing(output):
    output.mkdir(parents=True, exist_ok=True)
    export.save(optimizer, output / f"{name}{cards.SUFFIX}")
    cards.write(card, output / f"{name}.json")
  print(f"{card}\n\nWritten to {output}/")
  return 0


def _trained_by_stages(recipe: pretraining.Recipe, path: pathlib.Path) -> Trained:
  folder = recipe.method or ""
  stages = [path / str(i) / folder for i, _ in enumerate(recipe.stages, 1)]
  optimizer = export.load(stages[-1] / OPTIMIZER)
  updates, seconds = sum(map(_num_updates, stages)), sum(map(_seconds, stages))
  return Trained(optimizer, updates, seconds)


def _train(script: str, flags: Sequence[str], path: pathlib.Path) -> int:
  """Runs a command that resumes where it was stopped; returns its exit code."""
  print(f"\nl2l-{script} {' '.join(flags)}")
  before, start = _seconds(path), time.monotonic()
  process = subprocess.Popen(
    [sys.executable, "-c", _RUN.format(script), *flags], start_new_session=True
  )
  with _forwarding_signals(process):
    code = process.wait()
  if path.is_dir():
    seconds = before + time.monotonic() - start
    files.write_text(path / _SECONDS, f"{seconds:.0f}\n")
  return 128 - code if code < 0 else code


@contextlib.contextmanager
def _forwarding_signals(process: subprocess.Popen) -> Iterator[None]:
  """Forwards SIGINT and SIGTERM to a training, which runs in a session of its own."""
  forward = lambda number, unused_frame: process.send_signal(number)
  former = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for caught, handler in former.items():
      signal.signal(caught, handler)


def _compare(
  recipe: pretraining.Recipe,
  optimizer: Optimizer,
  path: pathlib.Path,
  settings: PretrainingSettings,
) -> list[cards.Result]:
  """Runs all optimizers on all held-out tasks, but for the results in `path`."""
  # TensorFlow would warn of too many functions: there is one per task and optimizer.
  logging.getLogger("tensorflow").setLevel(logging.ERROR)
  horizons = list(settings.horizons or recipe.horizons)
  num_draws = settings.num_draws or recipe.num_draws
  counts = [num_draws, settings.num_tuning_draws or recipe.num_tuning_draws]
  counts += [settings.seed]
  tasks, names = recipe.held_out(), [cards.LEARNED, *baselines.CARD_BASELINES]
  done = _read(path, horizons, counts)
  pairs = [(name, task) for name in names for task in tasks]
  for name, task in (bar := tqdm.tqdm(pairs, desc="Comparing", unit="run")):
    bar.set_postfix_str(f"{name} on {task}")
    if (name, task) in done:
      continue
    trial = _trial(task, tasks[task](), optimizer, horizons, counts)
    is_learned = name == cards.LEARNED
    done[name, task] = trial.learned(optimizer) if is_learned else trial.baseline(name)
    _write(path, done, horizons, counts)
  return [result for task in tasks for name in names for result in done[name, task]]


def _trial(
  task: str,
  problem: Any,
  optimizer: Optimizer,
  horizons: Sequence[int],
  counts: Sequence[int],
) -> comparison.Trial | comparison.FewShotTrial:
  if isinstance(problem, FewShot):
    start = [v.read_value() for v in optimizer.start]
    return comparison.FewShotTrial(task, problem, start, horizons, *counts)
  return comparison.Trial(task, problem, horizons, *counts)


_Done = dict[tuple[str, str], list[cards.Result]]  # by optimizer and task


def _read(path: pathlib.Path, horizons, counts) -> _Done:
  """Returns the finished results; none if they were made with other counts."""
  if not path.exists():
    return {}
  header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
  if header != _header(horizons, counts):
    return {}
  done: _Done = {}
  for task, steps, name, *cells in rows:
    rate, loss, accuracy = (float(cell) if cell else None for cell in cells)
    result = cards.Result(task, int(steps), name, rate, loss, accuracy)
    done.setdefault((name, task), []).append(result)
  return done


def _write(path: pathlib.Path, done: _Done, horizons, counts) -> None:
  rows = [result for results in done.values() for result in results]
  files.write_csv(path, [_header(horizons, counts), *rows])


def _header(horizons, counts) -> list[str]:
  """Returns the columns' names; that of the loss contains the counts."""
  described = "steps {}; draws {}, tuning draws {}, seed {}".format(
    " ".join(map(str, horizons)), *counts
  )
  titles = {"loss": f"loss ({described})"}
  return [titles.get(name, name) for name in cards.Result._fields]


def _num_updates(path: pathlib.Path) -> int:
  """Returns the number of meta-steps that a run took; it may have ended early."""
  config = json.loads((path / "config.json").read_text(encoding="utf-8"))
  length = config.get("unroll_length", config["num_steps"])  # whole few-shot episodes
  return finished_epochs(path) * config["num_steps"] // length


def _seconds(path: pathlib.Path) -> float:
  file = path / _SECONDS
  return float(file.read_text()) if file.exists() else 0.0
