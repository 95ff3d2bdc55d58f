"""A learned optimizer in Keras, on really fitted models."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_optimizers import TABLE

import l2l_tf
from l2l_tf import unroll
from l2l_tf.export import ExportError
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import SGD, Adam, CoordinatewiseLSTM, RNNprop
from l2l_tf.problems import Problem

X = np.random.RandomState(0).normal(size=(64, 4)).astype(np.float32)
Y = (X @ [[1.0], [-2.0], [0.5], [0.0]] + 0.1).astype(np.float32)


def lstm(**kwargs):
  return CoordinatewiseLSTM((5, 4), "log_and_sign", output_scale=0.05, **kwargs)


def sequential(seed=0, **dense):
  keras.utils.set_random_seed(seed)
  return keras.Sequential(
    [
      keras.Input([4]),
      keras.layers.Dense(6, activation="tanh", **dense),
      keras.layers.Dense(1),
    ]
  )


def functional():
  keras.utils.set_random_seed(0)
  x = keras.Input([4])
  hidden = keras.layers.Dense(6, activation="tanh")(x)
  return keras.Model(x, keras.layers.Dense(1)(keras.layers.concatenate([x, hidden])))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self.hidden = keras.layers.Dense(6, activation="tanh")
    self.normalize = keras.layers.BatchNormalization()
    self.out = keras.layers.Dense(1)

  def call(self, x, training=False):
    return self.out(self.normalize(self.hidden(x), training=training))


def fit(model, optimizer, epochs=2, compile_options=None, **kwargs):
  """Fits on the same batches each time; returns the losses."""
  model.compile(optimizer, loss="mse", **(compile_options or {}))
  kwargs = {"x": X, "y": Y, "batch_size": 16, "shuffle": False, "verbose": 0} | kwargs
  return model.fit(epochs=epochs, **kwargs).history["loss"]


def weights(model):
  return np.concatenate([np.ravel(w) for w in model.get_weights()])


def assert_same_fit(model, optimizer, other_model, other, rtol=1e-5, **kwargs):
  """Both fit alike, and the weights moved."""
  before = weights(model)
  losses = fit(model, optimizer, **kwargs)
  np.testing.assert_allclose(losses, fit(other_model, other, **kwargs), rtol=rtol)
  np.testing.assert_allclose(weights(model), weights(other_model), rtol=1e-3, atol=1e-5)
  assert np.abs(weights(model) - before).max() > 1e-3


class Recorded(Problem):
  """A least-squares problem with parameters of given shapes."""

  def __init__(self, shapes):
    self._shapes = shapes

  def init(self, seed):
    pairs = zip(self._shapes, l2l_tf.seeds.split(seed, len(self._shapes)))
    return [l2l_tf.seeds.normal(shape, s) for shape, s in pairs], []

  def __call__(self, params, constants, seed):
    return tf.add_n([tf.reduce_sum(tf.sin(p) + p**2) for p in params])


# One step


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("block_size", [None, 4])
def test_a_hundred_steps_equal_the_unroll(name, block_size):
  make, shapes = TABLE[name]
  optimizer, problem = make(), Recorded(shapes)
  task, carry = unroll.start(problem, optimizer, tf.constant([0, 1]))
  _, (grads, params) = tf.function(unroll.unroll)(
    problem, optimizer, task, carry, 100, lambda carry, _: (carry.grads, carry.params)
  )
  variables = [keras.Variable(p) for p in carry.params]
  adapter = LearnedOptimizer(optimizer, block_size=block_size)
  step = tf.function(lambda grads: adapter.apply(grads, variables))
  step(carry.grads)
  for t in range(99):
    for variable, expected in zip(variables, params):
      np.testing.assert_allclose(variable, expected[t], rtol=1e-4, atol=1e-5)
    step([g[t] for g in grads])
  assert int(adapter.iterations) == 100


def test_one_compiled_call_serves_all_blocks_and_steps():
  optimizer, model = LearnedOptimizer(lstm(), block_size=5), sequential()
  fit(model, optimizer)
  assert sum(v.shape[-1] for v in optimizer.variables if v.shape[:1] == (5,)) == 2 * 40
  assert optimizer._blocks._advance.experimental_get_tracing_count() == 1


def test_learning_rate_is_a_factor_on_the_updates():
  grads, moved = [tf.constant([0.3, -2.0, 0.0])], []
  for rate in (1.0, 0.25):
    variable = keras.Variable([1.0, 2.0, 3.0])
    LearnedOptimizer(lstm(), rate).apply(grads, [variable])
    moved.append(variable.numpy() - [1.0, 2.0, 3.0])
  np.testing.assert_allclose(0.25 * moved[0], moved[1], rtol=1e-4, atol=1e-7)
  assert np.abs(moved[0]).min() > 1e-5


# What Keras users switch on


@pytest.mark.parametrize(
  "options",
  [
    {"clipnorm": 0.1},
    {"global_clipnorm": 0.1},
    {"clipvalue": 0.01},
    {"weight_decay": 0.1},
    {"use_ema": True, "ema_momentum": 0.8},
    {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3},
    {"gradient_accumulation_steps": 2},
    {"loss_scale_factor": 8.0},
  ],
  ids=lambda options: "-".join(options),
)
def test_options_do_what_they_do_in_keras_adam(options):
  assert_same_fit(
    sequential(),
    LearnedOptimizer(Adam(1.0), 0.01, **options),
    sequential(),
    keras.optimizers.Adam(0.01, **options),
    epochs=3,
  )


def test_options_do_so_together_compiled_by_xla():
  options = {
    "global_clipnorm": 0.1,
    "weight_decay": 0.1,
    "use_ema": True,
    "ema_overwrite_frequency": 3,
    "gradient_accumulation_steps": 2,
  }
  assert_same_fit(
    sequential(),
    LearnedOptimizer(Adam(1.0), 0.01, **options),
    sequential(),
    keras.optimizers.Adam(0.01, **options),
    compile_options={"jit_compile": True},
    epochs=3,
  )


@pytest.mark.parametrize(
  "options",
  [{"jit_compile": True}, {"steps_per_execution": 3}, {"run_eagerly": True}],
  ids=lambda options: "-".join(options),
)
def test_ways_to_run_fit_agree(options):
  plain = sequential()
  expected = fit(plain, LearnedOptimizer(lstm()))
  model = sequential()
  found = fit(model, LearnedOptimizer(lstm()), compile_options=options)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  np.testing.assert_allclose(weights(model), weights(plain), rtol=1e-3, atol=1e-4)


def test_schedules_and_callbacks_set_the_learning_rate():
  schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.5)
  assert_same_fit(
    sequential(),
    LearnedOptimizer(Adam(1.0), schedule),
    sequential(),
    keras.optimizers.Adam(schedule),
  )
  callbacks = lambda: [
    keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.02 / (1 + epoch)),
    keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=0, min_delta=10.0),
  ]
  model, other = sequential(), sequential()
  fit(model, LearnedOptimizer(Adam(1.0), 0.02), 3, callbacks=callbacks())
  fit(other, keras.optimizers.Adam(0.02), 3, callbacks=callbacks())
  assert float(model.optimizer.learning_rate) < 0.02 / 3
  np.testing.assert_allclose(weights(model), weights(other), rtol=1e-3, atol=1e-5)


def test_custom_loops_apply_and_apply_gradients():
  expected, found = sequential(), sequential()
  fit(expected, LearnedOptimizer(lstm()), 1)
  optimizer = LearnedOptimizer(lstm())

  @tf.function
  def step(x, y, apply):
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(tf.square(found(x) - y))
    grads = tape.gradient(loss, found.trainable_variables)
    if apply:
      optimizer.apply(grads, found.trainable_variables)
    else:
      optimizer.apply_gradients(zip(grads, found.trainable_variables))

  for i in range(4):
    step(X[16 * i : 16 * i + 16], Y[16 * i : 16 * i + 16], i % 2 == 0)
  np.testing.assert_allclose(weights(found), weights(expected), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
  kwargs = {"dtype": policy}
  adam = keras.optimizers.Adam(0.01)
  ours = LearnedOptimizer(Adam(1.0), 0.01)
  if policy == "mixed_float16":  # compile() wraps by the global policy alone
    adam = keras.optimizers.LossScaleOptimizer(adam)
    ours = keras.optimizers.LossScaleOptimizer(ours)
  assert_same_fit(sequential(**kwargs), ours, sequential(**kwargs), adam, rtol=1e-3)


def test_the_global_policy_wraps_it_in_a_loss_scale():
  keras.config.set_dtype_policy("mixed_float16")
  try:
    model = sequential()
    losses = fit(model, LearnedOptimizer(lstm(), 0.1), 4)
  finally:
    keras.config.set_dtype_policy("float32")
  assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
  # The first scale, 2^15, overflows float16; those steps are not ours.
  assert np.all(np.isfinite(losses)) and model.optimizer.inner_optimizer.built


def test_half_precision_variables():
  model = sequential(dtype="float16")
  before = weights(model)
  fit(model, LearnedOptimizer(lstm()), 1)
  assert {v.dtype for v in model.layers[0].variables} == {"float16"}
  assert np.all(np.isfinite(weights(model))) and np.any(weights(model) != before)


def test_embeddings_are_moved_as_their_dense_equals():
  # Not as in Keras's Adam, which squares the gradient of each occurrence of a row.
  def model(rows):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input([3]), rows, *layers])

  one_hot = lambda x: keras.ops.one_hot(keras.ops.cast(x, "int32"), 9)
  table = keras.Sequential(
    [keras.layers.Lambda(one_hot), keras.layers.Dense(4, use_bias=False)]
  )
  sparse, dense = model(keras.layers.Embedding(9, 4)), model(table)
  dense.set_weights(sparse.get_weights())
  x = np.random.RandomState(1).randint(0, 9, size=(64, 3))
  assert_same_fit(
    sparse, LearnedOptimizer(lstm()), dense, LearnedOptimizer(lstm()), x=x
  )


def test_frozen_layers_stay():
  model = sequential()
  model.layers[0].trainable = False
  frozen = model.layers[0].get_weights()
  before = weights(model)
  fit(model, LearnedOptimizer(lstm()), 1)
  for x, y in zip(frozen, model.layers[0].get_weights()):
    np.testing.assert_array_equal(x, y)
  assert np.any(weights(model) != before)


@pytest.mark.parametrize("block_size", [None, 3])
def test_a_variable_without_gradient_stays(block_size):
  used, unused = keras.Variable([1.0, 2.0]), keras.Variable([3.0, 4.0, 5.0])
  optimizer = LearnedOptimizer(SGD(0.5), block_size=block_size)
  with pytest.warns(UserWarning, match="Gradients do not exist"):
    optimizer.apply([None, tf.constant([1.0, 1.0])], [unused, used])
  np.testing.assert_array_equal(unused, [3.0, 4.0, 5.0])
  np.testing.assert_array_equal(used, [0.5, 1.5])
  optimizer.apply([tf.constant([2.0, 2.0, 2.0])], [unused])  # some of them alone
  np.testing.assert_array_equal(unused, [2.0, 3.0, 4.0])
  np.testing.assert_array_equal(used, [0.5, 1.5])


def test_a_fitted_model_with_a_variable_that_the_loss_ignores():
  class Idle(keras.layers.Layer):
    def build(self, shape):
      self.idle = self.add_weight(shape=(3,), initializer="ones", name="idle")

    def call(self, x):
      return x

  keras.utils.set_random_seed(0)
  model = keras.Sequential([keras.Input([4]), Idle(), keras.layers.Dense(1)])
  with pytest.warns(UserWarning, match="Gradients do not exist"):
    losses = fit(model, LearnedOptimizer(Adam(0.05)), 3)
  np.testing.assert_array_equal(model.layers[0].idle, [1.0, 1.0, 1.0])
  assert losses[-1] < losses[0]


@pytest.mark.parametrize("block_size", [None, 2])
def test_alternating_gradients_are_as_in_keras_adam(block_size):
  ends = []
  for make in (
    lambda: LearnedOptimizer(Adam(1.0), 0.01, block_size=block_size),
    lambda: keras.optimizers.Adam(0.01),
  ):
    a, b = keras.Variable([1.0, 2.0, 3.0]), keras.Variable([4.0, 5.0])
    optimizer, g = make(), [tf.constant([0.3, -0.1, 2.0]), tf.constant([1.0, -1.0])]
    optimizer.apply(g, [a, b])
    for _ in range(5):
      optimizer.apply([0.5 * g[1]], [b])
    optimizer.apply(g, [a, b])
    ends.append(np.concatenate([a.numpy(), b.numpy()]))
  np.testing.assert_allclose(*ends, rtol=1e-6)


def test_constraints_hold():
  model = sequential(kernel_constraint=keras.constraints.NonNeg())
  fit(model, LearnedOptimizer(lstm()), 1)
  assert model.layers[0].kernel.numpy().min() >= 0.0


@pytest.mark.parametrize("make", [sequential, functional, Subclassed])
def test_kinds_of_models_and_several_of_them(make):
  optimizers = [LearnedOptimizer(lstm()) for _ in range(2)]
  keras.utils.set_random_seed(0)
  first = fit(make(), optimizers[0])
  keras.utils.set_random_seed(0)
  np.testing.assert_allclose(fit(make(), optimizers[1]), first, rtol=1e-5)


def test_later_training_elsewhere_leaves_it_alone():
  optimizer = lstm()
  adapter = LearnedOptimizer(optimizer)
  before = adapter.optimizer.variables[0].numpy()
  optimizer.variables[0].assign_add(tf.ones_like(optimizer.variables[0]))
  np.testing.assert_array_equal(adapter.optimizer.variables[0], before)


_TWO_REPLICAS = """
import keras, numpy as np, tensorflow as tf
from l2l_tf.keras import Diagnostics, LearnedOptimizer
from l2l_tf.optimizers import CoordinatewiseLSTM, SGD, Adam
cpu = tf.config.list_physical_devices("CPU")[0]
two_devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two_devices)
x = np.random.RandomState(0).normal(size=(64, 4)).astype(np.float32)
y = x @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)

def fit(make, strategy, **options):
  with strategy.scope():
    keras.utils.set_random_seed(0)
    layers = [keras.Input([4]), keras.layers.Dense(6), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(LearnedOptimizer(make(), block_size=16, **options), loss="mse")
  watch = Diagnostics(period=1, verbose=False)
  kwargs = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
  losses = model.fit(x, y, callbacks=[watch], **kwargs).history
  assert len(watch.records) == 12
  return losses["loss"], [w for w in model.get_weights()], model.optimizer

one = tf.distribute.OneDeviceStrategy("CPU:0")
for make, options in [
  (lambda: CoordinatewiseLSTM((5, 4), "log_and_sign", 0.05), {}),
  (lambda: Adam(0.05), {"weight_decay": 0.1, "use_ema": True}),
  (lambda: Adam(0.05), {"nonfinite_gradients": "skip"}),
]:
  two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  assert two.num_replicas_in_sync == 2
  losses, weights, optimizer = fit(make, two, **options)
  alone, others, _ = fit(make, one, **options)
  np.testing.assert_allclose(losses, alone, rtol=1e-3)
  for w, v in zip(weights, others):
    np.testing.assert_allclose(w, v, rtol=1e-2, atol=1e-4)
  for state in optimizer.variables:
    copies = two.experimental_local_results(state.value)
    np.testing.assert_array_equal(copies[0], copies[1])
print("equal")
"""


def test_two_replicas_equal_one_with_the_joint_batch():
  run = subprocess.run(
    [sys.executable, "-c", _TWO_REPLICAS], capture_output=True, text=True, check=False
  )
  assert run.stdout.strip().endswith("equal"), run.stderr[-3000:]


# Saving


def ten_losses(model):
  """Losses of ten more steps, each of them on the next batch."""
  return [
    float(model.train_on_batch(X[i : i + 16], Y[i : i + 16])) for i in range(0, 40, 4)
  ]


@pytest.mark.parametrize(
  "make", [lstm, lambda: Adam(0.01), lambda: lstm(dtype="bfloat16")]
)
@pytest.mark.parametrize("make_model", [sequential, Subclassed])
def test_a_saved_model_goes_on_exactly(tmp_path, make, make_model):
  model = make_model()
  fit(model, LearnedOptimizer(make(), block_size=16), 1)
  model.save(tmp_path / "m.keras")
  loaded = keras.models.load_model(tmp_path / "m.keras")
  assert ten_losses(loaded) == ten_losses(model)


def test_a_saved_model_with_every_option_goes_on_exactly(tmp_path):
  schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 3, 0.5)
  optimizer = LearnedOptimizer(
    lstm(),
    schedule,
    use_ema=True,
    gradient_accumulation_steps=2,
    clipnorm=1.0,
    weight_decay=0.01,
    state_dtype="bfloat16",
    block_size=7,
    nonfinite_gradients="skip",
  )
  model = sequential()
  fit(model, optimizer, 1)
  model.save(tmp_path / "m.keras")
  loaded = keras.models.load_model(tmp_path / "m.keras")
  assert ten_losses(loaded) == ten_losses(model)
  assert loaded.optimizer.get_config() == model.optimizer.get_config()


def test_saved_weights_go_on_exactly_also_before_the_first_step(tmp_path):
  model = sequential()
  fit(model, LearnedOptimizer(lstm(), block_size=16), 1)
  model.save_weights(tmp_path / "m.weights.h5")
  expected = ten_losses(model)
  for is_built in (True, False):
    other = sequential(seed=1)
    # Other learned weights: those of the file count.
    other.compile(LearnedOptimizer(lstm(seed=3), block_size=16), loss="mse")
    if is_built:
      other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "m.weights.h5")
    assert ten_losses(other) == expected


def test_a_waiting_state_that_does_not_fit_is_never_lost(tmp_path):
  model = sequential()
  fit(model, LearnedOptimizer(lstm(), block_size=16), 1)
  model.save_weights(tmp_path / "m.weights.h5")
  model.compile(LearnedOptimizer(lstm(), block_size=8), loss="mse")
  model.load_weights(tmp_path / "m.weights.h5")
  for _ in range(2):  # It does not begin from nothing when tried again.
    with pytest.raises(ValueError, match="layers, block_size or options"):
      model.optimizer.build(model.trainable_variables)
  model.save_weights(tmp_path / "again.weights.h5")
  fitting = sequential(seed=1)
  fit(fitting, LearnedOptimizer(lstm(), block_size=8), 1)
  fitting.save_weights(tmp_path / "fitting.weights.h5")
  model.load_weights(tmp_path / "fitting.weights.h5")
  model.optimizer.build(model.trainable_variables)
  assert ten_losses(model) == ten_losses(fitting)
  model.compile(LearnedOptimizer(lstm(), block_size=16), loss="mse")
  model.load_weights(tmp_path / "again.weights.h5")
  expected = ten_losses(model)
  model.load_weights(tmp_path / "m.weights.h5")
  assert ten_losses(model) == expected


@pytest.mark.parametrize("is_built", [True, False])
def test_models_saved_before_their_first_step(tmp_path, is_built):
  saved, model = sequential(), sequential(seed=1)
  saved.compile(LearnedOptimizer(lstm(), 0.5), loss="mse")
  saved.save(tmp_path / "m.keras")
  saved.save_weights(tmp_path / "m.weights.h5")
  expected = ten_losses(saved)
  assert ten_losses(keras.models.load_model(tmp_path / "m.keras")) == expected
  model.compile(LearnedOptimizer(lstm(seed=3)), loss="mse")
  if is_built:
    model.optimizer.build(model.trainable_variables)
  model.load_weights(tmp_path / "m.weights.h5")
  assert float(model.optimizer.learning_rate) == 0.5
  assert ten_losses(model) == expected


def test_a_state_that_waits_for_the_first_step_is_saved_on(tmp_path):
  model = sequential()
  fit(model, LearnedOptimizer(lstm()), 1)
  model.save_weights(tmp_path / "1.weights.h5")
  between, last = sequential(seed=1), sequential(seed=2)
  for i, other in enumerate((between, last), 1):
    other.compile(LearnedOptimizer(lstm(seed=3)), loss="mse")
    other.load_weights(tmp_path / f"{i}.weights.h5")
    assert int(other.optimizer.iterations) == 4
    other.save_weights(tmp_path / f"{i + 1}.weights.h5")
  last.optimizer.learning_rate = 0.25  # after loading; it stays
  model.optimizer.learning_rate = 0.25
  assert ten_losses(last) == ten_losses(model)


def test_weights_saved_without_an_optimizer_load_after_compile(tmp_path):
  plain, model = sequential(), sequential(seed=1)
  plain.save_weights(tmp_path / "m.weights.h5")
  model.compile(LearnedOptimizer(lstm()), loss="mse")
  model.load_weights(tmp_path / "m.weights.h5")
  np.testing.assert_array_equal(weights(model), weights(plain))


def test_a_frozen_model_is_loaded(tmp_path):
  model = sequential()
  model.trainable = False
  model.compile(LearnedOptimizer(lstm()), loss="mse")
  model.save(tmp_path / "m.keras")
  loaded = keras.models.load_model(tmp_path / "m.keras")
  np.testing.assert_array_equal(weights(loaded), weights(model))


def test_a_model_in_mixed_precision_goes_on_exactly(tmp_path):
  model = sequential(dtype="mixed_float16")
  scaled = keras.optimizers.LossScaleOptimizer(LearnedOptimizer(lstm()), 64.0)
  fit(model, scaled, 1)
  model.save(tmp_path / "m.keras")
  loaded = keras.models.load_model(tmp_path / "m.keras")
  assert ten_losses(loaded) == ten_losses(model)


def test_model_checkpoint_goes_on_exactly(tmp_path):
  model = sequential()
  path = str(tmp_path / "{epoch}.keras")
  checkpoint = keras.callbacks.ModelCheckpoint(path)
  fit(model, LearnedOptimizer(lstm()), 2, callbacks=[checkpoint])
  first = keras.models.load_model(tmp_path / "1.keras")
  first.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
  np.testing.assert_array_equal(weights(first), weights(model))


def test_backup_and_restore_goes_on_exactly(tmp_path):
  uninterrupted = sequential()
  expected = fit(uninterrupted, LearnedOptimizer(lstm()), 3)

  class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
      if epoch == 2:
        raise KeyboardInterrupt

  backup = lambda: keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
  with pytest.raises(KeyboardInterrupt):
    fit(sequential(), LearnedOptimizer(lstm()), 3, callbacks=[backup(), Stop()])
  model = sequential(seed=1)
  found = fit(model, LearnedOptimizer(lstm(seed=3)), 3, callbacks=[backup()])
  assert found == expected[2:]
  np.testing.assert_array_equal(weights(model), weights(uninterrupted))


def test_a_fresh_process_loads_it_without_any_other_file(tmp_path):
  l2l_tf.save(lstm(), tmp_path / "o.l2l.npz")
  model = sequential()
  fit(model, LearnedOptimizer(tmp_path / "o.l2l.npz"), 1)
  model.save(tmp_path / "m.keras")
  (tmp_path / "o.l2l.npz").unlink()
  np.save(tmp_path / "x.npy", X)
  np.save(tmp_path / "y.npy", Y)
  code = (
    "import keras, l2l_tf.keras, numpy as np;"
    f"m = keras.models.load_model({str(tmp_path / 'm.keras')!r});"
    f"x, y = [np.load({str(tmp_path)!r} + f'/{{n}}.npy') for n in 'xy'];"
    "print(float(m.train_on_batch(x, y)).hex())"
  )
  run = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert float.fromhex(run.stdout.split()[-1]) == float(model.train_on_batch(X, Y))


def test_config_registration_and_deserialize():
  optimizer = LearnedOptimizer(lstm(seed=5), 0.5, block_size=9, clipvalue=2.0)
  config = keras.optimizers.serialize(optimizer)
  again = keras.optimizers.deserialize(config)
  assert config["registered_name"] == "l2l_tf>LearnedOptimizer"
  assert again.get_config() == optimizer.get_config()
  for x, y in zip(optimizer.optimizer.variables, again.optimizer.variables):
    np.testing.assert_array_equal(x, y)


def test_state_of_another_model_is_an_error(tmp_path):
  model = sequential()
  fit(model, LearnedOptimizer(lstm()), 1)
  state = {}
  model.optimizer.save_own_variables(state)
  # As many coordinates, in other shapes.
  transposed = LearnedOptimizer(lstm())
  shapes = [tuple(v.shape)[::-1] for v in model.trainable_variables]
  transposed.build([keras.Variable(tf.zeros(shape)) for shape in shapes])
  with pytest.raises(
    ValueError, match=r"a model whose variables have shapes \[\[4, 6\]"
  ):
    transposed.load_own_variables(state)
  unbuilt = LearnedOptimizer(lstm())
  unbuilt.load_own_variables(state)
  for _ in range(2):
    with pytest.raises(ValueError, match="a model whose variables have shapes"):
      unbuilt.build([keras.Variable(tf.zeros([3]))])
    assert not unbuilt.built


def test_state_of_another_optimizer_is_an_error(tmp_path):
  model = sequential()
  fit(model, LearnedOptimizer(lstm()), 1)
  model.save_weights(tmp_path / "m.weights.h5")
  other = sequential()
  other.compile(LearnedOptimizer(CoordinatewiseLSTM((3,))), loss="mse")
  other.optimizer.build(other.trainable_variables)
  with pytest.raises(ValueError, match="an optimizer with other layers"):
    other.load_weights(tmp_path / "m.weights.h5")
  model.compile(keras.optimizers.Adam(), loss="mse")
  model.fit(X, Y, verbose=0)
  model.save_weights(tmp_path / "adam.weights.h5")
  for build in (True, False):
    fresh = sequential()
    fresh.compile(LearnedOptimizer(lstm()), loss="mse")
    if build:
      fresh.optimizer.build(fresh.trainable_variables)
    with pytest.raises(ValueError, match="the state of another kind of optimizer"):
      fresh.load_weights(tmp_path / "adam.weights.h5")


@pytest.mark.parametrize("make", [lstm, RNNprop, lambda: Adam(0.01)])
def test_a_state_of_half_the_size(make):
  model, full = sequential(), sequential()
  losses = fit(model, LearnedOptimizer(make(), 0.1, state_dtype="bfloat16"))
  np.testing.assert_allclose(
    losses, fit(full, LearnedOptimizer(make(), 0.1)), rtol=0.05
  )
  kept = [v for v in model.optimizer.variables if "state" in v.name]
  assert kept and {v.dtype for v in kept} <= {"bfloat16", "int32"}


def test_half_of_a_state_is_enough_for_small_gradients():
  moved = []
  for state_dtype in (None, "bfloat16"):
    variable = keras.Variable([0.0])
    adapter = LearnedOptimizer(Adam(1.0), 0.01, state_dtype=state_dtype)
    for size in [1e-4] * 30 + [1e-6] * 30:
      adapter.apply([tf.constant([size])], [variable])
    moved.append(float(variable.numpy()[0]))
  assert moved[1] == pytest.approx(moved[0], rel=0.1)


def xla_temporaries(num_units, directory):
  """Bytes beside state and parameters in a step compiled by XLA, by its own count."""
  code = f"""
import tensorflow as tf, keras
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import CoordinatewiseLSTM
model = keras.Sequential([keras.Input([8]), keras.layers.Dense({num_units})])
optimizer = LearnedOptimizer(CoordinatewiseLSTM((20, 20)), block_size=1024)
model.compile(optimizer, "mse", jit_compile=True)
model.train_on_batch(tf.ones([2, 8]), tf.ones([2, {num_units}]))
"""
  flags = f"--xla_dump_to={directory} --xla_dump_hlo_as_text"
  environment = os.environ | {"XLA_FLAGS": flags}
  subprocess.run([sys.executable, "-c", code], env=environment, check=True)
  counts = directory.glob("*one_step_on_data*buffer-assignment.txt")
  (text,) = [path.read_text() for path in counts]
  return int(re.search(r"allocation \d+: size (\d+), preallocated-temp", text)[1])


def test_temporaries_do_not_grow_with_the_model_under_xla(tmp_path):
  small, large = (xla_temporaries(n, tmp_path / str(n)) for n in (456, 1820))
  state = 320 * 9 * 1820
  assert large < 1.5 * small < state / 8  # blocks: 5, then 16


# Bad input


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


def test_gradients_that_are_not_finite_raise_and_change_nothing():
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


def test_a_fit_compiled_by_xla_raises_for_skipped_steps_when_it_ends():
  model = sequential()
  with pytest.raises(tf.errors.InvalidArgumentError, match="Skipped 2 of the steps"):
    fit(model, LearnedOptimizer(lstm()), 2, {"jit_compile": True}, y=NOT_FINITE)
  assert np.all(np.isfinite(weights(model)))
  model.fit(X, Y, verbose=0)  # nothing new to tell


def test_skipped_steps_of_a_saved_model_are_not_told_again(tmp_path):
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


def test_an_optimizer_of_another_model():
  optimizer = LearnedOptimizer(lstm())
  fit(sequential(), optimizer, 1)
  with pytest.raises(ValueError, match="was built for another model and does not know"):
    fit(functional(), optimizer, 1)
  other = functional()
  with pytest.raises(ValueError, match="was built for another model"):
    optimizer.build(other.trainable_variables)


def test_another_backend_of_keras():
  # None of the others is installed; Keras itself would not start.
  code = "import keras; keras.backend.backend = lambda: 'jax'; import l2l_tf.keras"
  run = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=False
  )
  assert "needs Keras's TensorFlow backend, but Keras runs on 'jax'; set" in run.stderr


def test_an_optimizer_that_cannot_be_exported_says_so_when_saved(tmp_path):
  class Mine(SGD):
    pass

  model = sequential()
  fit(model, LearnedOptimizer(Mine(0.1)), 1)
  with pytest.raises(ExportError, match=r"Mine.* cannot be exported"):
    model.save(tmp_path / "m.keras")
