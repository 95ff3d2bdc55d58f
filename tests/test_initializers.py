"""Held to the distributions that Keras's own initializers have."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from l2l_tf import seeds
from l2l_tf.problems import initializers

SHAPE = (80, 60)


def starts(build):
  """Returns the variables that `build` makes and the functions that start them."""
  with initializers.recorded() as found:
    made = build()
  variables = made.trainable_variables
  return variables, [initializers.start(v, found.get(id(v))) for v in variables]


def dense(kernel_initializer="glorot_uniform", units=SHAPE[1], **kwargs):
  layer = layers.Dense(units, kernel_initializer=kernel_initializer, **kwargs)
  layer.build([None, SHAPE[0]])
  return layer


RANDOM = [
  "glorot_uniform", "glorot_normal", "he_normal", "he_uniform", "lecun_normal",
  "lecun_uniform", "random_normal", "random_uniform", "truncated_normal",
]  # fmt: skip


@pytest.mark.parametrize("name", RANDOM)
def test_draws_have_the_distribution_of_the_initializer(name):
  _, (draw, _) = starts(lambda: dense(name))
  found = np.sort(draw(seeds.make(1)).numpy().ravel())
  expected = np.sort(keras.initializers.get(name)(SHAPE).numpy().ravel())
  n, scale = found.size, expected.std()
  assert abs(found.mean()) < 4 * scale / np.sqrt(n)
  np.testing.assert_allclose(found.std(), scale, rtol=5 * np.sqrt(1 / n))
  # Kolmogorov and Smirnov's test of two samples, at the level 1e-4.
  both = np.sort(np.concatenate([found, expected]))
  cdf = [np.searchsorted(x, both, side="right") / n for x in (found, expected)]
  assert np.abs(cdf[0] - cdf[1]).max() < 2.23 * np.sqrt(2 / n)


def test_an_orthogonal_matrix_stays_one():
  _, (draw, _) = starts(lambda: dense("orthogonal"))
  matrix = draw(seeds.make(1)).numpy()
  np.testing.assert_allclose(matrix.T @ matrix, np.eye(SHAPE[1]), atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", [*RANDOM, "orthogonal"])
def test_a_seed_names_a_draw_also_in_a_graph(name, jit_compile):
  _, (draw, _) = starts(lambda: dense(name))
  compiled = tf.function(draw, autograph=False, jit_compile=jit_compile)
  first, other, again = (compiled(seeds.make(s)) for s in (1, 2, 1))
  np.testing.assert_array_equal(first, again)
  assert np.mean(first != other) > 0.99
  if not jit_compile:
    np.testing.assert_allclose(first, draw(seeds.make(1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "seed", [None, 7, 2**31 + 5, lambda: keras.random.SeedGenerator(7)]
)
def test_the_initializers_own_seed_plays_no_role(seed):
  make = lambda: keras.initializers.HeNormal(seed() if callable(seed) else seed)
  _, (draw, _) = starts(lambda: dense(make()))
  _, (expected, _) = starts(lambda: dense("he_normal"))
  np.testing.assert_array_equal(draw(seeds.make(3)), expected(seeds.make(3)))


def test_an_initializer_stays_as_it_was():
  initializer = keras.initializers.HeNormal(7)
  _, (draw, _) = starts(lambda: dense(initializer))
  before = initializer([3]).numpy()
  draw(seeds.make(0))
  assert initializer.seed == 7
  np.testing.assert_array_equal(initializer([3]), before)


def test_constants_and_functions_of_the_shape_are_taken():
  ramp = lambda shape, dtype: tf.cast(tf.reshape(tf.range(4800), shape), dtype)
  build = lambda: dense(ramp, bias_initializer=keras.initializers.Constant(3))
  _, (kernel, bias) = starts(build)
  np.testing.assert_array_equal(kernel(seeds.make(0)), np.arange(4800).reshape(SHAPE))
  np.testing.assert_array_equal(bias(seeds.make(0)), np.full(SHAPE[1], 3.0))


def test_an_lstms_forget_gate_starts_open():
  layer = layers.LSTM(2)
  with initializers.recorded() as found:
    layer.build([None, 3, 4])
  bias = layer.trainable_variables[-1]
  start = initializers.start(bias, found.get(id(bias)))
  np.testing.assert_array_equal(start(seeds.make(0)), [0, 0, 1, 1, 0, 0, 0, 0])


class Own(layers.Layer):
  """Three ways to make a variable, of which none leaves its initializer behind."""

  def __init__(self):
    super().__init__()
    self.a = self.add_weight(shape=SHAPE, initializer="he_normal")
    self.b = keras.Variable("he_normal", shape=SHAPE)
    self.c = keras.Variable(np.ones(SHAPE))


def test_variables_made_by_hand_are_drawn_and_values_kept():
  _, draws = starts(Own)
  for draw in draws[:2]:
    first, other = draw(seeds.make(1)), draw(seeds.make(2))
    assert np.all(first != other)
    np.testing.assert_allclose(np.std(first), np.sqrt(2 / SHAPE[0]), rtol=0.05)
  np.testing.assert_array_equal(draws[2](seeds.make(1)), np.ones(SHAPE))


def test_loaded_weights_are_kept():
  def build():
    model = keras.Sequential([keras.Input([3]), layers.Dense(2), layers.Dense(2)])
    model.layers[0].set_weights([np.full([3, 2], 5.0), np.arange(2.0)])
    return model

  variables, draws = starts(build)
  drawn = [draw(seeds.make(1)) for draw in draws]
  np.testing.assert_array_equal(drawn[0], np.full([3, 2], 5.0))
  np.testing.assert_array_equal(drawn[1], [0.0, 1.0])
  assert np.all(drawn[2] != variables[2].numpy())


def test_keras_is_left_as_it_was_also_after_an_error():
  before = keras.Variable.__init__, keras.Variable.assign
  with pytest.raises(ZeroDivisionError), initializers.recorded():
    assert keras.Variable.__init__ is not before[0]
    _ = 1 / 0
  assert (keras.Variable.__init__, keras.Variable.assign) == before
