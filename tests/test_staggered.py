"""Back-propagation through windows of episodes at different ages."""

import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf import seeds
from l2l_tf.meta.gradients import StaggeredBPTT, TapedBPTT
from l2l_tf.meta.gradients import lanes as lanes_lib
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.optimizers import SGD, CoordinatewiseLSTM
from l2l_tf.problems import Problem, Quadratic

LANES, HORIZON, LENGTH = 3, 6, 2
OBJECTIVE = MetaObjective(relative=True)


def windows(meta_gradient, problem, optimizer, count):
  """Yields the state before each window, the window, and the state after it."""
  state = meta_gradient.init(problem, optimizer, seeds.make(0), HORIZON, LENGTH)

  @tf.function(autograph=False)
  def run(state):
    arguments = problem, optimizer, None, None, LENGTH, lambda c, _: c.loss, OBJECTIVE
    return meta_gradient(*arguments, state=state)

  for _ in range(count):
    window, after = run(state)
    yield state, window, after
    state = after


def of_one_lane(meta_gradient, problem, optimizer, lanes, k):
  """The window of a lane that goes on, by a tape of its own."""
  task, carry = tf.nest.map_structure(lambda x: x[k], (lanes.task, lanes.carries[0]))
  taped = TapedBPTT(meta_gradient.second_derivatives)
  arguments = problem, optimizer, task, carry, LENGTH, lambda *_: (), OBJECTIVE
  window, _ = taped(*arguments)
  _, gradient = OBJECTIVE.in_units(window.meta_loss, window.meta_gradient, carry.loss)
  return gradient, window.carry


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_the_gradient_is_the_mean_over_the_lanes_and_ages_differ(second_derivatives):
  meta_gradient = StaggeredBPTT(LANES, second_derivatives)
  problem, optimizer = Quadratic(2, 3), CoordinatewiseLSTM((3,), output_scale=0.1)
  ages = []
  for before, window, after in windows(meta_gradient, problem, optimizer, 7):
    ages.append(np.array(after.carries[0].step))
    begin = meta_gradient._beginning(problem, optimizer)
    lanes = lanes_lib.renewed(before, begin)
    found = [
      of_one_lane(meta_gradient, problem, optimizer, lanes, k) for k in range(LANES)
    ]
    for g, *each in zip(window.meta_gradient, *(gradient for gradient, _ in found)):
      np.testing.assert_allclose(g, np.mean(each, axis=0), rtol=1e-4, atol=1e-7)
    for k, (_, carry) in enumerate(found):
      np.testing.assert_allclose(
        after.carries[0].params[0][k], carry.params[0], 1e-5, 1e-8
      )
  assert all(sorted(row) == [2, 4, 6] for row in ages[3:])


class Cliff(Problem):
  """f(theta) = theta from theta = 1, which is NaN below 0."""

  def init(self, seed):
    return [tf.ones([1])], ()

  def __call__(self, params, constants, seed):
    theta = tf.reduce_sum(params[0])
    return tf.where(theta < 0.0, float("nan"), theta)


class Rate(SGD):
  """Gradient descent with a learned rate."""

  config = {}

  def __init__(self):
    super().__init__(0.4)
    self.rate = tf.Variable(0.4)

  def __call__(self, grads, state, params=None, loss=None):
    return [-self.rate * g for g in grads], state


def test_an_episode_that_diverges_ends_and_counts_as_zero():
  found = list(windows(StaggeredBPTT(LANES), Cliff(), Rate(), 8))
  assert all(np.isfinite(w.meta_gradient[0]) for _, w, _ in found)
  diverged = [int(w.diverged) for _, w, _ in found]
  assert max(diverged) > 0 and min(diverged) == 0  # The next episodes go on.


def test_meta_training_lowers_the_loss():
  optimizer = CoordinatewiseLSTM((4,), "log_and_sign", output_scale=0.1)
  trainer = l2l_tf.MetaTrainer(
    Quadratic(8, 2), optimizer, l2l_tf.optimizers.Adam(0.02), StaggeredBPTT(4),
    num_steps=20, unroll_length=5, clip_norm=1.0, relative_loss=True,
  )  # fmt: skip
  losses = [m["losses"].mean() for m in trainer.train(30)]
  assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize("lanes", [0, 2.0, True])
def test_a_wrong_number_of_lanes_is_one_sentence(lanes):
  with pytest.raises(ValueError, match=f"lanes={lanes}; give a whole number"):
    StaggeredBPTT(lanes)
