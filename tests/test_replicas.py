"""Replicas share out a training's tasks, or lanes; what is learned is the same."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.meta.gradients import PES, StaggeredBPTT
from l2l_tf.meta.replicas import Replicas
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import CoordinatewiseLSTM
from l2l_tf.problems import Quadratic

# In a process of its own, whose CPU is not in use yet.
_SHARED = """
import numpy as np, tensorflow as tf
from l2l_tf.meta.gradients import AnalyticPES, Merged, NRES, PES, StaggeredBPTT
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import CoordinatewiseLSTM, Optimizer
from l2l_tf.problems import Quadratic
cpu = tf.config.list_physical_devices("CPU")[0]
four = [tf.config.LogicalDeviceConfiguration()] * 4
tf.config.set_logical_device_configuration(cpu, four)

class Scaled(Optimizer):
  "Every update is -phi times the gradient; nothing is compiled."
  def __init__(self):
    super().__init__()
    self.phi = tf.Variable([0.01])
  config = property(lambda self: {{}})
  def initial_state(self, params):
    return ()
  def __call__(self, grads, state, params=None, loss=None):
    return [-self.get_phi()[0] * g for g in grads], ()

def trained(count, make, **options):
  devices = [f"CPU:{{i}}" for i in range(count)]
  strategy = tf.distribute.MirroredStrategy(devices) if count else None
  optimizer = make()
  options = {{"num_steps": 4, "unroll_length": 2, "strategy": strategy, **options}}
  trainer = MetaTrainer(Quadratic(1, 2), optimizer, **options)
  *_, metrics = trainer.train(3)
  states = [*optimizer.trainable_variables, *trainer.estimator_state_variables]
  del metrics["diagnostics"]
  return [v.numpy() for v in states], metrics

def check(counts, make, **options):
  states, metrics = trained(0, make, **options)
  for count in counts:
    found, of_replicas = trained(count, make, **options)
    for x, y in zip(states, found, strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    for name, value in metrics.items():
      np.testing.assert_allclose(value, of_replicas[name], rtol=1e-4, atol=1e-6)

{case}
print("equal")
"""
_CASES = {
  "back-propagation": (
    'lstm = lambda: CoordinatewiseLSTM((2,), "log_and_sign", 0.1)\n'
    "check([1, 2, 4], lstm, meta_batch_size=5)"
  ),
  "PES": "check([1, 2, 4], Scaled, meta_gradient=PES(pairs=5, stddev=0.01))",
  "NRES": "check([2], Scaled, meta_gradient=NRES(pairs=3, stddev=0.01))",
  "PES+A": "check([2], Scaled, meta_gradient=AnalyticPES(pairs=3, stddev=0.01))",
  "merged": "check([2], Scaled, meta_gradient=Merged(pairs=5, stddev=0.01))",
  "staggered": "check([2], Scaled, meta_gradient=StaggeredBPTT(lanes=3))",
}


@pytest.mark.parametrize("name", _CASES)
def test_replicas_learn_what_one_does(name, library_forks):
  ended = library_forks.run("", code=_SHARED.format(case=_CASES[name]))
  assert ended.out.strip().endswith("equal"), ended.err


def test_one_replica_has_all_and_is_the_chief():
  replicas = Replicas(tf.distribute.OneDeviceStrategy("CPU:0"))
  (share,) = replicas.shares(3)
  assert replicas.is_chief and (share.begin, share.end) == (0, 3)
  assert replicas.own_part(7) == (0, 7) and not replicas.spans_processes
  assert replicas.alike(b"anything") and replicas.any(True) and not replicas.any(False)
  x = tf.constant([1.0, 2.0])
  assert replicas.sum([x]) is x and replicas.from_chief(x) is x
  assert replicas.gathered(x, (0, 2), 2) is x


def test_the_shares_of_one_estimator_add_up():
  for whole in PES(pairs=5), StaggeredBPTT(lanes=5):
    shares = [whole.shared(0, 2), whole.shared(2, 5)]
    assert [s._share for s in shares] == [(0, 2), (2, 5)]
    assert whole._share is None and all(s == whole for s in shares)


@pytest.mark.parametrize("strategy", ["mirrored", tf.distribute.get_strategy])
def test_other_strategies_are_refused_in_a_sentence(strategy):
  strategy = strategy if isinstance(strategy, str) else strategy()
  with pytest.raises(ValueError, match=r"is not supported; give a tf\.distribute"):
    MetaTrainer(Quadratic(1, 2), CoordinatewiseLSTM((2,)), strategy=strategy)


def test_a_compiled_episode_is_not_shared():
  strategy = tf.distribute.OneDeviceStrategy("CPU:0")
  options = {"strategy": strategy, "jit_compile": True}
  with pytest.raises(ValueError, match="leave one of them out"):
    MetaTrainer(Quadratic(1, 2), CoordinatewiseLSTM((2,)), **options)


def test_more_replicas_than_tasks_are_refused_in_a_sentence():
  replicas = Replicas()
  replicas.count = 4
  with pytest.raises(ValueError, match="4 replicas cannot share out 3 lanes"):
    replicas.shares(3, "lanes")


def test_what_only_the_chief_does_may_fail():
  assert Replicas().led(lambda: 3) == 3

  def fail():
    raise OSError("full")

  with pytest.raises(OSError, match="full"):
    Replicas().led(fail)


def test_shares_differ_by_one_at_most():
  shares = [_of(i, 4).shares(10)[0] for i in range(4)]
  assert [s.size for s in shares] == [2, 3, 2, 3]
  assert np.all([a.end == b.begin for a, b in itertools.pairwise(shares)])
  assert [_of(i, 4).own_part(2) for i in range(4)] == [(0, 0), (0, 1), (1, 1), (1, 2)]


def _of(index, count):
  """Returns one of several replicas, each in a process of its own."""
  replicas = Replicas()
  replicas.count, replicas._own = count, [index]
  return replicas
