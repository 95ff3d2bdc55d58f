import math

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import SGD, RNNprop
from l2l_tf.problems import (
  MLP,
  Quadratic,
  ScaledLoss,
  ScaledParameters,
  Simple,
  as_dataset,
)


def classifier():
  rng = np.random.default_rng(0)
  images, labels = rng.normal(size=[9, 4]), np.arange(9) % 3
  return MLP(as_dataset(images, labels, images, labels), (5,), "tanh", 8, "fan_in")


def run(problem, optimizer, num_steps=20):
  """Returns the losses of the tasks along a run."""
  task, carry = unroll.start(problem, optimizer, seeds.make(3))
  _, losses = unroll.unroll(
    problem,
    optimizer,
    task,
    carry,
    num_steps,
    lambda c, updates: problem.task_losses(
      c.params, task.constants, unroll.step_seed(task, c.step)
    ),
  )
  return losses.numpy()


def drawn(problem, seed):
  """Draws a task; returns it with its loss and gradients on one mini-batch."""
  params, constants = problem.init(seeds.make(seed))
  with tf.GradientTape() as tape:
    tape.watch(params)
    loss = problem(params, constants, seeds.make(7))
  return params, constants, loss, tape.gradient(loss, params)


def test_loss_and_gradient_are_those_of_the_problem_times_the_scale():
  inner, problem = Quadratic(4, 3), ScaledLoss(Quadratic(4, 3), 1e-2, 1e2)
  params, (constants, scale), loss, (grad,) = drawn(problem, 1)
  with tf.GradientTape() as tape:
    tape.watch(params)
    expected = inner(params, constants, seeds.make(7))
  np.testing.assert_allclose(loss, scale * expected, rtol=1e-6)
  np.testing.assert_allclose(grad, scale * tape.gradient(expected, params)[0], 1e-5)


def test_scales_are_log_uniform_over_the_range_and_named_by_the_seed():
  problem = ScaledLoss(Quadratic(1, 1), 1e-3, 1e3)
  draw = tf.function(lambda i: problem.init(seeds.make(0, i))[1][1])
  logs = np.array([np.log10(draw(tf.constant(i))) for i in range(500)])
  assert -3 <= logs.min() < -2.9 and 2.9 < logs.max() <= 3
  assert abs(logs.mean()) < 4 * np.sqrt(3 / 500)  # variance 6^2 / 12
  assert abs((logs < 0).mean() - 0.5) < 0.1
  assert logs[0] == np.log10(draw(tf.constant(0)))


def test_reported_losses_do_not_tell_the_scale():
  """What a task costs is the same in any unit, hence comparable."""
  params, constants = ScaledLoss(classifier(), 50, 60).init(seeds.make(1))
  problem, inner = ScaledLoss(classifier(), 50, 60), classifier()
  seed = seeds.make(2)
  (reported,) = problem.task_losses(params, constants, seed)
  assert reported == inner(params, [], seed)
  assert 50 <= problem(params, constants, seed) / reported <= 60
  assert problem.held_out(params, constants) == inner.held_out(params, [])


def test_a_scale_invariant_optimizer_runs_the_same_in_any_unit():
  big, small = (ScaledLoss(classifier(), s, s) for s in (1e3, 1e-3))
  optimizer = RNNprop()
  np.testing.assert_allclose(run(big, optimizer), run(small, optimizer), rtol=1e-3)
  assert not np.allclose(run(big, SGD(0.1)), run(small, SGD(0.1)), rtol=1e-1)


def test_scaled_parameters_start_at_the_same_point_with_scaled_gradients():
  low, high = math.exp(-2), math.exp(2)
  inner, problem = classifier(), ScaledParameters(classifier(), low, high)
  params, (constants, scales), loss, grads = drawn(problem, 1)
  plain = [c * p for p, c in zip(params, scales)]
  expected, _ = inner.init(seeds.split(seeds.make(1), 2)[0])
  with tf.GradientTape() as tape:
    tape.watch(expected)
    expected_loss = inner(expected, constants, seeds.make(7))
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  expected_grads = tape.gradient(expected_loss, expected)
  for p, e, g, eg, c in zip(plain, expected, grads, expected_grads, scales):
    np.testing.assert_allclose(p, e, rtol=1e-5)
    np.testing.assert_allclose(g, c * eg, rtol=1e-4, atol=1e-6)
  flat = np.concatenate([np.ravel(c) for c in scales])
  assert low <= flat.min() < 0.5 and 2 < flat.max() <= high
  assert len(np.unique(flat)) == len(flat)


def test_scaled_parameters_report_the_problems_own_losses():
  problem, inner = ScaledParameters(classifier()), classifier()
  params, (constants, scales) = problem.init(seeds.make(1))
  plain = [c * p for p, c in zip(params, scales)]
  seed = seeds.make(2)
  np.testing.assert_array_equal(
    problem.task_losses(params, (constants, scales), seed),
    inner.task_losses(plain, constants, seed),
  )
  found = problem.held_out(params, (constants, scales))
  assert found == inner.held_out(plain, constants)


@pytest.mark.parametrize("wrapper", [ScaledLoss, ScaledParameters])
def test_it_is_described_and_compiled_as_the_problem(wrapper):
  assert wrapper(classifier()).parameters() == classifier().parameters()
  assert wrapper(Quadratic()).jit_compile is Quadratic().jit_compile


@pytest.mark.parametrize("wrapper", [ScaledLoss, ScaledParameters])
@pytest.mark.parametrize("low, high", [(0, 1), (2, 1), (1, math.inf), (math.nan, 1)])
def test_a_bad_range_is_refused(wrapper, low, high):
  with pytest.raises(ValueError, match=f"{wrapper.__name__} got low=.+ low at most"):
    wrapper(Quadratic(), low, high)


class Bounded(Simple):
  """Updates of x end at 0.5 or above it."""

  def project(self, params, constants):
    return [tf.maximum(params[0], 0.5)]


@pytest.mark.parametrize("wrapper", [ScaledLoss, ScaledParameters])
def test_constraints_hold_for_what_is_scaled(wrapper):
  problem = wrapper(Bounded(), 1.5, 3.0)
  assert problem.is_constrained and not wrapper(Simple(), 1.5, 3.0).is_constrained
  optimizer = SGD(0.4)
  task, carry = unroll.start(problem, optimizer, seeds.make(0))
  end, _ = unroll.unroll(problem, optimizer, task, carry, 9)
  scale = task.constants[1][0] if wrapper is ScaledParameters else 1.0
  np.testing.assert_allclose(scale * end.params[0], 0.5, rtol=1e-6)
