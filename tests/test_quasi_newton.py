"""BFGS and L-BFGS: what they minimize, and what counts as a step."""

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.evaluation import protocol, quasi_newton
from l2l_tf.evaluation.runner import Runner
from l2l_tf.meta import unroll
from l2l_tf.optimizers import SGD
from l2l_tf.problems import Problem, Quadratic, TaskBatch

METHODS = pytest.mark.parametrize(
  "method", quasi_newton.METHODS.values(), ids=quasi_newton.METHODS
)


def run(problem, num_steps, method, num_draws=1):
  counts = num_steps, num_draws, 0, seeds.EVALUATION
  return quasi_newton.run(problem, *counts, method=method)


class Valley(Problem):
  """(a - c)^2 + 100 (b_0 b_1 - 1)^2 for a drawn c; reports theta and c."""

  def init(self, seed):
    return [tf.zeros([]), tf.constant([2.0, 1.0])], [seeds.uniform([], seed)]

  def __call__(self, params, constants, seed):
    a, b = params
    product = tf.reduce_prod(b)
    return (a - constants[0]) ** 2 + 100.0 * (product - 1.0) ** 2

  def held_out(self, params, constants):
    return {"a": params[0], "c": constants[0], "product": tf.reduce_prod(params[1])}


class Noisy(Problem):
  """theta^2 plus noise that the mini-batch draws."""

  def init(self, seed):
    return [tf.ones([2])], ()

  def __call__(self, params, constants, seed):
    return tf.reduce_sum(params[0] ** 2) + seeds.uniform([], seed)


class Square(Problem):
  """x^2 from x = 1; reports x."""

  def init(self, seed):
    return [tf.ones([])], ()

  def __call__(self, params, constants, seed):
    return params[0] ** 2

  def held_out(self, params, constants):
    return {"x": params[0]}


class Positive(Square):
  def project(self, params, constants):
    return [tf.maximum(params[0], 0.0)]


def by_numpy(w, y, start, num_steps, method):
  """Returns the least ||W x - y||^2 up to each evaluation, without TensorFlow."""
  losses = []

  def value_and_gradient(x):
    rest = w @ x - y
    losses.append(rest @ rest)
    return losses[-1], 2 * w.T @ rest

  options = {"gtol": 0.0} | ({"ftol": 0.0, "maxcor": 20} if "-" in method.name else {})
  name = method.scipy_name
  scipy.optimize.minimize(
    value_and_gradient, start, jac=True, method=name, options=options
  )
  return np.minimum.accumulate(losses)[: num_steps + 1]


@METHODS
def test_each_quadratic_of_a_batch_is_minimized_by_itself(method):
  problem = Quadratic(batch_size=3, num_dims=4, dtype=tf.float64)
  curves = run(problem, 12, method, num_draws=2)
  assert curves.losses.shape == (6, 13)
  for i in range(2):
    key = seeds.make(0, seeds.EVALUATION, i)
    task, (start,) = unroll.draw(problem, key)
    for j, (w, y) in enumerate(zip(*task.constants)):
      mine = w.numpy(), y.numpy(), start[j].numpy()
      expected = by_numpy(*mine, 12, method)
      assert len(expected) == 13
      found = curves.losses[3 * i + j]
      np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


@METHODS
def test_ten_dimensional_quadratics_end_at_their_minimum(method):
  losses = run(Quadratic(batch_size=4), 100, method).losses
  assert losses.shape == (4, 101) and losses.dtype == np.float32
  assert np.all(np.diff(losses, axis=1) <= 0)
  assert np.all(losses[:, -1] < 1e-6 * losses[:, 0])
  assert np.all(losses[:, 5] > 1e-3 * losses[:, 0])  # Nobody is there after five.


@METHODS
def test_tasks_of_several_tensors_end_at_their_own_minima(method):
  problem = TaskBatch(Valley(), 3)
  curves = run(problem, 60, method)
  assert np.all(curves.losses[:, -1] < 1e-6)
  found = {name: values[0] for name, values in curves.held_out.items()}  # means
  np.testing.assert_allclose([found["a"], found["product"]], [found["c"], 1], atol=1e-3)
  (alone,) = run(Valley(), 60, method).losses
  assert alone[0] > 100.0 and alone[-1] < 1e-6


@METHODS
def test_a_shorter_run_is_the_beginning_of_a_longer_one(method):
  short, long = (run(Valley(), n, method).losses for n in (7, 15))
  np.testing.assert_array_equal(short, long[:, :8])
  assert long[0, 15] < short[0, 7]


@METHODS
def test_every_evaluation_is_a_step_and_shows_the_best_iterate(method, monkeypatch):
  evaluated = []

  def minimize(function, start, **unused_options):
    for x in (start, [3.0], [0.5], [np.nan], [2.0], [0.1]):
      evaluated.append(function(np.array(x, np.float64)))

  monkeypatch.setattr(scipy.optimize, "minimize", minimize)
  curves = run(Square(), 4, method)
  np.testing.assert_array_equal(curves.losses, [[1.0, 1.0, 0.25, 0.25, 0.25]])
  np.testing.assert_array_equal(curves.held_out["x"], [0.5])
  values, gradients = zip(*evaluated)  # of five, as the sixth is one too many
  np.testing.assert_array_equal(values, [1.0, 9.0, 0.25, np.nan, 4.0])
  np.testing.assert_array_equal(np.ravel(gradients), [2.0, 6.0, 1.0, np.nan, 4.0])


@METHODS
def test_on_mini_batches_it_is_reported_on_those_that_all_others_meet(method):
  curves = run(Noisy(), 20, method, num_draws=2)
  there_at_once = Runner(Noisy(), SGD(0.5), 20)(0, seeds.EVALUATION, 2)
  assert len(np.unique(there_at_once.losses)) == 2 * 21
  first, *_, last = np.moveaxis(curves.losses - there_at_once.losses, 1, 0)
  np.testing.assert_allclose(first, 0.0, atol=1e-6)
  np.testing.assert_allclose(last, 0.0, atol=1e-6)


@METHODS
def test_constraints_are_refused(method):
  with pytest.raises(ValueError, match=f"{method.name} got Positive, which has constr"):
    run(Positive(), 5, method)


def test_bfgs_keeps_no_matrix_that_is_too_large(monkeypatch):
  class Large(Noisy):
    def init(self, seed):
      return [tf.ones([71, 71])], ()

  limit = "Large, whose tasks have 5041 .* up to 5000 .*, so take L-BFGS instead"
  with pytest.raises(ValueError, match=limit):
    run(Large(), 5, quasi_newton.BFGS)
  quasi_newton.check(Large(), quasi_newton.LBFGS)
  # Of one task: 600 quadratics of 10 dimensions are no problem.
  quasi_newton.check(Quadratic(600), quasi_newton.BFGS)


def test_beside_learned_and_tuned_optimizers_it_has_no_rate():
  problem = Quadratic(batch_size=2, num_dims=3)
  baselines = {"SGD": SGD, **quasi_newton.METHODS}
  curves = protocol.compare(
    problem, {"a": SGD(0.1)}, 6, 2, baselines=baselines, learning_rates=[0.1]
  )
  assert list(curves) == ["a", "SGD", "BFGS", "L-BFGS"]
  for name in ("BFGS", "L-BFGS"):
    assert curves[name].is_baseline and curves[name].learning_rate is None
    assert curves[name].losses.shape == curves["a"].losses.shape == (4, 7)
    np.testing.assert_allclose(
      curves[name].losses[:, 0], curves["a"].losses[:, 0], rtol=1e-6
    )
  assert curves["SGD"].is_baseline and not curves["a"].is_baseline


def test_what_cannot_be_minimized_is_refused_before_anything_runs(monkeypatch):
  monkeypatch.setattr(protocol, "Runner", None)
  with pytest.raises(ValueError, match="BFGS got Positive"):
    protocol.compare(Positive(), {"a": SGD(0.1)}, baselines=quasi_newton.METHODS)
