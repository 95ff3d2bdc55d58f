"""What is saved with a model that a learned optimizer trains, and loaded again."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras_models import (
  Subclassed,
  X,
  Y,
  built,
  fit,
  lstm,
  ten_losses,
  weights,
)

import l2l_tf
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import Adam


def assert_goes_on_exactly_when_saved(model, optimizer, path):
  fit(model, LearnedOptimizer(optimizer, block_size=16), 1)
  model.save(path / "m.keras")
  loaded = keras.models.load_model(path / "m.keras")
  assert ten_losses(loaded) == ten_losses(model)


@pytest.mark.parametrize(
  "make", [lstm, lambda: lstm(dtype="bfloat16"), lambda: Adam(0.01)]
)
def test_a_saved_model_goes_on_exactly(sequential, tmp_path, make):
  assert_goes_on_exactly_when_saved(sequential(), make(), tmp_path)


def test_a_saved_model_of_ones_own_goes_on_exactly(tmp_path):
  assert_goes_on_exactly_when_saved(Subclassed(), lstm(), tmp_path)


def test_a_saved_model_with_every_option_goes_on_exactly(sequential, tmp_path):
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


def test_saved_weights_go_on_exactly_also_before_the_first_step(sequential, tmp_path):
  model = built(sequential())
  fit(model, LearnedOptimizer(lstm(), block_size=16), 1)
  model.save_weights(tmp_path / "m.weights.h5")
  expected = ten_losses(model)
  for is_built in (True, False):
    other = built(sequential(seed=1))
    # Other learned weights: those of the file count.
    other.compile(LearnedOptimizer(lstm(seed=3), block_size=16), loss="mse")
    if is_built:
      other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "m.weights.h5")
    assert ten_losses(other) == expected


def test_a_waiting_state_that_does_not_fit_is_never_lost(sequential, tmp_path):
  model = sequential()
  fit(model, LearnedOptimizer(lstm()), 1)
  model.save_weights(tmp_path / "m.weights.h5")
  expected = ten_losses(model)
  other = keras.Sequential([keras.Input([4]), keras.layers.Dense(7)])
  optimizer = LearnedOptimizer(lstm(), mismatched_state="raise")
  state = {}
  fit(model, model.optimizer, 1)
  model.optimizer.save_own_variables(state)
  optimizer.load_own_variables(state)
  for _ in range(2):  # It does not begin from nothing when tried again.
    with pytest.raises(
      ValueError, match=r"no saved state for .*kernel of shape \[4, 7"
    ):
      optimizer.build(other.trainable_variables)
    assert not optimizer.built and len(optimizer.variables) == 2
  again = {}
  optimizer.save_own_variables(again)
  assert again.keys() == state.keys()
  for key, array in state.items():
    np.testing.assert_array_equal(again[key], array)
  model.load_weights(tmp_path / "m.weights.h5")
  assert ten_losses(model) == expected


@pytest.mark.parametrize("is_built", [True, False])
def test_models_saved_before_their_first_step(sequential, tmp_path, is_built):
  saved, model = built(sequential()), built(sequential(seed=1))
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


def test_a_state_that_waits_for_the_first_step_is_saved_on(sequential, tmp_path):
  model = built(sequential())
  fit(model, LearnedOptimizer(lstm()), 1)
  model.save_weights(tmp_path / "1.weights.h5")
  between, last = built(sequential(seed=1)), built(sequential(seed=2))
  for i, other in enumerate((between, last), 1):
    other.compile(LearnedOptimizer(lstm(seed=3)), loss="mse")
    other.load_weights(tmp_path / f"{i}.weights.h5")
    assert int(other.optimizer.iterations) == 4
    other.save_weights(tmp_path / f"{i + 1}.weights.h5")
  last.optimizer.learning_rate = 0.25  # after loading; it stays
  model.optimizer.learning_rate = 0.25
  assert ten_losses(last) == ten_losses(model)


def test_weights_saved_without_an_optimizer_load_after_compile(sequential, tmp_path):
  plain, model = built(sequential()), built(sequential(seed=1))
  plain.save_weights(tmp_path / "m.weights.h5")
  model.compile(LearnedOptimizer(lstm()), loss="mse")
  model.load_weights(tmp_path / "m.weights.h5")
  np.testing.assert_array_equal(weights(model), weights(plain))


def test_a_frozen_model_is_loaded(sequential, tmp_path):
  model = built(sequential())
  model.trainable = False
  model.compile(LearnedOptimizer(lstm()), loss="mse")
  model.save(tmp_path / "m.keras")
  loaded = keras.models.load_model(tmp_path / "m.keras")
  np.testing.assert_array_equal(weights(loaded), weights(model))


def test_a_model_in_mixed_precision_goes_on_exactly(sequential, tmp_path):
  model = built(sequential(dtype="mixed_float16"))
  scaled = keras.optimizers.LossScaleOptimizer(LearnedOptimizer(lstm()), 64.0)
  fit(model, scaled, 1)
  model.save(tmp_path / "m.keras")
  loaded = keras.models.load_model(tmp_path / "m.keras")
  assert ten_losses(loaded) == ten_losses(model)


def test_model_checkpoint_goes_on_exactly(sequential, tmp_path):
  model = built(sequential())
  path = str(tmp_path / "{epoch}.keras")
  checkpoint = keras.callbacks.ModelCheckpoint(path)
  fit(model, LearnedOptimizer(lstm()), 2, callbacks=[checkpoint])
  first = keras.models.load_model(tmp_path / "1.keras")
  first.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
  np.testing.assert_array_equal(weights(first), weights(model))


def test_backup_and_restore_goes_on_exactly(sequential, tmp_path):
  uninterrupted = built(sequential())
  expected = fit(uninterrupted, LearnedOptimizer(lstm()), 3)

  class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
      if epoch == 2:
        raise KeyboardInterrupt

  backup = lambda: keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
  with pytest.raises(KeyboardInterrupt):
    model = built(sequential())  # Keras asks for that.
    fit(model, LearnedOptimizer(lstm()), 3, callbacks=[backup(), Stop()])
  model = built(sequential(seed=1))
  found = fit(model, LearnedOptimizer(lstm(seed=3)), 3, callbacks=[backup()])
  assert found == expected[2:]
  np.testing.assert_array_equal(weights(model), weights(uninterrupted))


def test_a_fresh_process_loads_it_without_any_other_file(
  library_forks, sequential, tmp_path
):
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
  ended = library_forks.run("", code=code)
  assert ended.code == 0, ended.err
  assert float.fromhex(ended.out.split()[-1]) == float(model.train_on_batch(X, Y))


def test_config_registration_and_deserialize():
  optimizer = LearnedOptimizer(lstm(seed=5), 0.5, block_size=9, clipvalue=2.0)
  config = keras.optimizers.serialize(optimizer)
  again = keras.optimizers.deserialize(config)
  assert config["registered_name"] == "l2l_tf>LearnedOptimizer"
  assert again.get_config() == optimizer.get_config()
  for x, y in zip(optimizer.optimizer.variables, again.optimizer.variables):
    np.testing.assert_array_equal(x, y)


# Files of earlier versions

DATA = pathlib.Path(__file__).parent / "data"


@pytest.mark.parametrize("block_size", [16, 5])
def test_a_model_of_version_0_1_0_goes_on_exactly(block_size):
  expected = json.loads((DATA / "losses_0_1_0.json").read_text())["model"]
  model = keras.models.load_model(DATA / "model_0_1_0.keras")
  if block_size != 16:  # The file's state does not say how it was cut.
    config = model.optimizer.get_config() | {"block_size": block_size}
    model.compile(LearnedOptimizer.from_config(config), "mse")
    keras.saving.load_weights(model, DATA / "model_0_1_0.keras")
  np.testing.assert_allclose(ten_losses(model), expected, rtol=1e-5)
