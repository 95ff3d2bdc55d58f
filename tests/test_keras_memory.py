"""What a learned optimizer keeps and holds in Keras."""

import functools
import re

import keras
import keras_models
import numpy as np
import pytest
import tensorflow as tf
from keras_models import fit, lstm

from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import Adam, RNNprop


@functools.cache
def full_losses(make):
  """Losses with a whole state, the same with an `Input` and without one."""
  return fit(keras_models.sequential(True), LearnedOptimizer(make(), 0.1))


@pytest.mark.parametrize("make", [lstm, RNNprop, lambda: Adam(0.01)])
def test_a_state_of_half_the_size(sequential, make):
  model = sequential()
  losses = fit(model, LearnedOptimizer(make(), 0.1, state_dtype="bfloat16"))
  np.testing.assert_allclose(losses, full_losses(make), rtol=0.05)
  kept = [v for v in model.optimizer.variables if "state" in v.name]
  assert kept and {v.dtype for v in kept} <= {"bfloat16", "int64"}


def test_half_of_a_state_is_enough_for_small_gradients():
  moved = []
  for state_dtype in (None, "bfloat16"):
    variable = keras.Variable([0.0])
    adapter = LearnedOptimizer(Adam(1.0), 0.01, state_dtype=state_dtype)
    for size in [1e-4] * 30 + [1e-6] * 30:
      adapter.apply([tf.constant([size])], [variable])
    moved.append(float(variable.numpy()[0]))
  assert moved[1] == pytest.approx(moved[0], rel=0.1)


def xla_temporaries(forks, num_units, directory):
  """Bytes beside state and parameters in a step compiled by XLA, by its own count."""
  code = f"""
import os
os.environ["XLA_FLAGS"] = "--xla_dump_to={directory} --xla_dump_hlo_as_text"
import tensorflow as tf, keras
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import CoordinatewiseLSTM
model = keras.Sequential([keras.Input([8]), keras.layers.Dense({num_units})])
optimizer = LearnedOptimizer(CoordinatewiseLSTM((20, 20)), block_size=1024)
model.compile(optimizer, "mse", jit_compile=True)
model.train_on_batch(tf.ones([2, 8]), tf.ones([2, {num_units}]))
"""
  ended = forks.run("", code=code)
  assert ended.code == 0, ended.err
  counts = directory.glob("*one_step_on_data*buffer-assignment.txt")
  (text,) = [path.read_text() for path in counts]
  return int(re.search(r"allocation \d+: size (\d+), preallocated-temp", text)[1])


def test_temporaries_do_not_grow_with_the_model_under_xla(library_forks, tmp_path):
  small, large = (
    xla_temporaries(library_forks, n, tmp_path / str(n)) for n in (456, 1820)
  )
  state = 320 * 9 * 1820
  assert large < 1.5 * small < state / 8  # blocks: 5, then 16
