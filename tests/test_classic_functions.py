"""The classic test functions: values, gradients and minima, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems import ClassicFunction, Parameter

E, PI = np.e, np.pi


def bisected(f, low, high):
  """Returns a root of f between low and high, at which f has different signs."""
  for _ in range(100):
    middle = (low + high) / 2
    low, high = (middle, high) if f(low) * f(middle) > 0 else (low, middle)
  return low


def ridge(z, i):
  return np.sin(z) * np.sin(i * z**2 / PI) ** 10


# The formulas of https://www.sfu.ca/~ssurjano/optimization.html and of the paper's
# code, written once more, and as functions of a point.
FORMULAS = {
  "ackley": lambda p: (
    20 - 20 * np.exp(-0.2 * np.sqrt(np.mean(p**2)))
    + E - np.exp(np.mean(np.cos(2 * PI * p)))
  ),
  "beale": lambda p: sum(
    (c - p[0] * (1 - p[1] ** k)) ** 2 for k, c in [(1, 1.5), (2, 2.25), (3, 2.625)]
  ),
  "booth": lambda p: np.sum((np.array([[1, 2], [2, 1]]) @ p - [7, 5]) ** 2),
  "branin": lambda p: (
    (p[1] - 5.1 * (p[0] / (2 * PI)) ** 2 + 5 * p[0] / PI - 6) ** 2
    + 10 * (np.cos(p[0]) + 1) - 10 / (8 * PI) * np.cos(p[0])
  ),
  "log_sum_exp": lambda p: np.log(
    1 + E**-0.1 * (2 * np.exp(p[0]) * np.cosh(3 * p[1]) + np.exp(-p[0]))
  ),
  "matyas": lambda p: 0.02 * (p[0] ** 2 + p[1] ** 2) + 0.24 * (p[0] - p[1]) ** 2,
  "michalewicz": lambda p: 2 - ridge(p[0], 1) - ridge(p[1], 2),
  "rosenbrock": lambda p: (p[0] - 1) ** 2 + (10 * p[1] - 10 * p[0] ** 2) ** 2,
  "saddle": lambda p: (p[0] - p[1]) * (p[0] + p[1]),
  "styblinski_tang": lambda p: np.polyval([0.5, 0, -8, 2.5, 40], p).sum(),
}  # fmt: skip

_TANG = bisected(lambda z: 4 * z**3 - 32 * z + 5, -3.0, -2.8)
# d log(sin x sin(x^2 / pi)^10) / dx = cot x + (20 x / pi) cot(x^2 / pi)
_MICHALEWICZ = bisected(
  lambda x: 1 / np.tan(x) + 20 * x / PI / np.tan(x**2 / PI), 2.0, 2.3
)
# Name -> value of the global minimum, and its places.
MINIMA = {
  "ackley": (0.0, [(0.0, 0.0)]),
  "beale": (0.0, [(3.0, 0.5)]),
  "booth": (0.0, [(1.0, 3.0)]),
  "branin": (10 / (8 * PI), [(-PI, 12.275), (PI, 2.275), (3 * PI, 2.475)]),
  "log_sum_exp": (np.log(1 + 8**0.5 * E**-0.1), [(-np.log(2) / 2, 0.0)]),
  "matyas": (0.0, [(0.0, 0.0)]),
  "michalewicz": (1 - ridge(_MICHALEWICZ, 1), [(_MICHALEWICZ, PI / 2)]),
  "rosenbrock": (0.0, [(1.0, 1.0)]),
  "styblinski_tang": (80 - 78.33233140754284, [(_TANG, _TANG)]),
}


def value_and_gradient(name, point, dtype=tf.float64):
  x = tf.constant(point, dtype)
  with tf.GradientTape() as tape:
    tape.watch(x)
    value = ClassicFunction(name, dtype)([x], [], seeds.make(0))
  return value.numpy(), tape.gradient(value, x).numpy()


def starts(name, count):
  problem = ClassicFunction(name, tf.float64)
  draw = tf.function(lambda i: problem.init(seeds.make(0, i))[0][0], autograph=False)
  return np.array([draw(tf.constant(i)) for i in range(count)])


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients_are_those_of_the_formula(name):
  formula, step = FORMULAS[name], 1e-6
  for point in starts(name, 5):
    value, gradient = value_and_gradient(name, point)
    np.testing.assert_allclose(value, formula(point), rtol=1e-10)
    differences = [
      (formula(point + step * e) - formula(point - step * e)) / (2 * step)
      for e in np.eye(2)
    ]
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", MINIMA)
def test_the_gradient_is_zero_at_the_minima_and_the_value_is_known(name):
  lowest, places = MINIMA[name]
  for place in places:
    value, gradient = value_and_gradient(name, place)
    np.testing.assert_allclose(value, lowest, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-9)
    for direction in np.random.default_rng(0).normal(size=[20, 2]):
      near = np.array(place) + 0.01 * direction
      assert FORMULAS[name](near) > lowest


@pytest.mark.parametrize("name", MINIMA)
def test_no_value_on_a_grid_is_below_the_minimum(name):
  lowest, _ = MINIMA[name]
  drawn = starts(name, 300)
  grid = [np.linspace(*x, 50) for x in zip(drawn.min(axis=0), drawn.max(axis=0))]
  values = [FORMULAS[name](np.array([x, y])) for x in grid[0] for y in grid[1]]
  assert min(values) >= lowest >= -1e-12


@pytest.mark.parametrize(
  "name, low, high",
  [
    ("ackley", [-32.768] * 2, [32.768] * 2),
    ("branin", [-5, 0], [10, 15]),
    ("michalewicz", [0, 0], [PI, PI]),
    ("rosenbrock", [-5, -5], [10, 10]),
  ],
)
def test_starts_fill_their_box(name, low, high):
  share = (starts(name, 400) - low) / np.subtract(high, low)
  assert np.all(share >= 0) and np.all(share < 1)
  np.testing.assert_allclose(share.mean(axis=0), 0.5, atol=4 * (1 / 12 / 400) ** 0.5)
  np.testing.assert_allclose(share.std(axis=0), (1 / 12) ** 0.5, atol=0.04)
  assert abs(np.corrcoef(share.T)[0, 1]) < 4 / 400**0.5


@pytest.mark.parametrize("name", ["log_sum_exp", "saddle"])
def test_other_starts_are_normal(name):
  drawn = starts(name, 400)
  np.testing.assert_allclose(drawn.mean(axis=0), 0.0, atol=4 / 400**0.5)
  np.testing.assert_allclose(drawn.std(axis=0), 1.0, atol=4 / 800**0.5)


def test_the_seed_names_the_start():
  a, b, c = (
    ClassicFunction("booth").init(seeds.make(i))[0][0].numpy() for i in (1, 1, 2)
  )
  np.testing.assert_array_equal(a, b)
  assert np.all(a != c)
  assert ClassicFunction("booth").parameters() == [Parameter("point", (2,), "variable")]


def test_second_derivatives_at_the_tip_of_ackleys_cone_are_finite():
  x = tf.zeros([2])
  with tf.GradientTape() as outer:
    outer.watch(x)
    with tf.GradientTape() as tape:
      tape.watch(x)
      value = ClassicFunction("ackley")([x], [], seeds.make(0))
    gradient = tape.gradient(value, x)
  assert np.all(np.isfinite(outer.jacobian(gradient, x)))


def test_an_unknown_name_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="name='rosenbrok'; choose one of ackley, beale"):
    ClassicFunction("rosenbrok")
