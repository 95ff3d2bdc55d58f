"""The settings of each command; the fields are its flags, explained by --help.

Nothing here imports TensorFlow.
"""

import dataclasses
import os
from typing import Any

from l2l_tf.runs import presets, vocabulary

# The names in `protocol.BASELINES`, which cannot be imported without TensorFlow.
BASELINES = ("SGD", "momentum", "Nesterov", "RMSprop", "Adagrad", "Adam")

# The names in `quasi_newton.METHODS`, for the same reason.
QUASI_NEWTON = ("BFGS", "L-BFGS")

# The names in `benchmark.contenders.BASELINES`, for the same reason.
CONTENDERS = (
  "Adam + cosine", "Adam", "AdamW + cosine", "Muon + cosine", "Lion + cosine",
  "ScheduleFree",
)  # fmt: skip

# How work is shared out: over the GPUs of a machine, or over processes.
STRATEGIES = ("mirrored", "multi_worker")
WORKER_TIMEOUT = 600.0  # seconds to wait for the others

AUTO = "auto"  # as an unroll_length: measured before the run

# The values of each setting that is a choice, the default first.
CHOICES = {
  "schedule": ("cosine", "constant"),
  "meta_loss": ("sum", "last", "mean", "log_relative", "best"),
}
# Settings whose defaults are the recipe's, whatever is trained. The recipe's others are
# in `_optimizer` and `_meta_optimizer`.
_OF_RECIPE = (
  "num_epochs", "num_steps", "unroll_length", "evaluation_epochs", "clip_norm",
  "relative_loss",
)  # fmt: skip
# Flags for the optimizer's arguments, if --optimizer is a name without arguments.
ARCHITECTURE = ("layers", "preprocess", "output_scale", "initializer")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
  """Settings of l2l-train; None takes the value of the problem's recipe, if any."""

  problem: str = "quadratic"
  num_epochs: int | None = None
  log_period: int = 100
  evaluation_period: int = 50
  evaluation_epochs: int | None = None
  patience: int | None = None  # None: no early end
  num_steps: int | None = None
  meta_batch_size: int = 1
  unroll_length: int | str | None = None  # or "auto"
  curriculum: str | None = None  # None: the two lengths above
  learning_rate: float | None = None
  schedule: str | None = None  # "cosine", the default, or "constant"
  meta_optimizer: str | None = None  # None: Adam
  clip_norm: float | None = None
  task_clip_norm: float | None = None  # None: inf
  meta_loss: str | None = None  # one of CHOICES, "sum" by default
  relative_loss: bool | None = None
  imitation: str | None = None  # None: nothing is imitated
  imitation_weight: float | None = None
  imitation_half_life: float | None = None
  second_derivatives: bool | None = None  # None: False
  meta_gradient: str | None = None  # None: TruncatedBPTT, by second_derivatives
  optimizer: str | None = None
  layers: tuple[int, ...] | None = None
  preprocess: str | None = None
  output_scale: float | None = None
  initializer: str | None = None
  initial_path: str | None = None
  imports: tuple[str, ...] = ()
  save_path: str | None = None
  seed: int = 0
  jit_compile: bool = False
  strategy: str | None = None  # one of STRATEGIES; None: this process alone
  worker_timeout: float = WORKER_TIMEOUT
  trace_graph: bool = False

  def resolved(self) -> "TrainingSettings":
    """Returns settings with all defaults filled in; None then means not applicable.

    Raises:
      ValueError: for an unknown name, or two settings that exclude each other.
    """
    if isinstance(self.unroll_length, str) and self.unroll_length != AUTO:
      raise ValueError(
        f"unroll_length={self.unroll_length!r} must be a number, or {AUTO!r}."
      )
    recipe = presets.get(self.problem)
    path = self.save_path or f"tensorboard_logs/{presets.short_name(self.problem)}"
    is_preset = self.problem in presets.PRESETS
    return dataclasses.replace(
      self,
      problem=self.problem if is_preset else recipe.problem,
      save_path=os.path.expanduser(path),  # Shells leave --save_path=~/x alone.
      **self._of_recipe(recipe),
      **self._optimizer(recipe),
      **self._meta_gradient(recipe),
      **self._imitation(recipe),
      **self._with_curriculum(self._meta_optimizer(recipe)),
    )

  def _of_recipe(self, recipe: presets.Preset) -> dict[str, Any]:
    own = {k: self._or_of(recipe, k) for k in _OF_RECIPE}
    if self.curriculum is not None:  # It says the lengths.
      del own["num_steps"], own["unroll_length"]
    return own

  def _or_of(self, recipe: presets.Preset, name: str) -> Any:
    own = getattr(self, name)
    return getattr(recipe, name) if own is None else own

  def _optimizer(self, recipe: presets.Preset) -> dict[str, Any]:
    """Returns the optimizer and the flags for its arguments, if it takes them."""
    names = ("optimizer", *ARCHITECTURE)
    if self.initial_path is not None:
      self._refuse(names, "--initial_path, whose file says it already")
      return dict.fromkeys(names)
    expression = vocabulary.check(self.optimizer or recipe.optimizer, "optimizer")
    values = dict.fromkeys(ARCHITECTURE)
    if expression.is_bare:
      taken = vocabulary.parameters(expression.call.name, "optimizer")
      other = [name for name in ARCHITECTURE if name not in taken]
      self._refuse(other, f"--optimizer={expression.text}, which does not take it")
      for name in set(ARCHITECTURE) & {*taken}:
        values[name] = self._or_of(recipe, name)
    else:
      reason = "which says its arguments itself"
      self._refuse(ARCHITECTURE, f"--optimizer={expression.text}, {reason}")
    return {"optimizer": expression.text, **values}

  def _meta_gradient(self, recipe: presets.Preset) -> dict[str, Any]:
    own = self.meta_gradient, self.second_derivatives, self.meta_loss
    is_open = all(x is None for x in own)
    given = recipe.meta_gradient if is_open else self.meta_gradient
    if given is None:
      return {
        "meta_loss": self._choice("meta_loss"),
        "second_derivatives": bool(self.second_derivatives),
      }
    text = vocabulary.check(given, "meta_gradient").text
    reason = "which says its arguments itself"
    self._refuse(("second_derivatives",), f"--meta_gradient={text}, {reason}")
    if self.meta_loss is not None:
      self._choice("meta_loss")
    return {"meta_gradient": text}

  def _imitation(self, recipe: presets.Preset) -> dict[str, Any]:
    names = ("imitation_weight", "imitation_half_life")
    given = self._or_of(recipe, "imitation")
    if given is None:
      self._refuse(names, "no --imitation, which says what is imitated")
      return {}
    values = {name: self._or_of(recipe, name) for name in names}
    return {"imitation": vocabulary.check(given, "optimizer").text, **values}

  def _with_curriculum(self, values: dict[str, Any]) -> dict[str, Any]:
    if self.curriculum is None:
      return values
    text = vocabulary.check(self.curriculum, "curriculum").text
    lengths = ("num_steps", "unroll_length")
    self._refuse(lengths, f"--curriculum={text}, which says the lengths itself")
    if self.schedule == "cosine":
      raise ValueError(
        f"--schedule=cosine needs the number of updates, which --curriculum={text}"
        " leaves open; give --schedule=constant."
      )
    if "schedule" in values:
      values["schedule"] = "constant"
    return {**values, "curriculum": text, **dict.fromkeys(lengths)}

  def _meta_optimizer(self, recipe: presets.Preset) -> dict[str, Any]:
    values = {
      "learning_rate": self._or_of(recipe, "learning_rate"),
      "schedule": self._choice("schedule"),
    }
    if self.meta_optimizer is None:
      return values
    expression = vocabulary.check(self.meta_optimizer, "optimizer")
    text, call = expression.text, expression.call
    if call.positional or "learning_rate" in call.keywords:
      reason = "which says its learning rate itself"
      names = ("learning_rate", "schedule")
      self._refuse(names, f"--meta_optimizer={text}, {reason}")
      values = {}
    return {"meta_optimizer": text, **values}

  def _choice(self, name: str) -> str:
    value, choices = getattr(self, name), CHOICES[name]
    if value not in (None, *choices):
      raise ValueError(f"{name}={value!r} is unknown; choose {' or '.join(choices)}.")
    return value or choices[0]

  def _refuse(self, names, other: str) -> None:
    """Raises ValueError if one of the settings is given together with `other`."""
    for name in names:
      if getattr(self, name) is not None:
        raise ValueError(f"--{name} was given with {other}; leave out one of the two.")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
  """Settings of l2l-evaluate."""

  problem: str = "quadratic"
  path: tuple[str, ...] = ()
  optimizer: tuple[str, ...] = BASELINES
  learning_rate: float | None = None  # None: tuned for each baseline
  num_epochs: int | None = None  # None: as the problem's recipe says
  num_tuning_epochs: int | None = None  # None: as num_epochs
  num_steps: int = 100
  seed: int = 0
  imports: tuple[str, ...] = ()
  save_path: str | None = None
  plot: bool = True
  strategy: str | None = None  # one of STRATEGIES; None: this process alone
  worker_timeout: float = WORKER_TIMEOUT


@dataclasses.dataclass(frozen=True)
class DiagnosisSettings:
  """Settings of l2l-diagnose."""

  path: str
  save_path: str | None = None
  warmup: int = 10
  num_steps: int = 100
  seed: int = 0
  imports: tuple[str, ...] = ()
  plot: bool = True


@dataclasses.dataclass(frozen=True)
class PretrainingSettings:
  """Settings of l2l-pretrain."""

  name: str = "general"
  seed: int = 0
  num_epochs: int | None = None  # in every stage; None: as the recipe says
  horizons: tuple[int, ...] | None = None  # None: as the recipe says
  num_draws: int | None = None  # None: as the recipe says
  num_tuning_draws: int | None = None  # likewise
  save_path: str | None = None
  output_path: str | None = None


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
  """Settings of l2l-benchmark."""

  path: tuple[str, ...] = ("general",)
  problem: str | None = None  # one's own; None: the built-in tasks
  tasks: tuple[str, ...] = ()  # names of built-in tasks; none: all
  num_steps: int = 1000
  num_seeds: int = 3
  baselines: tuple[str, ...] = ()  # of CONTENDERS; none: all
  imports: tuple[str, ...] = ()
  save_path: str = "tensorboard_logs/benchmark"


@dataclasses.dataclass(frozen=True)
class ReproductionSettings:
  """Settings of l2l-reproduce."""

  name: str  # in `reproductions.FIGURES`
  quick: bool = False
  seed: int = 0
  save_path: str | None = None  # None: reproductions/


@dataclasses.dataclass(frozen=True)
class StyleSettings:
  """Settings of l2l-style."""

  content: str
  style: str
  output: str
  optimizer: str = "neural_art"
  size: int = 256
  steps: int = 128
  seed: int = 0
  compare: bool = False
  imports: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LaunchSettings:
  """Settings of l2l-launch."""

  workers: int
  port: int | None = None  # None: free ones
  pin: bool | None = None  # None: if there is a core for each worker
  grace: float = 15.0  # seconds


# What l2l-fewshot can train, and how tables call it.
FEW_SHOT_METHODS = {
  "gate_lstm": "GateLSTM",
  "gate_lstm_memory": "GateLSTM with memory",
  "maml": "first-order MAML, learned rate",
  "reptile": "Reptile",
  "fine_tuning": "fine-tuning, tuned rate",
  "neighbours": "nearest neighbours",
}


@dataclasses.dataclass(frozen=True)
class FewShotSettings:
  """Settings of l2l-fewshot."""

  dataset: str = "omniglot"
  ways: int = 5
  shots: int = 1
  queries: int = 15
  learner: str = "conv"
  statistics: str = "paper"
  methods: tuple[str, ...] = tuple(FEW_SHOT_METHODS)
  num_steps: int | None = None  # None: 12 for one shot, 8 for more
  minutes: float = 10.0  # of training, for each method
  num_updates: int = 100_000
  meta_batch_size: int = 1
  learning_rate: float = 0.001
  clip_norm: float = 0.25
  evaluation_period: int = 250
  validation_episodes: int = 50
  test_episodes: int = 600
  test_seeds: int = 1  # each names that many episodes
  gate_tasks: int = 5
  seed: int = 0
  save_path: str | None = None

  def resolved(self) -> "FewShotSettings":
    """Returns settings with all defaults filled in.

    The paper's steps are passes over the support set: 12 for one shot, 8 for five.

    Raises:
      ValueError: without a method, or for one that is unknown.
    """
    unknown = [m for m in self.methods if m not in FEW_SHOT_METHODS]
    if unknown or not self.methods:
      raise ValueError(
        f"methods={','.join(self.methods)!r} must name one or more of"
        f" {', '.join(FEW_SHOT_METHODS)}."
      )
    name = f"fewshot_{self.dataset}_{self.ways}way_{self.shots}shot"
    path = self.save_path or f"tensorboard_logs/{name}"
    steps = self.num_steps or (12 if self.shots == 1 else 8)
    return dataclasses.replace(
      self, num_steps=steps, save_path=os.path.expanduser(path)
    )


def check_baseline(text: str, may_be_registered: bool = False) -> None:
  """Raises ValueError unless a text is a baseline's name or an optimizer expression.

  Args:
    text: the name or the expression.
    may_be_registered: as in `vocabulary.check`.
  """
  known = (*BASELINES, *QUASI_NEWTON)
  if text.lower() in {name.lower() for name in known}:
    return
  is_known = may_be_registered or text in vocabulary.listing("optimizer")
  if not is_known and "(" not in text and ":" not in text:
    raise ValueError(
      f"{text!r} is none of {', '.join(known)}, and no optimizer such as"
      " 'Momentum(momentum=0.5)'; exported ones are for --path."
    )
  vocabulary.check(text, "optimizer", may_be_registered)
