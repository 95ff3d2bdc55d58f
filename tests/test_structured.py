"""What `benchmarks/structure_step.py` times, on a few coordinates."""

import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import contest  # noqa: E402
import hierarchical_as_published  # noqa: E402
import in_keras  # noqa: E402
import structured  # noqa: E402

from l2l_tf.optimizers import HierarchicalRNN  # noqa: E402

SHAPES = [(2, 3), (3,), ()]


def perturbed(make=HierarchicalRNN, dtype="float64"):
  """No weight is zero."""
  optimizer = make(0.02, dtype=dtype)
  for i, v in enumerate(optimizer.trainable_variables):
    v.assign_add(np.random.RandomState(i).normal(size=v.shape) * 0.5)
  return optimizer


def gradients(t):
  draw = np.random.RandomState(t).normal
  return [tf.constant(10.0**-t * draw(size=s), tf.float64) for s in SHAPES]


@pytest.mark.parametrize("checked", [True, False])
def test_the_published_way_computes_the_same(checked):
  optimizer = perturbed()
  published = hierarchical_as_published.AsPublished(optimizer, 0.02, checked)
  variables = [keras.Variable(np.ones(s), dtype="float64") for s in SHAPES]
  state = optimizer.initial_state(gradients(0))
  expected = [np.ones(s) for s in SHAPES]
  for t in range(4):
    updates, state = optimizer(gradients(t), state)
    expected = [x + u.numpy() for x, u in zip(expected, updates)]
    published.apply(gradients(t), variables)
    for v, x in zip(variables, expected, strict=True):
      np.testing.assert_allclose(v.numpy(), x, rtol=1e-9)


def test_the_lowest_level_alone_is_the_hierarchy_without_biases_from_above():
  lowest, whole = perturbed(structured.LowestLevel), perturbed()
  whole.coordinates.above.assign(tf.zeros_like(whole.coordinates.above))
  states = [o.initial_state(gradients(0)) for o in (lowest, whole)]
  start = states[0]
  for t in range(3):
    updates, states[0] = lowest(gradients(t), states[0])
    expected, states[1] = whole(gradients(t), states[1])
    for u, x in zip(updates, expected):
      np.testing.assert_allclose(u, x, rtol=1e-9)
  np.testing.assert_array_equal(states[0].tensors, start.tensors)
  np.testing.assert_array_equal(states[0].whole, start.whole)


@pytest.fixture
def tiny(monkeypatch):
  """A model by this name, for `in_keras`."""
  make = lambda: keras.Sequential([keras.Input([3]), keras.layers.Dense(4)])
  monkeypatch.setitem(in_keras._MODELS, "tiny", make)
  return "tiny"


@pytest.mark.parametrize("name", sorted(structured.NAMES))
def test_everyone_takes_steps(tiny, name):
  steps = in_keras.Steps(tiny, name)
  before = steps.answers()["parameters after two steps"]
  steps.turn(0)
  after = steps.answers()["parameters after two steps"]
  assert np.isfinite(after).all()
  assert (after != before).all()


def test_the_published_way_proves_itself_compiled_and_not(tiny, capsys):
  expected = in_keras.Steps(tiny, "HierarchicalRNN").updates()
  assert len(expected) == 5
  for jit_compile in False, True:
    found = in_keras.Steps(tiny, "published", jit_compile).updates()
    contest.check_agreement("published", found, expected, 1e-4)
  # Updates of another optimizer are told apart.
  found = in_keras.Steps(tiny, "lowest level").updates()
  with pytest.raises(SystemExit, match="lowest level differs from l2l_tf"):
    contest.check_agreement("lowest level", found, expected, 1e-4)
