"""The command l2l-evaluate, as a function of its settings."""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from l2l_tf.evaluation import plots, quasi_newton, report
from l2l_tf.evaluation import protocol as evaluate_lib
from l2l_tf.meta.replicas import Replicas
from l2l_tf.optimizers import Optimizer
from l2l_tf.pretraining import cards
from l2l_tf.runs import (
  expressions,
  flagfile,
  own_files,
  presets,
  strategies,
  vocabulary,
)
from l2l_tf.runs.expressions import Expression
from l2l_tf.runs.settings import EvaluationSettings
from l2l_tf.storage import files
from l2l_tf.storage.summaries import LEARNING_CURVES, TensorBoard


def evaluate(settings: EvaluationSettings) -> dict[str, evaluate_lib.Curves]:
  """Runs the comparison, prints its table and writes its results.

  Returns:
    The learning curves by the optimizers' names.

  Raises:
    ValueError: for settings that do not fit together, or nothing to evaluate.
    ExportError: if a file is not a valid export.
    WriteError: if a result cannot be written.
  """
  with strategies.joined(settings.strategy, settings.worker_timeout) as strategy:
    return _evaluate(settings, Replicas(strategy))


def _evaluate(
  settings: EvaluationSettings, replicas: Replicas
) -> dict[str, evaluate_lib.Curves]:
  """Evaluates in one of several processes, of which the chief's prints and writes."""
  own_files.run_all(settings.imports)
  preset, rate = presets.get(settings.problem), settings.learning_rate
  num_draws = settings.num_epochs or preset.num_draws
  problem = preset.make_problem()  # first: its file may register classes to load
  fixed, tuned = named(settings.optimizer)
  learned = load(settings.path)
  if not (learned or fixed or tuned):
    raise ValueError("There is nothing to evaluate: give --path or --optimizer.")
  path = directory(settings)
  values = dataclasses.asdict(settings)
  replicas.led(lambda: _open(path, values))
  curves = evaluate_lib.compare(
    problem,
    {**learned, **fixed},
    num_steps=settings.num_steps,
    num_draws=num_draws,
    seed=settings.seed,
    baselines=tuned,
    num_tuning_draws=settings.num_tuning_epochs or num_draws,
    learning_rates=[rate] if rate else evaluate_lib.LEARNING_RATES,
    replicas=replicas,
  )
  if not replicas.is_chief:
    return curves
  num_problems = len(next(iter(curves.values())).losses)
  print(report.table(report.summarize(curves)))
  title = f"{settings.problem}: {num_problems} fresh problems"
  with files.writing(path):
    board = TensorBoard(path, "evaluation")
    board.flags(values)
    title = title if settings.plot else None
    write_results(curves, set(learned), path, board, title)
  print(f"\nAll ran on the same problems, {num_problems}; written to {path}/")
  return curves


def _open(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  with files.writing(path):
    path.mkdir(parents=True, exist_ok=True)
    files.write_text(path / "flags.txt", flagfile.as_flagfile(values))


def load(paths: Sequence[str]) -> dict[str, Optimizer]:
  """Loads pretrained and exported optimizers, under distinct names.

  A name contains the directory of the file, or the whole path if that is ambiguous.
  """
  directories = [pathlib.Path(p).expanduser().resolve().parent.name for p in paths]
  learned = {}
  for path, name in zip(paths, directories):
    optimizer = cards.load(os.path.expanduser(path))
    kind = type(optimizer).__name__
    kind = "LSTM" if kind.endswith("LSTM") else kind
    is_short = directories.count(name) == 1 and not cards.is_pretrained(path)
    where = name if is_short else path
    learned[f"{kind} ({where})"] = optimizer
  return learned


def named(
  texts: Sequence[str],
) -> tuple[dict[str, Optimizer], dict[str, evaluate_lib.Baseline]]:
  """Splits baselines and expressions into optimizers that are made and baselines.

  Args:
    texts: names in `protocol.BASELINES` and `quasi_newton.METHODS`, and expressions as
      for l2l-train.

  Returns:
    Optimizers that run as they are, by name; and baselines, by name: those that are
    named, and classes that take a learning rate if the expression has none.
  """
  everything = {**evaluate_lib.BASELINES, **quasi_newton.METHODS}
  baselines = {name.lower(): name for name in everything}
  known = [baselines[text.lower()] for text in texts if text.lower() in baselines]
  tuned = {k: v for k, v in everything.items() if k in known}
  fixed = {}
  for text in texts:
    if text.lower() in baselines:
      continue
    expression = vocabulary.check(text, "optimizer")
    name = expression.text
    if _says_rate(expression):
      fixed[name] = vocabulary.build(text, "optimizer")
    else:
      tuned[name] = functools.partial(_with_rate, text)
      tuned[name](1.0)  # reports a mistake in it before anything runs
  return fixed, tuned


def _says_rate(expression: Expression) -> bool:
  """Whether an expression leaves no learning rate to tune."""
  function = vocabulary.callable_of(expression, "optimizer")
  parameters = [*expressions.signature_of(function).parameters]
  said = parameters[: len(expression.call.positional)]
  unsaid = {*parameters} - {*said, *expression.call.keywords}
  return "learning_rate" not in unsaid


def _with_rate(text: str, learning_rate: Any) -> Optimizer:
  return vocabulary.build(text, "optimizer", learning_rate=learning_rate)


def directory(settings: EvaluationSettings) -> pathlib.Path:
  """Returns the directory of the results."""
  if settings.save_path:
    return pathlib.Path(settings.save_path).expanduser()
  if settings.path and not cards.is_pretrained(settings.path[0]):
    return pathlib.Path(settings.path[0]).expanduser().parent / "evaluation"
  name = presets.short_name(settings.problem)
  return pathlib.Path("tensorboard_logs", name, "evaluation")


def write_results(
  curves: Mapping[str, evaluate_lib.Curves],
  learned: set[str],
  path: pathlib.Path,
  board: TensorBoard,
  title: str | None,
) -> None:
  """Writes CSV files, TensorBoard logs and, if there is a title, the plot."""
  _, curves_csv = report.write(curves, path)
  means = {name: c.losses.mean(axis=0) for name, c in curves.items()}
  # Each curve becomes a directory, so names are shortened.
  board.curves({presets.shortened(name, 200): mean for name, mean in means.items()})
  if title is not None:
    figure = plots.learning_curves(curves_csv, learned, title)
    plots.save(figure, path / "curves.png")
    board.figure(LEARNING_CURVES, figure)
  board.close()
