"""Estimators from the losses of perturbed optimizers: their means are exact."""

import functools
import itertools
import pathlib
import runpy

import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import (
  NRES,
  PES,
  AnalyticPES,
  EvolutionStrategies,
  Merged,
  TapedBPTT,
  lanes,
  run_window,
)
from l2l_tf.meta.gradients.merged import merge
from l2l_tf.meta.objective import MetaObjective, last_only
from l2l_tf.optimizers import (
  GRADIENTS,
  LOSS,
  PARAMETERS,
  SGD,
  TENSOR,
  Adam,
  CoordinatewiseLSTM,
  Optimizer,
  RNNprop,
)
from l2l_tf.problems import Problem, Quadratic, keras_model

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
WINDOW, NUM_WINDOWS, STDDEV = 3, 3, 0.2
PHI = np.array([-1.5, 0.5])


class Bowl(Problem):
  """f(theta) = theta^2 / 2 from theta = 1, in double precision."""

  jit_compile = True

  def init(self, seed):
    return [tf.ones([1], tf.float64)], ()

  def __call__(self, params, constants, seed):
    return 0.5 * tf.reduce_sum(params[0] ** 2)


class LearnedMomentum(Optimizer):
  """m' = sigmoid(phi_1) m + g, theta' = theta - exp(phi_0) m'."""

  coupling, reads, config = TENSOR, {GRADIENTS}, {}

  def __init__(self):
    super().__init__()
    self.phi = tf.Variable(PHI)

  def initial_state(self, params):
    return [tf.zeros_like(p) for p in params]

  def __call__(self, grads, state, params=None, loss=None):
    rate, decay = tf.exp(self.phi[0]), tf.sigmoid(self.phi[1])
    state = [decay * m + g for m, g in zip(state, grads)]
    return [-rate * m for m in state], state


def window_losses(*phis, start=None):
  """NumPy: the sum of each window's losses, given the phi [2, N] used in each.

  Returns the losses and (theta, m) after each window.
  """
  theta, m = start or (np.ones_like(phis[0][0]), np.zeros_like(phis[0][0]))
  losses, states = [], []
  for phi in phis:
    total = 0.0
    for _ in range(WINDOW):
      m = m / (1 + np.exp(-phi[1])) + theta
      theta = theta - np.exp(phi[0]) * m
      total = total + 0.5 * theta**2
    losses.append(total)
    states.append((theta, m))
  return losses, states


def smoothed(function, num_draws):
  """The exact mean of function(eps_1, ..., eps_n), eps ~ N(0, STDDEV^2) in 2-d.

  By Gauss-Hermite quadrature, which integrates polynomials of degree 9 exactly.
  """
  nodes, weights = np.polynomial.hermite_e.hermegauss(5)
  grid = np.array(list(itertools.product(nodes, repeat=2 * num_draws))).T * STDDEV
  weight = np.prod(list(itertools.product(weights, repeat=2 * num_draws)), axis=1)
  values = function(*grid.reshape(num_draws, 2, -1))
  return np.sum(weight * values) / np.sum(weight)


def gradient(function, h=1e-5):
  """Central differences of a function of phi, [2]."""
  return np.array([(function(PHI + d) - function(PHI - d)) / (2 * h)
                   for d in h * np.eye(2)])  # fmt: skip


def column(phi):
  return phi[:, np.newaxis]


def exact_es(w):
  """With the state where the unperturbed optimizer has come to held fixed."""
  start = window_losses(*[column(PHI)] * w)[1][-1] if w else None
  loss = lambda phi, eps: window_losses(column(phi) + eps, start=start)[0][0]
  return gradient(lambda phi: smoothed(lambda eps: loss(phi, eps), 1))


def exact_pes(w):
  """With a perturbation of its own in every window."""
  loss = lambda phi, *eps: window_losses(*[column(phi) + e for e in eps])[0][-1]
  return gradient(lambda phi: smoothed(functools.partial(loss, phi), w + 1))


def exact_nres(w):
  """With one perturbation for all windows."""
  loss = lambda phi, eps: window_losses(*[column(phi) + eps] * (w + 1))[0][-1]
  return gradient(lambda phi: smoothed(functools.partial(loss, phi), 1))


def exact_analytic(w):
  """Derivative of the last window by back-propagation, of those before as in PES."""
  start = window_losses(*[column(PHI)] * w)[1][-1] if w else None
  last = gradient(lambda phi: window_losses(column(phi), start=start)[0][0].item())
  if not w:
    return last

  def loss(phi, *eps):
    former = [column(phi) + e for e in eps[:-1]]
    return window_losses(*former, column(PHI) + eps[-1])[0][-1]

  return last + gradient(lambda phi: smoothed(functools.partial(loss, phi), w + 1))


def estimates(estimator, problem, optimizer, window, num_windows, num_seeds):
  """Estimates in each window of episodes that start together, [seeds, windows, phi]."""
  horizon = window * num_windows
  state = estimator.init(problem, optimizer, seeds.make(0), horizon, window)
  state = state._replace(horizon=tf.fill([estimator.pairs], horizon))

  @tf.function(autograph=False)
  def episode(i):
    def estimate(carry, w):
      arguments = problem, optimizer, None, None, window, lambda *_: ()
      seed = seeds.make(1, i, w)
      found, state = estimator(*arguments, state=carry[1], seed=seed)
      return tf.concat([tf.reshape(g, [-1]) for g in found.meta_gradient], 0), state

    zeros = tf.zeros([sum(w.shape.num_elements() for w in optimizer.get_phi())])
    start = tf.cast(zeros, optimizer.get_phi()[0].dtype), state
    return tf.scan(estimate, tf.range(num_windows), start)[0]

  return np.array([episode(tf.constant(i)) for i in range(num_seeds)])


@pytest.mark.parametrize(
  "estimator, exact, num_seeds",
  [
    (EvolutionStrategies(256, STDDEV), exact_es, 60),
    (PES(256, STDDEV), exact_pes, 60),
    (NRES(256, STDDEV), exact_nres, 60),
    (AnalyticPES(8, STDDEV), exact_analytic, 200),
  ],
)
def test_the_mean_is_the_gradient_of_the_smoothed_loss(estimator, exact, num_seeds):
  problem, optimizer = Bowl(), LearnedMomentum()
  draws = estimates(estimator, problem, optimizer, WINDOW, NUM_WINDOWS, num_seeds)
  mean, error = draws.mean(0), draws.std(0) / len(draws) ** 0.5
  expected = np.array([exact(w) for w in range(NUM_WINDOWS)])
  assert np.all(np.abs(mean - expected) < 3 * error + 1e-9)
  assert np.all(error < 0.1 * np.abs(expected).max(axis=1, keepdims=True))


def test_the_estimators_means_differ_where_they_should():
  late = [exact(2) for exact in (exact_es, exact_pes, exact_nres)]
  truncated, persistent, reused = late
  assert np.linalg.norm(truncated - persistent) > 0.3 * np.linalg.norm(persistent)
  assert np.linalg.norm(reused - persistent) < 0.3 * np.linalg.norm(persistent)


def test_of_a_quadratic_each_pair_gives_the_exact_slope(balancing):
  problem, optimizer = balancing["FirstCoordinate"](), balancing["Push"]()
  estimator = EvolutionStrategies(pairs=3, stddev=0.1, loss_bound=1e6)
  (drawn,) = estimates(estimator, problem, optimizer, 30, 1, 1)[0]
  (noise,) = estimator._noise(optimizer, seeds.make(1, 0, 0))
  method = TapedBPTT(second_derivatives=True)
  task, carry = unroll.start(problem, optimizer, seeds.make(0), method.evaluate)
  window, _ = method(problem, optimizer, task, carry, 30, lambda *_: ())
  expected = window.meta_gradient[0] * tf.reduce_mean(noise**2) / 0.1**2
  np.testing.assert_allclose(drawn, expected, rtol=1e-9)


def test_merging_varies_no_more_than_the_better_of_the_two():
  keys = seeds.split(seeds.make(3), 2)
  scales = np.array([[0.1, 1.0, 5.0], [2.0, 1.0, 0.3]])
  one, two = (
    1 + scale * seeds.normal([2000, 16, 3], key, dtype=tf.float64)
    for scale, key in zip(scales, keys)
  )
  merge_all = tf.function(
    lambda *x: tf.map_fn(lambda x: merge(*x), x, fn_output_signature=tf.float64)
  )
  merged = merge_all(one, two)
  better = scales.min(axis=0) / 16**0.5
  assert np.all(np.std(merged, axis=0) < 1.05 * better)
  assert np.all(np.abs(np.mean(merged, axis=0) - 1) < 3 * better / 2000**0.5)


def test_merging_leaves_out_what_is_not_finite_or_has_no_derivative():
  first = np.array([[1.0, np.nan, 0.0], [1.5, 2.0, 0.0], [2.0, 2.0, 0.0]])
  second = np.array([[1.0, 3.0, 4.0], [9.0, 5.0, 6.0], [5.0, 1.0, 8.0]])
  merged = merge(first, second)
  np.testing.assert_allclose(merged[1:], [3.0, 6.0])
  assert 1.5 < merged[0] < 2.0


def test_merging_what_does_not_vary_takes_the_first():
  constant = tf.ones([4, 2])
  np.testing.assert_array_equal(merge(constant, 3 * constant), [1, 1])
  np.testing.assert_array_equal(merge(tf.zeros([4, 2]), tf.zeros([4, 2])), [0, 0])


# Influence balancing: a test whose answers are known.


@pytest.fixture(scope="module")
def balancing():
  return runpy.run_path(str(EXAMPLES / "influence_balancing.py"))


def influence(balancing, length):
  """D theta_0 / d phi of the last `length` steps."""
  power, total = balancing["S"], 0.0
  for _ in range(length):
    total, power = total + power[0], balancing["A"] @ power
  return total


# From the recurrence in exact arithmetic.
INFLUENCES = {1: 1.0, 10: 10.0, 20: 16.48, 30: 9.87, 40: 0.566, 50: -4.753, 100: -6.0}


def test_truncated_back_propagation_sees_what_arrives_in_its_window(balancing):
  problem, optimizer = balancing["FirstCoordinate"](), balancing["Push"]()
  task, carry = unroll.start(problem, optimizer, seeds.make(0), unroll.second_order)
  run = lambda length: unroll.unroll(problem, optimizer, task, carry, length)[0]
  start = tf.function(run, autograph=False)(tf.constant(700))
  method, objective = TapedBPTT(second_derivatives=True), MetaObjective(last_only)
  arguments = problem, optimizer, task, start
  of_window = tf.function(
    lambda length: method(*arguments, length, lambda *_: (), objective)[0],
    autograph=False,
  )
  for length, stated in INFLUENCES.items():
    window = of_window(tf.constant(length))
    slope = window.meta_gradient[0] / (window.carry.params[0][0] - 1)
    np.testing.assert_allclose(slope, influence(balancing, length), rtol=1e-5)
    np.testing.assert_allclose(slope, stated, atol=0.006)


def test_the_mean_of_pes_is_the_true_gradient_with_windows_of_one_step(balancing):
  problem, optimizer = balancing["FirstCoordinate"](), balancing["Push"]()
  estimator = PES(pairs=2000, stddev=0.1, loss_bound=1e6)
  draws = estimates(estimator, problem, optimizer, 1, 100, 12)[:, -1, 0]
  error = draws.std() / len(draws) ** 0.5
  assert abs(draws.mean() - 24) < 3 * error and error < 4


def test_pes_finds_the_optimum_and_back_propagation_leaves_it(balancing):
  path = balancing["train"](balancing["PES_OF_ONE_STEP"], 1)
  assert abs(path[-1] + 1 / 6) < 0.03
  back_propagation = l2l_tf.TruncatedBPTT(second_derivatives=True)
  away = balancing["train"](back_propagation, 10, num_episodes=2)
  assert away[0] < away[1] < away[2]


# Particles are unrolls like any other.


class Reader(Optimizer):
  """Moves by phi_0 times the loss, towards theta = 0 by phi_1, from phi_2."""

  coupling, reads, config = TENSOR, {GRADIENTS, PARAMETERS, LOSS}, {}

  def __init__(self):
    super().__init__()
    self.phi = tf.Variable([0.05, 0.02, 0.3])

  def initial_params(self, params):
    return [p + self.phi[2] for p in params]

  def initial_state(self, params):
    return tf.zeros([], tf.int32)

  def __call__(self, grads, state, params=None, loss=None):
    rate = self.phi[0] / (1 + loss)
    return [-rate * g - self.phi[1] * p for g, p in zip(grads, params)], state + 1


class Anything(CoordinatewiseLSTM):
  """Says nothing of itself, so that nothing is vectorised or compiled."""

  coupling = l2l_tf.optimizers.ALL


class HeldOut(Quadratic):
  """Has a meta-loss of its own, and constraints."""

  def meta_loss(self, params, constants, seed):
    return self(params, constants, seed) + tf.reduce_sum(params[0] ** 2)

  def project(self, params, constants):
    return [tf.clip_by_value(p, -1.0, 1.0) for p in params]


def convolutional():
  layers = tf.keras.layers
  build = lambda: tf.keras.Sequential(
    [layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(1)]
  )
  x = np.random.default_rng(0).normal(size=[12, 5, 5, 1]).astype(np.float32)
  return keras_model(build, "mse", (x, x.mean(axis=(1, 2))), batch_size=4)


KINDS = {
  "lstm": (lambda: Quadratic(2, 3), lambda: CoordinatewiseLSTM((4,), output_scale=0.1)),
  "rnnprop": (lambda: HeldOut(2, 3), lambda: RNNprop((4,), time_scales=(10,))),
  "reads all": (lambda: HeldOut(2, 3), Reader),
  "not vectorised": (lambda: HeldOut(2, 3), lambda: Anything((4,), output_scale=0.1)),
  "keras": (convolutional, lambda: CoordinatewiseLSTM((4,), output_scale=0.1)),
}


def particles(problem, optimizer, state, noise, observe):
  """Runs each particle of each lane by itself; yields (lane, index) and what it did."""
  for lane, index in itertools.product(range(3), range(2)):
    pairs = zip(optimizer.get_phi(), noise, strict=True)
    phi = [w + (1 - 2 * index) * e[lane] for w, e in pairs]
    moved, task = optimizer.with_phi(phi), lanes.unstack(state.task)[lane]
    carry = lanes.unstack(state.carries[index])[lane]
    yield lane, index, run_window(problem, moved, task, carry, 2, observe)


@pytest.mark.parametrize("kind", KINDS)
def test_a_particle_is_an_unroll_of_the_perturbed_optimizer(kind):
  problem, optimizer = (make() for make in KINDS[kind])
  estimator = PES(pairs=3, stddev=0.1, loss_bound=1e9)
  state = estimator.init(problem, optimizer, seeds.make(0), 6, 2)
  state = state._replace(horizon=tf.fill([3], 6))
  observe = lambda carry, updates: tf.reduce_sum(updates[0])
  call = lambda state, seed: estimator(
    problem, optimizer, None, None, 2, observe, state=state, seed=seed
  )
  call, total = tf.function(call, autograph=False), 0
  for i in range(2):
    noise = estimator._noise(optimizer, seeds.make(1, i))
    total = [e + (xi if i else 0) for e, xi in zip(noise, total or noise)]
    window, after = call(state, seeds.make(1, i))
    losses, observed = np.zeros([3, 2]), []
    for lane, index, run in particles(problem, optimizer, state, noise, observe):
      end, curve, seen = run
      losses[lane, index] = tf.reduce_sum(curve.losses)
      observed.append(seen)
      reached = lanes.unstack(after.carries[index])[lane]
      for x, y in zip(tf.nest.flatten(end), tf.nest.flatten(reached), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5)
    slopes = (losses[:, 0] - losses[:, 1]) / (2 * 0.1**2)
    for g, xi in zip(window.meta_gradient, total, strict=True):
      expected = np.tensordot(slopes, xi, 1) / 3
      np.testing.assert_allclose(
        g, expected, rtol=1e-3, atol=1e-3 * np.abs(slopes).max()
      )
    np.testing.assert_allclose(window.meta_loss, losses.mean(), rtol=1e-4)
    np.testing.assert_allclose(
      window.observed, np.mean(observed, 0), rtol=1e-3, atol=1e-5
    )
    state = after


@pytest.mark.parametrize("make", [PES, Merged])
def test_meta_training_lowers_the_loss(make):
  optimizer = CoordinatewiseLSTM((4,), "log_and_sign", output_scale=0.1)
  trainer = l2l_tf.MetaTrainer(
    Quadratic(8, 2), optimizer, Adam(0.02), make(pairs=4, stddev=0.05),
    num_steps=20, unroll_length=5, clip_norm=1.0,
  )  # fmt: skip
  losses = [m["losses"].mean() for m in trainer.train(40)]
  assert trainer.num_traces == 1
  assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def ages_and_horizons(estimator, num_windows):
  """Runs windows of 2 steps; returns the lanes' ages after each, and their horizons."""
  problem, optimizer = Quadratic(2, 3), CoordinatewiseLSTM((3,))
  state = estimator.init(problem, optimizer, seeds.make(0), 100, 2)

  @tf.function(autograph=False)
  def call(state, seed):
    arguments = problem, optimizer, None, None, 2, lambda *_: ()
    _, state = estimator(*arguments, state=state, seed=seed)
    return state, estimator._noise(optimizer, seed)

  ages, horizons = [], []
  for i in range(num_windows):
    state, noise = call(state, seeds.make(1, i))
    ages.append(np.array(state.carries[0].step))
    horizons.append(np.array(state.horizon))
    begun = ages[-1] == 2
    for xi, eps in zip(state.memory, noise):  # since the start of the episode
      np.testing.assert_allclose(xi[begun], eps[begun], rtol=1e-5)
      assert begun.all() or np.isclose(xi[~begun], eps[~begun]).mean() < 0.1
  return np.array(ages), np.array(horizons)


def test_episodes_are_staggered_and_begin_anew_at_their_horizon():
  ages, _ = ages_and_horizons(PES(pairs=4, horizon=8), 20)
  assert all(sorted(row) == [2, 4, 6, 8] for row in ages[4:])
  np.testing.assert_array_equal(ages[5:], ages[4:-1] % 8 + 2)


def test_horizons_are_drawn_log_uniformly():
  ages, horizons = ages_and_horizons(PES(pairs=20, horizon=(4, 15)), 60)
  begun = ages == 2
  is_over = ages[:-1] >= horizons[:-1]
  np.testing.assert_array_equal(begun[1:], is_over)
  drawn = horizons[10:][begun[10:]]
  assert drawn.min() == 4 and drawn.max() == 15
  assert 0.4 < np.mean(drawn < 8) < 0.6  # half of them in either octave


# What goes wrong


@pytest.mark.parametrize("make", [PES, EvolutionStrategies, Merged])
def test_relative_losses_of_diverged_particles_skip_no_window(make):
  optimizer = LearnedMomentum()
  optimizer.phi.assign([3.0, 0.0])
  trainer = l2l_tf.MetaTrainer(
    Bowl(), optimizer, SGD(1e-9), make(pairs=2, stddev=0.1),
    num_steps=1200, unroll_length=300, relative_loss=True,
  )  # fmt: skip
  metrics = trainer.train_episode(0)
  assert not metrics["skipped"].any() and np.all(metrics["diverged"] > 0)


def test_weights_of_low_precision_have_finite_estimates():
  optimizer = CoordinatewiseLSTM((3,), output_scale=0.1, dtype="float16")
  trainer = l2l_tf.MetaTrainer(
    Quadratic(2, 3), optimizer, SGD(1e-3), AnalyticPES(pairs=2, stddev=0.05),
    num_steps=4, unroll_length=2, clip_norm=1.0,
  )  # fmt: skip
  metrics = trainer.train_episode(0)
  assert np.all(np.isfinite(metrics["meta_gradient_norm"]))
  assert not metrics["skipped"].any()


def test_a_trainer_compiled_by_xla_estimates_the_same():
  trainer = l2l_tf.MetaTrainer(
    Bowl(), LearnedMomentum(), SGD(1e-9), PES(pairs=2, stddev=0.1, horizon=8),
    num_steps=12, unroll_length=4, jit_compile=True,
  )  # fmt: skip
  metrics = [trainer.train_episode(i) for i in range(2)]
  found = [m["meta_gradient_norm"] for m in metrics]
  plain = l2l_tf.MetaTrainer(
    Bowl(), LearnedMomentum(), SGD(1e-9), PES(pairs=2, stddev=0.1, horizon=8),
    num_steps=12, unroll_length=4,
  )  # fmt: skip
  expected = [plain.train_episode(i)["meta_gradient_norm"] for i in range(2)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_diverged_particles_count_as_the_bound():
  optimizer = LearnedMomentum()
  optimizer.phi.assign([3.0, 0.0])  # theta' = -19 theta or so: beyond 1e308 and NaN
  trainer = l2l_tf.MetaTrainer(
    Bowl(), optimizer, SGD(1e-9), PES(pairs=4, stddev=0.1, loss_bound=3.0),
    num_steps=400, unroll_length=100,
  )  # fmt: skip
  metrics = trainer.train_episode(0)
  assert not metrics["skipped"].any() and np.all(metrics["diverged"] == 8)
  assert np.isnan(metrics["losses"][-1])
  np.testing.assert_allclose(metrics["meta_loss"][1:], 3.0 * 100)


@pytest.mark.parametrize(
  "build, message",
  [
    (lambda: PES(stddev=0.0), "PES got stddev=0.0; without a perturbation"),
    (lambda: NRES(stddev=float("nan")), "NRES got stddev=nan"),
    (lambda: PES(pairs=2.5), "PES got pairs=2.5; particles come in antithetic pairs"),
    (lambda: EvolutionStrategies(pairs=0), "a whole number of pairs, at least 1"),
    (lambda: Merged(pairs=1), "Merged got pairs=1; variances need at least 2"),
    (lambda: PES(loss_bound=0.0), "loss_bound=0.0; it must be positive"),
    (lambda: PES(loss_bound=float("inf")), "loss_bound=inf; it must be positive and"),
    (lambda: PES(pairs=8.0), "PES got pairs=8.0; particles come in antithetic"),
    (lambda: PES(horizon=(9, 3)), r"horizon=\(9, 3\); give the steps"),
    (lambda: MetaObjective(last_only, function=tf.size), "a function and weights"),
  ],
)
def test_wrong_arguments_are_refused_in_one_sentence(build, message):
  with pytest.raises(ValueError, match=message):
    build()


@pytest.mark.parametrize(
  "estimator, settings, message",
  [
    (PES(horizon=3), {}, "PES got a horizon of 3 steps, shorter than the window of 20"),
    (NRES(), {"meta_batch_size": 2}, "NRES draws its own tasks; leave out"),
    (
      PES(),
      {"curriculum": l2l_tf.RandomHorizon(20, 40)},
      "PES has episodes of its own",
    ),
  ],
)
def test_settings_that_do_not_fit_together_are_refused(estimator, settings, message):
  with pytest.raises(ValueError, match=message):
    l2l_tf.MetaTrainer(
      Quadratic(), CoordinatewiseLSTM((3,)), meta_gradient=estimator, **settings
    )


def test_a_problem_that_is_not_finite_where_it_starts_is_refused():
  class Broken(Bowl):
    def __call__(self, params, constants, seed):
      return super().__call__(params, constants, seed) * float("nan")

  with pytest.raises(ValueError, match="Broken has a loss that is not finite where"):
    l2l_tf.MetaTrainer(Broken(), LearnedMomentum(), meta_gradient=PES())
