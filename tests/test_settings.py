"""What settings mean, and that runs of earlier versions go on."""

import dataclasses
import json

import pytest

from l2l_tf.runs import builders, training
from l2l_tf.runs.presets import OWN_RECIPE, PRESETS
from l2l_tf.runs.settings import ARCHITECTURE, TrainingSettings, check_baseline
from l2l_tf.storage import export

SHORT = TrainingSettings(
  problem="simple", num_epochs=2, num_steps=2, unroll_length=2, schedule="constant"
)


def resolved(**given):
  return TrainingSettings(**given).resolved()


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_not_given_is_as_the_recipe_says(name):
  settings, recipe = resolved(problem=name), PRESETS[name]
  is_expression = "(" in recipe.optimizer  # It says its arguments itself.
  own = ["problem", "preprocess", *(ARCHITECTURE if is_expression else ())]
  if recipe.imitation is None:  # Then it has no weight.
    own += ["imitation_weight", "imitation_half_life"]
  for field in set(recipe._fields) & {f.name for f in dataclasses.fields(settings)}:
    if field not in own:
      assert getattr(settings, field) == getattr(recipe, field)
  takes_it = not is_expression and recipe.optimizer != "RNNprop"
  assert (settings.preprocess is not None) == takes_it
  assert settings.schedule == "cosine"
  is_plain = recipe.meta_gradient is None  # Else it says its arguments itself.
  expected = ("sum", False) if is_plain else (None, None)
  assert (settings.meta_loss, settings.second_derivatives) == expected
  assert settings.save_path == f"tensorboard_logs/{name}"


def test_what_is_given_comes_first():
  settings = resolved(layers=(), num_epochs=3, relative_loss=True, output_scale=0.0)
  assert settings.layers == () and settings.num_epochs == 3
  assert settings.relative_loss and settings.output_scale == 0.0


def test_resolved_settings_stay_as_they_are():
  for given in {}, {"optimizer": "RNNprop()"}, {"meta_gradient": "TruncatedBPTT"}:
    settings = resolved(**given)
    assert settings.resolved() == settings


def test_an_expression_says_all_of_an_optimizers_arguments():
  settings = resolved(optimizer="RNNprop( layers = (3,) )")
  assert settings.optimizer == "RNNprop(layers=(3,))"
  assert settings.layers is settings.output_scale is settings.initializer is None
  optimizer = builders.build_optimizer(dataclasses.replace(settings, seed=4))
  assert optimizer.config["layers"] == (3,) and optimizer.config["seed"] == 4
  assert optimizer.config["output_scale"] == 0.1  # the constructor's own


def test_a_name_alone_takes_the_flags_that_its_constructor_has():
  settings = resolved(optimizer="RNNprop", layers=(3,), seed=4)
  assert settings.preprocess is None
  config = builders.build_optimizer(settings).config
  recipe = PRESETS["quadratic"]
  assert config["layers"] == (3,) and config["seed"] == 4
  assert config["output_scale"] == recipe.output_scale
  assert config["initializer"] == recipe.initializer


@pytest.mark.parametrize(
  "given, sentence",
  [
    (
      {"optimizer": "RNNprop", "preprocess": "clamp"},
      "--preprocess was given with --optimizer=RNNprop, which does not take it; leave",
    ),
    (
      {"optimizer": "SGD", "layers": (3,)},
      "--layers was given with --optimizer=SGD, wh",
    ),
    (
      {"initial_path": "a.npz", "optimizer": "RNNprop"},
      "--optimizer was given with --i",
    ),
    ({"schedule": "linear"}, "schedule='linear' is unknown; choose cosine or constant"),
    (
      {"meta_loss": "median"},
      "meta_loss='median' is unknown; choose sum or last or mean",
    ),
    ({"problem": "cubic"}, "Unknown problem 'cubic'"),
    ({"optimizer": "Lion"}, "'Lion' is unknown; known are"),
  ],
)
def test_settings_that_do_not_fit_are_one_sentence(given, sentence):
  with pytest.raises(ValueError, match=sentence):
    resolved(**given)


def test_a_meta_optimizer_may_say_its_rate_or_leave_it_to_the_flags():
  said = resolved(meta_optimizer="Adam(0.5)")
  assert said.learning_rate is None and said.schedule is None
  assert builders.build_trainer(said).meta_optimizer.learning_rate == 0.5
  left = resolved(meta_optimizer="Adam(beta_1=0.5)", learning_rate=0.25)
  meta_optimizer = builders.build_trainer(left).meta_optimizer
  assert float(meta_optimizer.learning_rate(0)) == 0.25
  assert meta_optimizer.config["beta_1"] == 0.5


def test_a_problem_of_ones_own_starts_from_its_recipe(tmp_path):
  (tmp_path / "own.py").write_text("")
  settings = resolved(problem=f"{tmp_path}/own.py:make(3)")
  assert settings.num_epochs == OWN_RECIPE.num_epochs
  assert settings.save_path == "tensorboard_logs/own_make_3"


@pytest.mark.parametrize("text", ["Lion", "", "adams"])
def test_what_is_no_baseline_is_one_sentence(text):
  check_baseline("adam")
  check_baseline("bfgs")
  check_baseline("L-BFGS")
  check_baseline("Momentum(momentum=0.5)")
  with pytest.raises(ValueError, match=r"is none of SGD, momentum, .* for --path"):
    check_baseline(text)


# What version 0.1.0 wrote, when settings were the values of the flags that it had.
CONFIG_0_1_0 = {
  "problem": "simple", "num_epochs": 2, "evaluation_period": 50, "evaluation_epochs": 1,
  "patience": None, "num_steps": 2, "meta_batch_size": 1, "unroll_length": 2,
  "learning_rate": 0.01, "schedule": "constant", "clip_norm": 100.0, "meta_loss": "sum",
  "relative_loss": False, "second_derivatives": False,
  "optimizer": "CoordinatewiseLSTM",
  "layers": [], "preprocess": "identity", "output_scale": 1.0, "initializer": "zeros",
  "initial_path": None, "seed": 0, "jit_compile": False,
}  # fmt: skip


def test_a_run_of_version_0_1_0_goes_on_from_python(tmp_path, capfd):
  settings = dataclasses.replace(SHORT, save_path=str(tmp_path / "run"))
  assert training.train(settings) == 0
  assert "Best validation loss" in capfd.readouterr().out
  file = tmp_path / "run" / "config.json"
  written = json.loads(file.read_text())
  assert {k: v for k, v in written.items() if k in CONFIG_0_1_0} == CONFIG_0_1_0
  assert all(written[k] is None for k in written.keys() - CONFIG_0_1_0.keys())
  file.write_text(json.dumps(CONFIG_0_1_0))
  assert training.train(dataclasses.replace(settings, num_epochs=3)) == 0
  assert "Going on after epoch 2 of 3 (num_epochs=3, was 2)" in capfd.readouterr().out
  assert export.load(tmp_path / "run" / "optimizer.l2l.npz").config["layers"] == ()
