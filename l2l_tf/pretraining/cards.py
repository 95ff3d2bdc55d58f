"""The pretrained optimizers that come with the package, and how well they do.

Next to the weights of each is its card: what it was trained on and how, the losses that
it reached on held-out tasks, and where it fails. A held-out task is a problem that was
not trained on. Weights and cards are part of the package; no network is needed.
"""

import dataclasses
import json
import math
import os
import pathlib
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

from l2l_tf import tables
from l2l_tf.optimizers import Optimizer
from l2l_tf.storage import export, files

DIRECTORY = pathlib.Path(__file__).parent / "weights"
SUFFIX = ".l2l.npz"
LEARNED = "learned"
TUNED_ADAM = "Adam"
DEFAULT_ADAM = "Adam at 0.001"  # Keras's default rate

_PROTOCOL = (
  "Losses are means over the mini-batches of the last tenth of the steps, over {draws}"
  " draws. The rates of Adam, momentum and RMSprop are tuned, for each task and number"
  " of steps, on other draws. Who ends above the loss of the start has diverged."
)
_FEW_SHOT = (
  "Losses, and accuracies in brackets, are those of the query sets after the steps,"
  " means over {draws} episodes of classes that were not trained on. All optimizers go"
  " on from the learned start. The rates of Adam, momentum and RMSprop are tuned, for"
  " each task, on other episodes of the same classes."
)


class Result(NamedTuple):
  """What one optimizer reached on one task after a number of steps."""

  task: str  # name of the problem
  steps: int
  optimizer: str
  learning_rate: float | None  # None for a learned optimizer
  # Mean over the last tenth of the steps; inf if it diverged. In few-shot tasks, that
  # of the query sets after the last step.
  loss: float
  accuracy: float | None = None  # of the query sets


class Score(NamedTuple):
  """Numbers of held-out tasks on which a learned optimizer does well or diverges."""

  num_tasks: int
  no_worse_than_tuned_adam: int
  better_than_default_adam: int
  diverged: int  # after any number of steps


@dataclasses.dataclass(frozen=True)
class Card:
  """What is known about one pretrained optimizer.

  Attributes:
    name: the name for `load`.
    trained_on: a description of the problem that it was trained on.
    commands: the commands that trained it, in order.
    seed: the seed of the training and of the draws in `results`.
    num_updates: number of meta-steps that its weights took.
    minutes: time that the training took, on two cores.
    num_draws: number of draws of each held-out task that the losses are means over.
    results: its losses, and those of hand-designed optimizers, on held-out tasks.
  """

  name: str
  trained_on: str
  commands: tuple[str, ...]
  seed: int
  num_updates: int
  minutes: float
  num_draws: int
  results: tuple[Result, ...]

  @property
  def fails(self) -> list[str]:
    """One sentence per task on which tuned Adam is better, the largest ratio first."""
    found = []
    for task in _unique(r.task for r in self.results):
      ratios = [(steps, self._ratio(task, steps)) for steps in self.horizons]
      worse = [(steps, ratio) for steps, ratio in ratios if not ratio <= 1]
      if worse:
        found.append((max(ratio for _, ratio in worse), _failure(task, worse)))
    return [text for _, text in sorted(found, key=lambda item: -item[0])]

  @property
  def horizons(self) -> list[int]:
    """The numbers of steps after which losses are reported."""
    return sorted(_unique(r.steps for r in self.results))

  def score(self, steps: int = 1000) -> Score:
    """Counts the held-out tasks on which it is as good as Adam after `steps` steps."""
    tasks = _unique(r.task for r in self.results)
    losses = [self._losses(task, steps) for task in tasks]
    diverged = {
      r.task for r in self.results if r.optimizer == LEARNED and r.loss == math.inf
    }
    return Score(
      len(tasks),
      sum(x[LEARNED] <= x[TUNED_ADAM] and x[LEARNED] < math.inf for x in losses),
      sum(x[LEARNED] < x[DEFAULT_ADAM] for x in losses),
      len(diverged),
    )

  def summary(self) -> str:
    """Returns a sentence with the score at every horizon."""
    scores = [self.score(steps) for steps in self.horizons]
    listed = lambda values: ", ".join(f"{value:,}" for value in values)
    return (
      f"Of {scores[0].num_tasks} held-out tasks, untuned, after {listed(self.horizons)}"
      " steps: no worse than tuned Adam on"
      f" {listed(s.no_worse_than_tuned_adam for s in scores)}, better than Adam at"
      f" 0.001 on {listed(s.better_than_default_adam for s in scores)}; diverged on"
      f" {scores[0].diverged}."
    )

  def rows(self) -> list[list[str]]:
    """Returns the losses of all optimizers as cells of a table, below a header."""
    names = _unique(r.optimizer for r in self.results)
    rows = [["held-out task", "steps", *names]]
    for task in _unique(r.task for r in self.results):
      for steps in self.horizons:
        found = {r.optimizer: r for r in self._rows(task, steps)}
        rows.append([task, f"{steps:,}", *(_cell(found[name]) for name in names)])
    return rows

  def table(self) -> str:
    """Returns the losses of all optimizers, a line per task and number of steps."""
    return tables.aligned(self.rows())

  def __str__(self) -> str:
    fails = self.fails or ["On none of the held-out tasks is tuned Adam better."]
    is_few_shot = any(r.accuracy is not None for r in self.results)
    protocol = (_FEW_SHOT if is_few_shot else _PROTOCOL).format(draws=self.num_draws)
    training = (
      f"Trained in {self.num_updates:,} meta-updates and {self.minutes:.0f} minutes,"
      f" with seed {self.seed}:"
    )
    failures = "\n".join(["Where it fails:", *(f"- {text}" for text in fails)])
    commands = "\n".join([training, *(f"  {command}" for command in self.commands)])
    paragraphs = [
      _filled(f"{self.name}: trained on {self.trained_on}."),
      failures,
      _filled(self.summary()),
      self.table(),
      _filled(protocol),
      commands,
    ]
    return "\n\n".join(paragraphs)

  def _losses(self, task: str, steps: int) -> dict[str, float]:
    return {r.optimizer: r.loss for r in self._rows(task, steps)}

  def _rows(self, task: str, steps: int) -> list[Result]:
    return [r for r in self.results if (r.task, r.steps) == (task, steps)]

  def _ratio(self, task: str, steps: int) -> float:
    """Returns the loss as a multiple of tuned Adam's; inf if it diverged."""
    losses = self._losses(task, steps)
    own, adam = losses[LEARNED], losses[TUNED_ADAM]
    if own == math.inf or (adam == 0 and own > 0):
      return math.inf
    return own / adam if adam else 1.0


class Cards(dict[str, Card]):
  """Cards by name; `str` gives a paragraph per card."""

  def __str__(self) -> str:
    return "\n\n".join(_paragraph(card) for card in self.values())


def pretrained() -> Cards:
  """Returns the cards of the pretrained optimizers, by the names that `load` takes.

  >>> cards = pretrained()
  >>> list(cards)
  ['general', 'general_fast', 'general_lstm', 'mnist_mlp', 'neural_art',
   'omniglot_5way', 'quadratic']
  >>> print(cards["general"])  # how it was trained, how well it does, where it fails
  """
  return Cards((path.stem, read(path)) for path in sorted(DIRECTORY.glob("*.json")))


def is_pretrained(name: str | os.PathLike[str]) -> bool:
  """Whether a pretrained optimizer has that name."""
  return isinstance(name, str) and name in [p.stem for p in DIRECTORY.glob("*.json")]


def load(name_or_path: str | os.PathLike[str]) -> Optimizer:
  """Loads a pretrained optimizer, or one that was saved to a file.

  >>> optimizer = load("general")
  >>> optimizer.config["block"]
  32

  Args:
    name_or_path: a name in `pretrained()`, or the path of a file that l2l-train or
      `l2l_tf.save` wrote. Write ./name for a file that has the name of a pretrained
      optimizer.

  Returns:
    The optimizer, with its weights.

  Raises:
    FileNotFoundError: if it is neither.
    PermissionError: if the file may not be read.
    ExportError: if the file is not a complete export of this format version.
  """
  if is_pretrained(name_or_path):
    return export.load(DIRECTORY / f"{name_or_path}{SUFFIX}")
  try:
    return export.load(name_or_path)
  except FileNotFoundError as e:
    listed = ", ".join(repr(path.stem) for path in sorted(DIRECTORY.glob("*.json")))
    raise FileNotFoundError(
      f"{str(e).rstrip('.')}, or a pretrained name: {listed}."
    ) from None


def write(card: Card, path: pathlib.Path) -> None:
  """Writes a card as JSON; an existing file is replaced only once that is complete."""
  fields = {f.name: getattr(card, f.name) for f in dataclasses.fields(card)}
  rows = [_as_row(r) for r in card.results]
  lines = [
    f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items() if k != "results"
  ]
  table = ",\n".join(f"    {json.dumps(row)}" for row in rows)
  lines.append(f'  "results": [\n{table}\n  ]')
  files.write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read(path: pathlib.Path) -> Card:
  """Reads the card that `write` wrote."""
  fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
  rows = [_from_row(row) for row in fields["results"]]
  commands = tuple(fields["commands"])
  return Card(**fields | {"results": tuple(rows), "commands": commands})


def _as_row(result: Result) -> list[Any]:
  """Returns what JSON knows, without an accuracy where there is none."""
  loss = result.loss if result.loss < math.inf else None
  last = [] if result.accuracy is None else [result.accuracy]
  return [*result[:4], loss, *last]


def _from_row(row: list[Any]) -> Result:
  result = Result(*row)
  return result._replace(loss=math.inf) if result.loss is None else result


def _filled(text: str) -> str:
  return textwrap.fill(text, 88, subsequent_indent="  ")


def _paragraph(card: Card) -> str:
  fails = card.fails
  text = f"{card.name}: trained on {card.trained_on}."
  if fails:
    text += f" Fails on {len(fails)} tasks, most on {fails[0]}"
  return _filled(f"{text} {card.summary()}")


def _failure(task: str, worse: list[tuple[int, float]]) -> str:
  diverged = [steps for steps, ratio in worse if ratio == math.inf]
  if diverged:
    return f"{task}: diverged within {diverged[0]:,} steps."
  ratios = ", ".join(f"{ratio:.3g}" for _, ratio in worse)
  steps = ", ".join(f"{steps:,}" for steps, _ in worse)
  return f"{task}: {ratios} times tuned Adam's loss after {steps} steps."


def _cell(result: Result) -> str:
  loss = tables.number(result.loss, 3) if result.loss < math.inf else "diverged"
  return loss if result.accuracy is None else f"{loss} ({result.accuracy:.1%})"


def _unique(values: Iterable[Any]) -> list[Any]:
  return list(dict.fromkeys(values))
