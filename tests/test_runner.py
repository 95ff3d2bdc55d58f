"""Curves of one optimizer: every problem's own losses, and held-out scalars."""

import numpy as np
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.evaluation.runner import Runner
from l2l_tf.meta.unroll import start, unroll
from l2l_tf.optimizers import SGD
from l2l_tf.problems import Quadratic, Simple


class Reporting(Simple):
  """x^2 from 1, with a constant that each draw reports as held-out."""

  def init(self, seed):
    params, _ = super().init(seed)
    return params, [tf.random.stateless_uniform([], seed)]

  def held_out(self, params, constants):
    return {"drawn": constants[0], "held_out_loss": params[0] ** 2}


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
  curves = Runner(Reporting(), SGD(0.25), num_steps=2)(0, seeds.EVALUATION, 3)
  np.testing.assert_allclose(curves.losses, [[1, 1 / 4, 1 / 16]] * 3)
  np.testing.assert_allclose(curves.held_out["held_out_loss"], [1 / 16] * 3)
  assert len(set(curves.held_out["drawn"])) == 3


def test_held_out_data_are_for_the_reported_draws_alone():
  assert not Runner(Reporting(), SGD(0.25), 2)(0, seeds.TUNING, 1).held_out


def test_to_select_and_to_report_is_traced_once():
  class Counting(Reporting):
    count = 0

    def task_losses(self, params, constants, seed):
      Counting.count += 1
      return super().task_losses(params, constants, seed)

  runner = Runner(Counting(), SGD(0.25), 2)
  runner(0, seeds.TUNING, 1)
  before = Counting.count
  assert before and runner(0, seeds.EVALUATION, 2).held_out
  assert Counting.count == before


def test_a_draw_s_constants_may_be_no_tensors():
  class Named(Reporting):
    def init(self, seed):
      params, drawn = super().init(seed)
      return params, {"drawn": drawn, "size": 2, "name": "a"}

    def held_out(self, params, constants):
      found = super().held_out(params, constants["drawn"])
      return {constants["name"] * constants["size"]: found["drawn"]}

  found, expected = (
    Runner(problem, SGD(0.25), 2)(0, seeds.EVALUATION, 2).held_out
    for problem in (Named(), Reporting())
  )
  np.testing.assert_array_equal(found["aa"], expected["drawn"])
