"""What a meta-gradient is: an estimate of the gradient of the meta-loss in phi."""

import abc
import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import dtypes
from l2l_tf.meta import unroll
from l2l_tf.meta.imitation import mean_distance
from l2l_tf.meta.objective import Curve, MetaObjective
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem


class Window(NamedTuple):
  """What one window gives."""

  meta_gradient: list[tf.Tensor]  # like the optimizer's phi
  meta_loss: tf.Tensor  # []
  carry: unroll.Carry  # where the next window starts
  observed: object  # each [length, ...]
  diverged: Any = 0  # [], particles whose loss was not finite, or out of bounds


class MetaGradient(abc.ABC):
  """Estimates the gradient of a window's meta-loss with respect to phi.

  It is called for every window, and for every group of tasks that run side by side;
  the trainer averages the estimates over the tasks. An estimator that remembers
  something from window to window, such as particles, keeps it in its state, which the
  trainer carries, also from episode to episode, and saves in checkpoints.
  """

  # Whether its state holds episodes of its own, which go on from window to window. It
  # is then called once for a window, with one task, which it need not use.
  draws_tasks = False

  # Of one that draws tasks: its episodes, side by side; 1 for others.
  num_lanes = 1
  # Which lanes to run, (begin, end), where replicas share them; None for all.
  _share = None

  @property
  def evaluate(self):
    """How the inner loop evaluates the optimizee, as `unroll.unroll` takes it."""
    return unroll.first_order

  def shared(self, begin: int, end: int) -> "MetaGradient":
    """Returns what runs the lanes from `begin` to `end` alone, for one that has lanes.

    Its state is that part of the whole state, and what its windows hold adds up over
    all shares. `of_shares` makes a meta-gradient of the sum.
    """
    part = copy.copy(self)
    object.__setattr__(part, "_share", (begin, end))  # Most are frozen.
    return part

  def of_shares(self, total: Any) -> list[tf.Tensor]:
    """Returns the meta-gradient, given the sum of that of all shares."""
    return total

  def arranged(
    self,
    problem: Problem,
    optimizer: Optimizer,
    params: list[tf.Tensor],
    objective: MetaObjective,
    is_compiled: bool = False,
  ) -> Optimizer:
    """Returns what to run in place of the optimizer, which computes the same.

    Args:
      problem: what it is run on.
      optimizer: that is meta-trained.
      params: the parameters that it moves.
      objective: the meta-loss.
      is_compiled: whether XLA compiles the whole episode.
    """
    del problem, params, objective, is_compiled
    return optimizer

  def init(
    self,
    problem: Problem,
    optimizer: Optimizer,
    seed: tf.Tensor,
    num_steps: int,
    unroll_length: int,
  ) -> Any:
    """Returns the state before the first window, a nest of tensors; () by default.

    Args:
      problem: as calls will get it: a `TaskBatch` where several tasks share one call.
      optimizer: that is meta-trained.
      seed: names whatever is drawn.
      num_steps: inner steps of an episode.
      unroll_length: inner steps of a window.
    """
    del problem, optimizer, seed, num_steps, unroll_length
    return ()

  @abc.abstractmethod
  def __call__(
    self,
    problem: Problem,
    optimizer: Optimizer,
    task: unroll.Task,
    carry: unroll.Carry,
    length: int | tf.Tensor,
    observe: unroll.Observer,
    objective: MetaObjective = MetaObjective(),  # noqa: B008
    state: Any = (),
    seed: tf.Tensor | None = None,
  ) -> tuple[Window, Any]:
    """Runs one window and estimates the gradient of its meta-loss.

    Args:
      problem: the optimizee.
      optimizer: whose phi to differentiate with respect to; `optimizer.with_phi` runs
        it with other weights, for which `unroll.with_learned_start` begins the carry.
      task: drawn from the problem.
      carry: where the window starts.
      length: steps of the window.
      observe: what to record after each step.
      objective: the meta-loss.
      state: from `init` or the window before.
      seed: names whatever the estimator draws; another one for every window, but the
        same for all tasks of a meta-batch, which are thereby perturbed alike.

    Returns:
      `(window, next_state)`.
    """


def run_window(
  problem: Problem,
  optimizer: Optimizer,
  task: unroll.Task,
  carry: unroll.Carry,
  length: int | tf.Tensor,
  observe: unroll.Observer,
  evaluate: Callable = unroll.first_order,
  loop: Callable = unroll.unroll,
  only_last: bool = False,
) -> tuple[unroll.Carry, Curve, Any]:
  """Runs a window from `carry`, or from the start that the optimizer's phi makes.

  Args:
    problem: the optimizee, and the next four as `MetaGradient` gets them.
    optimizer: any, also one made by `with_phi`.
    task: drawn from the problem.
    carry: where the window starts.
    length: its steps.
    observe: what to record after each step.
    evaluate: `unroll.first_order` or `unroll.second_order`.
    loop: `unroll.unroll` or `unroll.static_unroll`.
    only_last: whether the curve holds the last step's meta-loss alone. A meta-loss of
      the problem's own, such as that of a query set, is then evaluated once.

  Returns:
    Where the window ended, its meta-losses, and what was observed.
  """
  carry = unroll.with_learned_start(problem, optimizer, task, carry, evaluate)
  if only_last:
    end, observed = loop(problem, optimizer, task, carry, length, observe, evaluate)
    with tf.name_scope("meta_loss"):
      last = unroll.meta_loss(problem, task, end)
    losses = dtypes.for_sum([last])[0][tf.newaxis]
    return with_least(end, losses), curve_of(carry, end, losses), observed
  see = lambda c, updates: (unroll.meta_loss(problem, task, c), observe(c, updates))
  end, (losses, observed) = loop(problem, optimizer, task, carry, length, see, evaluate)
  (losses,) = dtypes.for_sum([losses])
  return with_least(end, losses), curve_of(carry, end, losses), observed


def curve_of(start: unroll.Carry, end: unroll.Carry, losses: tf.Tensor) -> Curve:
  """Returns the meta-losses [T] of a window between two carries."""
  cast = lambda x: tf.cast(x, losses.dtype)
  values = map(cast, (start.loss, start.first_loss, start.least))
  return Curve(losses, *values, mean_distance(start.state, end.state, losses))


def with_least(end: unroll.Carry, losses: tf.Tensor) -> unroll.Carry:
  """Notes the lowest of a window's meta-losses [T] in the carry at its end."""
  lowest = tf.cast(tf.reduce_min(losses), end.least.dtype)
  return end._replace(least=tf.minimum(end.least, lowest))
