"""Lanes: episodes side by side, each with particles that share its task.

A particle is an episode of an optimizer with weights of its own, such as phi + eps. The
particles of a lane take each step together and meet the same mini-batch; the lanes are
independent of each other. Every tensor has the lanes along its first axis, [P, ...].
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import dtypes, seeds
from l2l_tf.meta import execution, unroll
from l2l_tf.meta.gradients.base import Window, curve_of, with_least
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem
from l2l_tf.problems.base import stackable

Weights = list[tf.Tensor]  # like phi; [P, ...]


class Lanes(NamedTuple):
  """The present episodes."""

  task: unroll.Task
  carries: tuple[unroll.Carry, ...]  # of the particles that go on after a window
  memory: Weights  # what an estimator remembers of perturbations; may be empty
  horizon: tf.Tensor  # [P], steps after which the episode ends
  horizons: tf.Tensor  # [P, 2], the least and the most to draw it from
  seed: tf.Tensor  # [P, 2], from which the next episode is drawn


class Ran(NamedTuple):
  """What particles did in one window."""

  carries: tuple[unroll.Carry, ...]  # of each particle, where the window ended
  meta_losses: list[tf.Tensor]  # of each particle, [P]
  observed: Any  # mean over a lane's particles, [P, length]
  diverged: tf.Tensor  # [P], how many of the particles


def begin(
  problem: Problem,
  optimizer: Optimizer,
  seed: tf.Tensor,
  horizons: tf.Tensor,
  num_particles: int,
  memory: list[tf.Tensor],
  evaluate: Callable,
) -> Lanes:
  """Draws one lane's episode; the result has no axis of lanes.

  Args:
    problem: whose task to draw.
    optimizer: what moves its parameters.
    seed: of the lane, [2].
    horizons: the least and the most steps of the episode, [2].
    num_particles: carried by the lane.
    memory: at the start of an episode.
    evaluate: as `unroll.unroll` takes it.
  """
  task_seed, horizon_seed, next_seed = seeds.split(seed, 3)
  horizon = _drawn_horizon(horizons, horizon_seed)
  task, carry = unroll.start(problem, optimizer, task_seed, evaluate, horizon)
  task = task._replace(constants=stackable(problem, task.constants))
  return Lanes(task, (carry,) * num_particles, memory, horizon, horizons, next_seed)


def staggered(
  problem: Problem,
  begin_all: Callable,
  seed: tf.Tensor,
  count: int,
  horizons: tuple[int, int],
) -> Lanes:
  """Begins the first episodes, each cut short at another age.

  Args:
    problem: whose tasks are drawn.
    begin_all: returns lanes, given their seeds [P, 2] and limits of horizons [P, 2].
    seed: of all lanes.
    count: P, how many there are.
    horizons: the least and the most steps of an episode.

  Raises:
    ValueError: if a loss is not finite.
  """
  keys = tf.stack(seeds.split(seed, count))
  limits = tf.constant([horizons] * count)
  traced = tf.function(begin_all, autograph=False).get_concrete_function(keys, limits)
  lanes = traced(keys, limits)
  if not bool(tf.reduce_all(tf.math.is_finite(lanes.carries[0].loss))):
    raise ValueError(
      f"{type(problem).__name__} has a loss that is not finite where an episode"
      " starts; check its data and its initial parameters."
    )
  ages = (tf.range(count) + 1) * lanes.horizon // count
  return lanes._replace(horizon=tf.maximum(1, ages))


def _drawn_horizon(limits: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Draws log-uniformly between the two limits, both included."""
  least, most = tf.unstack(tf.cast(limits, tf.float32))
  drawn = least * ((most + 1) / least) ** seeds.uniform([], seed)
  return tf.minimum(tf.cast(drawn, tf.int32), limits[1])


def renewed(lanes: Lanes, begin_one: Callable[[tf.Tensor, tf.Tensor], Lanes]) -> Lanes:
  """Begins anew those lanes whose episode has reached its horizon.

  One after the other, for they are few: draws of many seeds are not vectorised.
  """
  is_over = lanes.carries[0].step >= lanes.horizon
  order = tf.argsort(tf.cast(is_over, tf.int32), direction="DESCENDING", stable=True)
  count = tf.math.count_nonzero(is_over, dtype=tf.int32)

  def body(i, lanes):
    k = order[i]
    fresh = begin_one(lanes.seed[k], lanes.horizons[k])
    write = lambda old, new: tf.tensor_scatter_nd_update(old, [[k]], new[tf.newaxis])
    return i + 1, tf.nest.map_structure(write, lanes, fresh)

  _, lanes = tf.while_loop(
    lambda i, *_: i < count, body, (tf.zeros([], tf.int32), lanes)
  )
  return lanes


@dataclasses.dataclass(frozen=True)
class Runner:
  """Runs windows of the particles of some lanes.

  Attributes:
    problem: the optimizee.
    optimizer: run with the weights of each particle.
    objective: the meta-loss.
    task: of each lane.
    length: steps of a window.
    observe: what to record after each particle's step.
    loss_bound: as in `Particles`.
  """

  problem: Problem
  optimizer: Optimizer
  objective: MetaObjective
  task: unroll.Task
  length: int | tf.Tensor
  observe: unroll.Observer
  loss_bound: float

  def __call__(
    self,
    weights: Sequence[Weights],
    carries: Sequence[unroll.Carry],
  ) -> Ran:
    """Runs one window.

    Args:
      weights: of each particle of a lane.
      carries: where each of them starts.
    """
    lanes = self.task, [list(phi) for phi in weights], list(carries)
    if is_vectorised(self.problem, self.optimizer, lanes):
      ran = self._window(vectorised, *lanes)
      lanes_first = lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
      return ran._replace(observed=tf.nest.map_structure(lanes_first, ran.observed))
    alone = lambda function, lane: function(lane)
    return stack([self._window(alone, *lane) for lane in unstack(lanes)])

  def _window(self, each, task, weights, carries) -> Ran:
    """Runs one lane's window; or that of all, if `each` vectorises a function."""
    starts = carries
    if self.optimizer.learns_start:
      start = lambda lane: self._started(*lane)
      starts = each(start, (task, weights, carries))
    step = lambda lane: self._step(*lane)
    take = lambda carries: each(step, (task, weights, carries))
    see = lambda lane: [self._see(lane[0], c, c.grads) for c in lane[1]]
    structure = each(see, (task, starts))  # traced for its types alone
    ends, seen = unroll.repeat(take, starts, self.length, structure)
    particles = zip(starts, ends, [losses for losses, _ in seen], strict=True)
    scored = [self._scored(each, *particle) for particle in particles]
    ends, meta_losses, has_diverged = zip(*scored)
    meta_losses = _finite(meta_losses)
    mean = lambda *x: tf.add_n(x) / len(x)
    observed = tf.nest.map_structure(mean, *[observed for _, observed in seen])
    diverged = tf.add_n([tf.cast(x, tf.int32) for x in has_diverged])
    return Ran(ends, meta_losses, observed, diverged)

  def _started(self, task, weights, carries):
    """Begins the particles of a lane anew where their phi makes the start."""
    return [
      unroll.with_learned_start(self.problem, self.optimizer.with_phi(phi), task, carry)
      for phi, carry in zip(weights, carries, strict=True)
    ]

  def _step(self, task, weights, carries):
    """Takes one step of every particle of a lane."""
    ends, seen = [], []
    evaluate = unroll.second_order  # There is no tape to stop gradients for.
    for phi, carry in zip(weights, carries, strict=True):
      optimizer = self.optimizer.with_phi(phi)
      carry, updates = unroll.step(self.problem, optimizer, task, carry, evaluate)
      ends.append(carry)
      seen.append(self._see(task, carry, updates))
    return ends, seen

  def _see(self, task, carry, updates):
    return unroll.meta_loss(self.problem, task, carry), self.observe(carry, updates)

  def _scored(self, each, start, end, losses):
    """Returns a particle's carry, its meta-loss, and whether it has diverged."""
    (losses,) = dtypes.for_sum([losses])
    unit = tf.abs(tf.cast(start.first_loss, losses.dtype))
    unit = tf.where(unit < float("inf"), tf.maximum(unit, 1.0), 1.0)
    bound = self.loss_bound * unit
    is_bad = lambda losses: ~(tf.abs(losses) < float("inf")) | (losses > bound)
    bounded = lambda losses: tf.where(is_bad(losses), bound, losses)
    has_diverged = tf.reduce_any(is_bad(losses), axis=0)
    losses = tf.transpose(bounded(losses))
    # A particle may have diverged in a window before.
    former = tf.cast(start.loss, losses.dtype), tf.cast(start.first_loss, losses.dtype)
    loss, first_loss = map(bounded, former)
    start = start._replace(loss=loss, first_loss=first_loss)

    def score(lane):
      start, end, losses = lane
      curve = curve_of(start, end, losses)
      value = self.objective.of_curve(curve)
      value, _ = self.objective.in_units(value, [], curve.start)
      return with_least(end, losses), value

    end, value = each(score, (start, end, losses))
    return end, value, has_diverged


def _finite(meta_losses: Sequence[tf.Tensor]) -> list[tf.Tensor]:
  """Puts zeros where any of a lane is not finite, which then estimates nothing."""
  is_finite = tf.reduce_all(tf.math.is_finite(tf.stack(meta_losses)), axis=0)
  return [tf.where(is_finite, x, tf.zeros_like(x)) for x in meta_losses]


def is_vectorised(problem: Problem, optimizer: Optimizer, lanes: Any) -> bool:
  """Whether some lanes share their operations.

  A single lane does not: plain matrix products are faster than batches of one.
  """
  count = tf.nest.flatten(lanes)[0].shape[0]
  return count > 1 and execution.vectorises(problem, optimizer)


def vectorised(function: Callable, lanes: Any) -> Any:
  """Calls a function of one lane for all of them at once."""
  return tf.vectorized_map(function, lanes, warn=False)


def unstack(nest: Any) -> list[Any]:
  """Returns the nest of every lane."""
  leaves = zip(*map(tf.unstack, tf.nest.flatten(nest)))
  return [tf.nest.pack_sequence_as(nest, x) for x in leaves]


def stack(nests: Sequence[Any]) -> Any:
  """The inverse of `unstack`."""
  return tf.nest.map_structure(lambda *x: tf.stack(x), *nests)


def part(nest: Any, begin: int, end: int) -> Any:
  """Returns some of the lanes."""
  return tf.nest.map_structure(lambda x: x[begin:end], nest)


def weighted(window: Window, share: tuple[int, int], count: int, gradient) -> Window:
  """Returns a window whose means over the lanes of a share add up to those over all.

  Args:
    window: of the share's lanes.
    share: (begin, end) of them.
    count: of all lanes.
    gradient: that of the window, which adds up already.
  """
  begin, end = share
  times = lambda x: (end - begin) / count * x
  return window._replace(
    meta_gradient=gradient,
    meta_loss=times(window.meta_loss),
    observed=tf.nest.map_structure(times, window.observed),
  )


def joined(parts: Sequence[Any]) -> Any:
  """Puts the parts together again."""
  if len(parts) == 1:
    return parts[0]
  return tf.nest.map_structure(lambda *x: tf.concat(x, axis=0), *parts)


def expanded(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
  """Reshapes one value per lane, [P], to be used with a tensor [P, ...]."""
  return tf.reshape(values, [-1] + [1] * (like.shape.rank - 1))
