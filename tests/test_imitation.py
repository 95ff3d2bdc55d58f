"""Imitation of a teacher's updates as a term of the meta-loss."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import EvolutionStrategies, TruncatedBPTT
from l2l_tf.meta.imitation import Imitation, imitating
from l2l_tf.meta.objective import MetaObjective, mean_loss
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import SGD, Adam, CoordinatewiseLSTM, GeneralRule, Optimizer
from l2l_tf.problems import Quadratic

_SEED = seeds.make(0, seeds.TRAINING, 0)
_STEPS = 4


class Rate(Optimizer):
  """Gradient descent with a learned rate."""

  reads = Adam.reads
  config = {}

  def __init__(self, rate=0.05):
    super().__init__()
    self.rate = tf.Variable(rate, dtype=tf.float64)

  def initial_state(self, params):
    return ()

  def __call__(self, grads, state, params=None, loss=None):
    return [-self.rate * g for g in grads], state


def window(optimizer, objective, meta_gradient=TruncatedBPTT()):  # noqa: B008
  """The second window of an episode; the teacher has met the first one too."""
  problem = Quadratic(2, 3, dtype=tf.float64)
  learner = imitating(optimizer, objective.imitation)
  task, carry = unroll.start(problem, learner, _SEED, meta_gradient.evaluate)
  carry, _ = unroll.unroll(problem, learner, task, carry, 2)
  found, _ = meta_gradient(
    problem, learner, task, carry, _STEPS, lambda *_: (), objective
  )
  return found


def losses_and_distance(rate, teacher):
  """The same window by hand, step by step."""
  problem = Quadratic(2, 3, dtype=tf.float64)
  task, params = unroll.draw(problem, _SEED)
  state, losses, distances = teacher.initial_state(params), [], []
  for t in range(2 + _STEPS):
    step_seed = unroll.step_seed(task, t)
    loss, grads = unroll.second_order(problem, params, task.constants, step_seed)
    losses.append(loss)
    targets, state = teacher(grads, state, params=params, loss=loss)
    updates = [-rate * g for g in grads]
    ratios = [
      np.sum(np.square(x - y)) / np.sum(np.square(x) + np.square(y))
      for x, y in zip(updates, targets)
    ]
    distances.append(np.mean(ratios))
    params = [p + u for p, u in zip(params, updates)]
  last = problem(params, task.constants, unroll.step_seed(task, 2 + _STEPS))
  return np.array([*losses, last]), np.mean(distances[2:])


@pytest.mark.parametrize("teacher", [SGD(0.01), Adam(0.1)], ids=["SGD", "Adam"])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("function", [None, mean_loss])
def test_the_weighted_distance_is_added(teacher, relative, function):
  losses, distance = losses_and_distance(0.05, teacher)
  imitation = Imitation(teacher, weight=3.0)
  objective = MetaObjective(function=function, relative=relative, imitation=imitation)
  found = window(Rate(), objective)
  value, _ = objective.in_units(found.meta_loss, [], tf.constant(losses[2]))
  plain = np.mean(losses[3:]) if function else np.sum(losses[3:])
  expected = plain / (losses[2] if relative else 1.0) + 3.0 * distance
  np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_its_gradient_holds_the_teacher_still():
  # (1 - r)^2 / (1 + r^2) with r = rate / 0.01, whatever the trajectory.
  nothing = lambda curve: 0.0 * curve.losses[0]
  objective = MetaObjective(function=nothing, imitation=Imitation(SGD(0.01)))
  found = window(Rate(), objective)
  np.testing.assert_allclose(found.meta_loss, 16 / 26, rtol=1e-6)
  expected = (2 * 4 * 26 - 16 * 2 * 5) / 26**2 / 0.01
  np.testing.assert_allclose(found.meta_gradient[0], expected, rtol=1e-6)


def test_a_step_s_distance_is_bounded():
  optimizer = imitating(Rate(), Imitation(SGD(0.01)))
  state = optimizer.initial_state([tf.zeros([2], tf.float64)])
  for grads in ([0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]):
    _, state = optimizer([tf.constant(grads, tf.float64)], state)
  # Nobody moves; then two distances that are not finite.
  assert float(state.total) == 4.0


def test_its_weight_halves():
  imitation = Imitation(SGD(0.01), weight=3.0, half_life=10.0)
  weights = [float(imitation.at(tf.constant(n)).weight) for n in (0, 10, 30)]
  np.testing.assert_allclose(weights, [3.0, 1.5, 0.375], rtol=1e-6)
  constant = Imitation(SGD(0.01), 3.0, float("inf"))
  assert float(constant.at(tf.constant(100)).weight) == 3.0


def trained(meta_gradient, imitation, num_episodes=40):
  """Episodes' meta-losses, in which only the distance counts, and the trainer."""
  nothing = lambda curve: 0.0 * curve.losses[0]
  trainer = MetaTrainer(
    Quadratic(4, 3), CoordinatewiseLSTM((), output_scale=0.1), Adam(0.03),
    meta_gradient, num_steps=10, unroll_length=5,
    objective=MetaObjective(function=nothing, imitation=imitation),
  )  # fmt: skip
  found = [m["meta_loss"].mean() for m in trainer.train(num_episodes)]
  assert trainer.num_traces == 1
  return found, trainer


@pytest.mark.parametrize(
  "meta_gradient", [TruncatedBPTT(), EvolutionStrategies(4, 0.01)], ids=["bp", "es"]
)
def test_it_is_learned_from_a_teacher(meta_gradient):
  imitation = Imitation(SGD(0.1), half_life=float("inf"))
  distances, trainer = trained(meta_gradient, imitation)
  assert distances[-1] < 0.05 * distances[0]
  optimizer = trainer.optimizer  # as it is exported, without the teacher
  grads = [tf.constant([1.0, -2.0])]
  (update,), _ = optimizer(grads, optimizer.initial_state(grads))
  np.testing.assert_allclose(update, [-0.1, 0.2], atol=0.05)


def test_the_weight_falls_as_training_goes_on():
  imitation = Imitation(SGD(0.1), weight=1.0, half_life=1.0)
  found, trainer = trained(TruncatedBPTT(), imitation, 1)
  later = trainer.train_episode(20)["meta_loss"].mean()
  assert 0 < later < 2.0**-16 * found[0]


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((None,), "teacher=None; give an optimizer of l2l_tf, such as Adam"),
    ((SGD(0.1), 0.0), "weight=0.0; it must be positive and finite"),
    ((SGD(0.1), 1.0, -2.0), "half_life=-2.0; it must be positive"),
  ],
)
def test_what_cannot_be_imitated_is_one_sentence(arguments, message):
  with pytest.raises(ValueError, match=message):
    Imitation(*arguments)


def test_flags_say_what_is_imitated(forks, tmp_path):
  flags = ["--problem=simple", "--num_epochs=2", f"--save_path={tmp_path}/run"]
  forks.run("train", *flags, "--imitation_weight=2").assert_mistake(
    "--imitation_weight was given with no --imitation"
  )
  ended = forks.run("train", *flags, "--imitation=Adam", "--imitation_half_life=50")
  assert ended.code == 0, ended.err
  flagfile = (tmp_path / "run" / "flags.txt").read_text()
  assert "--imitation=Adam\n" in flagfile and "--imitation_weight=1.0\n" in flagfile


def test_a_teacher_with_a_schedule_is_told_the_number_of_steps():
  learner = imitating(Rate(), Imitation(GeneralRule(None)))
  _, carry = unroll.start(Quadratic(2, 3), learner, _SEED, total_steps=30)
  assert learner.has_horizon and int(carry.state.teacher.total_steps) == 30
  assert not imitating(Rate(), Imitation(Adam(0.1))).has_horizon
