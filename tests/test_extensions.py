"""The example of what can be added from outside, trained, killed, resumed and used."""

import pathlib
import runpy
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
from keras_models import built, fit, weights
from short_run import latest

import l2l_tf
from l2l_tf import seeds
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.meta import unroll

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "extensions.py"
FLAGS = [
  "--problem=extensions.py:HeldOut",
  "--num_epochs=60",
  "--evaluation_period=5",
  "--evaluation_epochs=1",
  "--num_steps=6",
  "--unroll_length=3",
]


@pytest.fixture(scope="module")
def own():
  """What the example defines."""
  return runpy.run_path(str(EXAMPLE))


@pytest.mark.parametrize(
  "flags",
  [
    ["--optimizer=extensions.py:Normalized", "--meta_batch_size=2"],
    [
      "--optimizer=extensions.py:Gated(shapes=((4, 1), (1,)))",
      "--meta_gradient=extensions.py:OneSample(stddev=0.1)",
    ],
    [
      "--optimizer=extensions.py:Normalized()",
      "--meta_gradient=PES(pairs=3, stddev=0.1, horizon=(6, 20))",
      "--meta_loss=best",
    ],
  ],
  ids=["per tensor", "gates, evolution strategies", "particles in a checkpoint"],
)
def test_it_is_trained_killed_and_resumed(forks, tmp_path, flags):
  shutil.copy(EXAMPLE, tmp_path)
  flags, path = [*FLAGS, *flags], tmp_path / "killed"
  whole = forks.start("train", *flags, "--save_path=whole", cwd=tmp_path)
  process = forks.start("train", *flags, "--save_path=killed", cwd=tmp_path)
  process.wait_until(lambda: latest(path))
  assert process.kill().code == -signal.SIGKILL
  ended = forks.run("train", *flags, "--save_path=killed", cwd=tmp_path)
  assert ended.code == 0, ended.err  # It may warn of a checkpoint that was cut short.
  assert "Best validation loss" in whole.wait().out
  one, two = (tmp_path / name / "optimizer.l2l.npz" for name in ("killed", "whole"))
  assert one.read_bytes() == two.read_bytes()


def test_both_optimizers_fit_a_model(sequential, own):
  shapes = ((4, 6), (6,), (6, 1), (1,))
  for make in (own["Normalized"], lambda: own["Gated"](shapes)):
    model = built(sequential())
    before = weights(model)
    losses = fit(model, LearnedOptimizer(make()), 4)
    assert losses[-1] < losses[0] and np.any(weights(model) != before)


def test_meta_training_moves_all_that_is_learned(own):
  problem, optimizer = own["HeldOut"](), own["Gated"](((4, 1), (1,)))
  before = [np.array(v) for v in optimizer.get_phi()]
  trainer = l2l_tf.MetaTrainer(problem, optimizer, num_steps=6, unroll_length=3)
  list(trainer.train(3))
  assert all(np.all(np.array(v) != b) for v, b in zip(optimizer.get_phi(), before))
  _, carry = unroll.start(problem, optimizer, seeds.make(0))
  np.testing.assert_array_equal(carry.params[0], optimizer.start[0])


@pytest.mark.parametrize("name", ["Normalized", "Gated"])
def test_the_estimate_s_mean_is_the_gradient_of_the_held_out_loss(own, name):
  arguments = (((4, 1), (1,)),) if name == "Gated" else ()
  problem, optimizer = own["HeldOut"](), own[name](*arguments)
  task, carry = unroll.start(problem, optimizer, seeds.make(1))
  estimator, objective = own["OneSample"](0.01), l2l_tf.MetaObjective()
  arguments = problem, optimizer, task, carry, 3, lambda *_: ()
  flat = lambda tensors: tf.concat([tf.reshape(x, [-1]) for x in tensors], axis=0)

  @tf.function(autograph=False)
  def draw(i):
    window, _ = estimator(*arguments, objective, (), seeds.make(0, i))
    return flat(window.meta_gradient)

  draws = [draw(i) for i in tf.range(1000)]
  error = np.std(draws, axis=0) / len(draws) ** 0.5
  method = l2l_tf.TruncatedBPTT(second_derivatives=True)
  exact = flat(method(*arguments)[0].meta_gradient)
  assert np.all(np.abs(np.mean(draws, axis=0) - exact) < 4 * error)
  assert np.linalg.norm(error) < 0.3 * np.linalg.norm(exact)
