"""Reptile: the start moves towards where an episode has ended.

Nichol, Achiam and Schulman 2018, algorithm 1, https://arxiv.org/abs/1803.02999: the
direction theta_0 - theta_T takes the place of the meta-gradient.
"""

import dataclasses

import tensorflow as tf

from l2l_tf.meta import unroll
from l2l_tf.meta.gradients.base import MetaGradient, Window, run_window
from l2l_tf.meta.objective import MetaObjective


@dataclasses.dataclass(frozen=True)
class Reptile(MetaGradient):
  """The gradient of |theta_0 - theta_T|^2 / 2 in theta_0, with theta_T as a constant.

  It is zero for all of phi but a learned start, needs no meta-loss and no tape through
  the steps, and takes windows as long as the episode. With SGD(epsilon) as
  meta-optimizer it is the paper's theta_0 <- theta_0 + epsilon (theta_T - theta_0); the
  meta-loss is reported, not followed.

  >>> problem = few_shot("digits", ways=3, learner="dense")
  >>> shapes = [p.shape for p in problem.parameters()]
  >>> optimizer = LearnedStart(SGD(0.1), shapes)
  >>> trainer = MetaTrainer(
  ...   problem, optimizer, SGD(0.5), Reptile(), num_steps=5, unroll_length=5)
  """

  @property
  def evaluate(self):
    return unroll.second_order  # There is no tape to stop gradients for.

  def init(self, problem, optimizer, seed, num_steps, unroll_length):
    if not optimizer.learns_start or num_steps != unroll_length:
      raise ValueError(
        f"Reptile got {type(optimizer).__name__}, num_steps={num_steps} and"
        f" unroll_length={unroll_length}; it trains a LearnedStart, in windows as long"
        " as the episode."
      )
    return ()

  def __call__(
    self,
    problem,
    optimizer,
    task,
    carry,
    length,
    observe,
    objective=MetaObjective(),  # noqa: B008
    state=(),
    seed=None,
  ):
    drawn = carry.drawn
    carry, curve, observed = run_window(
      problem,
      optimizer,
      task,
      carry,
      length,
      observe,
      self.evaluate,
      only_last=objective.is_of_last,
    )
    phi = list(optimizer.get_phi())
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(phi)
      pairs = zip(optimizer.initial_params(drawn), carry.params, strict=True)
      squares = [tf.reduce_sum((p - tf.stop_gradient(q)) ** 2) for p, q in pairs]
      half = 0.5 * tf.add_n(squares)
    gradient = tape.gradient(half, phi, unconnected_gradients="zero")
    return Window(gradient, objective.of_curve(curve), carry, observed), state
