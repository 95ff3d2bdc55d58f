"""Back-propagation by taking steps again, against the tape."""

import re

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import execution
from l2l_tf.meta.gradients import ReplayedBPTT, StaggeredBPTT, TapedBPTT, TruncatedBPTT
from l2l_tf.meta.imitation import Imitation, imitating
from l2l_tf.meta.objective import (
  MetaObjective,
  best_loss,
  last_only,
  log_relative_loss,
  mean_loss,
)
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.meta.unroll import start
from l2l_tf.optimizers import (
  ALL,
  Adam,
  Blocked,
  ConstantGates,
  CoordinatewiseLSTM,
  GateLSTM,
  GeneralRule,
  LearnedStart,
  Partition,
  Where,
)
from l2l_tf.problems import Problem, Quadratic

SEED = tf.constant([3, 4])
SHAPES = [(2, 3)]


class OnQuery(Quadratic):
  """The meta-loss is another function than the loss."""

  def meta_loss(self, params, constants, seed):
    return tf.reduce_sum(tf.square(params[0] - 0.5)) + 0.1 * tf.reduce_sum(params[0])


class Several(Problem):
  """Parameters of two floating types."""

  def init(self, seed):
    draw = lambda key, dtype: seeds.normal([3], key, dtype=dtype)
    one, two = seeds.split(seed, 2)
    return [draw(one, tf.float32), draw(two, tf.float64)], []

  def __call__(self, params, constants, seed):
    one, two = params
    return tf.reduce_sum(tf.cast(one, tf.float64) ** 2 * (1.0 + two**2))


def gates(memory=False):
  optimizer = GateLSTM(memory, units=3, dtype="float64")
  if memory:  # It starts at zero, where nothing reaches the LSTM.
    optimizer.memory.readout.assign(np.linspace(-0.5, 0.5, 3))
  optimizer.recurrent.assign([0.7, -0.4])
  return optimizer


def begun(optimizer):
  """With a learned start."""
  values = [tf.reshape(tf.linspace(-1.0, 1.0, 6), SHAPES[0])]
  return LearnedStart(optimizer, SHAPES, "float64").begin_at(values)


def quadratic():
  return Quadratic(2, 3, dtype=tf.float64)


MAKE = {
  "gates": gates,
  "gates with memory": lambda: gates(True),
  "gates in blocks": lambda: Blocked(gates(True), size=4),
  "gates with a learned start": lambda: begun(gates()),
  "constant gates with a learned start": lambda: begun(ConstantGates(dtype="float64")),
  "gradients alone": lambda: CoordinatewiseLSTM((3,), dtype="float64"),
  "a rule with a horizon": GeneralRule,
  "a partition": lambda: Partition(
    [(Where(rank=2), gates())], quadratic().parameters()
  ),
}
OBJECTIVES = {
  "sum": MetaObjective(),
  "last": MetaObjective(last_only),
  "weights": MetaObjective([0.5, 0.0, -2.0]),
  "mean": MetaObjective(function=mean_loss),
  "log": MetaObjective(function=log_relative_loss),
  "best": MetaObjective(function=best_loss),
  "imitation": MetaObjective(imitation=Imitation(Adam(0.1), weight=0.3)),
}


def window(method, problem, optimizer, objective, after=0):
  """A window of three steps, `after` so many windows before it."""
  optimizer = imitating(optimizer, objective.imitation)

  @tf.function(autograph=False)
  def run():
    task, carry = start(problem, optimizer, SEED, total_steps=9)
    for _ in range(after + 1):
      arguments = problem, optimizer, task, carry, 3, lambda c, u: (c.loss, u)
      found, _ = method(*arguments, objective)
      carry = found.carry
    return found

  return run()


def assert_same(problem, optimizer, objective, after=0, rtol=1e-9):
  arguments = problem, optimizer, objective, after
  found, expected = (window(m, *arguments) for m in (ReplayedBPTT(), TapedBPTT()))
  largest = max(np.abs(g).max() for g in expected.meta_gradient)
  assert largest > 0
  if objective.is_of_last:  # The tape evaluates no other meta-loss.
    assert found.carry.least <= expected.carry.least
    found = found._replace(carry=found.carry._replace(least=expected.carry.least))
  for x, y in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
    np.testing.assert_allclose(x, y, rtol, rtol * largest)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("objective", ["sum", "last", "weights"])
def test_it_is_what_a_tape_finds(name, objective):
  rtol = 1e-4 if name == "a rule with a horizon" else 1e-9  # float32 inside
  optimizer = execution.prepared(quadratic(), MAKE[name]())
  assert_same(quadratic(), optimizer, OBJECTIVES[objective], rtol=rtol)


@pytest.mark.parametrize("objective", ["mean", "log", "best", "imitation"])
@pytest.mark.parametrize("make", [lambda x: x, begun], ids=["", "learned start"])
def test_the_meta_loss_may_be_any_function_of_the_curve(objective, make):
  assert_same(quadratic(), make(gates(True)), OBJECTIVES[objective])


@pytest.mark.parametrize("name", ["gates with memory", "gates with a learned start"])
def test_later_windows_start_where_the_last_one_ended(name):
  assert_same(quadratic(), MAKE[name](), MetaObjective(), after=2)


@pytest.mark.parametrize("name", ["gates", "gates with a learned start"])
def test_a_meta_loss_of_the_problem_s_own_counts_at_the_end(name):
  problem = OnQuery(2, 3, dtype=tf.float64)
  assert_same(problem, MAKE[name](), MetaObjective(last_only))


def test_parameters_may_have_several_types():
  assert_same(Several(), gates(), MetaObjective(), rtol=1e-5)


def test_a_nan_reaches_the_meta_gradient():
  class Broken(Quadratic):
    def __call__(self, params, constants, seed):
      return super().__call__(params, constants, seed) * float("nan")

  problem = Broken(2, 3, dtype=tf.float64)
  found = window(ReplayedBPTT(), problem, gates(), MetaObjective())
  assert np.isnan(found.meta_loss)
  assert any(np.isnan(g).any() for g in found.meta_gradient)


class OnSpheres(Quadratic):
  def project(self, params, constants):
    return [tf.linalg.l2_normalize(p, axis=-1) for p in params]


class Coupled(GateLSTM):
  coupling = ALL


@pytest.mark.parametrize(
  "make_problem, optimizer, objective",
  [
    (lambda: OnSpheres(2, 3), GateLSTM(), MetaObjective()),
    (quadratic, Coupled(), MetaObjective()),
    (lambda: OnQuery(2, 3), GateLSTM(), MetaObjective()),
  ],
  ids=["constrained", "not compiled", "own meta-loss at all steps"],
)
def test_what_it_does_not_serve_is_left_to_a_tape(make_problem, optimizer, objective):
  arguments = make_problem(), optimizer, objective
  assert type(TruncatedBPTT().method(*arguments)) is TapedBPTT
  message = f"ReplayedBPTT cannot differentiate {type(optimizer).__name__} on"
  with pytest.raises(ValueError, match=rf"{re.escape(message)}.*TruncatedBPTT\(\)"):
    window(ReplayedBPTT(), *arguments)


@pytest.mark.parametrize(
  "make",
  [GateLSTM, lambda: begun(GateLSTM()), GeneralRule],
  ids=["gates", "learned start", "rule"],
)
def test_it_is_chosen_for_what_it_serves(make):
  objective = MetaObjective(last_only)
  method = TruncatedBPTT().method(quadratic(), make(), objective)
  assert type(method) is ReplayedBPTT
  taped = TruncatedBPTT(second_derivatives=True)
  assert type(taped.method(quadratic(), make(), objective)) is TapedBPTT


def test_only_what_steps_start_from_is_kept():
  """Gradients, parameters, states and losses are what the way back is given."""
  problem, optimizer = quadratic(), gates(True)

  def run():
    task, carry = start(problem, optimizer, SEED)
    arguments = problem, optimizer, task, carry, 5, lambda *_: ()
    return ReplayedBPTT()(*arguments)[0].meta_gradient

  graph = tf.function(run, autograph=False).get_concrete_function().graph
  (back,) = (
    op
    for op in graph.get_operations()
    if "PartitionedCall" in op.type and op.name.startswith("meta_gradient")
  )
  shapes = [x.shape.as_list() for x in back.inputs if x.dtype == tf.float64]
  stacked = [shape[1:] for shape in shapes if shape[:1] == [5]]
  weights = [[]]
  state = [[2, 6], [3, 6], [3, 6]]
  assert sorted(stacked) == sorted([[2, 3], [2, 3], [], *weights, *state])


def test_lanes_take_it_too():
  staggered = StaggeredBPTT(lanes=2)
  problem, optimizer = Quadratic(2, 3), GateLSTM(True, units=3)
  make = lambda method: MetaTrainer(
    problem, optimizer, Adam(1e-9), num_steps=6, unroll_length=3, meta_gradient=method
  )
  found = make(staggered).train_episode(0)
  with pytest.MonkeyPatch.context() as patch:
    taped = lambda self, *arguments: TapedBPTT()
    patch.setattr(TruncatedBPTT, "method", taped)
    expected = make(staggered).train_episode(0)
  for name in ("meta_loss", "meta_gradient_norm", "losses"):
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)
