"""The inner loop against loops written out, and what windows may rely on."""

import functools
import gc
import weakref

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from l2l_tf import seeds
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.meta.unroll import start, static_unroll, step_seed, unroll
from l2l_tf.optimizers import SGD, Adam, CoordinatewiseLSTM
from l2l_tf.problems import Polynomial, Problem, Quadratic

SEED = tf.constant([3, 7])


def quadratic():
  return Quadratic(batch_size=2, num_dims=3, dtype=tf.float64)


def lstm():
  return CoordinatewiseLSTM((4,), output_scale=0.1, dtype="float64")


class Sum(Problem):
  """A linear loss of parameters of the given shapes; `reduce` makes it wrong."""

  def __init__(self, *shapes, reduce=tf.add_n):
    self._shapes, self._reduce = shapes, reduce

  def init(self, seed):
    return [tf.ones(shape) for shape in self._shapes], []

  def __call__(self, params, constants, seed):
    return self._reduce([tf.reduce_sum(p) for p in params])


class Noise(Problem):
  """A loss that is nothing but its mini-batch."""

  def init(self, seed):
    return [tf.zeros([])], []

  def __call__(self, params, constants, seed):
    return 0.0 * params[0] + tf.random.stateless_uniform([], seed)


def numpy_quadratic(task):
  w, y = (x.numpy() for x in task.constants)

  def loss_and_gradient(theta):
    residual = np.einsum("bij,bj->bi", w, theta) - y
    gradient = 2 * np.einsum("bij,bi->bj", w, residual) / len(w)
    return np.mean(np.sum(residual**2, axis=1)), gradient

  return loss_and_gradient


def numpy_sgd(rate):
  return lambda g: -rate * g


def numpy_adam(rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
  m, v, t = 0.0, 0.0, 0

  def update(g):
    nonlocal m, v, t
    t += 1
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    correction = np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    return -rate * correction * m / (np.sqrt(v) + epsilon)

  return update


def step_by_step(optimizer, theta):
  state = optimizer.initial_state([tf.constant(theta)])

  def update(g):
    nonlocal state
    (update,), state = optimizer([tf.constant(g)], state)
    return update.numpy()

  return update


RULES = {
  "sgd": (lambda: SGD(0.125), lambda _, theta: numpy_sgd(0.125)),
  "adam": (lambda: Adam(0.125), lambda _, theta: numpy_adam(0.125)),
  "lstm": (lstm, step_by_step),
}


@pytest.mark.parametrize("name", RULES)
def test_the_trajectory_equals_a_loop_written_out(name):
  make, make_rule = RULES[name]
  problem, optimizer = quadratic(), make()
  task, carry = start(problem, optimizer, SEED)
  theta = carry.params[0].numpy()
  evaluate, rule = numpy_quadratic(task), make_rule(optimizer, theta)
  expected = [evaluate(theta)[0]]
  for _ in range(6):
    theta = theta + rule(evaluate(theta)[1])
    expected.append(evaluate(theta)[0])
  end, losses = unroll(problem, optimizer, task, carry, 6)
  np.testing.assert_allclose([carry.loss, *losses], expected, rtol=1e-9)
  np.testing.assert_allclose(end.params[0], theta, rtol=1e-9)
  np.testing.assert_allclose(end.grads[0], evaluate(theta)[1], rtol=1e-7)
  assert end.step == 6


def assert_same(nest, other):
  tf.nest.assert_same_structure(nest, other)
  for x, y in zip(tf.nest.flatten(nest), tf.nest.flatten(other)):
    np.testing.assert_array_equal(x, y)


@functools.cache
def compiled():
  """`Polynomial` draws a mini-batch at every step."""
  problem, optimizer = Polynomial(3, batch_size=4), CoordinatewiseLSTM((3,))
  task, carry = start(problem, optimizer, SEED)
  traces = []

  @tf.function(autograph=False)
  def run(carry, num_steps):
    traces.append(num_steps)
    return unroll(problem, optimizer, task, carry, num_steps)

  return carry, lambda c, n: run(c, tf.constant(n)), traces


def test_two_windows_of_five_are_one_of_ten():
  carry, run, _ = compiled()
  end, losses = run(carry, 10)
  middle, first = run(carry, 5)
  end_of_second, second = run(middle, 5)
  np.testing.assert_array_equal(np.concatenate([first, second]), losses)
  assert len(losses) == 10
  assert_same(end_of_second, end)


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_where_windows_end_changes_nothing(lengths):
  start, run, _ = compiled()
  carry, parts = start, []
  for length in lengths:
    carry, losses = run(carry, length)
    parts.append(losses)
  end, losses = run(start, sum(lengths))
  np.testing.assert_array_equal(np.concatenate(parts), losses)
  assert_same(carry, end)


def test_a_tensor_of_steps_does_not_retrace():
  carry, run, traces = compiled()
  for num_steps in (1, 2, 3):
    assert run(carry, num_steps)[1].shape == [num_steps]
  assert len(traces) == 1


class InABox(Quadratic):
  """Every update ends in [-limit, limit]."""

  limit = 0.1

  def project(self, params, constants):
    return [tf.clip_by_value(p, -self.limit, self.limit) for p in params]


@pytest.mark.parametrize("run", [unroll, static_unroll])
def test_updates_are_projected_and_the_starting_point_is_not(run):
  problem = InABox(batch_size=2, num_dims=3, stddev=1.0, dtype=tf.float64)
  task, carry = start(problem, SGD(0.125), SEED)
  theta = carry.params[0].numpy()
  assert np.abs(theta).max() > problem.limit
  evaluate, expected = numpy_quadratic(task), []
  for _ in range(6):
    theta = np.clip(theta - 0.125 * evaluate(theta)[1], -problem.limit, problem.limit)
    expected.append(evaluate(theta)[0])
  end, losses = run(problem, SGD(0.125), task, carry, 6)
  np.testing.assert_allclose(losses, expected, rtol=1e-9)
  np.testing.assert_allclose(end.params[0], theta, rtol=1e-9)


def test_a_problem_that_projects_says_so():
  assert InABox().is_constrained and not Quadratic().is_constrained


def test_no_point_is_evaluated_twice():
  evaluated = []

  class Counting(Quadratic):
    def __call__(self, params, constants, seed):
      evaluated.append(params[0].numpy().tobytes())
      return super().__call__(params, constants, seed)

  problem, optimizer = Counting(batch_size=2, num_dims=3), SGD(0.1)
  task, carry = start(problem, optimizer, SEED)
  for _ in range(2):
    carry, _ = static_unroll(problem, optimizer, task, carry, 5)
  assert len(evaluated) == len(set(evaluated)) == 11


def test_the_static_unroll_is_the_same():
  problem, optimizer = quadratic(), lstm()
  task, carry = start(problem, optimizer, SEED)
  observe = lambda c, updates: {"loss": c.loss, "update": updates[0]}
  for watched in (None, observe):
    arguments = () if watched is None else (watched,)
    end, observed = unroll(problem, optimizer, task, carry, 3, *arguments)
    twin, twin_observed = static_unroll(problem, optimizer, task, carry, 3, *arguments)
    for x, y in zip(
      tf.nest.flatten((end, observed)), tf.nest.flatten((twin, twin_observed))
    ):
      np.testing.assert_allclose(x, y, rtol=1e-12)


def test_each_step_has_its_own_mini_batch_whatever_the_windows():
  problem, optimizer = Noise(), SGD(0.1)
  task, carry = start(problem, optimizer, SEED)
  _, losses = unroll(problem, optimizer, task, carry, 6)
  expected = [problem(carry.params, [], step_seed(task, t)) for t in range(7)]
  np.testing.assert_array_equal([carry.loss, *losses], expected)
  assert len(set(map(float, expected))) == 7
  windowed = []
  for length in (1, 2, 3):
    carry, part = unroll(problem, optimizer, task, carry, length)
    windowed.extend(part)
  np.testing.assert_array_equal(windowed, losses)


def test_the_seed_names_task_and_mini_batches():
  problem, optimizer = quadratic(), SGD(0.1)
  assert_same(start(problem, optimizer, SEED), start(problem, optimizer, SEED))
  task, carry = start(problem, optimizer, SEED)
  other_task, other = start(problem, optimizer, SEED + 1)
  assert np.any(task.seed != other_task.seed)
  assert np.all(task.constants[0] != other_task.constants[0])
  assert np.all(carry.params[0] != other.params[0])


def test_observe_sees_each_step_and_its_updates():
  problem, optimizer = quadratic(), Adam(0.1)
  task, carry = start(problem, optimizer, SEED)
  end, seen = unroll(
    problem,
    optimizer,
    task,
    carry,
    4,
    observe=lambda c, updates: (c.step, c.params, updates),
  )
  steps, (theta,), (updates,) = seen
  np.testing.assert_array_equal(steps, [1, 2, 3, 4])
  before = np.concatenate([carry.params[0][np.newaxis], theta[:-1]])
  np.testing.assert_array_equal(theta, before + updates)
  np.testing.assert_array_equal(theta[-1], end.params[0])


def test_xla_compiles_a_fixed_number_of_steps():
  problem, optimizer = quadratic(), lstm()
  task, carry = start(problem, optimizer, SEED)

  @tf.function(jit_compile=True, autograph=False)
  def run(carry):
    return unroll(problem, optimizer, task, carry, 4)

  for x, y in zip(
    tf.nest.flatten(run(carry)),
    tf.nest.flatten(unroll(problem, optimizer, task, carry, 4)),
  ):
    np.testing.assert_allclose(x, y, rtol=1e-9)


class Compiled(Quadratic):
  jit_compile_steps = True


def test_xla_compiles_each_step_by_itself_if_a_problem_says_so():
  problem, optimizer = Compiled(2, 3, dtype=tf.float64), lstm()
  plain, compiled = (
    unroll(p, optimizer, *start(p, optimizer, SEED), 4)[1]
    for p in (quadratic(), problem)
  )
  np.testing.assert_allclose(compiled, plain, rtol=1e-12)
  program = unroll_lib._compiled[problem]
  assert program.experimental_get_tracing_count() == 1  # at the start and in the loop
  assert "HloModule" in program.experimental_get_compiler_ir(
    [tf.ones([2, 3], tf.float64)], start(problem, optimizer, SEED)[0].constants, SEED
  )(stage="hlo")
  gone = weakref.ref(problem)
  del problem
  gc.collect()
  assert gone() is None and not unroll_lib._compiled


@pytest.mark.parametrize("order", ["first_order", "second_order"])
def test_only_second_order_gradients_can_be_differentiated(order):
  problem = quadratic()
  params, constants = problem.init(SEED)
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(params)
    evaluate = getattr(unroll_lib, order)
    loss, grads = evaluate(problem, params, constants, SEED)
    total = tf.reduce_sum(grads[0])
  np.testing.assert_allclose(tape.gradient(loss, params)[0], grads[0], rtol=1e-12)
  w = constants[0].numpy()
  hessian = 2 * np.einsum("bki,bkj->bij", w, w) / len(w)
  second = tape.gradient(total, params)[0]
  if order == "first_order":
    assert second is None
  else:
    np.testing.assert_allclose(second, hessian.sum(axis=1), rtol=1e-9)


def test_sparse_gradients_are_made_dense():
  class Embedding(Sum):
    def __call__(self, params, constants, seed):
      return tf.reduce_sum(tf.square(tf.gather(params[0], [0, 2])))

  _, carry = start(Embedding((3,)), SGD(0.1), SEED)
  np.testing.assert_array_equal(carry.grads[0], [2.0, 0.0, 2.0])


@pytest.mark.parametrize(
  ("reduce", "came"),
  [
    (lambda losses: tf.stack(losses), r"of shape \(2,\)"),
    (lambda losses: losses[0][None, None], r"of shape \(1, 1\)"),
    (lambda losses: None, "None"),
    (lambda losses: 1.0, r"1\.0"),
  ],
)
def test_a_loss_that_is_no_scalar_tensor_is_refused(reduce, came):
  message = f"^Sum returned a loss {came}; .*scalar.*tf.reduce_mean"
  with pytest.raises(ValueError, match=message):
    start(Sum((3,), (2,), reduce=reduce), SGD(0.1), SEED)


@pytest.mark.parametrize(
  ("cut", "missing"),
  [
    (lambda losses: losses[0], r"parameter 1 of shape \(2, 4\);"),
    (lambda losses: tf.stop_gradient(losses[0]) + losses[1], r"parameter 0 of .*;"),
    (
      lambda losses: tf.constant(1.0),
      r"parameter 0 of shape \(3,\), parameter 1 of shape \(2, 4\);",
    ),
  ],
)
def test_a_parameter_without_gradient_is_named(cut, missing):
  message = f"^Sum has no gradient for {missing} .*every parameter.*differentiable"
  with pytest.raises(ValueError, match=message):
    start(Sum((3,), (2, 4), reduce=cut), SGD(0.1), SEED)


def test_a_changed_loss_inside_the_loop_is_refused_when_it_is_traced():
  problem, optimizer = Sum((3,)), SGD(0.1)
  task, carry = start(problem, optimizer, SEED)
  bad = Sum((3,), reduce=lambda losses: tf.stack([*losses, *losses]))

  @tf.function(autograph=False)
  def run():
    return unroll(bad, optimizer, task, carry, 2)

  with pytest.raises(ValueError, match=r"^Sum returned a loss of shape \(2,\)"):
    run.get_concrete_function()


@pytest.mark.parametrize("rank", [None, 2])
def test_gradients_of_unknown_static_shape_have_their_parameter_s(rank):
  class Gathered(Problem):
    """Rows chosen by data whose shape is not known while a step is traced."""

    def init(self, seed):
      return [seeds.normal([5, 2], seed), seeds.normal([2], seed)], []

    def __call__(self, params, constants, seed):
      hidden = lambda x: tf.numpy_function(lambda: np.array(x, np.int32), [], tf.int32)
      rows, shape = hidden([0, 3, 3]), hidden([5, 2])
      table = tf.reshape(params[0], tf.ensure_shape(shape, [rank]) if rank else shape)
      chosen = tf.gather(table, rows)
      return tf.reduce_sum(tf.square(chosen - params[1]))

  problem, optimizer = Gathered(), CoordinatewiseLSTM((2,), "log_and_sign")
  trainer = MetaTrainer(problem, optimizer, num_steps=4, unroll_length=2)
  metrics = trainer.train_episode(0)
  assert np.all(np.isfinite(metrics["losses"])) and not metrics["skipped"].any()


def test_gradients_of_gathered_rows_are_dense():
  class Embedded(Problem):
    def init(self, seed):
      return [seeds.normal([5, 2], seed)], []

    def __call__(self, params, constants, seed):
      return tf.reduce_sum(tf.square(tf.gather(params[0], [0, 3, 3])))

  _, carry = start(Embedded(), SGD(0.1), seeds.make(0))
  counts = np.array([[1.0], [0.0], [0.0], [2.0], [0.0]])
  np.testing.assert_allclose(carry.grads[0], 2 * counts * carry.params[0], rtol=1e-6)
