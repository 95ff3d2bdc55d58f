"""Curves of one optimizer: every problem's own losses, and held-out scalars."""

import numpy as np
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.evaluation.runner import Runner
from l2l_tf.meta.unroll import start, unroll
from l2l_tf.optimizers import SGD
from l2l_tf.problems import Problem, Quadratic


class Noisy(Problem):
  """theta squared, plus noise from the mini-batch alone; reports held-out scalars."""

  def init(self, seed):
    return [tf.ones([2])], [tf.random.stateless_uniform([], seed)]

  def __call__(self, params, constants, seed):
    noise = tf.random.stateless_uniform([], seed)
    return tf.reduce_sum(tf.square(params[0])) + noise

  def held_out(self, params, constants):
    return {"task": constants[0], "held_out_loss": tf.reduce_sum(params[0] ** 2)}


def test_a_curve_holds_each_tasks_own_losses():
  problem, optimizer = Quadratic(batch_size=4, num_dims=3), SGD(0.1)
  curves = Runner(problem, optimizer, num_steps=3)(5, seeds.EVALUATION, 2)
  assert curves.losses.shape == (2 * 4, 3 + 1)
  assert len(np.unique(curves.losses[:, 0])) == 2 * 4
  for draw, losses in enumerate(np.split(curves.losses, 2)):
    seed = seeds.make(5, seeds.EVALUATION, draw)
    task, carry = start(problem, optimizer, seed)
    end, mean_losses = unroll(problem, optimizer, task, carry, 3)
    np.testing.assert_allclose(
      losses.mean(axis=0), [carry.loss, *mean_losses], rtol=1e-5
    )
    w, y = task.constants
    residuals = np.einsum("bij,bj->bi", w, end.params[0]) - y
    np.testing.assert_allclose(losses[:, -1], np.sum(residuals**2, axis=1), rtol=1e-5)


def test_a_single_task_gives_one_curve_per_draw_and_held_out_passes_through():
  curves = Runner(Noisy(), SGD(0.25), num_steps=2)(0, seeds.EVALUATION, 3)
  assert curves.losses.shape == (3, 2 + 1)
  np.testing.assert_allclose(curves.held_out["held_out_loss"], [2 / 16] * 3)
  assert len(set(curves.held_out["task"])) == 3
