import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_tf import MetaTrainer, problems, seeds
from l2l_tf.evaluation.runner import Runner
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import (
  SGD,
  Adam,
  CoordinatewiseLSTM,
  GeneralRule,
  KernelwiseLSTM,
  Momentum,
  Partition,
  Where,
)
from l2l_tf.problems import Parameter
from l2l_tf.storage import export

PARAMETERS = [
  Parameter("conv/kernel", (3, 3, 1, 2), "kernel"),
  Parameter("conv/bias", (2,), "bias"),
  Parameter("dense/kernel", (2, 4), "kernel"),
  Parameter("dense/bias", (4,), "bias"),
  Parameter("temperature", (), "variable"),
]


def any_parameter(parameter):
  return True


def normal(seed=0, parameters=PARAMETERS):
  return [
    tf.random.stateless_normal(p.shape, [seed, i]) for i, p in enumerate(parameters)
  ]


def conv_and_rest():
  """Two learned members and a hand-designed one."""
  return Partition(
    [
      (Where(rank=4), KernelwiseLSTM((3, 3), layers=(3,))),
      (Where(role="bias"), CoordinatewiseLSTM(layers=(2,))),
      (lambda p: p.rank in (0, 2), Momentum(0.1)),
    ],
    PARAMETERS,
  )


def run(optimizer, num_steps=3, select=lambda tensors: tensors):
  state = optimizer.initial_state(select(normal()))
  updates = []
  for t in range(num_steps):
    step_updates, state = optimizer(select(normal(t)), state)
    updates.append(step_updates)
  return updates


def test_every_member_acts_on_its_parameters_as_if_it_were_alone():
  updates = run(conv_and_rest())
  alone = {
    (0,): KernelwiseLSTM((3, 3), layers=(3,)),
    (1, 3): CoordinatewiseLSTM(layers=(2,)),
    (2, 4): Momentum(0.1),
  }
  for indices, member in alone.items():
    expected = run(member, select=lambda x, indices=indices: [x[i] for i in indices])
    for step, expected_step in zip(updates, expected):
      for i, e in zip(indices, expected_step):
        np.testing.assert_allclose(step[i], e, rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
  shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=5),
  data=st.data(),
)
def test_any_assignment_of_any_shapes_gives_each_its_own_rate(shapes, data):
  owners = data.draw(
    st.lists(st.integers(0, 2), min_size=len(shapes), max_size=len(shapes))
  )
  parameters = [Parameter(f"p{i}", tuple(s), "variable") for i, s in enumerate(shapes)]
  rates = {owner: 10.0**owner for owner in set(owners)}
  routes = [
    (lambda p, owner=owner: owners[int(p.path[1:])] == owner, SGD(rate))
    for owner, rate in rates.items()
  ]
  optimizer = Partition(routes, parameters)
  grads = normal(parameters=parameters)
  updates, _ = optimizer(grads, optimizer.initial_state(grads))
  for g, u, owner in zip(grads, updates, owners):
    assert u.shape == g.shape
    np.testing.assert_allclose(u, -rates[owner] * g, rtol=1e-6)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_the_order_of_the_routes_does_not_matter(order):
  routes = [
    (Where(rank=4), SGD(0.1)),
    (Where(rank=1), Momentum(0.2)),
    (lambda p: p.rank in (0, 2), Adam(0.3)),
  ]
  expected = run(Partition(routes, PARAMETERS))
  for step, expected_step in zip(
    run(Partition([routes[i] for i in order], PARAMETERS)), expected
  ):
    for u, e in zip(step, expected_step):
      np.testing.assert_array_equal(u, e)


def test_members_know_which_of_their_parameters_are_embeddings():
  parameters = [("layer/embeddings", (4, 3), "variable"), ("out", (3,), "variable")]
  routes = [(Where(rank=2), GeneralRule()), (Where(rank=1), SGD(0.1))]
  params = [tf.ones([4, 3]), tf.ones([3])]
  gradient = tf.constant([[1.0], [0.0], [2.0], [0.0]]) * tf.constant([1.0, -1.0, 1.0])
  optimizer = Partition(routes, parameters)
  for same in optimizer, export.loads(export.dumps(optimizer)):
    state = same.initial_state(params)
    (moved, _), _ = same([gradient, tf.ones([3])], state, params=params)
    assert [bool(np.any(row)) for row in moved.numpy()] == [True, False, True, False]


def test_the_state_is_a_tuple_of_the_members_states():
  optimizer = conv_and_rest()
  kernels, biases, rest = optimizer.initial_state(normal())
  assert [s.hidden.shape for s in kernels] == [[3, 2]]
  assert [s.hidden.shape for s in biases] == [[2, 6]]
  assert [s.shape for s in rest.slots[0]] == [[2, 4], []]


def test_members_receive_their_parameters_and_the_loss():
  class Probe(SGD):
    def __call__(self, grads, state, params=None, loss=None):
      self.seen = [p.shape for p in params], loss
      return super().__call__(grads, state)

  first, second = Probe(0.1), Probe(0.1)
  optimizer = Partition(
    [(Where(role="bias"), first), (lambda p: p.role != "bias", second)], PARAMETERS
  )
  grads = normal()
  optimizer(grads, optimizer.initial_state(grads), params=grads, loss=tf.constant(2.0))
  assert first.seen[0] == [[2], [4]] and first.seen[1] == 2.0
  assert second.seen[0] == [[3, 3, 1, 2], [2, 4], []]


def test_sonnet_finds_each_member_s_variables_exactly_once():
  optimizer = conv_and_rest()
  members = [o for _, o in optimizer.config["routes"]]
  expected = [id(v) for o in members for v in o.trainable_variables]
  found = [id(v) for v in optimizer.trainable_variables]
  assert len(found) == len(set(found)) == 10
  assert set(found) == set(expected)


def test_hand_designed_members_alone_have_no_variables():
  assert Partition([(any_parameter, SGD(0.1))], PARAMETERS).variables == ()


def test_diagnostics_are_the_members_under_their_route():
  optimizer = conv_and_rest()
  diagnostics = optimizer.diagnostics(normal(), optimizer.initial_state(normal()))
  gates = [f"lstm_1/{gate}_gate" for gate in ("input", "forget", "output")]
  assert set(diagnostics) == {f"route_{i}/{g}" for i in (0, 1) for g in gates}


def test_a_partition_may_hold_a_partition():
  inner = Partition(
    [(Where("*/kernel", rank=2), SGD(0.1)), (Where(role="bias"), SGD(0.2))],
    PARAMETERS[2:4],
  )
  optimizer = Partition(
    [(Where("dense/*"), inner), (lambda p: p.path[:5] != "dense", SGD(1.0))],
    PARAMETERS,
  )
  (updates,) = run(optimizer, num_steps=1)
  for g, u, rate in zip(normal(), updates, [1.0, 1.0, 0.1, 0.2, 1.0]):
    np.testing.assert_allclose(u, -rate * g, rtol=1e-6)


def test_parameters_may_be_told_later_and_then_nothing_else_differs():
  routes = lambda: [
    (Where(rank=4), KernelwiseLSTM((3, 3), layers=(3,))),
    (Where(role="bias"), CoordinatewiseLSTM(layers=(2,))),
    (Where("[dt]*e", role="variable"), GeneralRule(None)),
    (Where("dense/kernel"), Momentum(0.1)),
  ]
  told = Partition(routes(), PARAMETERS)
  open_to_any = Partition(routes())
  view = open_to_any.with_parameters(PARAMETERS)
  assert view.coupling == told.coupling and view.reads == told.reads
  for x, y in zip(told.get_phi(), view.get_phi(), strict=True):
    np.testing.assert_array_equal(x, y)
  assert [id(v) for v in view.variables] == [id(v) for v in open_to_any.variables]
  grads, results = normal(), []
  for optimizer in (told, view):
    state = optimizer.initial_state(grads)
    results.append(optimizer(grads, state, params=grads)[0])
  for x, y in zip(*results, strict=True):
    np.testing.assert_array_equal(x, y)


def test_parameters_that_are_known_stay_and_open_ones_are_exported_as_such():
  routes = [(Where(rank=2), SGD(0.1)), (Where(rank=1), SGD(0.2))]
  known = Partition(routes, PARAMETERS[2:4])
  assert known.with_parameters(PARAMETERS[:2]) is known
  loaded = export.loads(export.dumps(Partition(routes)))
  for parameters in (PARAMETERS[2:4], PARAMETERS[2:4][::-1]):
    grads = normal(0, parameters)
    view = loaded.with_parameters(parameters)
    updates, _ = view(grads, view.initial_state(grads))
    for p, g, u in zip(parameters, grads, updates):
      np.testing.assert_allclose(u, -(0.1 if p.rank == 2 else 0.2) * g)


def test_training_evaluation_and_keras_tell_it_the_parameters():
  routes = [(Where(rank=2), CoordinatewiseLSTM(())), (Where(rank=1), SGD(0.1))]
  optimizer, problem = Partition(routes), problems.digits_mlp((3,), batch_size=4)
  before = [v.numpy() for v in optimizer.trainable_variables]
  MetaTrainer(problem, optimizer, num_steps=2, unroll_length=2).train_episode(0)
  after = optimizer.trainable_variables
  assert any(np.any(x != y) for x, y in zip(before, after, strict=True))
  curves = Runner(problem, optimizer, 2)(0, seeds.EVALUATION, 1)
  assert np.isfinite(curves.losses).all()
  kernel, bias = keras.Variable(np.ones([2, 3])), keras.Variable(np.ones([3]))
  LearnedOptimizer(optimizer).apply([tf.ones([2, 3]), tf.ones([3])], [kernel, bias])
  np.testing.assert_allclose(bias, 0.9 * np.ones([3]))


def test_a_call_before_the_parameters_are_told_says_how_to_tell_them():
  with pytest.raises(ValueError, match="got 5 params before it was told what they are"):
    Partition([(Where(), SGD(0.1))]).initial_state(normal())


def test_a_problem_describes_the_parameters():
  problem = problems.Quadratic(batch_size=2, num_dims=3)
  optimizer = Partition([(Where("theta"), SGD(0.5))], problem.parameters())
  params, _ = problem.init(tf.constant([0, 1]))
  updates, _ = optimizer(params, optimizer.initial_state(params))
  np.testing.assert_allclose(updates[0], -0.5 * params[0])


def test_parameters_may_be_triples():
  triples = [(p.path, list(p.shape), p.role) for p in PARAMETERS]
  routes = [(Where(role="kernel"), SGD(0.1)), (lambda p: p.rank < 2, SGD(1.0))]
  (updates,) = run(Partition(routes, triples), num_steps=1)
  np.testing.assert_allclose(updates[2], -0.1 * normal()[2])


@pytest.mark.parametrize(
  "where, selected",
  [
    (Where(), [0, 1, 2, 3, 4]),
    (Where("*"), [0, 1, 2, 3, 4]),
    (Where("conv/*"), [0, 1]),
    (Where("*/kernel"), [0, 2]),
    (Where("CONV/*"), []),
    (Where("conv"), []),
    (Where("t?mp[a-f]rature"), [4]),
    (Where(rank=0), [4]),
    (Where(rank=1), [1, 3]),
    (Where(role="bias"), [1, 3]),
    (Where("dense/*", rank=1, role="bias"), [3]),
    (Where("dense/*", rank=1, role="kernel"), []),
  ],
  ids=repr,
)
def test_where_selects_what_matches_all_that_is_given(where, selected):
  assert [i for i, p in enumerate(PARAMETERS) if where(p)] == selected


@pytest.mark.parametrize(
  "routes, message",
  [
    ([], "no route selects 'conv/kernel', .*, 'temperature'; each parameter needs"),
    (
      [(Where(role="kernel"), SGD(0.1)), (Where(role="bias"), SGD(0.1))],
      "no route selects 'temperature'; each parameter needs exactly one route, so"
      " widen a predicate or add a route",
    ),
    (
      [(Where(), SGD(0.1)), (Where("conv/*"), SGD(0.1))],
      "routes 0, 1 all select 'conv/kernel', 'conv/bias'; each parameter needs"
      " exactly one route, so narrow their predicates",
    ),
    (
      [(Where(), SGD(0.1)), (Where(rank=3), SGD(0.1))],
      "route 1 selects none of 'conv/kernel', .*; remove it or correct its predicate",
    ),
    ([("conv/*", SGD(0.1))], "route 0 = .*a route is a predicate, e.g. Where"),
    ([(Where(), "adam")], "route 0 = .*'adam'.*a route is a predicate"),
  ],
)
def test_bad_routes_are_errors_that_name_the_paths(routes, message):
  with pytest.raises(ValueError, match=message):
    Partition(routes, PARAMETERS)


def test_an_optimizer_in_two_routes_is_an_error():
  shared = CoordinatewiseLSTM(layers=())
  with pytest.raises(ValueError, match="the same optimizer in routes 0 and 2; give it"):
    Partition(
      [(Where(rank=1), shared), (Where(rank=2), SGD(1)), (Where(rank=4), shared)],
      PARAMETERS,
    )


def test_a_route_without_any_parameters_is_an_error():
  with pytest.raises(ValueError, match="route 0 selects none of no parameters"):
    Partition([(Where(), SGD(0.1))], [])


def test_a_long_list_of_paths_is_cut():
  parameters = [Parameter(f"layer_{i}", (1,), "kernel") for i in range(30)]
  with pytest.raises(ValueError, match="'layer_9' and 20 more; each parameter needs"):
    Partition([], parameters)


OPTIMIZER = Partition([(any_parameter, Momentum(0.1))], PARAMETERS)


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda x: x[:-1], "got 4 {} for 5 parameters; build a Partition with the"),
    (lambda x: [*x, x[0]], "got 6 {} for 5 parameters; build"),
    (lambda x: [], "got 0 {} for 5 parameters; build"),
    (
      lambda x: x[::-1],
      r"got {}\[0\] of shape \(\), but 'conv/kernel' has shape \(3, 3, 1, 2\); build",
    ),
    (
      lambda x: [*x[:2], tf.transpose(x[2]), *x[3:]],
      r"got {}\[2\] of shape \(4, 2\), but 'dense/kernel' has shape \(2, 4\)",
    ),
    (lambda x: [*x[:4], None], r"got {}\[4\] of shape None, but 'temperature'"),
  ],
)
def test_other_tensors_than_the_parameters_are_errors(change, message):
  right, wrong = normal(), change(normal())
  state = OPTIMIZER.initial_state(right)
  with pytest.raises(ValueError, match=message.format("params")):
    OPTIMIZER.initial_state(wrong)
  with pytest.raises(ValueError, match=message.format("grads")):
    OPTIMIZER(wrong, state)
  with pytest.raises(ValueError, match=message.format("params")):
    OPTIMIZER(right, state, params=wrong)
  with pytest.raises(ValueError, match=message.format("grads")):
    OPTIMIZER.diagnostics(wrong, state)


def test_a_state_of_another_partition_is_an_error():
  state = conv_and_rest().initial_state(normal())
  with pytest.raises(ValueError, match="the state of 3 routes, but it has 1; pass the"):
    OPTIMIZER(normal(), state)
