"""What version 0.1.0 saved and trained, against what this version makes of it.

The files in tests/data were written by 0.1.0. On the processor that they were written
on, the weights are equal bit for bit; sums are rounded otherwise on others.
"""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM, Partition, RNNprop, Where
from l2l_tf.problems import Polynomial, Quadratic, digits_mlp

DATA = pathlib.Path(__file__).parent / "data"


def test_an_exported_optimizer_goes_on_with_the_same_losses():
  expected = json.loads((DATA / "losses_0_1_0.json").read_text())["optimizer"]
  optimizer = l2l_tf.load(DATA / "optimizer_0_1_0.l2l.npz")
  problem = Quadratic(batch_size=2, num_dims=3)
  task, carry = unroll.start(problem, optimizer, seeds.make(7))
  _, losses = tf.function(unroll.unroll)(problem, optimizer, task, carry, 10)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)


def lstm():
  return CoordinatewiseLSTM((5, 4), "log_and_sign", output_scale=0.1)


def partition():
  routes = [(Where(rank=2), lstm()), (Where(rank=1), RNNprop((3,)))]
  return Partition(routes, digits_mlp((5,)).parameters())


@pytest.mark.parametrize(
  "name, make_problem, make, settings",
  [
    ("first order", lambda: digits_mlp((5,)), lstm, {}),
    (
      "second derivatives",
      lambda: digits_mlp((5,)),
      lstm,
      {"meta_gradient": l2l_tf.TruncatedBPTT(second_derivatives=True)},
    ),
    (
      "rnnprop",
      lambda: Polynomial(4, 8),
      lambda: RNNprop((5,)),
      {"relative_loss": True, "clip_norm": 0.1},
    ),
    ("partition", lambda: digits_mlp((5,)), partition, {}),
  ],
)
def test_a_training_ends_with_the_same_weights(name, make_problem, make, settings):
  # Not so on a batch of quadratics, whose tasks run in as many groups as there are
  # cores: the sums over each group's coordinates are no longer split further.
  optimizer, arrays = make(), np.load(DATA / "trained_0_1_0.npz")
  lengths = {"num_steps": 12, "unroll_length": 6}
  trainer = l2l_tf.MetaTrainer(
    make_problem(), optimizer, Adam(0.003), **lengths, **settings
  )
  list(trainer.train(2))
  expected = [arrays[key] for key in arrays.files if key.startswith(f"{name}/")]
  for variable, value in zip(optimizer.variables, expected, strict=True):
    np.testing.assert_allclose(variable, value, rtol=1e-4, atol=1e-6)
