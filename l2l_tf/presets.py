"""Plain names: a problem, and the recipe that meta-trains an optimizer for it.

What each recipe reaches, and in what time, stands in README's table. Problems are
imported when one is made: `l2l-train --help` shows recipes without TensorFlow.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


def _features(*scales: int) -> str:
  """Log and sign, and the gradient itself at several magnitudes."""
  clamps = [f"clamp(scale={scale},min_value=-5,max_value=5)" for scale in scales]
  return "+".join(["log_and_sign", *clamps])


class Preset(NamedTuple):
  """A problem and the settings of its recipe; each is a flag of l2l-train too."""

  problem: str  # a name in `l2l_tf.problems`
  arguments: Mapping[str, Any]  # of that name
  description: str
  layers: tuple[int, ...] = (20, 20)
  preprocess: str = _features(20)
  output_scale: float = 0.1
  initializer: str = "truncated_normal"
  num_epochs: int = 600
  num_steps: int = 100
  unroll_length: int = 10
  learning_rate: float = 0.003
  clip_norm: float = 0.1
  evaluation_epochs: int = 8
  num_draws: int = 8  # of an evaluation

  def make_problem(self) -> Any:
    """Builds the problem, an `l2l_tf.problems.Problem`."""
    from l2l_tf import problems

    return getattr(problems, self.problem)(**self.arguments)


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
}


def get(name: str) -> Preset:
  """Returns the preset of that name, or raises ValueError with the valid ones."""
  if name not in PRESETS:
    raise ValueError(f"Unknown problem {name!r}; choose one of {', '.join(PRESETS)}.")
  return PRESETS[name]
