"""Meta-gradients against finite differences, naive loops and closed forms."""

import functools
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from l2l_tf import seeds
from l2l_tf.meta.gradients import (
  MetaGradient,
  RecordedBPTT,
  TruncatedBPTT,
  Window,
  all_ones,
  last_only,
  run_window,
)
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.meta.unroll import start, static_unroll, step_seed, unroll
from l2l_tf.optimizers import (
  GRADIENTS,
  PARAMETERS,
  SGD,
  TENSOR,
  CoordinatewiseLSTM,
  KernelwiseLSTM,
  Optimizer,
  Partition,
  Where,
)
from l2l_tf.problems import Problem, Quadratic

SEED = tf.constant([1, 2])
LENGTH = 4
WEIGHTINGS = {
  "all_ones": (all_ones, [1.0, 1.0, 1.0, 1.0]),
  "last_only": (last_only, [0.0, 0.0, 0.0, 1.0]),
  "explicit": ([0.1, 0.0, -2.0, 1.5], [0.1, 0.0, -2.0, 1.5]),
}


class Filters(Problem):
  """A coupled quartic in a convolution filter and a bias."""

  def init(self, seed):
    shapes = [(2, 1, 1, 2), (2,)]
    seeds = tf.unstack(tf.random.split(seed, len(shapes)))
    draw = lambda shape, s: tf.random.stateless_normal(shape, s, dtype=tf.float64)
    return [draw(shape, s) for shape, s in zip(shapes, seeds)], []

  def __call__(self, params, constants, seed):
    kernel, bias = params
    noise = tf.random.stateless_normal([2], seed, dtype=tf.float64)
    outputs = tf.reduce_sum(kernel, axis=[0, 1, 2]) * bias + noise
    return tf.reduce_mean(tf.square(outputs)) + 0.1 * tf.reduce_sum(kernel**4)


class Linear(Problem):
  """f(theta) = c . theta, whose Hessian is zero."""

  def init(self, seed):
    return [tf.zeros([3], tf.float64)], [tf.constant([1.0, -2.0, 0.5], tf.float64)]

  def __call__(self, params, constants, seed):
    return tf.tensordot(params[0], constants[0], 1)


class OnSpheres(Quadratic):
  """Each task's theta is brought back to length one."""

  def project(self, params, constants):
    return [tf.linalg.l2_normalize(p, axis=-1) for p in params]


def lstm(preprocess="identity", layers=(3, 3)):
  return CoordinatewiseLSTM(layers, preprocess, output_scale=0.3, dtype="float64")


def partition():
  kernels = KernelwiseLSTM((2, 1), (2,), output_scale=0.3, dtype="float64")
  return Partition(
    [(Where(rank=4), kernels), (Where(rank=1), lstm(layers=(2,)))],
    Filters().parameters(),
  )


def quadratic(batch_size=2):
  return Quadratic(batch_size, num_dims=3, dtype=tf.float64)


class Case(NamedTuple):
  problem: Problem
  optimizer: Optimizer
  jacobian: np.ndarray  # [LENGTH, number of weights], of the losses


CASES = {
  "quadratic": (quadratic, lstm),
  "quadratic, log_and_sign": (quadratic, lambda: lstm("log_and_sign", (3,))),
  "filters, partition": (Filters, partition),
  "linear": (Linear, lambda: lstm(layers=(2,))),
  "constrained": (lambda: OnSpheres(2, 3, dtype=tf.float64), lstm),
}


@functools.cache
def case(name):
  problem, optimizer = (make() for make in CASES[name])

  @tf.function(autograph=False)
  def losses():
    task, carry = start(problem, optimizer, SEED)
    return unroll(problem, optimizer, task, carry, LENGTH)[1]

  jacobian, size = [], 1e-5
  for variable in optimizer.trainable_variables:
    value = variable.numpy()
    for i in np.ndindex(value.shape):
      sides = []
      for sign in (1, -1):
        moved = value.copy()
        moved[i] += sign * size
        variable.assign(moved)
        sides.append(losses().numpy())
      jacobian.append((sides[0] - sides[1]) / (2 * size))
    variable.assign(value)
  return Case(problem, optimizer, np.stack(jacobian, axis=1))


def flat(tensors):
  return np.concatenate([np.ravel(x) for x in tensors])


@functools.cache
def meta_gradient_of(name, second_derivatives):
  """The window's meta-gradient as a function of the weights of its losses."""
  problem, optimizer, _ = case(name)

  @tf.function(autograph=False)
  def run(weights):
    task, carry = start(problem, optimizer, SEED)
    meta_gradient = TruncatedBPTT(lambda _: weights, second_derivatives)
    window, _ = meta_gradient(problem, optimizer, task, carry, LENGTH, _no_observation)
    return window.meta_gradient

  return lambda w: flat(run(tf.constant(w, tf.float64)))


def window(problem, optimizer, meta_gradient, length=LENGTH):
  @tf.function(autograph=False)
  def run():
    task, carry = start(problem, optimizer, SEED)
    return meta_gradient(problem, optimizer, task, carry, length, _no_observation)[0]

  return run()


def _no_observation(carry, updates):
  return ()


def naive(problem, optimizer, num_steps, stop_gradient):
  """The Jacobian of all losses, [num_steps, number of weights]."""
  task, carry = start(problem, optimizer, SEED)
  theta, state, losses = carry.params, carry.state, []
  evaluate = lambda t: problem(theta, task.constants, step_seed(task, t))
  with tf.GradientTape(persistent=True) as meta_tape:
    for t in range(num_steps):
      with tf.GradientTape() as tape:
        tape.watch(theta)
        loss = evaluate(t)
      grads = tape.gradient(loss, theta)
      if stop_gradient:
        grads = [tf.stop_gradient(g) for g in grads]
      updates, state = optimizer(grads, state, params=theta, loss=loss)
      theta = problem.project([x + u for x, u in zip(theta, updates)], task.constants)
      losses.append(evaluate(t + 1))
  phi = optimizer.trainable_variables
  return np.stack([flat(meta_tape.gradient(loss, phi)) for loss in losses])


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_give_the_finite_differences(name):
  for _, w in WEIGHTINGS.values():
    gradient = meta_gradient_of(name, True)(w)
    expected = w @ case(name).jacobian
    scale = np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7 * scale)


@pytest.mark.parametrize("name", CASES)
def test_first_order_is_autodiff_with_stopped_gradients(name):
  problem, optimizer, jacobian = case(name)
  expected = naive(problem, optimizer, LENGTH, stop_gradient=True)
  for _, w in WEIGHTINGS.values():
    gradient = meta_gradient_of(name, False)(w)
    np.testing.assert_allclose(gradient, w @ expected, rtol=1e-8, atol=1e-12)
    error = np.linalg.norm(gradient - w @ jacobian) / np.linalg.norm(gradient)
    if name == "linear":
      assert error < 1e-6
    else:
      assert error > 1e-4


def test_recorded_gradients_are_not_used_where_updates_are_projected():
  problem, optimizer, _ = case("constrained")
  task, carry = start(problem, optimizer, SEED)
  arguments = problem, optimizer, task, carry, LENGTH, _no_observation
  expected = naive(problem, optimizer, LENGTH, stop_gradient=True).sum(axis=0)
  given = flat(TruncatedBPTT()(*arguments)[0].meta_gradient)
  with pytest.raises(
    ValueError, match=r"RecordedBPTT is not exact for .*TruncatedBPTT"
  ):
    RecordedBPTT()(*arguments)
  np.testing.assert_allclose(given, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_weights_weigh_the_losses_one_by_one(weighting):
  problem, optimizer = quadratic(), lstm(layers=())
  weights, w = WEIGHTINGS[weighting]
  given = window(problem, optimizer, TruncatedBPTT(weights))
  _, losses = unroll(
    problem, optimizer, *start(problem, optimizer, SEED), num_steps=LENGTH
  )
  np.testing.assert_allclose(given.meta_loss, w @ losses.numpy(), rtol=1e-12)
  expected = w @ naive(problem, optimizer, LENGTH, stop_gradient=True)
  np.testing.assert_allclose(flat(given.meta_gradient), expected, rtol=1e-9)


@functools.cache
def moves_given():
  """An optimizer whose weights are the moves themselves: u_t - rate g_t."""

  class Given(Optimizer):
    def __init__(self):
      super().__init__()
      self.moves = tf.Variable(tf.zeros([LENGTH, 1, 3], tf.float64))
      self.rate = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    config = property(lambda self: {})

    def initial_state(self, params):
      return tf.zeros([], tf.int32)

    def __call__(self, grads, state, params=None, loss=None):
      return [self.moves[state] - self.rate * grads[0]], state + 1

  problem, optimizer = quadratic(batch_size=1), Given()
  weights = tf.Variable(tf.zeros([LENGTH], tf.float64))

  @tf.function(autograph=False)
  def run(seed, second_derivatives):
    task, carry = start(problem, optimizer, seed)
    meta_gradient = TruncatedBPTT(lambda _: weights, second_derivatives)
    window, _ = meta_gradient(
      problem, optimizer, task, carry, LENGTH, lambda c, _: c.grads
    )
    return window.meta_gradient[0], window.observed[0], task.constants[0]

  return optimizer, weights, run


_small = st.floats(-1.0, 1.0).map(lambda x: round(x, 3))


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
  st.lists(_small, min_size=LENGTH, max_size=LENGTH), _small, st.integers(0, 1000)
)
def test_the_gradient_of_a_move_in_closed_form(w, rate, seed):
  """First order: dL/du_t is the sum of w_k g_k over k > t.

  Second order: a move also changes later gradients, so each g_k arrives multiplied
  by (I - rate H) once for every step between.
  """
  optimizer, weights, run = moves_given()
  weights.assign(w)
  optimizer.rate.assign(rate / 10)
  key = tf.constant([seed, 0])
  optimizer.moves.assign(
    tf.random.stateless_normal([LENGTH, 1, 3], key, dtype=tf.float64)
  )
  for second_derivatives in (False, True):
    gradient, g, ((matrix,),) = (
      x.numpy() for x in (*run(key, second_derivatives)[:2], run(key, False)[2][None])
    )
    between = np.eye(3)
    if second_derivatives:
      between -= rate / 10 * 2 * matrix.T @ matrix
    expected = [  # g[k] and w[k] belong to theta_{k + 1}
      sum(
        w[k] * np.linalg.matrix_power(between, k - t) @ g[k, 0]
        for k in range(t, LENGTH)
      )
      for t in range(LENGTH)
    ]
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_only_the_window_is_back_propagated(second_derivatives):
  problem, optimizer = quadratic(), lstm(layers=(3,))
  meta_gradient = TruncatedBPTT(second_derivatives=second_derivatives)
  call = lambda task, carry: meta_gradient(
    problem, optimizer, task, carry, 2, _no_observation
  )[0]

  @tf.function(autograph=False)
  def both_windows():
    task, carry = start(problem, optimizer, SEED)
    first = call(task, carry)
    return task, first.carry, call(task, first.carry).meta_gradient

  task, carry, second = both_windows()
  carry = tf.nest.map_structure(lambda x: tf.constant(x.numpy()), carry)
  np.testing.assert_allclose(
    flat(second), flat(call(task, carry).meta_gradient), rtol=1e-9, atol=1e-13
  )
  through = naive(problem, optimizer, 4, not second_derivatives)[2:].sum(axis=0)
  assert np.linalg.norm(flat(second) - through) > 1e-2 * np.linalg.norm(through)


def test_the_static_unroll_gives_the_same():
  problem, optimizer, _ = case("quadratic")
  window_ = lambda unroll: window(problem, optimizer, TruncatedBPTT(unroll=unroll))
  dynamic, static = window_(unroll), window_(static_unroll)
  np.testing.assert_allclose(
    flat(static.meta_gradient), flat(dynamic.meta_gradient), rtol=1e-9, atol=1e-13
  )
  np.testing.assert_allclose(static.meta_loss, dynamic.meta_loss, rtol=1e-12)


def test_a_hand_designed_optimizer_has_a_meta_loss_and_an_empty_meta_gradient():
  problem, optimizer = quadratic(), SGD(0.1)
  given = window(problem, optimizer, TruncatedBPTT([1.0, 2.0]), length=2)
  task, carry = start(problem, optimizer, SEED)
  end, losses = unroll(problem, optimizer, task, carry, 2)
  assert len(given.meta_gradient) == 0
  np.testing.assert_allclose(given.meta_loss, losses[0] + 2 * losses[1], rtol=1e-12)
  np.testing.assert_allclose(given.carry.params[0], end.params[0], rtol=1e-12)


def test_a_weight_that_nothing_depends_on_has_gradient_zero():
  optimizer = lstm(layers=())
  optimizer.unused = tf.Variable(tf.ones([2], tf.float64))
  gradient = window(quadratic(), optimizer, TruncatedBPTT(), length=2).meta_gradient
  by_shape = {g.shape.num_elements(): g for g in gradient}
  np.testing.assert_array_equal(by_shape[2], [0.0, 0.0])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_weights_of_another_length_are_refused(weights):
  problem, optimizer = quadratic(), lstm(layers=())
  count, given = len(weights), TruncatedBPTT(weights)
  with pytest.raises(
    ValueError,
    match=f"^The meta-objective has {count} weights for a window of 2 steps; give one",
  ):
    window(problem, optimizer, given, length=2)
  with pytest.raises(
    tf.errors.InvalidArgumentError,
    match=f"has {count} weights for a window of another length; give one weight",
  ):
    run = tf.function(
      lambda length: (
        (
          given(
            problem, optimizer, *start(problem, optimizer, SEED), length, lambda *_: ()
          )
        )[0].meta_loss
      ),
      autograph=False,
    )
    run(tf.constant(2))


def test_weights_fit_a_length_that_is_a_tensor():
  problem, optimizer = quadratic(), lstm(layers=())
  weights = [1.0, -1.0]
  run = tf.function(
    lambda length: (
      TruncatedBPTT(weights)(
        problem, optimizer, *start(problem, optimizer, SEED), length, lambda *_: ()
      )[0].meta_gradient
    ),
    autograph=False,
  )
  expected = window(problem, optimizer, TruncatedBPTT(weights), length=2).meta_gradient
  np.testing.assert_allclose(flat(run(tf.constant(2))), flat(expected), rtol=1e-9)


# The start may be learned, and the meta-loss may be another than the loss


class Gate(Optimizer):
  """theta' = f theta - i g, from a learned start; f, i and the start are phi."""

  coupling = TENSOR
  reads = {GRADIENTS, PARAMETERS}
  config = {}

  def __init__(self):
    super().__init__()
    values = [0.98, 0.05, 0.3, -0.2, 0.1]
    self.forget, self.input = (tf.Variable(v, dtype=tf.float64) for v in values[:2])
    self.start = tf.Variable([values[2:]], dtype=tf.float64)

  def initial_params(self, params):
    return [self.start + 0.0 * p for p in params]

  def initial_state(self, params):
    return ()

  def __call__(self, grads, state, params=None, loss=None):
    decay, rate = self.forget - 1.0, self.input
    return [decay * p - rate * g for p, g in zip(params, grads)], state


class Squares(Quadratic):
  """Its meta-loss is that of other targets than its loss."""

  def meta_loss(self, params, constants, seed):
    w, y = constants
    return super().__call__(params, (w, y + 1.0), seed)


@pytest.mark.parametrize("make_problem", [Quadratic, Squares])
@pytest.mark.parametrize("windows", [1, 2])
def test_a_learned_start_and_another_meta_loss_by_finite_differences(
  make_problem, windows
):
  problem = make_problem(1, 3, dtype=tf.float64)
  optimizer, method = Gate(), TruncatedBPTT(second_derivatives=True)

  @tf.function(autograph=False)
  def run():
    task, carry = start(problem, optimizer, SEED)
    for _ in range(windows):  # Only the first one reaches the start.
      window, _ = method(problem, optimizer, task, carry, 3, _no_observation)
      carry = window.carry
    return window.meta_loss, window.meta_gradient

  if windows == 1:
    assert_finite_differences(run, optimizer.get_phi())
  else:  # The start is out of the window's reach.
    forget, rate, c_0 = run()[1]
    assert forget != 0.0 and rate != 0.0 and not np.any(c_0)


def assert_finite_differences(run, variables, size=1e-5):
  for variable, gradient in zip(variables, run()[1], strict=True):
    value = np.array(variable)
    for index in np.ndindex(value.shape):
      losses = []
      for sign in (1.0, -1.0):
        moved = value.copy()
        moved[index] += sign * size
        variable.assign(moved)
        losses.append(float(run()[0]))
      variable.assign(value)
      expected = (losses[0] - losses[1]) / (2 * size)
      found = gradient.numpy()[index]
      np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_first_order_gradients_reach_a_learned_start():
  problem, optimizer = quadratic(batch_size=1), Gate()
  optimizer.forget.assign(1.0)  # Then dL/dtheta_0 is the sum of the gradients after it.
  task, carry = start(problem, optimizer, SEED)
  window, _ = TruncatedBPTT()(
    problem, optimizer, task, carry, 3, lambda c, _: c.grads[0]
  )
  expected = tf.reduce_sum(window.observed, axis=0)
  np.testing.assert_allclose(window.meta_gradient[2], expected, rtol=1e-9)
  np.testing.assert_array_equal(carry.params[0], optimizer.start)


@pytest.mark.parametrize("meta_batch_size", [1, 3])
def test_the_meta_loss_is_what_is_minimised_and_the_loss_is_what_is_shown(
  meta_batch_size,
):
  flags = {"num_steps": 4, "unroll_length": 2, "meta_batch_size": meta_batch_size}
  found = []
  for make in (Quadratic, Squares):
    trainer = MetaTrainer(make(2, 3), lstm32(), SGD(1e-9), **flags)
    found.append(trainer.train_episode(0))
  np.testing.assert_allclose(found[0]["losses"], found[1]["losses"], rtol=1e-4)
  assert np.all(np.abs(found[0]["meta_loss"] - found[1]["meta_loss"]) > 0.1)


def lstm32():
  return CoordinatewiseLSTM((3,), "log_and_sign", output_scale=0.1)


# The meta-objective


def test_an_objective_says_what_three_arguments_said():
  flags = {"num_steps": 6, "unroll_length": 3}
  apart, together = lstm32(), lstm32()
  method = TruncatedBPTT(last_only)
  MetaTrainer(
    Quadratic(2, 3), apart, SGD(0.1), method, clip_norm=0.1, relative_loss=True, **flags
  ).train_episode(0)
  objective = MetaObjective(last_only, relative=True, clip_norm=0.1)
  MetaTrainer(
    Quadratic(2, 3), together, SGD(0.1), objective=objective, **flags
  ).train_episode(0)
  for x, y in zip(apart.variables, together.variables):
    np.testing.assert_array_equal(x, y)
  with pytest.raises(ValueError, match="an objective as well as clip_norm"):
    MetaTrainer(Quadratic(), lstm32(), objective=objective, clip_norm=1.0)


# A meta-gradient of one's own


class Counting(MetaGradient):
  """Evolution strategies with one antithetic pair, which counts its windows."""

  def init(self, problem, optimizer, seed, num_steps, unroll_length):
    return tf.zeros([], tf.int32)

  def __call__(
    self, problem, optimizer, task, carry, length, observe,
    objective=None, state=(), seed=None,
  ):  # fmt: skip
    keys = seeds.split(seed, len(optimizer.get_phi()))
    noise = [0.01 * seeds.normal(p.shape, k) for p, k in zip(optimizer.get_phi(), keys)]

    def run(sign):
      phi = [p + sign * n for p, n in zip(optimizer.get_phi(), noise)]
      moved = optimizer.with_phi(phi)
      end, curve, seen = run_window(problem, moved, task, carry, length, observe)
      return objective.of_curve(curve), end, seen

    slope = (run(1.0)[0] - run(-1.0)[0]) / (2 * 0.01**2)
    return Window([slope * n for n in noise], *run(0.0)), state + 1


@pytest.mark.parametrize("meta_batch_size", [1, 4])
@pytest.mark.parametrize("preprocess", ["log_and_sign", lambda g: tf.tanh(g)[:, None]])
def test_an_estimator_has_a_state_and_a_seed(meta_batch_size, preprocess):
  make = lambda: CoordinatewiseLSTM((3,), preprocess, output_scale=0.1)
  flags = {"num_steps": 6, "unroll_length": 2, "meta_batch_size": meta_batch_size}
  optimizer, again = make(), make()
  trainer = MetaTrainer(Quadratic(2, 3), optimizer, SGD(0.01), Counting(), **flags)
  assert not any(m["skipped"].any() for m in trainer.train(2))
  assert [int(v) for v in trainer.estimator_state_variables] == [6] * len(
    trainer.estimator_state_variables
  )
  list(MetaTrainer(Quadratic(2, 3), again, SGD(0.01), Counting(), **flags).train(2))
  for x, y in zip(optimizer.variables, again.variables):
    np.testing.assert_array_equal(x, y)
  assert any(np.any(x != y) for x, y in zip(optimizer.variables, make().variables))


def test_an_estimate_s_mean_is_the_meta_gradient():
  problem, optimizer = Quadratic(2, 3), lstm32()
  task, carry = start(problem, optimizer, SEED)
  exact = window(problem, optimizer, TruncatedBPTT(second_derivatives=True), 2)

  @tf.function(autograph=False)
  def estimate(seed):
    found, _ = Counting()(
      problem, optimizer, task, carry, 2, lambda *_: (), MetaObjective(), 0, seed
    )
    return found.meta_gradient

  draws = [flat(estimate(seeds.make(1, i))) for i in range(600)]
  expected, error = flat(exact.meta_gradient), np.std(draws, axis=0) / len(draws) ** 0.5
  distance = np.abs(np.mean(draws, axis=0) - expected)
  assert np.mean(distance < 3 * error + 1e-4) > 0.98


def test_a_skipped_window_leaves_the_estimator_s_state():
  class Broken(Quadratic):
    def __call__(self, params, constants, seed):
      return super().__call__(params, constants, seed) * float("nan")

  trainer = MetaTrainer(
    Broken(2, 3), lstm32(), SGD(0.01), Counting(), num_steps=4, unroll_length=2
  )
  assert trainer.train_episode(0)["skipped"].all()
  assert [int(v) for v in trainer.estimator_state_variables] == [0]


def test_an_estimator_is_initialised_for_the_problem_that_it_is_called_with():
  seen = []

  class Watching(Counting):
    def init(self, problem, optimizer, *args):
      seen.append(len(unroll_start(problem, optimizer)[1].params[0].shape))
      return super().init(problem, optimizer, *args)

    def __call__(self, problem, optimizer, task, carry, *args, **given):
      seen.append(len(carry.params[0].shape))
      return super().__call__(problem, optimizer, task, carry, *args, **given)

  unroll_start = lambda problem, optimizer: start(problem, optimizer, SEED)
  for size in (1, 3):
    flags = {"num_steps": 2, "unroll_length": 2, "meta_batch_size": size}
    MetaTrainer(
      Quadratic(2, 3), lstm32(), SGD(0.01), Watching(), **flags
    ).train_episode(0)
    assert len(set(seen)) == 1
    seen.clear()


def test_a_meta_loss_that_is_no_scalar_is_refused():
  class Vector(Quadratic):
    def meta_loss(self, params, constants, seed):
      return params[0][:, 0]

  with pytest.raises(ValueError, match=r"Vector returned a meta-loss of shape \(2,\)"):
    window(Vector(2, 3), lstm32(), TruncatedBPTT(), 2)
