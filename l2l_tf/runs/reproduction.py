"""The command l2l-reproduce, as a function of its settings."""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
import tqdm

from l2l_tf import tables
from l2l_tf.evaluation import panel_plots, plots, report
from l2l_tf.evaluation.baselines import BASELINES
from l2l_tf.evaluation.panel import Panel
from l2l_tf.evaluation.runner import Curves, Progress
from l2l_tf.optimizers import Optimizer
from l2l_tf.pretraining import cards
from l2l_tf.problems import Problem
from l2l_tf.reproductions import FIGURES
from l2l_tf.reproductions import figure as figures
from l2l_tf.runs import flagfile, gallery, presets, training
from l2l_tf.runs.settings import ReproductionSettings, TrainingSettings
from l2l_tf.runs.training_run import OPTIMIZER
from l2l_tf.storage import files

_QUICK = "quick settings"
_SHOWN = "Adam"  # the baseline in galleries

Results = dict[str, dict[str, Curves]]  # by panel and optimizer
Sizes = dict[str, np.ndarray]  # of gradients, by panel


def reproduce(settings: ReproductionSettings) -> int:
  """Trains what is missing for a figure, evaluates, and leaves the figure.

  Started again with the same settings, it goes on where it was stopped. It writes
  `figure.png`, `curves.csv`, `table.txt`, `table.md`, and `gallery.png` of pictures.

  Returns:
    The exit code: 0, or 128 plus the number of the signal that ended a training.

  Raises:
    DatasetUnavailableError: if data are missing; nothing has been trained then.
    ConfigurationError, OtherDataError: if the directory holds trainings or results of
      other settings, or on other data.
    WriteError: if a result cannot be written.
  """
  # TensorFlow would warn of too many functions: there is one per panel and optimizer.
  logging.getLogger("tensorflow").setLevel(logging.ERROR)
  figure = FIGURES[settings.name]
  if not settings.quick:
    return _reproduce(figure, settings)
  with _graphs_left_alone():
    return _reproduce(figures.quick(figure), settings)


@contextlib.contextmanager
def _graphs_left_alone() -> Iterator[None]:
  """Does without TensorFlow's optimizations of graphs, which do not repay in 10 steps.

  They would take a third of the time.
  """
  former = tf.config.optimizer.get_experimental_options()
  tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
  try:
    yield
  finally:
    restored = {"disable_meta_optimizer": False, **former}
    tf.config.optimizer.set_experimental_options(restored)


def _reproduce(figure: figures.Figure, settings: ReproductionSettings) -> int:
  path = _directory(settings)
  problems = {p.problem: presets.get(p.problem).make_problem() for p in figure.panels}
  with files.writing(path):
    path.mkdir(parents=True, exist_ok=True)
  code = _train_missing(figure, path, settings.seed)
  if code:
    return code
  panels = _panels(figure, problems, path, settings.seed)
  optimizers = {name: _optimizer(figure, name, path) for name in figure.learned}
  results, sizes = _evaluate(figure, panels, optimizers)
  figure = figure._replace(title=figure.title + _of_a_part(figure, problems))
  _write(figure, results, sizes, path, settings.quick)
  flags = flagfile.as_flagfile(dataclasses.asdict(settings))
  files.write_text(path / "flags.txt", flags)
  if figure.gallery:
    _hang(figure, problems, optimizers, results, path, settings.seed)
  return 0


def _of_a_part(figure: figures.Figure, problems: Mapping[str, Problem]) -> str:
  """Returns what a title says of training data that are a part of the usual ones."""
  if not figure.whole:
    return ""
  (_, (first, *_)), *_ = problems[figure.panels[0].problem].data_sources()
  count = len(first)
  if count >= figure.whole:
    return ""
  return f" (on a subset: {count:,} of {figure.whole:,} images)"


def _hang(figure, problems, optimizers, results: Results, path, seed: int) -> None:
  """Draws the gallery: what the learned optimizers and tuned Adam have painted."""
  shown = {}
  for panel in figure.panels:
    found = {label: optimizers[name] for label, name in panel.learned.items()}
    rate = results[panel.title][_SHOWN].learning_rate
    shown[panel.title] = {**found, _SHOWN: BASELINES[_SHOWN](rate)}
  titled = {panel.title: problems[panel.problem] for panel in figure.panels}
  counts = figure.panels[0].num_steps, figure.gallery
  plots.save(gallery.draw(titled, shown, *counts, seed), path / "gallery.png")


def _directory(settings: ReproductionSettings) -> pathlib.Path:
  """Returns a figure's directory; seeds but 0 have one of their own for all figures."""
  path = pathlib.Path(settings.save_path or "reproductions").expanduser()
  if settings.seed:
    path /= f"seed_{settings.seed}"
  return path / (settings.name + ("_quick" if settings.quick else ""))


def _stage(path: pathlib.Path, name: str, number: int) -> pathlib.Path:
  """Returns a stage's directory; figures of one save_path share their trainings."""
  where = path if path.name.endswith("_quick") else path.parent
  # Whole, since a later stage's directory names the former one's optimizer.
  return where.resolve() / "trainings" / name / str(number)


def _train_missing(figure: figures.Figure, path: pathlib.Path, seed: int) -> int:
  """Runs all stages of all trainings; those that are finished only say so."""
  for name, learned in figure.learned.items():
    for number, stage in enumerate(learned.stages, 1):
      directory = _stage(path, name, number)
      former = None if number == 1 else f"{_stage(path, name, number - 1) / OPTIMIZER}"
      print(f"\nTraining {name!r}, stage {number} of {len(learned.stages)}")
      given = {"seed": seed, "save_path": str(directory), "initial_path": former}
      code = training.train(TrainingSettings(**stage, **given))
      if code:
        return code
  return 0


def _optimizer(figure: figures.Figure, name: str, path: pathlib.Path) -> Optimizer:
  learned = figure.learned[name]
  return cards.load(
    learned.pretrained or _stage(path, name, len(learned.stages)) / OPTIMIZER
  )


def _panels(
  figure: figures.Figure,
  problems: Mapping[str, Problem],
  path: pathlib.Path,
  seed: int,
) -> dict[str, Panel]:
  return {
    p.title: Panel(
      p.problem,
      problems[p.problem],
      path / "evaluations" / files.name_of(p.title),
      p.num_steps,
      p.num_draws,
      p.num_tuning_draws,
      p.rates_per_decade,
      seed,
    )
    for p in figure.panels
  }


def _evaluate(
  figure: figures.Figure,
  panels: Mapping[str, Panel],
  optimizers: Mapping[str, Optimizer],
) -> tuple[Results, Sizes]:
  """Runs all optimizers; the bar counts steps, of which a tuned baseline takes most."""
  results: Results = {}
  sizes: Sizes = {}
  total = sum(_planned(figure, shown, panels[shown.title]) for shown in figure.panels)
  # By all steps so far: those of one optimizer say little about another's.
  options = {"unit": "step", "unit_scale": True, "smoothing": 0, "dynamic_ncols": True}
  with tqdm.tqdm(total=total, desc="Evaluating", **options) as bar:
    for shown in figure.panels:
      title, panel, found = shown.title, panels[shown.title], {}
      for label, name in shown.learned.items():
        with _counted(bar, panel.num_planned(), f"{label}: {title}") as progress:
          found[label] = panel.learned(label, optimizers[name], progress)
      for name in shown.baselines:
        with _counted(bar, panel.num_planned(name), f"{name}: {title}") as progress:
          found[name] = panel.baseline(name, progress)
      if (name := figure.traced) is not None:
        with _counted(bar, panel.num_measured, f"gradients: {title}") as progress:
          sizes[title] = panel.gradient_sizes(name, optimizers[name], progress)
      results[title] = found
  return results, sizes


def _planned(figure: figures.Figure, shown: figures.Panel, panel: Panel) -> int:
  """Returns the steps of a panel, if nothing is there yet."""
  names = [*(None for _ in shown.learned), *shown.baselines]
  measured = 0 if figure.traced is None else panel.num_measured
  return sum(map(panel.num_planned, names)) + measured


@contextlib.contextmanager
def _counted(bar: tqdm.tqdm, planned: int, text: str) -> Iterator[Progress]:
  """Yields what moves a bar on, whose total is mended where the plan was wrong.

  What is read from a file takes no steps, and a search may go beyond its grid.
  """
  bar.set_postfix_str(text)
  left = planned

  def progress(steps):
    nonlocal left
    left -= steps
    if left < 0:
      bar.total, left = bar.total - left, 0
    bar.update(steps)

  yield progress
  bar.total -= left


def _write(
  figure: figures.Figure,
  results: Results,
  sizes: Sizes,
  path: pathlib.Path,
  is_quick: bool,
) -> None:
  rows = _table(results, figure.final_share)
  text = f"{figure.title}\n\n{tables.aligned(rows, num_left=2, has_rule=True)}"
  if is_quick:
    text += f"\n\nMade with {_QUICK}: nothing can be concluded from it."
  files.write_text(path / "table.txt", f"{text}\n")
  note = f"\n{_QUICK}: nothing can be concluded.\n" if is_quick else ""
  files.write_text(path / "table.md", tables.markdown(rows) + note)
  files.write_csv(path / "curves.csv", _points(results))
  shown = [
    panel_plots.Plot(p.title, results[p.title], p.trained_steps, sizes.get(p.title))
    for p in figure.panels
  ]
  mark = _QUICK if is_quick else ""
  title = f"{figure.title}\nAndrychowicz et al. 2016, {figure.source}"
  share = figure.final_share
  picture = panel_plots.panels(shown, title, figure.summarizes, mark, share)
  plots.save(picture, path / "figure.png")
  print(f"\n{text}\n\nThe paper: {figure.claim}\nWritten to {path}/")


def _table(results: Results, final_share: float) -> list[list[str]]:
  """Returns the rows of the table, the lowest final loss of a panel first."""
  rows = []
  for panel, curves in results.items():
    ends = {name: report.averaged(c, final_share) for name, c in curves.items()}
    summary = report.summarize(ends)
    for r in sorted(summary, key=lambda r: np.nan_to_num(r.final_loss, nan=np.inf)):
      numbers = r.learning_rate, r.final_loss, (r.final_high - r.final_low) / 2
      cells = [tables.number(x, 3) for x in (*numbers, r.ratio_to_best)]
      held_out = [tables.number(x, 3) for x in r.held_out.values()]
      names = [name.replace("_", " ") for name in r.held_out]
      rows.append([panel, r.optimizer, *cells, *held_out])
  final = f"mean loss, last {final_share:.0%} of steps" if final_share else "final loss"
  header = ["panel", "optimizer", "rate", final, "+/-", "to best baseline"]
  return [[*header, *names], *rows]


def _points(results: Results) -> list[list]:
  points = [["panel", "optimizer", "step", "mean", "low", "high"]]
  for panel, curves in results.items():
    for name, c in curves.items():
      for step, values in enumerate(zip(*report.mean_band(c.losses))):
        points.append([panel, name, step, *(tables.number(v, 9) for v in values)])
  return points
