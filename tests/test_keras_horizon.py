"""The number of steps of a training in Keras: told, found in `fit`, saved, changed."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM, GeneralRule

X = np.random.RandomState(0).normal(size=(48, 5)).astype(np.float32)
Y = X[:, :1] * X[:, 1:2]


def model_of(optimizer, has_input=True, units=4, **options):
  keras.utils.set_random_seed(0)
  first = [keras.Input([5])] if has_input else []
  model = keras.Sequential([*first, L.Dense(units, "tanh"), L.Dense(1)])
  model.compile(optimizer, "mse", **options)
  return model


def fit(model, epochs=1, **options):
  options = {"batch_size": 16, "verbose": 0, "shuffle": False} | options
  return model.fit(X, Y, epochs=epochs, **options).history["loss"]


def known(optimizer):
  """Returns the numbers in the optimizer's state: steps taken and steps in all."""
  states = [v for v in optimizer.variables if "_state_" in v.name]
  return [int(v) for v in states[:2]]


@pytest.mark.parametrize("has_input", [True, False])
def test_fit_trains_by_the_schedule(has_input):
  optimizer = LearnedOptimizer(GeneralRule(), total_steps=30)
  losses = fit(model_of(optimizer, has_input), 10)
  assert losses[-1] < 0.7 * losses[0]
  assert known(optimizer) == [30, 30]


def test_it_equals_the_rule_in_a_loop_of_ones_own():
  optimizer, rule = LearnedOptimizer(GeneralRule(), total_steps=6), GeneralRule()
  params = [tf.Variable(tf.ones(s)) for s in [(3, 2), (2,)]]
  values = [tf.convert_to_tensor(p) for p in params]
  state = rule.with_total_steps(rule.initial_state(values), 6)
  for k in range(6):
    grads = [tf.random.stateless_normal(p.shape, [0, k]) for p in params]
    optimizer.apply(grads, params)
    updates, state = rule(grads, state, params=values)
    values = [p + u for p, u in zip(values, updates)]
    for p, value in zip(params, values):
      np.testing.assert_allclose(p, value, rtol=1e-4, atol=1e-4)  # XLA rounds its way


@pytest.mark.parametrize(
  ("options", "steps"),
  [
    ({"epochs": 4}, 12),
    ({"epochs": 4, "initial_epoch": 1}, 9),
    ({"epochs": 1, "steps_per_epoch": 2}, 2),
    ({"epochs": 2, "validation_split": 0.5}, 4),
  ],
)
def test_the_callback_reads_the_number_of_steps_in_fit(options, steps):
  optimizer = LearnedOptimizer(GeneralRule())
  fit(model_of(optimizer), callbacks=[optimizer.fit_callback()], **options)
  assert optimizer.total_steps == steps and known(optimizer) == [steps, steps]


def test_the_callback_counts_optimizer_steps_not_batches():
  optimizer = LearnedOptimizer(GeneralRule(), gradient_accumulation_steps=3)
  fit(model_of(optimizer), 4, callbacks=[optimizer.fit_callback()])
  assert optimizer.total_steps == 4


def test_the_callback_adds_to_the_steps_taken_before():
  optimizer = LearnedOptimizer(GeneralRule())
  model = model_of(optimizer)
  for total in (6, 12):
    fit(model, 2, callbacks=[optimizer.fit_callback()])
    assert optimizer.total_steps == total


def test_the_callback_waits_for_an_epoch_of_unknown_length():
  def batches():
    for i in range(5):
      yield X[i : i + 4], Y[i : i + 4]

  shapes = tf.TensorSpec([None, 5]), tf.TensorSpec([None, 1])
  data = tf.data.Dataset.from_generator(batches, output_signature=shapes)
  optimizer = LearnedOptimizer(GeneralRule())
  model = model_of(optimizer)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Keras's, that the data ran out
    callback = optimizer.fit_callback()
    model.fit(data, epochs=3, verbose=0, callbacks=[callback])
  assert optimizer.total_steps == 15


def test_a_restored_training_goes_on_with_the_number_of_steps_it_began_with(tmp_path):
  totals = []
  for epochs in (1, 4):  # 3 batches of an epoch are a step and a half
    optimizer = LearnedOptimizer(GeneralRule(), gradient_accumulation_steps=2)
    backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    fit(model_of(optimizer), epochs, callbacks=[optimizer.fit_callback(), backup])
    totals.append(optimizer.total_steps)
  assert totals == [1, 6]


def test_a_changed_number_of_steps_takes_effect_without_a_new_trace():
  optimizer = LearnedOptimizer(GeneralRule(), total_steps=3)
  model = model_of(optimizer)
  fit(model)
  traced = model.train_function
  optimizer.total_steps = 300
  assert known(optimizer) == [3, 300]
  fit(model)
  assert model.train_function is traced and known(optimizer) == [6, 300]


def test_a_saved_model_goes_on_exactly(tmp_path):
  optimizer = LearnedOptimizer(GeneralRule(), total_steps=12)
  model = model_of(optimizer)
  fit(model, 2)
  model.save(tmp_path / "m.keras")
  loaded = keras.models.load_model(tmp_path / "m.keras")
  assert loaded.optimizer.total_steps == 12
  assert fit(loaded, 2) == fit(model, 2)


def test_another_number_of_steps_than_the_saved_one_is_kept_with_one_warning(tmp_path):
  path = tmp_path / "m.weights.h5"
  model = model_of(LearnedOptimizer(GeneralRule(), total_steps=12))
  fit(model, 2)
  model.save_weights(path)
  longer = LearnedOptimizer(GeneralRule(), total_steps=40)
  again = model_of(longer)
  fit(again)
  with pytest.warns(UserWarning, match="another number of steps; .* total_steps=40"):
    again.load_weights(path)
  assert known(longer) == [6, 40]
  unsaid = LearnedOptimizer(GeneralRule())
  again = model_of(unsaid)
  fit(again)
  again.load_weights(path)
  assert known(unsaid) == [6, 12]


def test_the_state_of_each_variable_is_restored_after_a_new_head(tmp_path):
  path = tmp_path / "m.weights.h5"
  model = model_of(LearnedOptimizer(GeneralRule()))
  fit(model, 2)
  model.save_weights(path)
  optimizer = LearnedOptimizer(GeneralRule())
  keras.utils.set_random_seed(1)
  layers = [L.Dense(4, "tanh"), L.Dense(2, name="head")]
  other = keras.Sequential([keras.Input([5]), *layers])
  other.compile(optimizer, "mse")
  optimizer.build(other.trainable_variables)
  with pytest.warns(UserWarning, match="no saved state for .*head/kernel"):
    other.load_weights(path, skip_mismatch=True)
  old, new = (o._states[0] for o in (model.optimizer, optimizer))
  assert known(optimizer)[0] == 6
  for k in range(2, 14, 4):  # m, s and v of the first layer's two variables
    for i in range(2):
      np.testing.assert_array_equal(new[k + i], old[k + i])
      assert np.any(old[k + i])
      assert not np.any(new[k + 2 + i])


def test_weight_decay_follows_the_rate():
  """W <- W - wd eta W, apart from the step itself."""
  moved = []
  for decay in (None, 0.3):
    optimizer = LearnedOptimizer(GeneralRule(), total_steps=10, weight_decay=decay)
    kernel = keras.Variable(np.full((3, 2), 2.0, np.float32))
    optimizer.apply([tf.zeros([3, 2])], [kernel])
    moved.append(kernel.numpy())
  rule = GeneralRule()
  state = rule.with_total_steps(rule.initial_state([tf.zeros([3, 2])]), 10)
  eta = float(rule.decay_rate(state))
  own = 1 - moved[0] / 2.0  # the rule's own decay
  np.testing.assert_allclose(moved[1] / 2.0, (1 - 0.3 * eta) * (1 - own), rtol=1e-6)


@pytest.mark.parametrize(
  "options",
  [
    {"use_ema": True, "ema_overwrite_frequency": 2, "clipnorm": 1.0},
    {"gradient_accumulation_steps": 2, "global_clipnorm": 1.0},
    {"state_dtype": "bfloat16", "loss_scale_factor": 1024.0},
  ],
  ids=str,
)
@pytest.mark.parametrize("has_input", [True, False])
def test_options_of_keras(options, has_input):
  optimizer = LearnedOptimizer(GeneralRule(), total_steps=30, **options)
  losses = fit(model_of(optimizer, has_input), 10)
  assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
  "compiled", [{"jit_compile": True}, {"steps_per_execution": 2}, {"run_eagerly": True}]
)
def test_ways_to_compile(compiled):
  optimizer = LearnedOptimizer(GeneralRule(), total_steps=15)
  losses = fit(model_of(optimizer, **compiled), 5)
  assert losses[-1] < losses[0] and known(optimizer) == [15, 15]


def test_a_step_with_nan_is_skipped_whole():
  optimizer = LearnedOptimizer(GeneralRule(), total_steps=9, nonfinite_gradients="skip")
  kernel = keras.Variable(np.ones((3, 2), np.float32))
  optimizer.apply([tf.ones([3, 2])], [kernel])
  before = [v.numpy() for v in (kernel, *optimizer._states[0])]
  optimizer.apply([tf.fill([3, 2], np.nan)], [kernel])
  for v, x in zip((kernel, *optimizer._states[0]), before):
    np.testing.assert_array_equal(v, x)
  assert optimizer.skipped_steps == 1


@pytest.mark.parametrize("total_steps", [0, -3, 2.5, "many", True, float("nan"), 2**31])
def test_a_number_of_steps_that_is_none(total_steps):
  with pytest.raises(ValueError, match="must be a positive whole number"):
    LearnedOptimizer(GeneralRule(), total_steps=total_steps)
  optimizer = LearnedOptimizer(GeneralRule())
  with pytest.raises(ValueError, match="must be a positive whole number"):
    optimizer.total_steps = total_steps


@pytest.mark.parametrize("other", [Adam(0.1), CoordinatewiseLSTM((3,))])
def test_an_optimizer_without_a_schedule_cannot_be_told(other):
  with pytest.raises(ValueError, match="has no schedule, so total_steps=5 would do"):
    LearnedOptimizer(other, total_steps=5)


def test_a_variable_without_a_gradient_keeps_its_value_and_its_state():
  optimizer = LearnedOptimizer(GeneralRule(), total_steps=9)
  moving, resting = (keras.Variable(np.ones((3, 2), np.float32)) for _ in range(2))
  grads = [tf.ones([3, 2])] * 2
  optimizer.apply(grads, [moving, resting])
  names = [
    "step",
    "total",
    *(f"{k} {v}" for k in "msvn" for v in ("moving", "resting")),
  ]
  read = lambda: {n: v.numpy() for n, v in zip(names, optimizer._states[0])}
  before, value = read(), resting.numpy()
  optimizer.apply(grads[:1], [moving])
  np.testing.assert_array_equal(resting, value)
  for name, x in read().items():
    is_equal = np.array_equal(x, before[name])
    assert is_equal == (name.endswith("resting") or name == "total"), name
