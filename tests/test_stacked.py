"""Tasks of an optimizer that couples coordinates, in one call and one by one."""

import numpy as np
import pytest
import tensorflow as tf
from test_task_batch import lstm, together_and_alone, trainer

import l2l_tf
from l2l_tf import cores, seeds
from l2l_tf.evaluation.runner import Runner
from l2l_tf.meta import execution
from l2l_tf.meta.gradients import TruncatedBPTT
from l2l_tf.meta.imitation import Imitating
from l2l_tf.optimizers import (
  ALL,
  NTMBFGS,
  SGD,
  Blocked,
  GeneralRule,
  GlobalAveragingLSTM,
  Partition,
  RNNprop,
  Where,
)
from l2l_tf.optimizers.compiled import Compiled
from l2l_tf.optimizers.stacked import Stacked
from l2l_tf.problems import Problem, Quadratic


class Curved(Problem):
  """Parameters of several ranks, and a loss that is no quadratic."""

  def init(self, seed):
    keys = seeds.split(seed, 3)
    params = [seeds.normal(s, key) for s, key in zip([(3, 2), (2,), ()], keys)]
    return params, seeds.normal([], keys[0])

  def __call__(self, params, constants, seed):
    target = constants + 0.1 * seeds.normal([], seed)
    return tf.add_n([tf.reduce_mean((p - target) ** 4) for p in params])


class LearnedState(SGD):
  """Momentum, whose first value is learned, from a start that is the problem's."""

  coupling = ALL
  jit_compile = True
  learns_start = True

  def __init__(self):
    super().__init__(0.1)
    self.first = tf.Variable(0.5)

  def initial_state(self, params):
    return [tf.fill(p.shape, self.first) for p in params]

  def __call__(self, grads, state, params=None, loss=None):
    size = tf.linalg.global_norm(grads)
    state = [0.9 * m + g / (1.0 + size) for m, g in zip(state, grads)]
    return [-0.1 * m for m in state], state


def partition_of_lstms():
  routes = [(Where(rank=2), lstm()), (lambda p: p.rank != 2, lstm("clamp"))]
  return Partition(routes, Curved().parameters())


COUPLED = {
  "averages": lambda: GlobalAveragingLSTM((3,), "log_and_sign", 0.1, averaged=2),
  "memory": lambda: NTMBFGS((3,), "log_and_sign", 0.1, averaged=2),
  "general rule": GeneralRule,
  "rnnprop with blocks": lambda: RNNprop((3,), block=2, time_scales=(3,)),
  "partition": partition_of_lstms,
  "learned state": LearnedState,
}


@pytest.mark.parametrize(
  "name, second_derivatives", [(name, False) for name in COUPLED] + [("averages", True)]
)
def test_coupled_tasks_share_a_call_and_compute_what_they_do_alone(
  name, second_derivatives
):
  optimizer, problem = COUPLED[name](), Curved()
  method = TruncatedBPTT(second_derivatives=second_derivatives)
  run = trainer(problem, optimizer, meta_gradient=method, meta_batch_size=3)
  assert len(run._start(0)[0][0].groups) == 1
  window, singles = together_and_alone(run, optimizer, method)
  for gradient, *each in zip(window.meta_gradient, *(s.meta_gradient for s in singles)):
    scale = np.abs(each).max()
    assert scale > 0
    np.testing.assert_allclose(
      gradient, np.mean(each, axis=0), rtol=1e-3, atol=1e-4 * scale
    )
  mean = np.mean([float(s.meta_loss) for s in singles])
  np.testing.assert_allclose(window.meta_loss, mean, rtol=1e-5)


def test_one_task_of_a_coupled_optimizer_is_not_split(monkeypatch):
  monkeypatch.setattr(cores, "num_shards", lambda: 2)
  monkeypatch.setattr(execution, "_MIN_GROUP", 1)
  make = COUPLED["averages"]
  assert len(trainer(Quadratic(8, 3), make())._start(0)[0][0].groups) == 1
  run = trainer(Quadratic(8, 3), make(), meta_batch_size=4)
  assert [group.params[0].shape[0] for group in run._start(0)[0][0].groups] == [2, 2]


@pytest.mark.parametrize("name", ["averages", "partition"])
def test_a_larger_meta_batch_has_no_larger_graph(name):
  sizes = []
  for meta_batch_size in 2, 5:
    run = trainer(Curved(), COUPLED[name](), meta_batch_size=meta_batch_size)
    graph = run._compiled.get_concrete_function(*map(tf.constant, (0, 2, 3))).graph
    functions = graph.as_graph_def().library.function
    sizes.append(len(graph.get_operations()) + sum(len(f.node_def) for f in functions))
  # Each task has a seed of its own.
  assert sizes[1] < 1.02 * sizes[0]


def test_stacked_tasks_have_their_own_state_schedule_and_diagnostics():
  inner = COUPLED["averages"]()
  stacked, shapes = Stacked(inner), [(3, 2, 2), (3,)]
  grads = [seeds.normal(s, seeds.make(i)) for i, s in enumerate(shapes)]
  state = stacked.initial_state(grads)
  updates, state = stacked(grads, state)
  diagnostics, alone = stacked.diagnostics(grads, state), []
  for m in range(3):
    own = [g[m] for g in grads]
    expected, own_state = inner(own, inner.initial_state(own))
    for u, v in zip(updates, expected):
      np.testing.assert_allclose(u[m], v, rtol=1e-5, atol=1e-7)
    for x, y in zip(tf.nest.flatten(state), tf.nest.flatten(own_state), strict=True):
      np.testing.assert_allclose(x[m], y, rtol=1e-5, atol=1e-7)
    alone.append(inner.diagnostics(own, own_state))
  for key, value in diagnostics.items():
    np.testing.assert_allclose(value, np.mean([d[key] for d in alone]), atol=1e-6)
  rule = Stacked(GeneralRule(None))
  state = rule.initial_state(grads)
  rates = [rule.decay_rate(rule.with_total_steps(state, n)) for n in (2, 2000)]
  assert rates[0] != rates[1]


class Uneven(Quadratic):
  """Its second task is another one."""

  def __init__(self, *sizes):
    super().__init__(*sizes)
    self.num_tasks = 2

  def init(self, seed):
    params, (w, y) = super().init(seed)
    return params, [w, y + tf.constant([[0.0], [5.0]], y.dtype)]


@pytest.mark.parametrize(
  "make",
  [lambda: GlobalAveragingLSTM((4,), averaged=2), LearnedState],
  ids=["averages", "learned state"],
)
def test_tasks_that_a_problem_holds_do_not_see_each_other(make):
  optimizer = make()
  curves = [
    Runner(problem, optimizer, num_steps=5)(0, seeds.EVALUATION, 1).losses
    for problem in (Quadratic(2, 3), Uneven(2, 3))
  ]
  np.testing.assert_allclose(curves[0][0], curves[1][0], rtol=1e-5)
  assert not np.allclose(curves[0][1], curves[1][1], rtol=0.1)
  trained = l2l_tf.MetaTrainer(Quadratic(2, 3), optimizer, num_steps=5, unroll_length=5)
  assert isinstance(trained._learner, Stacked)


@pytest.mark.parametrize(
  "problem, optimizer",
  [
    (Quadratic(1, 3), GlobalAveragingLSTM()),
    (Quadratic(2, 3), SGD(0.1)),
    (Quadratic(2, 3), lstm()),
    (Curved(), GlobalAveragingLSTM()),
  ],
  ids=["one task", "no coupling", "LSTM", "other problem"],
)
def test_what_couples_no_tasks_is_run_as_it_is(problem, optimizer):
  assert execution.prepared(problem, optimizer) is optimizer


def test_xla_does_not_compile_the_way_back_of_what_is_vectorised():
  """It took what the forward pass computes for constants, and compiled every window."""
  stacked = Stacked(GlobalAveragingLSTM())
  for optimizer in (stacked, Imitating(stacked, SGD(0.1)), Compiled(stacked)):
    assert not execution.compiles_way_back(optimizer)
  for optimizer in (stacked.inner, Compiled(stacked.inner), Blocked(lstm(), 4)):
    assert execution.compiles_way_back(optimizer)
