"""All optimizers through one suite: what every loop may rely on."""

import inspect
import itertools

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import optimizers
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import RecordedBPTT, TapedBPTT
from l2l_tf.meta.imitation import Imitation, imitating
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.optimizers import (
  ALL,
  COORDINATE,
  GRADIENTS,
  LOSS,
  NTMBFGS,
  PARAMETERS,
  SGD,
  TENSOR,
  Adagrad,
  Adam,
  Blocked,
  ConstantGates,
  CoordinatewiseLSTM,
  GateLSTM,
  GeneralRule,
  GlobalAveragingLSTM,
  HierarchicalRNN,
  KernelwiseLSTM,
  LearnedStart,
  Momentum,
  Nesterov,
  Optimizer,
  Partition,
  RMSprop,
  RNNprop,
  Where,
)
from l2l_tf.problems import Problem

SHAPES = [(2, 3), (3,), ()]
FILTERS = [(3, 2, 1, 2), (3, 2, 2, 1)]
MIXED = [(3, 2, 1, 2), (2,), ()]


def partition():
  parameters = [("conv/kernel", MIXED[0], "kernel")]
  parameters += [("conv/bias", MIXED[1], "bias"), ("scale", MIXED[2], "variable")]
  return Partition(
    [
      (Where(rank=4), KernelwiseLSTM((3, 2), layers=(2,))),
      (Where(role="bias"), CoordinatewiseLSTM(layers=(2,))),
      (Where("scale"), Adam(0.1)),
    ],
    parameters,
  )


# Name -> how to make the optimizer, and the shapes of what it optimizes.
TABLE = {
  "sgd": (lambda: SGD(0.1), SHAPES),
  "momentum": (lambda: Momentum(0.1), SHAPES),
  "nesterov": (lambda: Nesterov(0.1), SHAPES),
  "rmsprop": (lambda: RMSprop(0.1), SHAPES),
  "adagrad": (lambda: Adagrad(0.1), SHAPES),
  "adam": (lambda: Adam(0.1), SHAPES),
  "coordinatewise": (lambda: CoordinatewiseLSTM((3, 2), "log_and_sign"), SHAPES),
  "coordinatewise linear": (lambda: CoordinatewiseLSTM((), "clamp"), SHAPES),
  "averages": (lambda: GlobalAveragingLSTM((3, 2), "log_and_sign", averaged=2), SHAPES),
  "memory": (lambda: NTMBFGS((3, 2), "log_and_sign", averaged=2), SHAPES),
  "low-rank memory": (
    lambda: NTMBFGS((3,), "log_and_sign", averaged=1, memory="low_rank", history=4),
    SHAPES,
  ),
  "rnnprop": (lambda: RNNprop((3, 2)), SHAPES),
  "rnnprop with time": (lambda: RNNprop((2,), time_scales=(1, 10)), SHAPES),
  "rnnprop with blocks": (lambda: RNNprop((2,), time_scales=(10,), block=2), SHAPES),
  "kernelwise": (lambda: KernelwiseLSTM((3, 2), layers=(2,)), FILTERS),
  "general rule": (GeneralRule, SHAPES),
  "general rule without blocks": (lambda: GeneralRule(block=None), MIXED),
  "partition": (partition, MIXED),
  "hierarchy": (HierarchicalRNN, SHAPES),
  "gates": (GateLSTM, SHAPES),
  "gates with memory": (lambda: GateLSTM(memory=True, units=3), SHAPES),
  "constant gates": (lambda: ConstantGates(0.1, decay=0.01), SHAPES),
  "blocked": (lambda: Blocked(CoordinatewiseLSTM((3, 2), "log_and_sign"), 4), SHAPES),
}


@pytest.fixture(params=TABLE, scope="module")
def case(request):
  make, shapes = TABLE[request.param]
  return make(), shapes


def normal(shapes, seed=0, dtype=tf.float32):
  return [
    tf.random.stateless_normal(s, [seed, i], dtype=dtype) for i, s in enumerate(shapes)
  ]


def assert_same(nest, other, rtol=0.0, atol=0.0):
  tf.nest.assert_same_structure(nest, other)
  for x, y in zip(tf.nest.flatten(nest), tf.nest.flatten(other)):
    assert x.dtype == y.dtype
    np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def specs(nest):
  return tf.nest.map_structure(tf.type_spec_from_value, nest)


def test_the_table_holds_every_public_optimizer():
  public = {
    cls
    for cls in vars(optimizers).values()
    if inspect.isclass(cls)
    and issubclass(cls, Optimizer)
    and not inspect.isabstract(cls)
  }
  apart = {LearnedStart}  # Its start does not move a step: see test_learned_start.py.
  assert public - apart == {type(make()) for make, _ in TABLE.values()}


def call(optimizer, grads, state):
  """Takes a step; an optimizer that reads the parameters or the loss gets some."""
  params = loss = None
  if PARAMETERS in optimizer.reads:
    params = [tf.ones_like(g) for g in grads]
  if LOSS in optimizer.reads:
    loss = tf.constant(0.7)
  return optimizer(grads, state, params=params, loss=loss)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_updates_are_like_the_parameters(case, dtype):
  optimizer, shapes = case
  grads = normal(shapes, dtype=dtype)
  updates, _ = call(optimizer, grads, optimizer.initial_state(grads))
  assert isinstance(updates, list)
  assert [u.shape for u in updates] == [g.shape for g in grads]
  assert {u.dtype for u in updates} == {dtype}
  assert all(np.all(np.isfinite(u)) for u in updates)


def test_parameters_and_loss_may_be_passed_or_left_out(case):
  optimizer, shapes = case
  grads = normal(shapes)
  state = optimizer.initial_state(grads)
  params, loss = normal(shapes, seed=1), tf.constant(1.0)
  assert_same(
    optimizer(grads, state, params=params, loss=loss),
    optimizer(
      grads,
      state,
      params=params if PARAMETERS in optimizer.reads else None,
      loss=loss if LOSS in optimizer.reads else None,
    ),
  )


def test_a_while_loop_equals_a_python_loop(case):
  optimizer, shapes = case
  num_steps = 3
  theta = normal(shapes)
  start = theta, optimizer.initial_state(theta)

  def step(theta, state):
    updates, state = call(optimizer, theta, state)
    return [x + u for x, u in zip(theta, updates)], state

  @tf.function(autograph=False)
  def loop(theta, state):
    return tf.while_loop(
      lambda *_: True, step, (theta, state), maximum_iterations=num_steps
    )

  expected = start
  for _ in range(num_steps):
    assert specs(step(*expected)) == specs(expected)
    expected = step(*expected)
  assert_same(tuple(loop(*start)), expected, rtol=1e-4, atol=1e-6)


def test_xla_compiles_a_step_to_the_same_numbers(case):
  optimizer, shapes = case
  grads = normal(shapes)
  _, state = call(optimizer, grads, optimizer.initial_state(grads))

  @tf.function(jit_compile=True, autograph=False)
  def step(grads, state):
    return call(optimizer, grads, state)

  assert_same(step(grads, state), call(optimizer, grads, state), rtol=1e-4, atol=1e-6)


def test_a_step_is_a_pure_function(case):
  optimizer, shapes = case
  grads = normal(shapes)
  state = optimizer.initial_state(grads)
  weights = [v.numpy() for v in optimizer.variables]
  arguments = tf.nest.map_structure(lambda x: tf.identity(x).numpy(), (grads, state))
  first = call(optimizer, grads, state)
  tf.nest.assert_same_structure((grads, state), arguments)
  for x, before in zip(tf.nest.flatten((grads, state)), tf.nest.flatten(arguments)):
    np.testing.assert_array_equal(x, before)
  for v, before in zip(optimizer.variables, weights):
    np.testing.assert_array_equal(v, before)
  assert_same(call(optimizer, grads, state), first)


def test_the_same_constructor_call_makes_the_same_optimizer(case):
  optimizer, shapes = case
  twin = type(optimizer)(**optimizer.config)
  grads = normal(shapes)
  state = optimizer.initial_state(grads)
  assert_same(twin.initial_state(grads), state)
  if not isinstance(optimizer, (Blocked, Partition)):  # Those hold the very same ones.
    assert not {id(v) for v in twin.variables} & {id(v) for v in optimizer.variables}
  assert_same(call(twin, grads, state), call(optimizer, grads, state))


def test_the_update_depends_on_the_gradient(case):
  optimizer, shapes = case
  grads = normal(shapes)
  state = optimizer.initial_state(grads)
  for u, v in zip(
    call(optimizer, grads, state)[0], call(optimizer, [-g for g in grads], state)[0]
  ):
    assert np.all(u != v)


def test_an_outer_tape_differentiates_a_step_with_respect_to_the_gradients(case):
  optimizer, shapes = case
  grads = normal(shapes)
  with tf.GradientTape() as tape:
    tape.watch(grads)
    state = optimizer.initial_state(grads)
    for _ in range(2):
      updates, state = call(optimizer, grads, state)
    total = tf.add_n([tf.reduce_sum(u) for u in updates])
  for d in tape.gradient(total, grads):
    assert d is not None and np.all(np.isfinite(d))


def test_every_weight_is_found_once_and_moves_the_updates(case):
  optimizer, shapes = case
  weights = optimizer.trainable_variables
  assert len({id(v) for v in weights}) == len(weights) == len(optimizer.variables)
  grads = normal(shapes)
  with tf.GradientTape() as tape:
    state = optimizer.initial_state(grads)
    for _ in range(2):  # Recurrent weights act from the second step on.
      updates, state = call(optimizer, grads, state)
    total = tf.add_n([tf.reduce_sum(u) for u in updates])
  assert all(d is not None and np.any(d) for d in tape.gradient(total, weights))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_does_not_crash(case, value):
  optimizer, shapes = case
  grads = normal(shapes)
  grads[0] = tf.fill(grads[0].shape, tf.constant(value, tf.float32))
  updates, state = call(optimizer, grads, optimizer.initial_state(grads))
  call(optimizer, grads, state)
  assert [u.shape for u in updates] == [g.shape for g in grads]
  if np.isnan(value):  # It shows, instead of being replaced by some number.
    assert np.all(np.isnan(updates[0]))


class Bowl(Problem):
  """Squared distances from 1, of parameters of several types."""

  def __init__(self, shapes, dtype):
    kinds = itertools.cycle([tf.float32, tf.float64, tf.float16, tf.bfloat16])
    self._specs, self._dtype = list(zip(shapes, kinds)), dtype

  def init(self, seed):
    return [tf.zeros(shape, kind) for shape, kind in self._specs], []

  def __call__(self, params, constants, seed):
    squares = [tf.square(tf.cast(p, self._dtype) - 1.0) for p in params]
    return tf.add_n([tf.reduce_sum(x) for x in squares])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_parameters_of_several_types_have_one_meta_gradient(case, dtype):
  optimizer, shapes = case
  problem = Bowl(shapes, dtype)
  task, carry = unroll.start(problem, optimizer, tf.constant([0, 1]))
  arguments = problem, optimizer, task, carry, 2, lambda carry, _: carry.params
  is_recorded = RecordedBPTT.serves(problem, optimizer, MetaObjective())
  first = RecordedBPTT() if is_recorded else TapedBPTT()
  ways = first, TapedBPTT(), TapedBPTT(second_derivatives=True)
  recorded, taped, second = (way(*arguments)[0] for way in ways)
  assert [p.dtype for p in recorded.carry.params] == [p.dtype for p in carry.params]
  assert recorded.meta_loss.dtype == max(dtype, tf.float32, key=lambda kind: kind.size)
  for a, b, c in zip(*(w.meta_gradient for w in (recorded, taped, second))):
    scale = np.abs(b).max()
    np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05 * scale)
    assert np.all(np.isfinite(c))


def test_zero_gradients_give_finite_updates(case):
  optimizer, shapes = case
  grads = [tf.zeros(s) for s in shapes]
  updates, state = call(optimizer, grads, optimizer.initial_state(grads))
  updates, _ = call(optimizer, grads, state)
  assert all(np.all(np.isfinite(u)) for u in updates)


@pytest.mark.parametrize("name", [n for n in TABLE if n != "partition"])
def test_a_parameter_without_elements_is_carried_along(name):
  make, shapes = TABLE[name]
  optimizer = make()
  shapes = [*shapes, (0, 2) if shapes == SHAPES else (3, 2, 0, 4)]
  for some in (shapes, shapes[-1:]):
    grads = normal(some)
    updates, _ = call(optimizer, grads, optimizer.initial_state(grads))
    assert [u.shape for u in updates] == [g.shape for g in grads]


def test_no_parameters_at_all_work_or_are_a_clear_error(case):
  optimizer, _ = case
  if optimizer.trainable_variables:
    with pytest.raises(ValueError, match=r"got (an empty list; it needs|0 params for)"):
      optimizer.initial_state([])
  else:
    assert optimizer([], optimizer.initial_state([]))[0] == []


def test_diagnostics_are_finite_scalars(case):
  optimizer, shapes = case
  grads = normal(shapes)
  diagnostics = optimizer.diagnostics(grads, optimizer.initial_state(grads))
  for name, value in diagnostics.items():
    assert isinstance(name, str)
    assert np.shape(value) == () and np.isfinite(value)


def test_other_weights_are_an_argument(case):
  optimizer, shapes = case
  grads = normal(shapes)
  state = optimizer.initial_state(grads)
  before = [v.numpy() for v in optimizer.variables]
  other = [v + 0.1 * tf.ones_like(v) for v in optimizer.get_phi()]
  view = optimizer.with_phi(other)
  given = call(view, grads, state)
  for v, x in zip(optimizer.variables, before):
    np.testing.assert_array_equal(v, x)
  for x, y in zip(view.get_phi(), other, strict=True):
    np.testing.assert_array_equal(x, y)
  expected = call(optimizer, grads, state)
  if not before:
    assert_same(given, expected)
    return
  for v, x in zip(optimizer.get_phi(), other):
    v.assign(x)
  assert_same(given, call(optimizer, grads, state))
  for v, x in zip(optimizer.variables, before):
    v.assign(x)
  assert any(np.any(a != b) for a, b in zip(given[0], expected[0]))


def test_weights_are_differentiated_through_and_vectorised_over(case):
  optimizer, shapes = case
  if not optimizer.get_phi():
    return
  grads = normal(shapes)
  state = optimizer.initial_state(grads)
  phi = [tf.convert_to_tensor(v) for v in optimizer.get_phi()]

  def total(scale):
    updates, _ = call(optimizer.with_phi([scale * x for x in phi]), grads, state)
    return tf.add_n([tf.reduce_sum(tf.square(u)) for u in updates])

  scales = tf.constant([0.5, 1.0, 1.5])
  with tf.GradientTape() as tape:
    tape.watch(scales)
    together = tf.vectorized_map(total, scales)
  slope = tape.gradient(together, scales)
  np.testing.assert_allclose(together, [total(x) for x in scales], rtol=1e-4)
  step = 1e-2
  differences = [(total(x + step) - total(x - step)) / (2 * step) for x in scales]
  np.testing.assert_allclose(slope, differences, rtol=0.02, atol=1e-5)


def test_views_of_views(case):
  optimizer, shapes = case
  grads = normal(shapes)
  state = optimizer.initial_state(grads)
  zeros = [tf.zeros_like(v) for v in optimizer.get_phi()]
  ones = [tf.ones_like(v) for v in optimizer.get_phi()]
  twice = optimizer.with_phi(zeros).with_phi(ones)
  assert_same(call(twice, grads, state), call(optimizer.with_phi(ones), grads, state))


def test_weights_of_other_shapes_are_refused(case):
  optimizer, _ = case
  with pytest.raises(ValueError, match=r"with_phi got weights of shapes .*it needs"):
    optimizer.with_phi([*optimizer.get_phi(), tf.zeros([3])])


def test_traits_are_checked_and_those_of_version_0_1_0_understood():
  class Old(SGD):
    is_coordinatewise = False
    reads_gradients_alone = False

  assert (Old.coupling, Old.reads) == (ALL, {GRADIENTS, PARAMETERS, LOSS})
  assert (SGD.coupling, SGD.reads) == (COORDINATE, {GRADIENTS})
  assert partition().coupling == TENSOR and partition().reads == {GRADIENTS}
  with pytest.raises(TypeError, match="must be a set of GRADIENTS, PARAMETERS and"):
    type("Wrong", (SGD,), {"reads": {"gradients"}})


def test_a_preprocess_can_declare_itself_elementwise():
  def halved(grads):
    return 0.5 * grads[:, tf.newaxis]

  assert CoordinatewiseLSTM((2,), halved).coupling == ALL
  halved.is_elementwise = True
  assert CoordinatewiseLSTM((2,), halved).coupling == COORDINATE
  assert KernelwiseLSTM((3, 2), (2,), halved).coupling == TENSOR


class Weighted(tf.Module):
  """A preprocess with a weight of its own."""

  is_elementwise = True

  def __init__(self):
    super().__init__()
    self.factor = tf.Variable(0.5)

  def __call__(self, grads):
    return (self.factor * grads)[..., tf.newaxis]


def test_a_preprocess_with_weights_is_meta_trained_too():
  optimizer = CoordinatewiseLSTM((2,), Weighted(), output_scale=0.1)
  problem, params = Bowl([(2, 2)], tf.float32), [tf.zeros([2, 2])]
  assert len(optimizer.get_phi()) == 6
  ways = RecordedBPTT(), TapedBPTT()
  task, carry = unroll.start(problem, optimizer, tf.constant([0, 1]))
  observe = lambda *_: ()
  a, b = (w(problem, optimizer, task, carry, 3, observe)[0].meta_gradient for w in ways)
  for x, y in zip(a, b, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)
    assert np.any(x)
  zeros = optimizer.with_phi([tf.zeros_like(v) for v in optimizer.get_phi()])
  state = optimizer.initial_state(params)
  grads = [tf.ones([2, 2])]
  changed = [tf.zeros([]) if v.shape == () else v for v in optimizer.get_phi()]
  silent = optimizer.with_phi(changed)
  assert not np.any(zeros(grads, state)[0][0])
  nothing = optimizer([tf.zeros([2, 2])], state)[0][0]
  np.testing.assert_array_equal(silent(grads, state)[0][0], nothing)


def test_a_rule_of_version_0_1_0_is_not_compiled():
  class Old(SGD):
    is_coordinatewise = True

  class New(SGD):
    jit_compile = False

  found = [make(0.1).jit_compile for make in (SGD, Old, New)]
  assert found == [True, False, False]
  wrapped = [
    LearnedStart(New(0.1), [(2,)]),
    Blocked(New(0.1), 4),
    Partition([(Where(), SGD(0.1)), (Where(), New(0.1))]),
    imitating(SGD(0.1), Imitation(New(0.1))),
  ]
  assert not any(optimizer.jit_compile for optimizer in wrapped)


def test_an_optimizer_that_couples_all_is_compiled_if_it_says_so():
  class Coupled(SGD):
    coupling = ALL

  class Compiled(Coupled):
    jit_compile = True

  assert [make(0.1).jit_compile for make in (Coupled, Compiled)] == [False, True]
