"""The command l2l-benchmark, as a function of its settings."""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import dataclasses
import hashlib
import logging
import pathlib
from collections.abc import Callable, Mapping

import tqdm

from l2l_tf.benchmark import contenders, pictures, scores
from l2l_tf.benchmark.contenders import Contender
from l2l_tf.benchmark.contest import Contest
from l2l_tf.evaluation import plots
from l2l_tf.pretraining import cards
from l2l_tf.problems import KerasModel
from l2l_tf.problems.benchmark_tasks import BENCHMARK_TASKS
from l2l_tf.runs import flagfile, own_files, vocabulary
from l2l_tf.runs.settings import BenchmarkSettings
from l2l_tf.storage import export, files

_Tasks = Mapping[str, Callable[[], KerasModel]]


def run(settings: BenchmarkSettings) -> scores.Results:
  """Runs all contenders on all tasks, prints tables, and writes files and pictures.

  Started again with the same `save_path`, it goes on where it was stopped.

  Returns:
    The results, by task and by contender.

  Raises:
    ValueError: for an unknown name, or a problem of one's own that is no Keras model.
    WriteError: if a result cannot be written.
  """
  # TensorFlow would warn of too many functions: there is one per task and contender.
  logging.getLogger("tensorflow").setLevel(logging.ERROR)
  own_files.run_all(settings.imports)
  path = pathlib.Path(settings.save_path).expanduser()
  tasks, field = _tasks(settings), _contenders(settings)
  with files.writing(path):
    path.mkdir(parents=True, exist_ok=True)
    flags = flagfile.as_flagfile(dataclasses.asdict(settings))
    files.write_text(path / "flags.txt", flags)
  results: dict[str, Mapping] = {}
  with tqdm.tqdm(
    desc="Benchmark", unit="run", total=_count(tasks, field, settings)
  ) as bar:
    for task, make in tasks.items():
      bar.set_postfix_str(task)
      directory = path / "trials" / (files.name_of(task) + _version(settings.problem))
      counts = settings.num_steps, settings.num_seeds
      contest = Contest(task, make(), field, directory, *counts, bar.update)
      results[task] = contest()
      contest.close()
      bar.write(f"\n{task}\n{scores.task_table(results[task])}\n")
      _write(path, results, settings)
  print(f"\n{_summary(results)}\n\nWritten to {path}/")
  return results


def _tasks(settings: BenchmarkSettings) -> _Tasks:
  if settings.problem is not None:
    problem = _own(settings.problem)
    return {settings.problem: lambda: problem}
  for task in settings.tasks:
    if task not in BENCHMARK_TASKS:
      known = ", ".join(map(repr, BENCHMARK_TASKS))
      raise ValueError(f"Unknown task {task!r}; choose among {known}.")
  return {t: BENCHMARK_TASKS[t] for t in settings.tasks or BENCHMARK_TASKS}


def _own(text: str) -> KerasModel:
  problem = vocabulary.build(text, "problem")
  if not isinstance(problem, KerasModel):
    raise ValueError(
      f"--problem={text} is {type(problem).__name__}; l2l-benchmark runs optimizers of"
      " Keras, so return l2l_tf.problems.keras_model(build_model, loss, data,"
      " held_out=...)."
    )
  return problem


def _version(problem: str | None) -> str:
  """Returns what changes with the file of a problem of one's own.

  Trials of a model that was edited since are not those of the present one.
  """
  source = None if problem is None else vocabulary.check(problem, "problem").source
  if source is None or not own_files.is_file(source):
    return ""
  return "_" + _digest(pathlib.Path(source).expanduser().read_bytes())


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()[:6]


def _contenders(settings: BenchmarkSettings) -> dict[str, Contender]:
  if not settings.path:
    raise ValueError("There is no learned optimizer: give --path, such as general.")
  baselines = contenders.BASELINES
  chosen = {name: baselines[name] for name in settings.baselines or baselines}
  chosen = {contenders.ADAM: baselines[contenders.ADAM], **chosen}
  for name in settings.path:
    optimizer = cards.load(name)
    # A trial's file belongs to these weights: others of the same name run anew.
    digest = _digest(export.dumps(optimizer))
    label = (
      name if cards.is_pretrained(name) else pathlib.Path(name).resolve().parent.name
    )
    chosen[f"{label} {digest}"] = contenders.learned(optimizer)
  return chosen


def _count(tasks: _Tasks, field: Mapping[str, Contender], settings) -> int:
  """Returns the number of trials; more if a best rate lies at the end of its grid."""
  own = lambda c: len(c.rates) + settings.num_seeds * (1 if c.is_tuned else 2)
  return len(tasks) * sum(map(own, field.values()))


def _learned(results: scores.Results) -> list[str]:
  return [name for name, r in next(iter(results.values())).items() if r.is_learned]


def _summary(results: scores.Results) -> str:
  return scores.summary_table([scores.score(results, n) for n in _learned(results)])


def _write(path: pathlib.Path, results: scores.Results, settings) -> None:
  tables = [f"{task}\n{scores.task_table(found)}" for task, found in results.items()]
  files.write_text(
    path / "tables.txt", "\n\n".join([*tables, _summary(results)]) + "\n"
  )
  files.write_csv(path / "results.csv", scores.rows(results))
  title = f"{settings.num_steps:,} steps, means over {settings.num_seeds} seeds"
  plots.save(pictures.profile(results, title), path / "profile.png")
  plots.save(pictures.curves(results, title), path / "curves.png")
