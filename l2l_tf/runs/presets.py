"""Plain names: a problem, and the recipe that meta-trains an optimizer for it.

What each recipe reaches, and in what time, stands in README's table. Problems are
imported when one is made: `l2l-train --help` shows recipes without TensorFlow.
"""

import pathlib
import runpy
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# How a problem of the user's own is named, in place of a preset.
OWN = "path/to/file.py:function"


def _features(*scales: int) -> str:
  """Log and sign, and the gradient itself at several magnitudes."""
  clamps = [f"clamp(scale={scale},min_value=-5,max_value=5)" for scale in scales]
  return "+".join(["log_and_sign", *clamps])


class Preset(NamedTuple):
  """A problem and the settings of its recipe; each is a flag of l2l-train too."""

  problem: str  # a name in `l2l_tf.problems`, or one like `OWN`
  arguments: Mapping[str, Any]  # of that name
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
  num_draws: int = 8  # of an evaluation

  def make_problem(self) -> Any:
    """Builds the problem, an `l2l_tf.problems.Problem`."""
    from l2l_tf import problems

    if ":" in self.problem:
      return _make_own(self.problem, problems.Problem)
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
  "general": Preset(
    "small_classifiers",
    {},
    "12 small nets on digits, iris and wine",
    optimizer="RNNprop",
    # Late windows of longer episodes have meta-gradients a hundred times as large, of
    # changing direction; trained on them, the optimizer is worse after 1,000 steps.
    num_epochs=60,
    num_steps=200,
    unroll_length=20,
    clip_norm=1.0,
    relative_loss=True,
    evaluation_epochs=3,
    num_draws=4,
  ),
}


# What a problem of the user's own starts from: the recipe for nets on real data.
OWN_RECIPE = PRESETS["mnist_mlp"]._replace(problem=OWN, description="your own")


def get(name: str) -> Preset:
  """Returns the recipe of a problem; nothing of the user's own is run yet.

  Args:
    name: one of `PRESETS`; or a Python file and a function in it without arguments
      that returns a problem, as in `OWN`; a module's dotted name may stand for the
      file.

  Raises:
    ValueError: for another name, with the valid ones, or a file that is not there.
  """
  if name in PRESETS:
    return PRESETS[name]
  source, colon, function = name.rpartition(":")
  if not colon or not source or not function.isidentifier():
    raise ValueError(
      f"Unknown problem {name!r}; choose one of {', '.join(PRESETS)}, or name a"
      f" function of your own that returns a problem, as in {OWN}."
    )
  if _is_file(source) and not pathlib.Path(source).expanduser().is_file():
    raise ValueError(
      f"There is no file {source!r}, from which problem={name!r} would be made; check"
      " the path."
    )
  return OWN_RECIPE._replace(problem=name)


def short_name(name: str) -> str:
  """Returns what can name a directory: path/to/file.py:function is file_function."""
  source, colon, function = name.rpartition(":")
  if not colon:
    return name
  stem = pathlib.Path(source).stem if _is_file(source) else source.split(".")[-1]
  return f"{stem}_{function}"


def _is_file(source: str) -> bool:
  return source.endswith(".py") or "/" in source


def _make_own(name: str, problem_class: type) -> Any:
  """Calls the user's function; what it raises keeps its traceback."""
  source, _, function = name.rpartition(":")
  make = _function(source, function)
  try:
    problem = make()
  except Exception as error:
    raise RuntimeError(f"{function}() of {source} failed, see above.") from error
  if not isinstance(problem, problem_class):
    raise ValueError(
      f"{function}() of {source} returned {problem!r}; it must return a problem, such"
      " as l2l_tf.problems.keras_model(build_model, loss, dataset)."
    )
  return problem


def _function(source: str, name: str) -> Callable[[], Any]:
  """Runs a file as `python file.py` would, but under another name than __main__."""
  if _is_file(source):
    path = pathlib.Path(source).expanduser()
    sys.path.insert(0, str(path.resolve().parent))  # where it finds its neighbours
    run = lambda: runpy.run_path(str(path))
  else:
    run = lambda: runpy.run_module(source)
  try:
    found = run()
  except Exception as error:
    raise RuntimeError(f"{source} could not be run, see above.") from error
  if not callable(found.get(name)):
    raise ValueError(
      f"{source} has no function {name!r}; define it there, without arguments, to"
      " return a problem."
    )
  return found[name]
