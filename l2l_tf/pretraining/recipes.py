"""How each pretrained optimizer is trained, and the held-out tasks it is tested on.

A recipe's stages are sets of flags for l2l-train; each stage starts from the optimizer
that the previous stage exported. Or there is one stage, for l2l-fewshot.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Tasks = Callable[[], Mapping[str, Callable[[], Any]]]  # name -> constructor


class Suite(NamedTuple):
  """A training on many problems at once, by a `SuiteTrainer`."""

  optimizer: Callable[[], Any]
  problems: Tasks
  num_updates: int
  learning_rate: float  # of Adam, falling to zero by a cosine
  options: Callable[[], Mapping[str, Any]]  # of the trainer


class Recipe(NamedTuple):
  """How a pretrained optimizer is trained and tested."""

  trained_on: str
  stages: tuple[tuple[str, ...], ...]  # flags of each stage
  held_out: Tasks
  suite: Suite | None = None  # in place of stages
  horizons: tuple[int, ...] = (100, 1000, 5000)  # after which it is compared
  num_draws: int = 3  # of every held-out task that are reported
  num_tuning_draws: int = 1  # on which each rate of a baseline runs
  method: str | None = None  # of l2l-fewshot; None for stages of l2l-train

  @property
  def script(self) -> str:
    """The command that the stages are flags of, without "l2l-"."""
    return "train" if self.method is None else "fewshot"

  def commands(self, directory: str, seed: int, extra: tuple[str, ...] = ()):
    """Returns the flags of every stage.

    Args:
      directory: stage i, counted from 1, writes to the folder "i" in it.
      seed: the seed of every stage.
      extra: flags to add to every stage.
    """
    commands = []
    for i, flags in enumerate(self.stages, 1):
      former = (
        (f"--initial_path={directory}/{i - 1}/optimizer.l2l.npz",) if i > 1 else ()
      )
      place = f"--save_path={directory}/{i}"
      commands.append([*flags, f"--seed={seed}", *former, *extra, place])
    return commands


def _general():
  from l2l_tf.problems import suites

  return suites.GENERAL_HELD_OUT


def _general_suite(
  block: int | None, num_updates: int, fixed: tuple[str, ...] = ()
) -> Suite:
  """Returns the training of a `GeneralRule`; constants named in `fixed` stay."""

  def optimizer():
    from l2l_tf.optimizers import GeneralRule

    return GeneralRule(block)

  def tasks():
    from l2l_tf.problems import suites

    return suites.GENERAL_TRAINING

  def options():
    from l2l_tf.optimizers.general_rule import Constants

    spread = [0.0 if name in fixed else 0.1 for name in Constants._fields]
    lengths = {"horizon": (50, 10_000), "untold": 0.25}
    return {**lengths, "pairs": 4, "tasks": 6, "stddev": [spread]}

  return Suite(optimizer, tasks, num_updates, 0.03, options)


def _general_lstm():
  from l2l_tf import problems

  return problems.HELD_OUT_TASKS


def _quadratics():
  from l2l_tf import problems

  return {
    "quadratics": problems.Quadratic,
    "quadratics, 20-d": lambda: problems.Quadratic(num_dims=20),
    "quadratics, uniform": lambda: problems.Quadratic(distribution="uniform"),
    "quadratics, 1 alone": lambda: problems.Quadratic(batch_size=1),
    "polynomials": problems.Polynomial,
    "digits, 20 sigmoid": problems.digits_mlp,
  }


def _mnist():
  from l2l_tf import problems

  return {
    "MNIST, 20 sigmoid": problems.mnist_mlp,
    "MNIST, 2 x 20 sigmoid": lambda: problems.mnist_mlp(layers=(20, 20)),
    "MNIST, 20 relu": lambda: problems.mnist_mlp(activation="relu"),
    "digits, 20 sigmoid": problems.digits_mlp,
  }


def _omniglot():
  from l2l_tf import problems

  tests = lambda shots: (
    lambda: problems.few_shot("omniglot", 5, shots, split="test", statistics="batch")
  )
  return {"Omniglot, 1 shot": tests(1), "Omniglot, 5 shots": tests(5)}


def _neural_art():
  from l2l_tf import problems

  tests = lambda style: lambda: problems.neural_style("test", style)
  return {
    "starry night, 64 x 64": tests("starry_night"),
    "great wave, 64 x 64": tests("great_wave"),
  }


_GENERAL_TASKS = (
  "34 small nets on digits, iris, wine, diabetes, text and synthetic classes: dense,"
  " convolutional, recurrent, attention, autoencoders, for 50 to 10,000 steps"
)
_SECOND = ("--second_derivatives", "--learning_rate=0.001")
_OFTEN = ("--evaluation_period=20", "--evaluation_epochs=16")

RECIPES: Mapping[str, Recipe] = {
  "quadratic": Recipe(
    "the paper's random quadratics, 10-d, for 100 steps",
    (("--problem=quadratic",), ("--problem=quadratic", *_SECOND)),
    _quadratics,
  ),
  "mnist_mlp": Recipe(
    "MNIST, perceptrons of 20 sigmoid units, for 100 steps",
    (
      ("--problem=mnist_mlp", *_OFTEN),
      ("--problem=mnist_mlp", *_OFTEN, *_SECOND),
      (
        "--problem=mnist_mlp",
        "--evaluation_period=40",
        "--evaluation_epochs=32",
        *_SECOND,
        "--num_epochs=720",
        "--patience=3",
      ),
    ),
    _mnist,
  ),
  # 60 updates from a prototype's constants found those that this training starts
  # from, but for two. Small nets that memorise few examples speak for a rate that falls
  # faster with T, and with depth, than larger data sets bear, so these powers stay as
  # they were chosen on MNIST, at 1,000 and 5,000 steps.
  "general": Recipe(
    _GENERAL_TASKS,
    (),
    _general,
    _general_suite(32, 20, fixed=("horizon_power", "depth_power")),
  ),
  "general_fast": Recipe(_GENERAL_TASKS, (), _general, _general_suite(None, 60)),
  "general_lstm": Recipe(
    "12 small perceptrons and convolutional nets on digits, iris and wine, for 200"
    " steps",
    (("--problem=general", "--evaluation_period=20"),),
    _general_lstm,
  ),
  "neural_art": Recipe(
    "photographs painted as The Starry Night, 64 x 64 pixels, for 128 steps",
    (("--problem=neural_art", "--evaluation_period=40"),),
    _neural_art,
    horizons=(32, 128),
  ),
  "omniglot_5way": Recipe(
    "Omniglot, 5 characters from one image of each, a net of four convolutions with its"
    " start, for 12 steps, batches normalised by their own statistics (also query"
    " images)",
    (
      (
        "--dataset=omniglot",
        "--methods=gate_lstm_memory",
        "--statistics=batch",
        "--learning_rate=0.003",
        "--validation_episodes=100",
        "--minutes=20",
      ),
    ),
    _omniglot,
    horizons=(12,),
    num_draws=200,
    num_tuning_draws=20,
    method="gate_lstm_memory",
  ),
}
