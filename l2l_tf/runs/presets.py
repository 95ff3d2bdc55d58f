"""Presets: a problem, and the recipe that meta-trains an optimizer for it, by name.

README's table shows what each recipe reaches, and in what time. Problems are imported
when one is made: `l2l-train --help` shows recipes without TensorFlow.
"""

import hashlib
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from l2l_tf.runs import expressions, own_files, vocabulary
from l2l_tf.runs.expressions import OWN

_MOST_OF_A_NAME = 80  # characters; file systems allow 255


def _features(*scales: int) -> str:
  """Log and sign of the gradient, and the clamped gradient at several scales."""
  clamps = [f"clamp(scale={scale},min_value=-5,max_value=5)" for scale in scales]
  return "+".join(["log_and_sign", *clamps])


class Preset(NamedTuple):
  """A problem and the settings of its recipe, most of which are flags of l2l-train."""

  problem: str  # a name in `l2l_tf.problems`, or an expression
  arguments: Mapping[str, Any]  # for that name's constructor
  description: str
  optimizer: str = "CoordinatewiseLSTM"
  layers: tuple[int, ...] = (20, 20)
  preprocess: str = _features(20)
  output_scale: float = 0.1
  initializer: str = "truncated_normal"
  num_epochs: int = 600
  num_steps: int = 100
  unroll_length: int = 10
  learning_rate: float = 0.003
  clip_norm: float = 0.1
  relative_loss: bool = False
  evaluation_epochs: int = 8
  num_draws: int = 8  # in an evaluation
  meta_gradient: str | None = None  # TruncatedBPTT
  imitation: str | None = None
  imitation_weight: float = 1.0
  imitation_half_life: float = 100.0  # episodes

  def make_problem(self) -> Any:
    """Builds the problem, an `l2l_tf.problems.Problem`."""
    return vocabulary.build(self.problem, "problem", **self.arguments)


_LINEAR = {
  "layers": (),
  "preprocess": "identity",
  "output_scale": 1.0,
  "initializer": "zeros",
  "learning_rate": 0.01,
  "clip_norm": 100.0,
  "unroll_length": 20,
  "num_epochs": 500,
  "evaluation_epochs": 1,
  "num_draws": 1,
}
# As in the paper, one LSTM for the convolutions and one for the dense layers. Both know
# how far 1,000 steps have come, and read orthogonalised momenta.
_LSTM = (
  "RNNprop(layers=(20,), beta_1=0.85, output_scale=0.02, time_scales=(10, 100, 1000),"
  " block=32)"
)
_BY_LAYER = f"Partition([(Where('convolution*'), {_LSTM}), (Where('dense*'), {_LSTM})])"
_SINGLE_TASKS = {"evaluation_epochs": 32, "num_draws": 64}

PRESETS: Mapping[str, Preset] = {
  "simple": Preset("Simple", {}, "x^2 from x = 1, by a linear optimizer", **_LINEAR),
  "simple_multi": Preset(
    "SimpleMulti", {}, "x^2 + y^2 from (1, 1), likewise", **_LINEAR
  ),
  "quadratic": Preset("Quadratic", {}, "the paper's: W, y ~ N(0, 1), 128 x 10-d"),
  "quadratic_uniform": Preset(
    "Quadratic",
    {"distribution": "uniform"},
    "the original code's: W, y ~ U[0, 1)",
    preprocess=_features(20, 500),
  ),
  "polynomial": Preset(
    "Polynomial",
    {},
    "regression to polynomials of 7 coefficients",
    layers=(19,),
    **_SINGLE_TASKS,
  ),
  "ensemble": Preset(
    "quadratics", {}, "both kinds of quadratics at once", **_SINGLE_TASKS
  ),
  "digits_mlp": Preset(
    "digits_mlp",
    {},
    "scikit-learn's digits, 20 sigmoid units",
    preprocess=_features(),
    clip_norm=1.0,
    **_SINGLE_TASKS,
  ),
  "mnist_mlp": Preset(
    "mnist_mlp",
    {},
    "MNIST, 20 sigmoid units",
    preprocess=_features(10, 100, 1000),
    unroll_length=20,
    num_epochs=120,
    **_SINGLE_TASKS,
  ),
  "neural_art": Preset(
    "neural_style",
    {},
    "a photograph painted as The Starry Night, 64 x 64",
    # The first steps have to bring noise of bright colours, some 6 units wide, to where
    # its gradients are large; the time tells the LSTM when.
    optimizer="RNNprop(output_scale=1.0, time_scales=(10, 50))",
    num_epochs=240,
    num_steps=128,
    unroll_length=32,
    learning_rate=0.01,
    clip_norm=1.0,
    relative_loss=True,
    evaluation_epochs=4,
    num_draws=16,
  ),
  "cifar10": Preset(
    "cifar10_conv",
    {"batch_size": 32},
    "CIFAR-10, the paper's convolutional net, by two LSTMs",
    optimizer=_BY_LAYER,
    # Over 1,000 steps, the meta-gradients of short windows lead astray; a teacher does
    # not. Staggered episodes keep what was learned for one age while others are met.
    num_epochs=1,
    num_steps=1000,
    unroll_length=2,
    learning_rate=0.005,
    clip_norm=1.0,
    relative_loss=True,
    evaluation_epochs=1,
    num_draws=3,
    meta_gradient="StaggeredBPTT(lanes=6)",
    imitation="GeneralRule()",
    imitation_weight=100.0,
    imitation_half_life=math.inf,
  ),
  "general": Preset(
    "small_classifiers",
    {},
    "12 small nets on digits, iris and wine",
    optimizer="RNNprop",
    # In late windows of longer episodes the meta-gradients are a hundred times as large
    # and change direction; trained on these, the optimizer is worse after 1,000 steps.
    num_epochs=60,
    num_steps=200,
    unroll_length=20,
    clip_norm=1.0,
    relative_loss=True,
    evaluation_epochs=3,
    num_draws=4,
  ),
}


# The recipe for a problem of the user's own: that for networks on real data.
OWN_RECIPE = PRESETS["mnist_mlp"]._replace(problem=OWN, description="your own")


def get(name: str) -> Preset:
  """Returns the recipe of a problem; no code of the user's own is run yet.

  Args:
    name: one of `PRESETS`; or a call of a name in `l2l_tf.problems`, such as
      "Quadratic(num_dims=3)", which gets the recipe of the preset most like it; or a
      Python file and a function in it that returns a problem, as in `OWN`, with or
      without arguments. A module's dotted name may stand for the file.

  Raises:
    ValueError: for another name, with the valid ones, or a file that does not exist.
  """
  if name in PRESETS:
    return PRESETS[name]
  try:
    expression = vocabulary.check(name, "problem")
  except ValueError as e:
    is_call = "(" in name or ":" in name.strip(":")
    raise ValueError(
      f"{e}"
      if is_call
      else f"Unknown problem {name!r}; choose one of"
      f" {', '.join(PRESETS)}, write one such as 'Quadratic(num_dims=3)', or name a"
      f" function of your own that returns a problem, as in {OWN}."
    ) from None
  if expression.source is not None:
    return OWN_RECIPE._replace(problem=expression.text)
  recipe = _most_alike(expression.call)
  if recipe is None:
    return OWN_RECIPE._replace(problem=expression.text, description="no preset")
  return PRESETS[recipe]._replace(
    problem=expression.text, arguments={}, description=f"by the recipe of {recipe}"
  )


def _most_alike(call: expressions.Call) -> str | None:
  """Returns the preset of the same name with the most arguments that the call has."""
  alike = [
    (len(preset.arguments), name)
    for name, preset in PRESETS.items()
    if preset.problem == call.name and preset.arguments.items() <= call.keywords.items()
  ]
  return max(alike, key=lambda pair: pair[0])[1] if alike else None


def short_name(name: str) -> str:
  """Returns a directory name for a problem; file_function for a/file.py:function."""
  if name in PRESETS:
    return name
  source = expressions.parse(name).source
  if source is not None:
    called = name[len(source) :]
    is_file = own_files.is_file(source)
    name = (pathlib.Path(source).stem if is_file else source.split(".")[-1]) + called
  return shortened(re.sub(r"[^\w.-]+", "_", name).strip("_"))


def shortened(name: str, most: int = _MOST_OF_A_NAME) -> str:
  """Returns the name, cut if it is too long, with a hash that keeps it distinct."""
  if len(name) <= most:
    return name
  digest = hashlib.sha256(name.encode()).hexdigest()[:8]
  return f"{name[: most - 9]}_{digest}"
