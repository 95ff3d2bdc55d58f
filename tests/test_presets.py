"""Every name's problem and recipe fit together."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import MetaTrainer, unroll
from l2l_tf.meta_train import check_lengths
from l2l_tf.optimizers import SGD, CoordinatewiseLSTM
from l2l_tf.presets import PRESETS, get
from l2l_tf.problems import DatasetUnavailableError


def make_problem(preset):
  try:
    return preset.make_problem()
  except DatasetUnavailableError as e:
    pytest.skip(str(e))


@pytest.mark.parametrize("name", PRESETS)
def test_a_window_of_its_recipe_can_be_traced(name):
  preset = get(name)
  problem = make_problem(preset)
  optimizer = CoordinatewiseLSTM(
    preset.layers, preset.preprocess, preset.output_scale, preset.initializer
  )
  trainer = MetaTrainer(problem, optimizer, num_steps=2, unroll_length=2)
  assert trainer.trace_window().get_operations()


@pytest.mark.parametrize("name", PRESETS)
def test_its_problem_starts_with_a_finite_loss_and_gradient(name):
  _, carry = unroll.start(make_problem(get(name)), SGD(0.1), tf.constant([1, 2]))
  assert np.isfinite(carry.loss)
  assert all(np.isfinite(g).all() for g in carry.grads)
  assert any(np.any(g != 0) for g in carry.grads)


@pytest.mark.parametrize("name", PRESETS)
def test_its_settings_are_valid(name):
  preset = get(name)
  check_lengths(preset.num_steps, preset.unroll_length)
  assert 0 < preset.learning_rate < 1 and preset.clip_norm > 0
  assert min(preset.num_epochs, preset.evaluation_epochs, preset.num_draws) >= 1
  assert inspect.cleandoc(preset.description)


def test_a_name_gives_its_preset():
  assert get("simple") is PRESETS["simple"]


@pytest.mark.parametrize("name", ["cubic", "", "Simple"])
def test_an_unknown_name_lists_the_valid_ones(name):
  with pytest.raises(ValueError, match=f"Unknown problem '{name}'") as e:
    get(name)
  for valid in PRESETS:
    assert valid in str(e.value)
