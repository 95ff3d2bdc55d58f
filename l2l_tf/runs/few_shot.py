"""The command l2l-fewshot, as a function of its settings."""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import tqdm

from l2l_tf import seeds, tables
from l2l_tf.evaluation import few_shot as protocol
from l2l_tf.evaluation import gates, plots
from l2l_tf.evaluation.few_shot import Scores
from l2l_tf.optimizers import LearnedStart
from l2l_tf.problems import FewShot, class_splits
from l2l_tf.problems import few_shot as make_problem
from l2l_tf.runs import few_shot_net, few_shot_training, flagfile
from l2l_tf.runs.settings import FEW_SHOT_METHODS, FewShotSettings
from l2l_tf.runs.training_run import OPTIMIZER
from l2l_tf.storage import export, files
from l2l_tf.storage.summaries import TensorBoard

_NET = "net"  # directory of the net that two baselines start from
_NEIGHBOURS, _FINE_TUNING, _REPTILE = "neighbours", "fine_tuning", "reptile"
_MAML = "maml"
_GATES = "1_evaluation/gates"


@dataclasses.dataclass(frozen=True)
class Problems:
  """The same task on classes of training, of selection and of test."""

  train: FewShot
  selection: FewShot  # training classes, if there are none for validation
  test: FewShot


def few_shot(settings: FewShotSettings) -> int:
  """Trains what is not trained yet, and compares all methods on test episodes.

  Args:
    settings: the task, the methods, and how long each is trained.

  Returns:
    The exit code: 0, or 128 plus the number of the signal that ended a training.

  Raises:
    ValueError: for a task that the data set has too few classes or images for.
    ConfigurationError: if a directory belongs to another configuration.
    DatasetUnavailableError: if the data set cannot be read.
    WriteError: if a result cannot be written.
  """
  settings = settings.resolved()
  problems, path = _problems(settings), pathlib.Path(settings.save_path)
  for method in settings.methods:
    code = _train(method, problems, settings, path)
    if code:
      return code
  scores = _evaluate(problems, settings, path)
  _write(scores, settings, path)
  for method in settings.methods:
    _show_gates(method, problems.test, settings, path)
  print(f"Written to {path}/")
  return 0


def _problems(settings: FewShotSettings) -> Problems:
  has_validation = class_splits.of(settings.dataset).validation is not None
  names = ("ways", "shots", "queries", "learner", "statistics")
  given = {name: getattr(settings, name) for name in names}
  make = lambda split: make_problem(settings.dataset, split=split, **given)
  selection = make("validation") if has_validation else make("train")
  return Problems(make("train"), selection, make("test"))


def _train(method: str, problems: Problems, settings, path: pathlib.Path) -> int:
  """Trains a method, unless that is done; returns an exit code."""
  if method in (_NEIGHBOURS, _FINE_TUNING):
    return few_shot_net.train(problems.train, settings, path / _NET)
  validate = (problems.selection, settings.validation_episodes)
  return few_shot_training.train(
    method, problems.train, *validate, settings, path / method
  )


def _directory(method: str) -> str:
  """Returns the directory of a method's training."""
  return _NET if method in (_NEIGHBOURS, _FINE_TUNING) else method


def _evaluate(problems: Problems, settings, path) -> dict[str, Scores]:
  found, desc = {}, f"{_count(settings)} test episodes"
  tests = range(settings.seed, settings.seed + settings.test_seeds)
  with tqdm.tqdm(total=len(settings.methods), desc=desc, dynamic_ncols=True) as bar:
    for method in settings.methods:
      bar.set_postfix_str(FEW_SHOT_METHODS[method])
      scored: list[Scores] = []
      for seed in tests:  # A baseline is tuned before the first test.
        rates = (scored[0].learning_rate,) if scored else protocol.RATES
        scored.append(_scored(method, problems, settings, path, seed, rates))
      found[method] = Scores.joined(scored)
      bar.update()
  return found


def _count(settings) -> str:
  """Returns the number of test episodes as text."""
  count, times = settings.test_episodes, settings.test_seeds
  return f"{count}" if times == 1 else f"{times} x {count}"


def _scored(
  method: str, problems: Problems, settings, path, seed: int, rates: Sequence[float]
) -> Scores:
  count = settings.test_episodes
  tuning = settings.num_steps, count, settings.validation_episodes, seed, rates
  if method == _NEIGHBOURS:
    params = few_shot_net.start(path / _NET, problems.test)
    return protocol.neighbour_scores(problems.test, params, count, seed)
  if method in (_FINE_TUNING, _REPTILE):
    start = _start(method, problems.test, path)
    return protocol.tuned_scores(problems.test, problems.selection, start, *tuning)
  optimizer = export.load(path / method / OPTIMIZER)
  return protocol.scores(problems.test, optimizer, settings.num_steps, count, seed)


def _start(method: str, problem: FewShot, path: pathlib.Path):
  if method == _FINE_TUNING:
    return few_shot_net.start(path / _NET, problem)
  optimizer: LearnedStart = export.load(path / method / OPTIMIZER)
  return [v.read_value() for v in optimizer.start]


def _table(scores: dict[str, Scores], path: pathlib.Path) -> list[list[str]]:
  """Returns a row for each method, the best first."""
  rows = [["method", "accuracy", "+/- 95%", "to MAML", "+/- 95%", "rate", "minutes"]]
  for method, found in sorted(scores.items(), key=lambda item: -item[1].mean):
    rate = found.learning_rate
    percent = [f"{100 * x:.2f}%" for x in (found.mean, found.half_width)]
    shown = tables.number(rate, 3) if rate is not None else _rate(method, path)
    spent = f"{few_shot_training.minutes(path / _directory(method)):.3g}"
    to_maml = _to_maml(method, scores)
    rows.append([FEW_SHOT_METHODS[method], *percent, *to_maml, shown, spent])
  return rows


def _to_maml(method: str, scores: dict[str, Scores]) -> list[str]:
  """Returns the mean difference to MAML, and half the width of its interval."""
  if _MAML not in scores or method == _MAML:
    return ["-", "-"]
  found = scores[method].minus(scores[_MAML])
  return [f"{100 * found.mean:+.2f}%", f"{100 * found.half_width:.2f}%"]


def _write(scores: dict[str, Scores], settings, path: pathlib.Path) -> None:
  rows = _table(scores, path)
  title = (
    f"{settings.dataset}: {settings.ways}-way {settings.shots}-shot,"
    f" {_count(settings)} test episodes"
  )
  table = tables.aligned(rows, has_rule=True)
  files.write_text(path / "table.txt", f"{title}\n\n{table}\n")
  files.write_text(path / "table.md", tables.markdown(rows))
  cells = [["method", "seed", "episode", "accuracy"]]
  for method, found in scores.items():
    for i, accuracy in enumerate(found.accuracies):
      test, episode = divmod(i, settings.test_episodes)
      cells.append([method, settings.seed + test, episode, f"{accuracy:.6g}"])
  files.write_csv(path / "scores.csv", cells)
  flags = flagfile.as_flagfile(dataclasses.asdict(settings))
  files.write_text(path / "flags.txt", flags)
  with files.writing(path):
    board = TensorBoard(path, "evaluation")
    board.flags(dataclasses.asdict(settings))
    board.scalars({f"1_evaluation/{k}": s.mean for k, s in scores.items()})
    board.close()
  print(f"\n{title}\n\n{table}\n")


def _rate(method: str, path: pathlib.Path) -> str:
  """Returns the learned rate, if it is one number."""
  if method == _NEIGHBOURS:
    return "-"
  inner = export.load(path / method / OPTIMIZER).inner
  rate = getattr(inner, "rate", None)
  return "learned gates" if rate is None else f"{float(rate):.3g} (learned)"


def _show_gates(method: str, problem: FewShot, settings, path: pathlib.Path) -> None:
  """Draws a method's gates, if it has any, and says what they do in numbers."""
  file = path / method / OPTIMIZER
  if not file.exists() or gates.gate_lstm(export.load(file)) is None:
    return
  keys = [
    seeds.make(settings.seed, seeds.EVALUATION, i) for i in range(settings.gate_tasks)
  ]
  traces = gates.trace(problem, export.load(file), settings.num_steps, keys)
  names = [p.path for p in problem.parameters()]
  is_kernel = np.array([p.role == "kernel" for p in problem.parameters()])
  found = gates.summarize(traces, is_kernel)
  files.write_csv(path / method / "gates.csv", gates.rows(traces, names))
  title = f"{FEW_SHOT_METHODS[method]}: gates of {len(keys)} test episodes"
  figure = gates.draw(traces, names, title)
  plots.save(figure, path / method / "gates.png")
  with files.writing(path):
    board = TensorBoard(path / method, "gates")
    board.figure(_GATES, figure)
    board.close()
  print(
    f"{FEW_SHOT_METHODS[method]}: forget gates {found.forget_mean:.4f} on average, no"
    f" layer's below {found.forget_least:.4f}; input gates {found.input_mean:.4g},"
    f" changing by {found.over_steps:.1%} over steps and {found.over_tasks:.1%} over"
    " tasks."
  )
