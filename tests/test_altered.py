"""Noisy gradients, sparse gradients and logarithms of the loss."""

import math

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import TruncatedBPTT
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import SGD, CoordinatewiseLSTM
from l2l_tf.problems import (
  MLP,
  LogLoss,
  NoisyGradients,
  Polynomial,
  Problem,
  Quadratic,
  ScaledParameters,
  Simple,
  SparseGradients,
  TaskBatch,
  as_dataset,
)

COUNT = 2000  # draws of statistical tests, which allow four standard errors


class Two(Problem):
  """f = sum of a^2 + 3 b for two parameters of one shape, and everything else."""

  def init(self, seed):
    return [tf.ones([3], tf.float64), tf.ones([3], tf.float64)], [
      seeds.uniform([], seed)
    ]

  def __call__(self, params, constants, seed):
    return tf.reduce_sum(params[0] ** 2 + 3 * params[1])

  def meta_loss(self, params, constants, seed):
    return 7 * self(params, constants, seed)

  def project(self, params, constants):
    return [tf.minimum(p, 2.0) for p in params]

  def held_out(self, params, constants):
    return {"accuracy": constants[0]}

  def data_sources(self):
    return [("train", [np.zeros([4])])]


A, B = [0.5, -1.0, 2.0], [1.0, 1.0, 1.0]
GRADIENT = np.array([[1.0, -2.0, 4.0], [3.0, 3.0, 3.0]])  # of Two at (A, B)


def loss_and_gradients(problem, params, constants, seed):
  with tf.GradientTape() as tape:
    tape.watch(params)
    loss = problem(params, constants, seed)
  return loss, tape.gradient(loss, params)


@pytest.fixture(scope="module")
def drawn():
  """Returns a problem's loss and gradients at (A, B) in many steps."""

  def draw(problem):
    params = [tf.constant(x, tf.float64) for x in (A, B)]
    _, constants = problem.init(seeds.make(0))
    one = tf.function(
      lambda i: loss_and_gradients(problem, params, constants, seeds.make(5, i)),
      autograph=False,
    )
    each = [one(tf.constant(i)) for i in range(COUNT)]
    return np.array([x for x, _ in each]), np.array([g for _, g in each])

  return draw


def test_noise_is_normal_around_the_gradient_and_leaves_the_loss(drawn):
  losses, gradients = drawn(NoisyGradients(Two(), stddev=0.3))
  np.testing.assert_array_equal(losses, 5.25 + 9.0)
  noise = (gradients - GRADIENT).reshape(COUNT, 6) / 0.3
  np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=4 / COUNT**0.5)
  np.testing.assert_allclose(np.cov(noise.T), np.eye(6), atol=4 * (2 / COUNT) ** 0.5)
  assert abs((np.abs(noise) < 1).mean() - 0.6827) < 0.02
  steps = np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]
  assert abs(steps) < 4 / COUNT**0.5


def test_zeros_are_independent_and_what_is_left_is_the_gradient(drawn):
  losses, gradients = drawn(SparseGradients(Two(), zero_probability=0.8))
  np.testing.assert_array_equal(losses, 5.25 + 9.0)
  left = gradients != 0
  np.testing.assert_allclose(gradients[left], np.tile(GRADIENT, (COUNT, 1, 1))[left])
  error = (0.2 * 0.8 / COUNT) ** 0.5
  np.testing.assert_allclose(left.mean(axis=0), 0.2, atol=4 * error)
  correlations = np.corrcoef(left.reshape(COUNT, 6).T)
  np.testing.assert_allclose(correlations, np.eye(6), atol=4 / COUNT**0.5)


def test_rescaled_sparse_gradients_are_unbiased(drawn):
  losses, gradients = drawn(SparseGradients(Two(), 0.8, rescaled=True))
  np.testing.assert_allclose(losses, 5.25 + 9.0)
  error = np.abs(GRADIENT) * (0.8 / 0.2 / COUNT) ** 0.5
  assert np.all(np.abs(gradients.mean(axis=0) - GRADIENT) < 4 * error)
  biased = drawn(SparseGradients(Two(), 0.8))[1].mean(axis=0)
  np.testing.assert_allclose(biased, 0.2 * gradients.mean(axis=0))


def test_a_coordinate_that_is_zero_hides_what_is_not_finite():
  class Broken(Simple):
    def __call__(self, params, constants, seed):
      return params[0] * float("nan")

  problem = SparseGradients(Broken(), 1 - 1e-6)
  _, (grad,) = loss_and_gradients(problem, [tf.ones([])], [], seeds.make(0))
  assert grad == 0.0


@pytest.mark.parametrize(
  "wrap", [lambda p: NoisyGradients(p, 0.1), lambda p: SparseGradients(p, 0.5)]
)
def test_the_steps_seed_names_both_and_mini_batches_stay_the_same(wrap):
  plain, problem = Polynomial(5, 8), wrap(Polynomial(5, 8))
  params, constants = problem.init(seeds.make(1))
  compiled = tf.function(
    lambda seed: loss_and_gradients(problem, params, constants, seed),
    jit_compile=True,
    autograph=False,
  )
  for seed in (seeds.make(2), seeds.make(3)):
    loss, (grad,) = loss_and_gradients(problem, params, constants, seed)
    np.testing.assert_allclose(loss, plain(params, constants, seed), rtol=1e-6)
    _, (again,) = loss_and_gradients(problem, params, constants, seed)
    np.testing.assert_array_equal(grad, again)
    _, (by_xla,) = compiled(seed)
    np.testing.assert_allclose(grad, by_xla, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [NoisyGradients, SparseGradients])
def test_meta_losses_have_the_true_gradient(kind):
  problem = kind(Quadratic(1, 3))
  assert problem.has_meta_loss and problem.num_tasks == 1
  params, constants = problem.init(seeds.make(0))
  seed = seeds.make(1)
  with tf.GradientTape() as tape:
    tape.watch(params)
    meta_loss = problem.meta_loss(params, constants, seed)
  _, expected = loss_and_gradients(Quadratic(1, 3), params, constants, seed)
  np.testing.assert_array_equal(tape.gradient(meta_loss, params)[0], expected[0])
  loss, spoiled = loss_and_gradients(problem, params, constants, seed)
  np.testing.assert_allclose(loss, meta_loss)
  assert np.any(spoiled[0] != expected[0])


def test_tasks_of_a_batch_have_noise_of_their_own():
  problem = TaskBatch(NoisyGradients(Simple(), 1.0), 3)
  params, constants = problem.init(seeds.make(0))
  loss, (grads,) = loss_and_gradients(problem, params, constants, seeds.make(1))
  assert loss == 3.0 and len(set(grads.numpy())) == 3


def test_a_quadratic_under_sgd_and_noise_ends_where_the_theory_says():
  """E x^2 = r^2 s^2 / (1 - (1 - 2 r)^2), with rate r and noise s, on f = x^2."""
  rate, stddev = 0.1, 0.5
  problem, optimizer = NoisyGradients(Simple(), stddev), SGD(rate)
  task, carry = unroll.start(problem, optimizer, seeds.make(4))
  run = tf.function(unroll.unroll, autograph=False)
  _, losses = run(problem, optimizer, task, carry, tf.constant(5000))
  expected = rate**2 * stddev**2 / (1 - (1 - 2 * rate) ** 2)
  np.testing.assert_allclose(losses[100:].numpy().mean(), expected, rtol=0.15)


def test_the_logarithm_and_its_gradient():
  problem = LogLoss(Two(), epsilon=0.5)
  params = [tf.constant(x, tf.float64) for x in (A, B)]
  loss, grads = loss_and_gradients(problem, params, [0.0], seeds.make(0))
  np.testing.assert_allclose(loss, math.log(14.25 + 0.5) - math.log(0.5))
  np.testing.assert_allclose(grads, GRADIENT / (14.25 + 0.5))
  meta_loss = problem.meta_loss(params, [0.0], seeds.make(0))
  np.testing.assert_allclose(meta_loss, math.log(7 * 14.25 + 0.5) - math.log(0.5))
  assert problem.task_losses(params, [0.0], seeds.make(0)) == [14.25]
  zero = LogLoss(Simple())([tf.zeros([])], [], seeds.make(0))
  np.testing.assert_allclose(zero, 0.0, atol=1e-5)


WRAPPERS = {"noise": NoisyGradients, "sparse": SparseGradients, "log": LogLoss}


@pytest.mark.parametrize("name", WRAPPERS)
def test_everything_else_is_forwarded(name):
  inner, problem = Two(), WRAPPERS[name](Two())
  params, constants = problem.init(seeds.make(3))
  assert constants == inner.init(seeds.make(3))[1]
  assert problem.has_meta_loss and problem.is_constrained
  far = [p + 5 for p in params]
  for x, y in zip(problem.project(far, constants), inner.project(far, constants)):
    np.testing.assert_array_equal(x, y)
  assert problem.held_out(params, constants) == inner.held_out(params, constants)
  assert problem.parameters() == inner.parameters()
  assert len(problem.data_sources()) == 1 and problem.num_tasks == 1
  plain = WRAPPERS[name](Simple())
  assert plain.jit_compile and not problem.jit_compile
  assert not plain.is_constrained
  inner.jit_compile_steps = True
  assert WRAPPERS[name](inner).jit_compile_steps
  assert not LogLoss(Simple()).has_meta_loss


def classifier():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=[9, 4]), np.arange(9) % 3
  return MLP(as_dataset(x, y, x, y), (5,), "tanh", 8, "fan_in")


def test_meta_training_runs_on_them_one_around_the_other():
  problem = SparseGradients(
    NoisyGradients(LogLoss(ScaledParameters(classifier()))), 0.5
  )
  trainer = MetaTrainer(
    problem,
    CoordinatewiseLSTM((3,)),
    meta_gradient=TruncatedBPTT(),
    num_steps=4,
    unroll_length=2,
  )
  metrics = trainer.train_episode(0)
  assert not metrics["skipped"].any() and np.all(metrics["meta_gradient_norm"] > 0)


@pytest.mark.parametrize(
  "make, message",
  [
    (
      lambda: NoisyGradients(Simple(), -1.0),
      "stddev=-1.0; it must be zero or positive",
    ),
    (
      lambda: SparseGradients(Simple(), 1.0),
      "zero_probability=1.0; it must be at least",
    ),
    (lambda: LogLoss(Simple(), 0.0), "epsilon=0.0; it must be positive"),
  ],
)
def test_bad_arguments_are_refused_in_one_sentence(make, message):
  with pytest.raises(ValueError, match=message):
    make()
