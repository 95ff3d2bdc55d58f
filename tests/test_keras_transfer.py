"""Saved state that does not fit, or not wholly: what is restored, and what is said."""

import functools
import re
import warnings

import keras
import keras_models
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras_models import X, Y, built, fit, lstm, ten_losses, weights

from l2l_tf.keras import LearnedOptimizer, transfer
from l2l_tf.keras.saved_state import VariableSpec
from l2l_tf.optimizers import SGD, Adam, CoordinatewiseLSTM, Partition, RNNprop, Where


def trained(sequential, path, optimizer, epochs=2):
  """Saves the weights of a model that was fitted; returns the model."""
  model = sequential()
  fit(model, optimizer, epochs)
  model.save_weights(path)
  return model


def loaded(model, optimizer, path, is_built, **options):
  """Loads those weights into a model compiled for another optimizer."""
  built(model).compile(optimizer, "mse")
  if is_built:
    optimizer.build(model.trainable_variables)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.load_weights(path, **options)
    optimizer.build(model.trainable_variables)
  said = [str(w.message) for w in caught if "does not fit" in str(w.message)]
  assert len(said) <= 1
  return said


def state_of(optimizer):
  """The state by variable path: arrays [..., size], and each scalar."""
  saved = optimizer._state_variables().snapshot()
  ends = np.cumsum([v.size for v in saved.variables])[:-1]
  parts = [np.split(x, ends, -1) for x in saved.state if x.ndim]
  paths = [v.path.split("/", 1)[-1] for v in saved.variables]
  return dict(zip(paths, zip(*parts))), saved


@pytest.fixture(scope="module")
def saved(sequential, tmp_path_factory):
  """Weights saved after a fit with a rate of its own."""
  path = tmp_path_factory.mktemp("saved") / "m.weights.h5"
  trained(sequential, path, LearnedOptimizer(lstm(), 0.5))
  return path


@pytest.fixture(params=[lstm, RNNprop, lambda: Adam(0.01)], scope="module")
def in_blocks(request, tmp_path_factory):
  """How an optimizer is made, weights saved with it in blocks, and losses after."""
  path = tmp_path_factory.mktemp("blocks") / "m.weights.h5"
  optimizer = LearnedOptimizer(request.param(), 0.1, block_size=16)
  model = trained(functools.partial(keras_models.sequential, True), path, optimizer)
  return request.param, path, ten_losses(model)


@pytest.mark.parametrize(
  "options", [{"block_size": 5}, {"block_size": None}, {"state_dtype": "bfloat16"}]
)
def test_other_blocks_and_types_are_converted(in_blocks, options):
  make, path, expected = in_blocks
  for is_built in (True, False):
    other = keras_models.sequential(True, seed=1)
    said = loaded(other, LearnedOptimizer(make(), **options), path, is_built)
    assert said == [] and other.optimizer.iterations == 8
    rtol = 0.02 if "state_dtype" in options else 1e-5
    np.testing.assert_allclose(ten_losses(other), expected, rtol=rtol)


@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize("use_ema", [True, False])
def test_a_new_head_leaves_the_body_its_state(tmp_path, is_built, use_ema):
  def build(classes):
    layers = [keras.layers.Dense(6, name="body")]
    layers.append(keras.layers.Dense(classes, name="head"))
    model = keras.Sequential([keras.Input([4]), *layers])
    options = {"use_ema": use_ema, "ema_momentum": 0.5, "block_size": 7}
    model.compile(LearnedOptimizer(Adam(0.01), **options), "mse")
    return model

  old, new = build(5), build(3)
  old.fit(X, np.tile(Y, [1, 5]), verbose=0)
  old.save_weights(tmp_path / "m.weights.h5")
  optimizer = new.optimizer
  path = tmp_path / "m.weights.h5"
  said = loaded(new, optimizer, path, is_built, skip_mismatch=True)
  assert len(said) == 1
  assert re.search(
    r"no saved state for .*head/kernel of shape \[6, 3\], .*bias", said[0]
  )
  assert "does not train" in said[0] and "mismatched_state='raise'" in said[0]
  (before, _), (after, saved) = state_of(old.optimizer), state_of(new.optimizer)
  for name in ("body/kernel", "body/bias"):
    np.testing.assert_array_equal(after[name], before[name])
  assert not np.any(
    [np.any(x) for x in after[new.layers[1].path.split("/")[-1] + "/kernel"]]
  )
  if use_ema:  # The average of the new head begins where the head is.
    np.testing.assert_array_equal(saved.slots["average"][2], new.layers[1].kernel)
  losses = new.fit(X, np.tile(Y, [1, 3]), epochs=3, verbose=0).history["loss"]
  assert losses[-1] < losses[0]


@pytest.mark.parametrize("is_built", [True, False])
@pytest.mark.parametrize("frozen_first", [True, False])
def test_layers_frozen_or_thawed_in_between(tmp_path, is_built, frozen_first):
  def build(is_frozen):
    layers = [keras.layers.Dense(4, "tanh", name=n) for n in ("one", "two", "three")]
    layers[0].trainable = not is_frozen
    return keras.Sequential([keras.Input([4]), *layers])

  old, new = build(frozen_first), build(not frozen_first)
  fit(old, LearnedOptimizer(lstm()))
  old.save_weights(tmp_path / "m.weights.h5")
  said = loaded(new, LearnedOptimizer(lstm()), tmp_path / "m.weights.h5", is_built)
  what = "no saved state for" if frozen_first else "this model does not train"
  assert len(said) == 1 and re.search(f"{what} .*one/kernel.*one/bias", said[0])
  (before, _), (after, _) = state_of(old.optimizer), state_of(new.optimizer)
  for name in before.keys() & after.keys():
    for x, y in zip(after[name], before[name], strict=True):
      np.testing.assert_array_equal(x, y)
      assert np.any(x)
  assert len(before.keys() & after.keys()) == 4
  fit(new, new.optimizer)


def everything(optimizer):
  """The values of its own variables, and of those that were meta-trained."""
  return [v.numpy() for v in [*optimizer.variables, *optimizer.optimizer.variables]]


@pytest.fixture(scope="module")
def fresh():
  """The values in an optimizer that has restored nothing, and the losses of its fit.

  Both kinds of models begin with the same weights, so that one fit serves both.
  """
  model, optimizer = keras_models.sequential(True), LearnedOptimizer(lstm(seed=3), 0.5)
  optimizer.build(model.trainable_variables)
  return everything(optimizer), fit(model, optimizer)


@pytest.mark.parametrize(
  "other",
  [
    keras.optimizers.Adam,
    lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    lambda: LearnedOptimizer(SGD(0.01)),
    lambda: LearnedOptimizer(CoordinatewiseLSTM((3,))),
    lambda: LearnedOptimizer(RNNprop((4,))),
  ],
)
def test_state_of_another_optimizer_is_left(sequential, tmp_path, fresh, other):
  path = tmp_path / "m.weights.h5"
  model = trained(sequential, path, other(), epochs=1)
  model.set_weights(built(sequential()).get_weights())
  model.save_weights(path)
  values, losses = fresh
  for is_built in (True, False):
    optimizer, new = LearnedOptimizer(lstm(seed=3), 0.5), sequential(seed=1)
    said = loaded(new, optimizer, path, is_built)
    assert len(said) == 1 and "nothing was restored, as" in said[0]
    np.testing.assert_array_equal(weights(new), weights(model))
    assert optimizer.iterations == 0 and optimizer.learning_rate == 0.5
    for found, expected in zip(everything(optimizer), values, strict=True):
      np.testing.assert_array_equal(found, expected)
  assert fit(new, optimizer) == losses
  strictly = built(sequential())
  strictly.compile(LearnedOptimizer(lstm(), mismatched_state="raise"), "mse")
  with pytest.raises(ValueError, match="Leave out mismatched_state='raise'"):
    strictly.load_weights(path)


def test_a_state_for_whole_models_is_taken_over_whole_or_not_at_all(tmp_path):
  def build(units):
    layers = [keras.layers.Dense(units), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input([4]), *layers])
    variables = [(v.path, v.shape, "") for v in model.trainable_variables]
    everything = Where()
    return model, Partition([(everything, lstm())], variables)

  path = tmp_path / "m.weights.h5"
  model, partition = build(6)
  fit(model, LearnedOptimizer(partition))
  model.save_weights(path)
  same, partition = build(6)
  assert loaded(same, LearnedOptimizer(partition), path, True) == []
  assert ten_losses(same) == ten_losses(model)
  wider, partition = build(7)
  optimizer = LearnedOptimizer(partition)
  said = loaded(wider, optimizer, path, True, skip_mismatch=True)
  assert "Partition keeps one state for the whole model" in said[0]
  assert optimizer.iterations == 0


def test_dropped_averages_are_named(sequential, tmp_path):
  path = tmp_path / "m.weights.h5"
  trained(sequential, path, LearnedOptimizer(lstm(), use_ema=True))
  said = loaded(sequential(), LearnedOptimizer(lstm()), path, True)
  assert "the saved averages were dropped, as use_ema is not set" in said[0]


# Which variable is which

_PATHS = st.sampled_from(["net/a/kernel", "net/a_1/kernel", "net_3/b/bias", "b/bias"])
_SPECS = st.lists(
  st.builds(VariableSpec, _PATHS, st.sampled_from([(2,), (3, 2)])), max_size=6
)


@given(_SPECS, _SPECS)
def test_a_match_is_one_to_one_and_keeps_shapes(own, saved):
  pairs = transfer.match(own, saved)
  assert len(set(pairs.values())) == len(pairs)
  assert all(own[i].shape == saved[j].shape for i, j in pairs.items())
  assert transfer.match(own, own) == {i: i for i in range(len(own))}


def test_names_numbered_anew_are_matched_in_order_and_only_if_that_is_clear():
  spec = lambda path: VariableSpec(path, (4, 4))
  old = [spec("net/dense/kernel"), spec("net/dense_1/kernel")]
  head = VariableSpec("net/head/kernel", (4, 2))
  new = [spec("net_1/dense_2/kernel"), spec("net_1/dense_3/kernel")]
  assert transfer.match([*new, head], old) == {0: 0, 1: 1}
  assert transfer.match(new[1:], old) == {}  # which of the two it is cannot be known
  assert transfer.match(old[1:], old) == {0: 1}
  shifted = [spec("net/dense_1/kernel"), spec("net/dense_2/kernel")]
  assert transfer.match([*shifted, head], old) == {0: 0, 1: 1}


def test_names_that_a_user_gave_count_more_than_positions():
  first, second = (VariableSpec(f"net/{n}/kernel", (4, 4)) for n in ("first", "second"))
  assert transfer.match([second, first], [first, second]) == {0: 1, 1: 0}
  assert transfer.match([second], [first]) == {}
  unnamed = [VariableSpec("", (4, 4)), VariableSpec("", (2,))]
  assert transfer.match([first, VariableSpec("b", (2,))], unnamed) == {0: 0, 1: 1}
  assert transfer.match([first], unnamed) == {}


# Loaded into an optimizer that is in use, or more than once


def test_a_state_saved_before_its_first_step_is_fresh_again(sequential, tmp_path):
  path = tmp_path / "m.weights.h5"
  model = built(sequential())
  model.compile(LearnedOptimizer(lstm(), use_ema=True), "mse")
  model.save_weights(path)
  expected = ten_losses(model)
  model.load_weights(path)
  assert ten_losses(model) == expected


def test_the_rest_of_an_optimizer_in_use_starts_afresh():
  a, b = keras.Variable([1.0, 2.0], name="a"), keras.Variable([3.0], name="b")
  one, both = LearnedOptimizer(Adam(0.1)), LearnedOptimizer(Adam(0.1))
  one.apply([tf.ones([2])], [a])
  for _ in range(3):
    both.apply([tf.ones([2]), tf.ones([1])], [a, b])
  store = {}
  one.save_own_variables(store)
  with pytest.warns(UserWarning, match=r"no saved state for b of shape \[1\]"):
    both.load_own_variables(store)
  found, expected = state_of(both)[1], state_of(one)[1]
  np.testing.assert_array_equal(found.state[1][:2], expected.state[1])
  assert found.state[1][2] == 0.0 and both.iterations == 1


def test_the_last_of_two_files_counts(sequential, saved, tmp_path):
  path = tmp_path / "adam.weights.h5"
  trained(sequential, path, keras.optimizers.Adam())
  model, optimizer = built(sequential(seed=1)), LearnedOptimizer(lstm(seed=3))
  model.compile(optimizer, "mse")
  model.load_weights(saved)
  assert optimizer.iterations == 8
  with pytest.warns(UserWarning, match="another kind of optimizer"):
    model.load_weights(path)
  assert optimizer.iterations == 0
  fresh = built(sequential())
  fresh.set_weights(model.get_weights())
  assert fit(model, optimizer) == fit(fresh, LearnedOptimizer(lstm(seed=3)))


@pytest.mark.parametrize("fits", [True, False])
def test_a_rate_set_between_loading_and_the_first_step_stays(sequential, saved, fits):
  schedule = keras.optimizers.schedules.ExponentialDecay(0.25, 3, 0.5)
  for rate in (0.125, schedule):
    model, optimizer = built(sequential()), LearnedOptimizer(lstm())
    model.compile(optimizer, "mse")
    model.load_weights(saved)
    assert optimizer.learning_rate == 0.5
    optimizer.learning_rate = rate
    variables = model.trainable_variables
    if fits:
      optimizer.build(variables)
    else:
      with pytest.warns(UserWarning, match="nothing was restored"):
        optimizer.build([keras.Variable([1.0])])
    expected = 0.125 if rate == 0.125 else schedule(optimizer.iterations)
    assert optimizer.learning_rate == expected
    assert optimizer.iterations == (8 if fits else 0)


def test_phi_belongs_to_the_arguments_that_it_was_trained_with(sequential, saved):
  other = CoordinatewiseLSTM((5, 4), "log_and_sign", output_scale=0.001)
  before = [v.numpy() for v in other.variables]
  optimizer = LearnedOptimizer(other)
  said = loaded(sequential(), optimizer, saved, True)
  both = "its optimizer has output_scale=0.05, and this one output_scale=0.001"
  assert both in said[0]
  for x, v in zip(before, optimizer.optimizer.variables):
    np.testing.assert_array_equal(x, v)
