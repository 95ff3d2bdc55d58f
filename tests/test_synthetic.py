import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_tf import seeds
from l2l_tf.problems import (
  Ensemble,
  Parameter,
  Polynomial,
  Problem,
  Quadratic,
  Simple,
  SimpleMulti,
)

DISTRIBUTIONS = {  # moments of an entry: mean, variance, variance of its square
  "normal": (0.0, 1.0, 2.0),
  "uniform": (1 / 2, 1 / 12, 1 / 180),
}
PROBLEMS = {
  "simple": Simple(),
  "simple_multi": SimpleMulti(),
  "quadratic": Quadratic(3, 4),
  "polynomial": Polynomial(5, 8),
  "ensemble": Ensemble([Simple(), Quadratic(2, 3), Polynomial(3, 4)], [1, 2, 3]),
}


class SeedValue(Problem):
  """Returns a number that names its seed."""

  def init(self, seed):
    return [tf.zeros([])], [seed]

  def __call__(self, params, constants, seed):
    return tf.cast(seed[0], tf.float32)


def loss_and_gradients(problem, params, constants, seed):
  with tf.GradientTape() as tape:
    tape.watch(params)
    loss = problem(params, constants, seed)
  return loss, tape.gradient(loss, params)


@pytest.mark.parametrize("problem, count", [(Simple(), 1), (SimpleMulti(), 2)])
def test_simple_problems_are_sums_of_squares_from_one(problem, count):
  seed = seeds.make(0)
  start, constants = problem.init(seed)
  assert [x.numpy().tolist() for x in start] == [1.0] * count
  params = [tf.constant(x) for x in [-3.0, 0.5][:count]]
  loss, grads = loss_and_gradients(problem, params, constants, seed)
  assert loss == sum(x.numpy() ** 2 for x in params)
  assert [g.numpy() for g in grads] == [2 * x.numpy() for x in params]


@settings(max_examples=30, deadline=None)
@given(
  batch_size=st.integers(1, 6),
  num_dims=st.integers(1, 6),
  distribution=st.sampled_from(sorted(DISTRIBUTIONS)),
  seed=st.integers(0, 1000),
)
def test_quadratics_loss_and_gradient_equal_the_closed_form(
  batch_size, num_dims, distribution, seed
):
  problem = Quadratic(batch_size, num_dims, distribution, 1.0, tf.float64)
  params, constants = problem.init(seeds.make(seed))
  loss, (grad,) = loss_and_gradients(problem, params, constants, seeds.make(0))
  losses = problem.task_losses(params, constants, seeds.make(0))

  theta, w, y = params[0].numpy(), *(c.numpy() for c in constants)
  residual = np.einsum("bij,bj->bi", w, theta) - y
  np.testing.assert_allclose(losses, (residual**2).sum(axis=1), rtol=1e-12)
  np.testing.assert_allclose(loss, (residual**2).sum() / batch_size, rtol=1e-12)
  expected = 2 / batch_size * np.einsum("bij,bi->bj", w, residual)
  np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-12)
  assert problem.parameters() == [
    Parameter("theta", (batch_size, num_dims), "variable")
  ]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_quadratics_are_drawn_from_the_named_distribution(distribution):
  (theta,), (w, y) = Quadratic(200, 10, distribution).init(seeds.make(5))
  mean, variance, spread = DISTRIBUTIONS[distribution]
  for entries in (w.numpy().ravel(), y.numpy().ravel()):
    n = len(entries)
    assert abs(entries.mean() - mean) < 4 * np.sqrt(variance / n)
    assert abs(np.mean((entries - mean) ** 2) - variance) < 4 * np.sqrt(spread / n)
    if distribution == "uniform":
      assert entries.min() >= 0
      assert entries.max() < 1
  z = theta.numpy().ravel() / 0.01
  assert abs(z.mean()) < 4 / np.sqrt(len(z))
  assert abs(z.var() - 1) < 4 * np.sqrt(2 / len(z))


def test_w_y_and_theta_are_independent_draws():
  (theta,), (w, y) = Quadratic(300, 10).init(seeds.make(6))
  columns = np.stack(
    [theta.numpy().ravel(), w.numpy().ravel()[:3000], y.numpy().ravel()]
  )
  correlations = np.corrcoef(columns) - np.eye(3)
  assert np.abs(correlations).max() < 4 / np.sqrt(3000)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_same_seed_is_the_same_task_and_another_seed_another(name):
  problem = PROBLEMS[name]
  first, again, other = (
    tf.nest.flatten(problem.init(seeds.make(s))) for s in (1, 1, 2)
  )
  for a, b in zip(first, again, strict=True):
    np.testing.assert_array_equal(a, b)
  is_random = not name.startswith("simple")
  assert is_random == any(np.any(a != c) for a, c in zip(first, other))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_keeps_the_interface(name):
  problem = PROBLEMS[name]
  params, constants = problem.init(seeds.make(0))
  described = problem.parameters()
  assert [p.shape for p in described] == [tuple(p.shape) for p in params]
  assert [p.rank for p in described] == [len(p.shape) for p in params]
  assert len({p.path for p in described}) == len(described)

  @tf.function(jit_compile=True)
  def compiled(params, constants, seed):
    return loss_and_gradients(problem, params, constants, seed)

  loss, grads = loss_and_gradients(problem, params, constants, seeds.make(1))
  losses = problem.task_losses(params, constants, seeds.make(1))
  assert loss.shape == []
  assert losses.shape.rank == 1
  np.testing.assert_allclose(tf.reduce_mean(losses), loss, rtol=1e-6)
  assert [g.shape for g in grads] == [p.shape for p in params]
  assert problem.held_out(params, constants) == {}
  compiled_loss, compiled_grads = compiled(params, constants, seeds.make(1))
  np.testing.assert_allclose(compiled_loss, loss, rtol=1e-5)
  for a, b in zip(compiled_grads, grads):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def polynomial_gram(n):
  """E[x^i x^j] over x ~ U[-1, 1): 1 / (i + j + 1) where i + j is even."""
  power = np.arange(n)[:, None] + np.arange(n)
  return np.where(power % 2 == 0, 1 / (power + 1), 0.0)


def test_polynomials_loss_and_gradient_equal_their_integrals():
  problem = Polynomial(num_coefficients=7, batch_size=5000)
  _, constants = problem.init(seeds.make(1))
  theta = tf.linspace(-1.0, 2.0, 7)
  drawn = [
    loss_and_gradients(problem, [theta], constants, seeds.make(2, i)) for i in range(20)
  ]
  gap = theta.numpy() - constants[0].numpy()
  gram = polynomial_gram(7)
  for values, expected in [
    (np.stack([loss for loss, _ in drawn]), gap @ gram @ gap),
    (np.stack([grads[0] for _, grads in drawn]), 2 * gram @ gap),
  ]:
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(axis=0) - expected) < 4.5 * error)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 1000))
def test_a_polynomials_own_coefficients_are_its_minimum(count, batch_size, seed):
  problem = Polynomial(count, batch_size)
  (start,), (target,) = problem.init(seeds.make(seed))
  assert not np.any(start)
  batch_seed = seeds.make(seed, 1)
  loss, (grad,) = loss_and_gradients(problem, [target], [target], batch_seed)
  assert loss == 0.0
  assert not np.any(grad)
  assert problem([start], [target], batch_seed) > 0.0


def test_a_polynomials_targets_are_standard_normal():
  targets = np.concatenate(
    [Polynomial(50).init(seeds.make(0, i))[1][0] for i in range(40)]
  )
  n = len(targets)
  assert abs(targets.mean()) < 4 / np.sqrt(n)
  assert abs(targets.var() - 1) < 4 * np.sqrt(2 / n)


def test_a_polynomial_meets_fresh_points_at_every_step():
  problem = Polynomial(4, 3)
  params, constants = problem.init(seeds.make(0))
  losses = [float(problem(params, constants, seeds.make(1, i))) for i in (0, 1, 2, 0)]
  assert losses[0] == losses[3]
  assert len(set(losses)) == 3


@settings(max_examples=20, deadline=None)
@given(
  st.lists(
    st.tuples(
      st.sampled_from([Simple(), SimpleMulti(), Quadratic(2, 3), Quadratic(1, 2)]),
      st.floats(-3, 3, allow_subnormal=False, width=16),
    ),
    min_size=1,
    max_size=4,
  ),
  st.integers(0, 1000),
)
def test_an_ensemble_is_the_weighted_sum_of_its_members(members, seed):
  problems, weights = zip(*members)
  ensemble = Ensemble(problems, weights)
  params, constants = ensemble.init(seeds.make(seed))
  loss, grads = loss_and_gradients(ensemble, params, constants, seeds.make(seed, 1))

  rest = list(params)
  expected, expected_grads, described = 0.0, [], []
  for i, (problem, weight, fixed) in enumerate(zip(problems, weights, constants)):
    own = [rest.pop(0) for _ in problem.parameters()]
    member_loss, member_grads = loss_and_gradients(problem, own, fixed, seeds.make(0))
    expected += weight * member_loss
    expected_grads += [weight * g for g in member_grads]
    described += [
      Parameter(f"problem_{i}/{p.path}", p.shape, p.role) for p in problem.parameters()
    ]
  assert not rest
  assert ensemble.parameters() == described
  np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-4)
  for grad, expected_grad in zip(grads, expected_grads, strict=True):
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-6)


def test_an_ensemble_weighs_its_members_alike_by_default():
  problems = [Simple(), SimpleMulti()]
  params = [tf.constant(x) for x in (1.0, 2.0, 3.0)]
  assert Ensemble(problems)(params, [[], []], seeds.make(0)) == 14.0
  assert Ensemble(problems, [0.5, 2])(params, [[], []], seeds.make(0)) == 26.5


def test_members_of_an_ensemble_get_seeds_of_their_own():
  ensemble = Ensemble([SeedValue(), SeedValue()])
  _, constants = ensemble.init(seeds.make(0))
  assert np.any(constants[0][0] != constants[1][0])
  params = [tf.zeros([])] * 2
  total = ensemble(params, constants, seeds.make(1))
  difference = Ensemble([SeedValue(), SeedValue()], [1, -1])
  assert difference(params, constants, seeds.make(1)) != 0.0
  assert total == ensemble(params, constants, seeds.make(1))
  assert total != ensemble(params, constants, seeds.make(2))


@pytest.mark.parametrize(
  "make, message",
  [
    (
      lambda: Quadratic(batch_size=0),
      r"^Quadratic got batch_size=0 and num_dims=10; both must be at least 1\.$",
    ),
    (lambda: Quadratic(num_dims=-1), r"num_dims=-1; both must be at least 1\.$"),
    (
      lambda: Quadratic(distribution="cauchy"),
      r"^Quadratic got distribution='cauchy'; choose one of normal, uniform\.$",
    ),
    (
      lambda: Polynomial(num_coefficients=0),
      r"^Polynomial got num_coefficients=0 and batch_size=64; both must be at",
    ),
    (lambda: Polynomial(batch_size=-2), r"batch_size=-2; both must be at least 1\.$"),
    (lambda: Ensemble([]), r"^Ensemble got 0 problems and 0 weights; it needs at"),
    (
      lambda: Ensemble([Simple()], [1.0, 2.0]),
      r"^Ensemble got 1 problems and 2 weights; .+ one weight for each\.$",
    ),
  ],
)
def test_bad_arguments_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


class Bounded(SimpleMulti):
  """Updates end at or above what the constants say."""

  def init(self, seed):
    return super().init(seed)[0], [tf.constant(0.25)]

  def project(self, params, constants):
    return [tf.maximum(p, constants[0]) for p in params]


def test_an_ensemble_projects_the_parameters_of_each_member():
  assert not Ensemble([Simple()]).is_constrained
  ensemble = Ensemble([Simple(), Bounded(), Simple()])
  assert ensemble.is_constrained
  params, constants = ensemble.init(seeds.make(0))
  params = [tf.constant(x) for x in (-1.0, -2.0, 3.0, -4.0)]
  assert ensemble.project(params, constants) == [-1.0, 0.25, 3.0, -4.0]
