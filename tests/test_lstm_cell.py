"""The cell against NumPy and the tape; its derivative against finite differences."""

import numpy as np
import numpy_lstm
import pytest
import tensorflow as tf

from l2l_tf.optimizers.lstm import cell

UNITS, SIZE = 3, 5


def draw(seed=0):
  """Returns z and c, not small, so that the gates are not all near a half."""
  rng = np.random.default_rng(seed)
  return 2.0 * rng.normal(size=[4 * UNITS, SIZE]), rng.normal(size=[UNITS, SIZE])


def numpy_cell(z, c):
  z_i, z_f, z_o, z_g = np.split(z, 4)
  i, f, o = map(numpy_lstm.sigmoid, (z_i, z_f + 1.0, z_o))
  c = f * c + i * np.tanh(z_g)
  return o * np.tanh(c), c


@pytest.mark.parametrize("sigmoid", [tf.sigmoid, cell.sigmoid_by_tanh])
def test_it_equals_a_numpy_rederivation(sigmoid):
  z, c = draw()
  h, next_c, activations = cell.forward(tf.constant(z), tf.constant(c), sigmoid=sigmoid)
  expected_h, expected_c = numpy_cell(z, c)
  np.testing.assert_allclose(h, expected_h, rtol=1e-13)
  np.testing.assert_allclose(next_c, expected_c, rtol=1e-13)
  np.testing.assert_allclose(activations.output * activations.tanh_c, h, rtol=1e-13)


def test_a_forget_bias_in_z_is_the_same_as_one_that_the_cell_adds():
  z, c = draw()
  biased = z + np.repeat([0.0, cell.FORGET_BIAS, 0.0, 0.0], UNITS)[:, np.newaxis]
  for x, y in zip(cell.forward(z, c)[:2], cell.forward(biased, c, forget_bias=0.0)):
    np.testing.assert_allclose(x, y, rtol=1e-13)


def test_the_partial_derivatives_are_those_of_finite_differences():
  z, c = draw()
  _, next_c, activations = cell.forward(z, c)
  found = cell.derivatives(activations, c)
  step = 1e-6

  def slopes(which, row):
    """Of c_t or h_t with respect to one gate; all of it is elementwise."""
    change = np.zeros([4, UNITS, SIZE])
    change[row] = step
    change = change.reshape(z.shape)
    above, below = numpy_cell(z + change, c), numpy_cell(z - change, c)
    return (above[which] - below[which]) / (2 * step)

  np.testing.assert_allclose(found.c_i, slopes(1, 0), rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(found.c_f, slopes(1, 1), rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(found.h_o, slopes(0, 2), rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(found.c_g, slopes(1, 3), rtol=1e-6, atol=1e-9)
  through_c = (numpy_cell(z, c + step)[1] - numpy_cell(z, c - step)[1]) / (2 * step)
  np.testing.assert_allclose(found.c_c, through_c, rtol=1e-6, atol=1e-9)
  h = lambda x: activations.output * np.tanh(x)
  to_h = (h(next_c + step) - h(next_c - step)) / (2 * step)
  np.testing.assert_allclose(found.h_c, to_h, rtol=1e-6, atol=1e-9)


def test_a_step_backwards_is_the_derivative_by_finite_differences():
  z, c = draw()
  d_h, d_c = np.random.default_rng(1).normal(size=[2, UNITS, SIZE])

  def loss(arrays):
    h, next_c = numpy_cell(*arrays)
    return np.sum(d_h * h) + np.sum(d_c * next_c)

  expected_z, expected_c = numpy_lstm.derivative(loss, [z, c])
  partial = cell.derivatives(cell.forward(z, c)[2], c)
  parts, before = cell.backward(d_h, d_c, partial)
  np.testing.assert_allclose(np.concatenate(parts), expected_z, rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(before, expected_c, rtol=1e-6, atol=1e-9)


def test_a_step_backwards_equals_the_tape():
  z, c = map(tf.constant, draw())
  d_h, d_c = tf.constant(np.random.default_rng(1).normal(size=[2, UNITS, SIZE]))
  with tf.GradientTape() as tape:
    tape.watch([z, c])
    h, next_c, activations = cell.forward(z, c)
  expected = tape.gradient([h, next_c], [z, c], output_gradients=[d_h, d_c])
  parts, before = cell.backward(d_h, d_c, cell.derivatives(activations, c))
  np.testing.assert_allclose(tf.concat(parts, axis=0), expected[0], rtol=1e-12)
  np.testing.assert_allclose(before, expected[1], rtol=1e-12)


@pytest.mark.parametrize(
  "dtype, tolerance",
  [(tf.float16, 1e-3), (tf.bfloat16, 1e-2), (tf.float32, 2e-7), (tf.float64, 1e-15)],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_the_sigmoid_by_a_tanh_differs_by_rounding_alone(dtype, tolerance, compiled):
  # The absolute error counts: a gate is a factor between 0 and 1.
  x = tf.linspace(tf.constant(-30.0, tf.float64), 30.0, 10_001)
  compute = tf.function(cell.sigmoid_by_tanh, jit_compile=compiled)
  found = tf.cast(compute(tf.cast(x, dtype)), tf.float64)
  rounded = tf.cast(tf.cast(x, dtype), tf.float64)
  np.testing.assert_allclose(found, tf.sigmoid(rounded), rtol=0, atol=tolerance)


def test_large_numbers_saturate_and_stay_finite():
  z = tf.constant([[1e4], [1e4], [-1e4], [-1e4]])
  for sigmoid in (tf.sigmoid, cell.sigmoid_by_tanh):
    h, c, activations = cell.forward(z, tf.constant([[2.0]]), sigmoid=sigmoid)
    assert (h.numpy(), c.numpy()) == (0.0, 1.0)  # 1 x 2 + 1 x (-1)
    partial = cell.derivatives(activations, tf.constant([[2.0]]))
    assert np.all(np.isfinite(tf.concat(partial, axis=0)))
