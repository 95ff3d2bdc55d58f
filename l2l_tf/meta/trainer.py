"""Meta-training: an optimizer trains the optimizer.

Andrychowicz et al. 2016, section 2: phi follows the gradient of the meta-loss,
computed window by window along the optimizee's trajectory.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from l2l_tf import devices, dtypes, seeds
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.gradients import TruncatedBPTT, Window
from l2l_tf.optimizers import Adam, Optimizer
from l2l_tf.problems import Problem, TaskBatch

_MIN_GROUP = 256  # coordinates; fewer do not repay a compiled call of their own


class MetaTrainer(tf.Module):
  """Trains an optimizer's weights phi on tasks drawn from a problem.

  An episode optimizes one freshly drawn task, or a meta-batch of them, for
  `num_steps` steps. After every window of `unroll_length` steps phi is updated, while
  the optimizees and the optimizer's state go on. A whole episode is one call of one
  `tf.function`.

  >>> trainer = MetaTrainer(Quadratic(batch_size=16), CoordinatewiseLSTM())
  >>> for metrics in trainer.train(num_episodes=10):
  ...   print(metrics["losses"][-1])
  """

  def __init__(
    self,
    problem: Problem,
    optimizer: Optimizer,
    meta_optimizer: Optimizer | None = None,
    meta_gradient: TruncatedBPTT = TruncatedBPTT(),  # noqa: B008
    num_steps: int = 100,
    unroll_length: int = 20,
    clip_norm: float = float("inf"),
    seed: int = 0,
    jit_compile: bool = False,
    meta_batch_size: int = 1,
    relative_loss: bool = False,
  ):
    """Initializes the meta-optimizer's state.

    Args:
      problem: the distribution of tasks.
      optimizer: the learned optimizer; its variables are updated in place.
      meta_optimizer: trains phi; Adam at 0.001 by default.
      meta_gradient: how a window gives the gradient of phi.
      num_steps: inner steps per episode, a multiple of `unroll_length`.
      unroll_length: inner steps per window (the paper's 20).
      clip_norm: global norm to which a meta-gradient is clipped.
      seed: names the sequence of tasks.
      jit_compile: whether XLA compiles the whole episode, for one core; without it,
        it compiles the parts where that pays, for all. Either way anew for each
        `unroll_length`.
      meta_batch_size: tasks drawn per episode; the meta-loss is their mean.
      relative_loss: whether a window's meta-loss is divided by the loss where the
        window starts; then tasks of any unit, and late windows, count alike.

    Raises:
      ValueError: for sizes that are not positive, lengths that are not multiples, or
        an optimizer without weights.
    """
    super().__init__()
    check_lengths(num_steps, unroll_length)
    if meta_batch_size < 1:
      raise ValueError(f"meta_batch_size={meta_batch_size} must be at least 1.")
    if jit_compile and meta_batch_size > 1:
      raise ValueError(
        f"jit_compile=True with meta_batch_size={meta_batch_size} would compile anew in"
        " every episode; leave one of them out."
      )
    if not clip_norm > 0:
      raise ValueError(f"clip_norm={clip_norm} must be positive; inf turns it off.")
    if not optimizer.trainable_variables:
      raise ValueError(
        f"{type(optimizer).__name__} has no weights to meta-train; give a learned"
        " optimizer, e.g. CoordinatewiseLSTM()."
      )
    self.problem = problem
    self.optimizer = optimizer
    self.meta_optimizer = Adam(1e-3) if meta_optimizer is None else meta_optimizer
    self.meta_gradient = meta_gradient
    self.num_steps = num_steps
    self.unroll_length = unroll_length
    self.seed = seed
    self.num_traces = 0
    self._meta_batch_size = meta_batch_size
    self._relative_loss = relative_loss
    self._clip_norm = clip_norm
    self._jit_compile = jit_compile
    phi = [tf.convert_to_tensor(v) for v in optimizer.trainable_variables]
    self._meta_state = self.meta_optimizer.initial_state(phi)
    self.meta_state_variables = [
      tf.Variable(x, trainable=False) for x in tf.nest.flatten(self._meta_state)
    ]
    self._compiled = tf.function(
      self._episode, autograph=False, jit_compile=jit_compile
    )

  def train(
    self, num_episodes: int, first_episode: int = 0
  ) -> Iterator[dict[str, Any]]:
    """Yields the metrics of each episode, after its updates."""
    for episode in range(first_episode, first_episode + num_episodes):
      yield self.train_episode(episode)

  def train_episode(self, episode: int) -> dict[str, Any]:
    """Trains on the task that `episode` names.

    Args:
      episode: index of the task in the sequence that the seed names.

    Returns:
      Arrays: "meta_loss", "meta_gradient_norm" and "skipped", one entry per window
      (a window is skipped, its update not made, when its meta-loss or
      meta-gradient is not finite); "losses" [num_steps + 1] along the trajectory;
      "gradient_size" and "update_size" [num_steps], root mean squares;
      "diagnostics", scalars from the optimizer at the last step.
    """
    lengths = self.num_steps // self.unroll_length, self.unroll_length
    if not self._jit_compile:  # XLA needs sizes that are fixed when it compiles.
      lengths = map(tf.constant, lengths)
    metrics = self._compiled(tf.constant(episode), *lengths)
    return tf.nest.map_structure(lambda x: x.numpy(), metrics)

  def trace_window(self) -> tf.Graph:
    """Returns the graph of an episode's first window; nothing is run."""

    def window():
      groups, carries, meta_state = self._start(0, most_groups=1)
      window, _ = self._windows(groups, carries, self.unroll_length, lambda *_: ())
      self._update(window, meta_state)
      return window.meta_loss

    return tf.function(window, autograph=False).get_concrete_function().graph

  def _start(self, episode, most_groups=None):
    with tf.name_scope("init/"):
      seed = seeds.make(self.seed, seeds.TRAINING, episode)
    groups, carries = [], []
    for problem, task, params in self._draw(seed, most_groups):
      evaluate = self.meta_gradient.evaluate
      carry = unroll_lib.begin(problem, self.optimizer, task, params, evaluate)
      groups.append((problem, task))
      carries.append(carry)
    with tf.name_scope("meta_optimizer/"):
      values = [v.read_value() for v in self.meta_state_variables]
      meta_state = tf.nest.pack_sequence_as(self._meta_state, values)
    return groups, carries, meta_state

  def _draw(self, seed, most_groups):
    """Draws the episode's tasks, in groups that can run side by side."""
    problem, size = self.problem, self._meta_batch_size
    if not self.optimizer.is_coordinatewise:
      keys = seeds.split(seed, size) if size > 1 else [seed]
      return [(problem, *unroll_lib.draw(problem, key)) for key in keys]
    if size > 1:
      problem = TaskBatch(problem, size)
    drawn = unroll_lib.draw(problem, seed)
    most = 1 if self._jit_compile else most_groups  # One program, one core.
    return [(problem, *group) for group in _split(problem, *drawn, most)]

  def _episode(self, episode, num_windows, length):
    self.num_traces += 1
    groups, carries, meta_state = self._start(episode)
    first_loss = dtypes.add([c.loss for c in carries]) / self._meta_batch_size
    dtype, curve = first_loss.dtype, [length if isinstance(length, int) else None]
    specs = [(dtype, []), (dtype, []), (tf.bool, [])] + [(dtype, curve)] * 3
    records = [tf.TensorArray(d, num_windows, element_shape=s) for d, s in specs]

    def body(i, carries, meta_state, records):
      values, carries, meta_state = self._window(groups, carries, meta_state, length)
      records = [r.write(i, x) for r, x in zip(records, values)]
      return i + 1, carries, meta_state, records

    _, carries, meta_state, records = tf.while_loop(
      lambda i, *_: i < num_windows,
      body,
      (tf.zeros([], tf.int32), carries, meta_state, records),
      maximum_iterations=num_windows,
    )
    for variable, value in zip(self.meta_state_variables, tf.nest.flatten(meta_state)):
      variable.assign(value)
    losses, gradient_size, update_size = (r.concat() for r in records[3:])
    diagnostics = [self.optimizer.diagnostics(c.grads, c.state) for c in carries]
    counts = [_count(c.params) for c in carries]
    mean = lambda *x: tf.add_n([n * v for n, v in zip(counts, x)]) / sum(counts)
    return {
      "meta_loss": records[0].stack(),
      "meta_gradient_norm": records[1].stack(),
      "skipped": records[2].stack(),
      "losses": tf.concat([[first_loss], losses], axis=0),
      "gradient_size": gradient_size,
      "update_size": update_size,
      "diagnostics": tf.nest.map_structure(mean, *diagnostics),
    }

  def _window(self, groups, carries, meta_state, length):
    """Trains on one window; returns what to record of it and where it ended."""
    first_losses = [c.loss for c in carries]
    window, carries = self._windows(groups, carries, length, _observe)
    if self._relative_loss:
      window = _divided(window, dtypes.add(first_losses) / self._meta_batch_size)
    norm, skipped, meta_state = self._update(window, meta_state)
    loss, *squares = window.observed
    count = sum(_count(c.params) for c in carries)
    sizes = [tf.sqrt(x * self._meta_batch_size / count) for x in squares]
    norm, *sizes = (tf.cast(x, loss.dtype) for x in (norm, *sizes))
    return (window.meta_loss, norm, skipped, loss, *sizes), carries, meta_state

  def _windows(self, groups, carries, length, observe):
    """Runs every group's window; returns their sum, per task, and where they ended."""
    problem = groups[0][0]  # the same in all
    run = lambda task, carry, length: self.meta_gradient(
      problem, self.optimizer, task, carry, length, observe
    )
    if len(groups) > 1:  # Those of one size share what is traced and compiled.
      run = tf.function(run, autograph=False)
    windows = [run(task, c, length) for (_, task), c in zip(groups, carries)]
    per_task = lambda *x: tf.add_n(x) / self._meta_batch_size
    if len(windows) == self._meta_batch_size == 1:
      per_task = lambda x: x  # no operations without a purpose in the graph
    sums = tf.nest.map_structure(per_task, *[w._replace(carry=()) for w in windows])
    return sums, [w.carry for w in windows]

  def _update(self, window: Window, meta_state):
    """Moves phi along the clipped meta-gradient, unless the window is not finite."""
    phi = self.optimizer.trainable_variables
    with tf.name_scope("meta_optimizer/"):
      norm = tf.linalg.global_norm(dtypes.for_sum(window.meta_gradient))
      finite = tf.math.is_finite(norm) & tf.math.is_finite(window.meta_loss)
      clipped = _clip(window.meta_gradient, norm, self._clip_norm)
      with tf.name_scope(self.meta_optimizer.name):
        values = [tf.convert_to_tensor(v) for v in phi]
        updates, next_state = self.meta_optimizer(
          clipped, meta_state, params=values, loss=window.meta_loss
        )
      for variable, update in zip(phi, updates):
        variable.assign_add(tf.where(finite, update, tf.zeros_like(update)))
      keep = lambda new, old: tf.where(finite, new, old)
      return norm, ~finite, tf.nest.map_structure(keep, next_state, meta_state)


def _divided(window: Window, loss: tf.Tensor) -> Window:
  """Returns the window with its meta-loss in units of the size of `loss`."""
  unit = tf.abs(loss)
  return window._replace(
    meta_loss=window.meta_loss / unit,
    meta_gradient=[g / tf.cast(unit, g.dtype) for g in window.meta_gradient],
  )


def _clip(tensors: list[tf.Tensor], norm: tf.Tensor, clip_norm: float):
  """Scales tensors of the given global norm down to `clip_norm`."""
  scale = clip_norm / tf.maximum(norm, clip_norm)
  scaled = lambda x: tf.cast(scale, x.dtype) * x
  return [scaled(x) for x in tensors] if clip_norm < float("inf") else tensors


def check_lengths(num_steps: int, unroll_length: int) -> None:
  """Raises ValueError unless the windows tile the episode."""
  if num_steps < 1 or unroll_length < 1 or num_steps % unroll_length:
    raise ValueError(
      f"num_steps={num_steps} must be a positive multiple of"
      f" unroll_length={unroll_length}, so that whole windows tile an episode."
    )


def _observe(carry, updates):
  with tf.name_scope("summaries"):
    (loss,) = dtypes.for_sum([carry.loss])
    return loss, _sum_of_squares(carry.grads), _sum_of_squares(updates)


def _count(tensors: list[tf.Tensor]) -> int:
  return sum(x.shape.num_elements() for x in tensors)


def _sum_of_squares(tensors: list[tf.Tensor]) -> tf.Tensor:
  squares = [tf.reduce_sum(tf.square(x)) for x in dtypes.for_sum(tensors)]
  return tf.add_n(squares)


def _split(problem, task, params, most_groups):
  """Splits independent tasks into groups; returns each one's task and parameters."""
  most = most_groups or _count(params) // _MIN_GROUP
  parts = list(devices.shards(problem.num_tasks, most))
  if len(parts) == 1:
    return [(task, params)]
  cut = lambda nest, part: tf.nest.map_structure(lambda x: x[slice(*part)], nest)
  return [
    (task._replace(constants=cut(task.constants, part)), cut(params, part))
    for part in parts
  ]
