"""Bowls, norms, chains, wells and snakes: values and gradients, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems import (
  Bowl,
  DependencyChain,
  MinMaxWell,
  Norm,
  OutwardSnake,
  ProjectionQuadratic,
)

PROBLEMS = {
  "bowl, plane": Bowl(5.0, np.pi / 4, dtype=tf.float64),
  "bowl, 6-d": Bowl(100.0, num_dims=6, dtype=tf.float64),
  "norm, 1": Norm(4, 1.0, tf.float64),
  "norm, 3": Norm(5, 3.0, tf.float64),
  "chain": DependencyChain(4, tf.float64),
  "well": MinMaxWell(5, tf.float64),
  "snake": OutwardSnake(4, 8, tf.float64),
  "projection": ProjectionQuadratic(3, 4, tf.float64),
}


def value_and_gradient(problem, theta, constants, seed):
  x = tf.constant(theta, tf.float64)
  with tf.GradientTape() as tape:
    tape.watch(x)
    value = problem([x], constants, seed)
  return value.numpy(), tape.gradient(value, x).numpy()


def value(problem, theta, constants=(), seed=0):
  return value_and_gradient(problem, theta, constants, seeds.make(seed))[0]


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_equal_finite_differences(name):
  problem, seed, step = PROBLEMS[name], seeds.make(1), 1e-6
  (theta,), constants = problem.init(seeds.make(2))
  theta = theta.numpy()
  assert problem.parameters()[0].shape == theta.shape
  _, gradient = value_and_gradient(problem, theta, constants, seed)
  at = lambda x: value_and_gradient(problem, x, constants, seed)[0]
  differences = [
    (at(theta + step * e) - at(theta - step * e)) / (2 * step)
    for e in np.eye(len(theta))
  ]
  np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PROBLEMS)
def test_xla_computes_the_same(name):
  problem = PROBLEMS[name]

  def run(seed):
    params, constants = problem.init(seed)
    return problem(params, constants, seed)

  compiled = tf.function(run, jit_compile=True, autograph=False)
  np.testing.assert_allclose(compiled(seeds.make(3)), run(seeds.make(3)), rtol=1e-9)


@pytest.mark.parametrize("angle", [0.0, np.pi / 4, 1.0])
def test_a_bowl_in_the_plane_is_half_the_square_of_a_rotated_stretched_point(angle):
  problem = Bowl(5.0, angle, dtype=tf.float64)
  _, constants = problem.init(seeds.make(0))
  turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  matrix = np.diag(np.sqrt([5.0, 1.0])) @ turn
  for x in np.random.default_rng(0).normal(size=[5, 2]):
    expected = 0.5 * np.linalg.norm(matrix @ x) ** 2
    np.testing.assert_allclose(value(problem, x, constants), expected, rtol=1e-12)


@pytest.mark.parametrize("condition", [0.1, 1.0, 1e4])
def test_the_hessian_of_a_bowl_has_the_condition(condition):
  problem = Bowl(condition, num_dims=5, dtype=tf.float64)
  _, constants = problem.init(seeds.make(4))
  columns = [value_and_gradient(problem, e, constants, None)[1] for e in np.eye(5)]
  eigenvalues = np.linalg.eigvalsh(np.array(columns))
  expected = np.sort(np.geomspace(condition, 1.0, 5))
  np.testing.assert_allclose(eigenvalues, expected, rtol=1e-8)


def test_every_task_turns_its_bowl():
  problem = Bowl(3.0, num_dims=3, dtype=tf.float64)
  init = tf.function(lambda i: problem.init(seeds.make(0, i)), autograph=False)
  turns = np.array([init(tf.constant(i))[1][0] for i in range(300)])
  np.testing.assert_allclose(turns[0] @ turns[0].T, np.eye(3), atol=1e-12)
  # Entries of a uniform orthogonal matrix have mean 0 and variance 1 / 3.
  np.testing.assert_allclose(turns.mean(axis=0), 0.0, atol=4 / 900**0.5)
  np.testing.assert_allclose((turns**2).mean(axis=0), 1 / 3, atol=0.08)


def test_a_norm_is_numpys():
  for power in (1.0, 2.0, 2.5):
    problem = Norm(4, power, tf.float64)
    (theta,), (w, y) = problem.init(seeds.make(5))
    expected = np.linalg.norm(np.abs(w.numpy() @ theta.numpy() - y) + 1e-6, power)
    np.testing.assert_allclose(value(problem, theta, (w, y)), expected, rtol=1e-12)


def test_a_chain_by_hand():
  # 4 + 9 / 4 + 1 / 9
  found = value(DependencyChain(2, tf.float64), [2.0, 3.0, -1.0])
  np.testing.assert_allclose(found, 4 + 9 / 4 + 1 / 9, rtol=1e-6)
  (theta,), _ = DependencyChain(2).init(seeds.make(0))
  assert theta.shape == [3]


def test_only_the_least_and_the_greatest_coordinate_of_a_well_have_a_gradient():
  problem = MinMaxWell(4, tf.float64)
  found, gradient = value_and_gradient(problem, [2.0, -3.0, 0.5, 1.0], [], None)
  np.testing.assert_allclose(found, 9 + 4 - 2)
  np.testing.assert_allclose(gradient, [0, -6, -2 / 0.5**3, 0])
  assert value(problem, [1.0, -1.0, 1.0, -1.0]) == 0.0


def test_a_snakes_mean_over_steps_is_half_of_all_terms():
  problem, theta = OutwardSnake(3, 50, tf.float64), np.array([0.3, -2.0, 1.5])
  terms = [
    1 / np.linalg.norm(theta),
    (-2.0 - np.pi * np.cos(0.3)) ** 2,
    (1.5 - np.pi * np.cos(-2.0)) ** 2,
  ]
  found = [value(problem, theta, seed=i) for i in range(60)]
  error = np.linalg.norm(terms) / 2 / (50 * 60) ** 0.5
  np.testing.assert_allclose(np.mean(found), 0.5 * np.sum(terms), atol=4 * error)
  assert np.std(found) > 0


def test_a_projections_mean_over_steps_is_the_square_of_the_norm():
  problem, theta = ProjectionQuadratic(3, 20, tf.float64), np.array([1.0, -2.0, 0.5])
  found = [value(problem, theta, seed=i) for i in range(100)]
  error = (2 * np.sum(theta**4) / (20 * 100)) ** 0.5  # Var(d^2) = 2
  np.testing.assert_allclose(np.mean(found), np.sum(theta**2), atol=4 * error)
  assert value(problem, [0.0] * 3) == 0.0


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: Bowl(0.0), "condition=0.0; it must be positive"),
    (lambda: Bowl(2.0, 0.1, 3), "angle=0.1 in 3 dimensions; an angle is of"),
    (lambda: Bowl(num_dims=1), "Bowl got num_dims=1; it must be at least 2"),
    (lambda: Norm(power=0.5), "power=0.5; it must be at least 1"),
    (lambda: DependencyChain(0), "DependencyChain got num_dims=0"),
    (lambda: OutwardSnake(batch_size=0), "batch_size=0; it must be at least 1"),
  ],
)
def test_bad_arguments_are_refused_in_one_sentence(make, message):
  with pytest.raises(ValueError, match=message):
    make()
