"""Keras variables as parameters: what a loss reaches, and constraints."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems import keras_variables
from l2l_tf.problems.base import Parameter


def variable(value, name="kernel", constraint=None):
  value = tf.constant(value, tf.float32)
  found = keras.Variable(value, name=name)
  found.constraint = constraint
  return found


def test_variables_are_described_by_path_shape_and_role():
  names = ["kernel", "recurrent_kernel", "bias", "gamma"]
  found = keras_variables.parameters([variable([[1.0, 2.0]], name) for name in names])
  assert found == [
    Parameter("kernel", (1, 2), "kernel"),
    Parameter("recurrent_kernel", (1, 2), "kernel"),
    Parameter("bias", (1, 2), "bias"),
    Parameter("gamma", (1, 2), "variable"),
  ]


def test_paths_that_repeat_are_numbered():
  found = keras_variables.parameters([variable([1.0]), variable([1.0])])
  assert [p.path for p in found] == ["kernel_0", "kernel_1"]


def test_a_value_in_one_branch_of_a_condition_is_reached():
  def loss(values, seed):
    first, second, third = values
    branch = tf.cond(seed[0] > 0, lambda: tf.square(first), lambda: tf.square(second))
    return branch + tf.stop_gradient(third)

  values = [tf.constant(1.0)] * 3
  assert keras_variables.are_unreached(loss, values) == [False, False, True]


def test_a_loss_that_no_seed_repeats_is_an_error():
  loss = lambda values, seed: values[0] * tf.random.normal([])
  with pytest.raises(ValueError, match="in a way that cannot be repeated"):
    keras_variables.are_unreached(loss, [tf.constant(1.0)])


def test_a_projection_is_the_constraint_of_each_variable():
  variables = [
    variable([[3.0, 0.3], [4.0, 0.4]], constraint=keras.constraints.MaxNorm(1.0)),
    variable([-1.0, 2.0], constraint=keras.constraints.NonNeg()),
    variable([-1.0]),
  ]
  assert keras_variables.is_constrained(variables)
  assert not keras_variables.is_constrained(variables[2:])
  values = [tf.convert_to_tensor(v.value) for v in variables]
  found = keras_variables.project(variables, values)
  np.testing.assert_allclose(found[0], [[0.6, 0.3], [0.8, 0.4]], rtol=1e-6)
  np.testing.assert_array_equal(found[1], [0.0, 2.0])
  np.testing.assert_array_equal(found[2], [-1.0])
  np.testing.assert_array_equal(variables[1], [-1.0, 2.0])  # as it was


@pytest.mark.parametrize(
  "constraint", [keras.constraints.MaxNorm(1.0), keras.constraints.UnitNorm()]
)
def test_a_projection_has_a_finite_derivative_at_zero(constraint):
  zeros = tf.zeros([2, 1])
  with tf.GradientTape() as tape:
    tape.watch(zeros)
    (found,) = keras_variables.project(
      [variable(zeros, constraint=constraint)], [zeros]
    )
  np.testing.assert_array_equal(found, constraint(zeros))
  assert np.all(np.isfinite(tape.gradient(found, zeros)))


def test_the_warning_names_ten_variables_at_most():
  model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)], name="net")
  text = keras_variables.unreached_warning(
    model, [variable([1.0], f"v{i}") for i in range(12)]
  )
  assert text.startswith("The loss of net does not reach v0, v1, v2,")
  assert "v9 and 2 more; they stay where they start" in text
  assert "v10" not in text


def test_an_error_of_keras_s_becomes_one_sentence():
  with (
    pytest.raises(ValueError, match=r"could not add: TypeError, 'no way'\.$"),
    keras_variables.explained("add"),
  ):
    raise TypeError("\x1b[1mno\n  way\x1b[0m Arguments received by x")
