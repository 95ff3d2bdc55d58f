"""The classic test functions of optimization, in two dimensions.

Wichrowska et al. 2017, section 4.1 and appendix, trains on them;
https://arxiv.org/abs/1703.04813. Their forms and the boxes of their starting points are
those of the authors' code, research/learned_optimizer/problems/problem_generator.py in
tensorflow/models, which adds constants so that no value is negative. Formulas and
minima: https://www.sfu.ca/~ssurjano/optimization.html.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.base import Parameter, Problem

_STEEPNESS = 5  # m of the Michalewicz function; ridges are steeper for a larger one


def ackley(x, y):
  """-20 exp(-0.2 r) - exp((cos 2 pi x + cos 2 pi y) / 2) + e + 20, 2 r^2 = x^2 + y^2.

  A cone at its minimum, 0 at the origin, where the gradient is taken to be zero.
  """
  square = 0.5 * (x**2 + y**2)
  is_zero = square == 0
  r = tf.where(is_zero, tf.zeros_like(square), tf.sqrt(tf.where(is_zero, 1.0, square)))
  waves = 0.5 * (tf.cos(2 * math.pi * x) + tf.cos(2 * math.pi * y))
  return -20.0 * tf.exp(-0.2 * r) - tf.exp(waves) + math.e + 20.0


def beale(x, y):
  """(1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2."""
  terms = zip((1.5, 2.25, 2.625), (y, y**2, y**3))
  return tf.add_n([(c - x + x * power) ** 2 for c, power in terms])


def booth(x, y):
  """(x + 2 y - 7)^2 + (2 x + y - 5)^2."""
  return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


def branin(x, y):
  """(y - 5.1 x^2 / (4 pi^2) + 5 x / pi - 6)^2 + 10 (1 - 1 / (8 pi)) cos x + 10."""
  valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
  return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * tf.cos(x) + 10


def log_sum_exp(x, y):
  """log(exp(x + 3 y - 0.1) + exp(x - 3 y - 0.1) + exp(-x - 0.1) + 1)."""
  exponents = [x + 3 * y - 0.1, x - 3 * y - 0.1, -x - 0.1, tf.zeros_like(x)]
  return tf.reduce_logsumexp(tf.stack(exponents))


def matyas(x, y):
  """0.26 (x^2 + y^2) - 0.48 x y."""
  return 0.26 * (x**2 + y**2) - 0.48 * x * y


def michalewicz(x, y):
  """2 - sin(x) sin(x^2 / pi)^10 - sin(y) sin(2 y^2 / pi)^10."""
  ridge = lambda z, i: tf.sin(z) * tf.sin(i * z**2 / math.pi) ** (2 * _STEEPNESS)
  return 2.0 - ridge(x, 1) - ridge(y, 2)


def rosenbrock(x, y):
  """(1 - x)^2 + 100 (y - x^2)^2."""
  return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def saddle(x, y):
  """x^2 - y^2, which has no minimum and may be negative."""
  return x**2 - y**2


def styblinski_tang(x, y):
  """((x^4 - 16 x^2 + 5 x) + (y^4 - 16 y^2 + 5 y)) / 2 + 80."""
  term = lambda z: z**4 - 16 * z**2 + 5 * z
  return 0.5 * (term(x) + term(y)) + 80


class _Start(NamedTuple):
  """A box from which starting points are drawn uniformly."""

  low: tuple[float, float]
  high: tuple[float, float]


def _square(low: float, high: float) -> _Start:
  return _Start((low, low), (high, high))


# Name -> the function, and where runs start; None is N(0, 1) in both coordinates.
_FUNCTIONS: dict[str, tuple[Callable, _Start | None]] = {
  "ackley": (ackley, _square(-32.768, 32.768)),
  "beale": (beale, _square(-4.5, 4.5)),
  "booth": (booth, _square(-10.0, 10.0)),
  "branin": (branin, _Start((-5.0, 0.0), (10.0, 15.0))),
  "log_sum_exp": (log_sum_exp, None),
  "matyas": (matyas, _square(-10.0, 10.0)),
  "michalewicz": (michalewicz, _square(0.0, math.pi)),
  "rosenbrock": (rosenbrock, _square(-5.0, 10.0)),
  "saddle": (saddle, None),
  "styblinski_tang": (styblinski_tang, _square(-5.0, 5.0)),
}


class ClassicFunction(Problem):
  """A classic test function of two coordinates, such as Rosenbrock's valley.

  A task is a starting point. All functions but the saddle are at least zero.

  >>> problem = ClassicFunction("booth", dtype=tf.float64)
  >>> float(problem([tf.constant([1.0, 3.0], tf.float64)], [], tf.constant([0, 1])))
  0.0
  """

  jit_compile = True

  def __init__(self, name: str = "rosenbrock", dtype: tf.DType = tf.float32):
    """Initializes the problem.

    Args:
      name: "ackley", "beale", "booth", "branin", "log_sum_exp", "matyas",
        "michalewicz", "rosenbrock", "saddle" or "styblinski_tang".
      dtype: floating type of the point and the value.

    Raises:
      ValueError: for another name.
    """
    if name not in _FUNCTIONS:
      raise ValueError(
        f"ClassicFunction got name={name!r}; choose one of {', '.join(_FUNCTIONS)}."
      )
    self._function, self._start = _FUNCTIONS[name]
    self._dtype = dtype

  def init(self, seed):
    if self._start is None:
      return [seeds.normal([2], seed, dtype=self._dtype)], []
    low, high = (tf.constant(x, self._dtype) for x in self._start)
    return [low + (high - low) * seeds.uniform([2], seed, self._dtype)], []

  def __call__(self, params, constants, seed):
    return self._function(*tf.unstack(params[0]))

  def parameters(self):
    return [Parameter("point", (2,), "variable")]
