"""Steps in parts, against the same steps in one."""

import keras
import keras_models
import numpy as np
import pytest
import tensorflow as tf
from keras_models import fit, ten_losses

from l2l_tf import cores, seeds
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.meta import execution
from l2l_tf.optimizers import Adam, GlobalAveragingLSTM, HierarchicalRNN, parts

SHAPES = [(40, 3), (), (7, 5), (50,)]


def averaging(dtype="float64"):
  return GlobalAveragingLSTM((4, 3), "log_and_sign", 0.5, averaged=2, dtype=dtype)


def hierarchical(dtype="float64"):
  optimizer = HierarchicalRNN(0.02, dtype=dtype)
  for i, v in enumerate(optimizer.variables):
    v.assign_add(seeds.normal(v.shape, seeds.make(3, i), 0.3, v.dtype))
  return optimizer


OPTIMIZERS = pytest.mark.parametrize("make", [averaging, hierarchical])


def gradients(t):
  keys = seeds.split(seeds.make(1, t), len(SHAPES))
  return [seeds.normal(s, key, 1.0, tf.float64) for s, key in zip(SHAPES, keys)]


def assert_close(found, expected, rtol=1e-9):
  for x, y in zip(*map(tf.nest.flatten, (found, expected)), strict=True):
    np.testing.assert_allclose(x, y, rtol, atol=1e-12)


@OPTIMIZERS
def test_a_step_in_parts_is_that_in_one(make):
  optimizer = make()
  in_parts = parts.InParts(optimizer, 3)
  step = tf.function(in_parts.__call__, autograph=False)
  state = optimizer.initial_state(gradients(0))
  cut = in_parts.initial_state(gradients(0))
  num_cut = sum(map(bool, tf.nest.flatten(optimizer.divides())))
  more = len(tf.nest.flatten(cut)) - len(tf.nest.flatten(state))
  assert more == 2 * num_cut  # Otherwise nothing is tested below.
  for t in range(3):
    grads = gradients(t)
    expected, state = optimizer(grads, state)
    updates, cut = step(grads, cut)
    assert_close(updates, expected)
    assert_close(in_parts.joined(cut), state)
  assert_close(in_parts.diagnostics(grads, cut), optimizer.diagnostics(grads, state))


@OPTIMIZERS
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_a_state_is_cut_and_joined_again(make, count):
  in_parts = parts.InParts(make(), count)
  state = in_parts.inner.initial_state(gradients(0))
  draw = lambda x: seeds.normal(x.shape, seeds.make(2), 1.0, tf.float64)
  state = tf.nest.map_structure(draw, state)
  again = in_parts.joined(in_parts.divided(state))
  tf.nest.assert_same_structure(again, state)
  assert_close(again, state, rtol=0)


@OPTIMIZERS
def test_a_saved_training_in_keras_may_go_on_in_parts(make, tmp_path):
  one = keras_models.sequential(has_input=True)
  losses = fit(one, LearnedOptimizer(make("float32"), block_size=None), 2)
  cut = keras_models.sequential(has_input=True)
  optimizer = LearnedOptimizer(make("float32"), block_size=16)
  np.testing.assert_allclose(fit(cut, optimizer, 2), losses, rtol=1e-4)
  assert len(optimizer.variables) > len(one.optimizer.variables)
  for model in (one, cut):
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(ten_losses(loaded), ten_losses(model))
    other = keras_models.sequential(has_input=True)
    size = 16 if model is one else None
    other.compile(LearnedOptimizer(make("float32"), block_size=size), "mse")
    other.optimizer.build(other.trainable_variables)
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_allclose(ten_losses(other), ten_losses(loaded), rtol=1e-3)


def test_there_are_as_many_parts_for_each_core(monkeypatch):
  monkeypatch.setattr(cores, "num_shards", lambda: 4)
  count = lambda n, size=100: execution.blocked(hierarchical(), size, n).config["count"]
  assert (count(101), count(400), count(401), count(1300)) == (4, 4, 8, 16)
  for optimizer, size in (hierarchical(), 401), (hierarchical(), None), (Adam(), 9):
    assert not isinstance(execution.blocked(optimizer, size, 401), parts.InParts)
  anything = GlobalAveragingLSTM(preprocess=lambda g: g[:, tf.newaxis])
  assert execution.blocked(anything, 100, 1000) is anything
