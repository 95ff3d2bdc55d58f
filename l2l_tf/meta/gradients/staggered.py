"""Truncated back-propagation through windows of several episodes at different ages.

Where windows follow each other through one episode, successive meta-gradients all speak
of one age, and what an optimizer has learned for the first steps it forgets during the
last ones. Vicol, Metz and Sohl-Dickstein 2021 stagger the episodes of their estimators
for that reason. https://arxiv.org/abs/2112.13835
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from l2l_tf.meta import execution
from l2l_tf.meta.gradients import lanes as lanes_lib
from l2l_tf.meta.gradients.base import MetaGradient, Window
from l2l_tf.meta.gradients.truncated import TruncatedBPTT
from l2l_tf.meta.objective import MetaObjective


@dataclasses.dataclass(frozen=True)
class StaggeredBPTT(MetaGradient):
  """Back-propagation through windows of several episodes at different ages.

  Every lane draws its own tasks, so the trainer's `meta_batch_size` stays 1; an update
  of phi takes `lanes` windows. The first episodes are cut short, each at another age,
  so that from then on one update of phi sees all ages. An episode whose window's
  meta-loss or meta-gradient is not finite counts as zero there, and ends.

  Attributes:
    lanes: P, the number of episodes.
    second_derivatives: as in `TruncatedBPTT`.

  >>> meta_gradient = StaggeredBPTT(lanes=8)
  >>> problem, optimizer = Quadratic(), CoordinatewiseLSTM()
  >>> trainer = MetaTrainer(problem, optimizer, meta_gradient=meta_gradient)
  """

  lanes: int = 4
  second_derivatives: bool = False

  draws_tasks = True

  @property
  def num_lanes(self):
    return self.lanes

  def __post_init__(self):
    is_whole = isinstance(self.lanes, int) and not isinstance(self.lanes, bool)
    if not is_whole or self.lanes < 1:
      raise ValueError(
        f"StaggeredBPTT got lanes={self.lanes}; give a whole number of episodes, at"
        " least 1."
      )

  @property
  def evaluate(self):
    return self._of_lane.evaluate

  @property
  def _of_lane(self) -> TruncatedBPTT:
    return TruncatedBPTT(second_derivatives=self.second_derivatives)

  def init(self, problem, optimizer, seed, num_steps, unroll_length):
    """Begins the first episodes; raises ValueError if a loss is not finite there."""
    begin = self._beginning(problem, optimizer)
    begin_all = lambda *lanes: lanes_lib.stack(map(begin, *map(tf.unstack, lanes)))
    horizons = num_steps, num_steps
    return lanes_lib.staggered(problem, begin_all, seed, self.lanes, horizons)

  def __call__(
    self,
    problem,
    optimizer,
    task,
    carry,
    length,
    observe,
    objective=MetaObjective(),  # noqa: B008
    state=None,
    seed=None,
  ):
    del task, carry, seed  # The lanes have their own.
    lanes = lanes_lib.renewed(state, self._beginning(problem, optimizer))

    optimizer = execution.stepped(problem, optimizer)

    def one(task, carry, length):
      arguments = problem, optimizer, task, carry, length, observe, objective
      return _in_units(self._of_lane(*arguments)[0], objective, carry.loss)

    tasks, carries = map(lanes_lib.unstack, (lanes.task, lanes.carries[0]))
    calls = [(task, carry, length) for task, carry in zip(tasks, carries)]
    windows = execution.side_by_side(one, calls)
    ends = lanes_lib.stack([w.carry for w in windows])
    has_diverged = tf.stack([w.diverged for w in windows])
    # What has diverged does not come back: another episode takes its place.
    horizon = tf.where(has_diverged, 0, lanes.horizon)
    window = _mean(windows)
    if self._share is not None:
      gradient = [len(windows) / self.lanes * x for x in window.meta_gradient]
      window = lanes_lib.weighted(window, self._share, self.lanes, gradient)
    return window, lanes._replace(carries=(ends,), horizon=horizon)

  def _beginning(self, problem, optimizer):
    """Returns what begins the episode of a lane, given its seed and horizons."""
    return lambda seed, horizons: lanes_lib.begin(
      problem, optimizer, seed, horizons, 1, [], self.evaluate
    )


def _in_units(window: Window, objective: MetaObjective, start: tf.Tensor) -> Window:
  """Divides as `MetaObjective.in_units`; puts zeros for a window that is not finite."""
  found = window.meta_loss, window.meta_gradient
  loss, gradient = objective.in_units(*found, start)
  values = [loss, *gradient]
  is_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in values])
  loss, *gradient = [tf.where(is_finite, x, tf.zeros_like(x)) for x in values]
  return window._replace(meta_loss=loss, meta_gradient=gradient, diverged=~is_finite)


def _mean(windows: Sequence[Window]) -> Window:
  """Returns the mean over the lanes, and where the first one's window ended."""
  mean = lambda *x: tf.add_n(x) / len(x)
  parts = [(w.meta_gradient, w.meta_loss, w.observed) for w in windows]
  gradient, meta_loss, observed = tf.nest.map_structure(mean, *parts)
  diverged = tf.math.count_nonzero([w.diverged for w in windows], dtype=tf.int32)
  return Window(gradient, meta_loss, windows[0].carry, observed, diverged)
