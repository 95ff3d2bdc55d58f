"""What LearnedOptimizer says of input that it cannot take."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_models import X, Y, fit, functional, lstm, weights

from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import SGD
from l2l_tf.storage.export import ExportError


@pytest.mark.parametrize("jit_compile", [True, False])
def test_gradients_that_are_not_finite_are_skipped_and_counted(jit_compile):
  variables = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
  optimizer = LearnedOptimizer(
    lstm(), nonfinite_gradients="skip", block_size=2, weight_decay=0.1
  )
  apply = lambda grads: optimizer.apply(grads, variables)
  step = tf.function(apply, jit_compile=jit_compile)
  good = [tf.constant([0.1, 0.2]), tf.constant([0.3])]
  bad = [tf.constant([0.1, np.nan]), tf.constant([0.3])]
  step(good)
  before = [np.array(v) for v in [*variables, *optimizer.variables]]
  step(bad)
  step([bad[0] * np.inf, good[1]])
  after = [np.array(v) for v in [*variables, *optimizer.variables]]
  changed = [
    v.name
    for v, x, y in zip(optimizer.variables, before[2:], after[2:])
    if np.any(x != y)
  ]
  assert changed == ["iteration", "skipped_steps"]
  assert optimizer.skipped_steps == 2
  for x, y in zip(before[:2], after[:2]):
    np.testing.assert_array_equal(x, y)
  step(good)
  assert all(np.all(np.isfinite(v)) for v in variables)


def test_gradients_that_are_not_finite_raise_and_change_nothing(sequential):
  model = sequential()
  optimizer = LearnedOptimizer(lstm(), weight_decay=0.1)
  fit(model, optimizer, 1)
  before = weights(model)
  state = [np.array(v) for v in optimizer.variables[1:]]  # The first counts batches.
  y = np.where(np.arange(64)[:, None] == 40, np.nan, Y)
  with pytest.raises(
    tf.errors.InvalidArgumentError, match=r"The gradient of '.*kernel' is not finite"
  ):
    model.train_on_batch(X, y)
  np.testing.assert_array_equal(weights(model), before)
  for x, v in zip(state, optimizer.variables[1:]):
    np.testing.assert_array_equal(x, v)


NOT_FINITE = np.where(np.arange(64)[:, None] == 40, np.nan, Y)  # in one batch of 4


def test_a_fit_compiled_by_xla_raises_for_skipped_steps_when_it_ends(sequential):
  model = sequential()
  with pytest.raises(tf.errors.InvalidArgumentError, match="Skipped 2 of the steps"):
    fit(model, LearnedOptimizer(lstm()), 2, {"jit_compile": True}, y=NOT_FINITE)
  assert np.all(np.isfinite(weights(model)))
  model.fit(X, Y, verbose=0)  # nothing new to tell


def test_skipped_steps_of_a_saved_model_are_not_told_again(sequential, tmp_path):
  model = sequential()
  with pytest.raises(tf.errors.InvalidArgumentError, match="Skipped 1 of the steps"):
    fit(model, LearnedOptimizer(lstm()), 1, {"jit_compile": True}, y=NOT_FINITE)
  model.save(tmp_path / "m.keras")
  loaded = keras.models.load_model(tmp_path / "m.keras")
  loaded.fit(X, Y, verbose=0)
  assert loaded.optimizer.skipped_steps == 1


def test_a_path_that_does_not_exist_and_a_file_that_is_no_export(tmp_path):
  with pytest.raises(FileNotFoundError, match="No exported optimizer at 'nowhere"):
    LearnedOptimizer("nowhere.l2l.npz")
  (tmp_path / "notes.txt").write_text("hello")
  with pytest.raises(ExportError, match=r"notes.txt' cannot be loaded: it was not"):
    LearnedOptimizer(tmp_path / "notes.txt")


@pytest.mark.parametrize(
  ("kwargs", "error", "message"),
  [
    ({"optimizer": 3}, TypeError, "got 3; it wraps an l2l_tf.Optimizer, a pretrained"),
    ({"nonfinite_gradients": "no"}, ValueError, "='no' is unknown; choose 'raise'"),
    ({"mismatched_state": "x"}, ValueError, "='x' is unknown; choose 'raise' or"),
    ({"block_size": 0}, ValueError, "block_size=0 must be a positive integer"),
    (
      {"state_dtype": "int8"},
      ValueError,
      "'int8' is unknown; choose one of 'bfloat16'",
    ),
    ({"lr": 3}, ValueError, "not recognized"),
  ],
)
def test_wrong_arguments(kwargs, error, message):
  with pytest.raises(error, match=message):
    LearnedOptimizer(**{"optimizer": SGD(0.1)} | kwargs)


@pytest.mark.parametrize("dtype", ["complex64", "int32", "bool"])
def test_variables_that_are_not_of_floating_point(dtype):
  variable = tf.Variable(tf.zeros([2], dtype), name="v")
  variable.path = "layer/v"
  with pytest.raises(ValueError, match=f"cannot move 'layer/v' of type .*{dtype}"):
    LearnedOptimizer(SGD(0.1)).build([variable])


@pytest.mark.parametrize("shape", [[], [2], [1, 3]])
def test_a_gradient_of_another_shape(shape):
  variable = keras.Variable([1.0, 2.0, 3.0], name="v")
  with pytest.raises(ValueError, match=r"of 'v' has shape .*, but the .* shape \(3,\)"):
    LearnedOptimizer(SGD(0.1)).apply([tf.ones(shape)], [variable])


def test_a_variable_of_unknown_shape():
  variable = tf.Variable([1.0], shape=[None], name="v")
  with pytest.raises(ValueError, match=r"cannot keep a state for 'v' of shape \(None,"):
    LearnedOptimizer(SGD(0.1)).build([variable])


def test_an_optimizer_of_another_model(sequential):
  optimizer = LearnedOptimizer(lstm())
  fit(sequential(), optimizer, 1)
  with pytest.raises(ValueError, match="was built for another model and does not know"):
    fit(functional(), optimizer, 1)
  other = functional()
  with pytest.raises(ValueError, match="was built for another model"):
    optimizer.build(other.trainable_variables)


def test_another_backend_of_keras(library_forks):
  # None of the others is installed; Keras itself would not start.
  code = "import keras; keras.backend.backend = lambda: 'jax'; import l2l_tf.keras"
  ended = library_forks.run("", code=code)
  assert ended.code == 1
  message = "needs Keras's TensorFlow backend, but Keras runs on 'jax'; set"
  assert message in ended.err[-1]


def test_an_optimizer_that_cannot_be_exported_says_so_when_saved(sequential, tmp_path):
  class Mine(SGD):
    pass

  model = sequential()
  fit(model, LearnedOptimizer(Mine(0.1)), 1)
  with pytest.raises(ExportError, match=r"Mine.* cannot be exported"):
    model.save(tmp_path / "m.keras")
