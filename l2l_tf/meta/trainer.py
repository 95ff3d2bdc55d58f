"""Meta-training: a meta-optimizer trains the learned optimizer's weights.

Andrychowicz et al. 2016, section 2: phi follows the gradient of the meta-loss,
computed window by window along the optimizee's trajectory.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import cores, dtypes, seeds
from l2l_tf.meta import execution
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.curriculum import Curriculum, check_lengths
from l2l_tf.meta.gradients import MetaGradient, TruncatedBPTT, Window
from l2l_tf.meta.gradients import lanes as lanes_lib
from l2l_tf.meta.imitation import imitating
from l2l_tf.meta.objective import MetaObjective, all_ones
from l2l_tf.meta.replicas import Replicas, Share
from l2l_tf.optimizers import Adam, Optimizer
from l2l_tf.problems import Problem, TaskBatch


class _Part(NamedTuple):
  """What one replica of this process runs."""

  share: Share
  groups: list[execution.Group]
  optimizer: Optimizer
  meta_gradient: MetaGradient


class MetaTrainer(tf.Module):
  """Trains an optimizer's weights phi on tasks drawn from a problem.

  An episode optimizes one freshly drawn task, or a meta-batch of them, for `num_steps`
  steps. After every window of `unroll_length` steps there is a meta-step, an update of
  phi; the optimizees and the optimizer's state carry on into the next window. A whole
  episode is one call of one `tf.function`.

  >>> optimizer = CoordinatewiseLSTM((5,), output_scale=0.1)
  >>> trainer = MetaTrainer(Simple(), optimizer, num_steps=10, unroll_length=5)
  >>> for metrics in trainer.train(num_episodes=2):
  ...   print(metrics["losses"].shape, metrics["meta_loss"].shape)
  (11,) (2,)
  (11,) (2,)
  """

  def __init__(
    self,
    problem: Problem,
    optimizer: Optimizer,
    meta_optimizer: Optimizer | None = None,
    meta_gradient: MetaGradient = TruncatedBPTT(),  # noqa: B008
    num_steps: int = 100,
    unroll_length: int = 20,
    clip_norm: float = float("inf"),
    seed: int = 0,
    jit_compile: bool = False,
    meta_batch_size: int = 1,
    relative_loss: bool = False,
    objective: MetaObjective | None = None,
    curriculum: Curriculum | None = None,
    strategy: tf.distribute.Strategy | None = None,
  ):
    """Initializes the states of the meta-optimizer and of the meta-gradient.

    Args:
      problem: the distribution of tasks.
      optimizer: the learned optimizer; its variables are updated in place.
      meta_optimizer: trains phi; Adam at 0.001 by default.
      meta_gradient: estimates the gradient of a window's meta-loss.
      num_steps: inner steps per episode, a multiple of `unroll_length`.
      unroll_length: inner steps per window (the paper's 20).
      clip_norm: global norm to which a meta-gradient is clipped.
      seed: seed of the sequence of tasks.
      jit_compile: whether XLA compiles the whole episode as one program, which runs on
        one core. By default XLA compiles only the parts that gain from it, and they run
        on all cores. Either way it compiles again for another `unroll_length`.
      meta_batch_size: tasks drawn per episode; the meta-loss is the mean over them.
      relative_loss: whether a window's meta-loss is divided by the loss at its start;
        then the scale of the loss does not matter, and late windows count as much as
        early ones.
      objective: the meta-loss and its clipping in one object, in place of `clip_norm`,
        `relative_loss` and the weights of `TruncatedBPTT`.
      curriculum: the lengths of each episode and its windows, in place of `num_steps`
        and `unroll_length`; these are then its longest ones. With `jit_compile` every
        new length is compiled.
      strategy: shares out the tasks of the meta-batch, or the lanes of an estimator
        that has some, over the GPUs of this machine (`MirroredStrategy`) or over
        several processes (`MultiWorkerMirroredStrategy`), each of which makes a trainer
        of the same arguments and calls the same methods. What is learned is the same as
        without one, but for rounding.

    Raises:
      ValueError: if a size is not positive, `num_steps` is not a multiple of
        `unroll_length`, the optimizer has no weights, two arguments exclude each
        other, or there are more replicas than tasks or lanes.
    """
    super().__init__()
    if curriculum is not None:
      num_steps, unroll_length = curriculum.longest
    else:
      check_lengths(num_steps, unroll_length)
    if meta_batch_size < 1:
      raise ValueError(f"meta_batch_size={meta_batch_size} must be at least 1.")
    if jit_compile and meta_batch_size > 1:
      raise ValueError(
        f"jit_compile=True with meta_batch_size={meta_batch_size} would compile anew in"
        " every episode; leave one of them out."
      )
    if jit_compile and strategy is not None:
      raise ValueError(
        "jit_compile=True makes one program of an episode, which no strategy can share"
        " out; leave one of them out."
      )
    _check_particles(meta_gradient, meta_batch_size, objective, curriculum)
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
    self.curriculum = curriculum
    self.seed = seed
    self.num_traces = 0
    self._meta_batch_size = meta_batch_size
    self.objective = _objective(objective, meta_gradient, relative_loss, clip_norm)
    self._jit_compile = jit_compile
    self.replicas = Replicas(strategy)
    self._shares = self._shared_out()
    known = execution.prepared(problem, optimizer)
    self._learner = imitating(known, self.objective.imitation)
    phi = [tf.convert_to_tensor(v) for v in optimizer.trainable_variables]
    self._meta_state = self.meta_optimizer.initial_state(phi)
    self.meta_state_variables = [
      tf.Variable(x, trainable=False) for x in tf.nest.flatten(self._meta_state)
    ]
    self._estimator_states = self._initial_estimator_states()
    self.estimator_state_variables = [
      tf.Variable(x, trainable=False) for x in tf.nest.flatten(self._estimator_states)
    ]
    self._check_state_is_of_lanes()
    # Windows that are done, and all, of the episode that is under way.
    self._progress = tf.Variable([0, 1], trainable=False)
    self._run = self._trained
    if jit_compile:
      self._run = tf.function(self._trained, autograph=False, jit_compile=True)
    self._compiled = tf.function(self._episode, autograph=False)

  def train(
    self, num_episodes: int, first_episode: int = 0
  ) -> Iterator[dict[str, Any]]:
    """Yields each episode's metrics, as from `train_episode`, after its meta-steps."""
    for episode in range(first_episode, first_episode + num_episodes):
      yield self.train_episode(episode)

  def train_episode(self, episode: int) -> dict[str, Any]:
    """Trains on the task that `episode` names.

    Args:
      episode: index of the task in the sequence that the seed names.

    Returns:
      A dict of arrays: "meta_loss", "meta_gradient_norm", "skipped" and "diverged",
      one entry per window (a window is skipped, without a meta-step, if its meta-loss
      or meta-gradient is not finite; how many particles diverged, see `Particles`);
      "losses" along the trajectory, [num_steps + 1]; "gradient_size" and "update_size",
      root mean squares, [num_steps]; and "diagnostics", a dict of scalars from the
      optimizer at the last step.
    """
    num_steps, length = self.num_steps, self.unroll_length
    if self.curriculum is not None:
      num_steps, length = self.curriculum.lengths(episode)
      check_lengths(num_steps, length)
    lengths = num_steps // length, length
    if not self._jit_compile:  # XLA needs sizes that are fixed when it compiles.
      lengths = map(tf.constant, lengths)
    metrics = self._compiled(tf.constant(episode), *lengths)
    self._progress.assign([0, 1])
    return tf.nest.map_structure(lambda x: x.numpy(), metrics)

  @property
  def share_done(self) -> float:
    """How much of the episode that another thread trains on is done, from 0 to 1.

    Always 0 between episodes, and with `jit_compile`.
    """
    done, count = self._progress.numpy()
    return float(done / count)

  def trace_window(self) -> tf.Graph:
    """Returns the graph of an episode's first window; nothing is run."""

    def window():
      meta_state, states = self._states()
      parts, carries, states = self._start(0, states, self.num_steps, most_groups=1)
      seed = self._estimation_seed(0)
      length = self.unroll_length
      objective = self.objective.at(tf.constant(0))
      window, *_ = self._windows(
        parts, carries, states, seed, length, lambda *_: (), objective
      )
      self._update(window, meta_state)
      return window.meta_loss

    return tf.function(window, autograph=False).get_concrete_function().graph

  def synchronize(self) -> None:
    """Brings together what the processes' lanes have come to, before a checkpoint.

    All processes have to call it. Afterwards `estimator_state_variables` hold the lanes
    of all of them, in each.
    """
    if not (self.replicas.spans_processes and self.estimator_state_variables):
      return
    own = self._shares[0].begin, self._shares[-1].end
    (lanes,) = _read(self._estimator_states, self.estimator_state_variables)
    part, count = lanes_lib.part(lanes, *own), self.meta_gradient.num_lanes
    lanes = self.replicas.gathered(part, own, count)
    _assign(self.estimator_state_variables, lanes)

  def _shared_out(self) -> list[Share]:
    if self.meta_gradient.draws_tasks:
      return self.replicas.shares(self.meta_gradient.num_lanes, "lanes")
    return self.replicas.shares(self._meta_batch_size)

  def _check_state_is_of_lanes(self) -> None:
    is_shared = self.replicas.count > 1 and self.estimator_state_variables
    if is_shared and not self.meta_gradient.draws_tasks:
      raise ValueError(
        f"{type(self.meta_gradient).__name__} has a state that replicas cannot share;"
        " leave out the strategy, or use an estimator with lanes, such as PES."
      )

  def _initial_estimator_states(self) -> list[Any]:
    """Returns the meta-gradient's state for every group of tasks."""
    seed = seeds.make(self.seed, seeds.ESTIMATION)
    size, problem = self._meta_batch_size, self.problem
    lengths = self.num_steps, self.unroll_length
    init = lambda problem, key: self.meta_gradient.init(
      problem, self._learner, key, *lengths
    )
    if size == 1:
      return [init(problem, seed)]
    if execution.stacks(self._learner, self.objective):
      return [init(TaskBatch(problem, size), seed)]
    return [init(problem, key) for key in seeds.split(seed, size)]

  def _estimation_seed(self, episode):
    with tf.name_scope("init/"):
      return seeds.make(self.seed, seeds.ESTIMATION, episode)

  def _states(self):
    """Reads the states of the meta-optimizer and of the meta-gradient."""
    with tf.name_scope("meta_optimizer/"):
      meta_state = _read(self._meta_state, self.meta_state_variables)
    return meta_state, _read(self._estimator_states, self.estimator_state_variables)

  def _start(self, episode, states=(), total_steps=(), most_groups=None):
    with tf.name_scope("init/"):
      seed = seeds.make(self.seed, seeds.TRAINING, episode)
      # A task depends on its key alone, not on how the tasks are grouped.
      size = self._meta_batch_size
      keys = seeds.split(seed, size) if size > 1 else [seed]
    if self._jit_compile or self.estimator_state_variables:
      # A whole program runs on one core; a meta-gradient's state belongs to one group.
      most_groups = 1
    parts, carries = [], []
    for share in self._shares:
      with self._on(share):
        part = self._part(share, keys, most_groups)
        carries.append(self._begun(part, total_steps))
      parts.append(part)
    return parts, carries, self._states_of(parts, states)

  def _part(self, share: Share, keys, most_groups) -> _Part:
    """Draws the tasks of a share; one whose estimator has lanes needs but one."""
    if not self.meta_gradient.draws_tasks:
      keys = keys[share.begin : share.end]
    groups = execution.groups(
      self.problem, self._learner, keys, most_groups, self.objective
    )
    problem, _, params = groups[0]
    learner = execution.stacked(self.problem, self._learner, groups[0])
    optimizer = self.meta_gradient.arranged(
      problem, learner, params, self.objective, self._jit_compile
    )
    meta_gradient = self.meta_gradient
    if self._shares_lanes:
      meta_gradient = meta_gradient.shared(share.begin, share.end)
    return _Part(share, groups, optimizer, meta_gradient)

  def _begun(self, part: _Part, total_steps) -> list[unroll_lib.Carry]:
    optimizer, evaluate = self._running(part), self.meta_gradient.evaluate
    return [
      unroll_lib.begin(p, optimizer, t, x, evaluate, total_steps)
      for p, t, x in part.groups
    ]

  def _states_of(self, parts: list[_Part], states) -> list[list[Any]]:
    """Returns the meta-gradient's state of every group of each part."""
    if not self.estimator_state_variables:
      return [[()] * len(part.groups) for part in parts]
    if not self._shares_lanes:
      return [states]
    (lanes,) = states
    return [[lanes_lib.part(lanes, p.share.begin, p.share.end)] for p in parts]

  def _whole_states(self, former, states):
    """Undoes `_states_of`; lanes of other processes remain as they were."""
    if not self.estimator_state_variables:
      return ()
    if not self._shares_lanes:
      return states[0]
    begin, end = self._shares[0].begin, self._shares[-1].end
    rest = lambda *ends: lanes_lib.part(former[0], *ends)
    own = [lanes for (lanes,) in states]
    pieces = [rest(0, begin), *own, rest(end, self.meta_gradient.num_lanes)]
    return [lanes_lib.joined(pieces)]

  @property
  def _shares_lanes(self) -> bool:
    return self.meta_gradient.draws_tasks and self.replicas.count > 1

  @contextlib.contextmanager
  def _on(self, share: Share) -> Iterator[None]:
    """Places operations on a replica's device, with its share of the cores."""
    if share.device is None:
      yield
      return
    with tf.device(share.device), cores.shared_by(len(self._shares)):
      yield

  def _running(self, part: _Part) -> Optimizer:
    """Returns the part's optimizer, with phi where the device can read it."""
    if part.share.device is None:
      return part.optimizer
    with tf.device(None):
      phi = [v.read_value() for v in part.optimizer.trainable_variables]
    return part.optimizer.with_phi(phi)

  def _episode(self, episode, num_windows, length):
    self.num_traces += 1
    # Variables of int32 are in the CPU's memory, where XLA on a GPU may not read them.
    metrics, meta_state, states = self._run(
      episode, num_windows, length, *self._states()
    )
    _assign(self.meta_state_variables, meta_state)
    _assign(self.estimator_state_variables, states)
    return metrics

  def _trained(self, episode, num_windows, length, meta_state, states):
    """Trains on the task of an episode.

    Returns:
      The episode's metrics, and the next states of the meta-optimizer and of the
      meta-gradient.
    """
    former = states
    parts, carries, states = self._start(episode, states, num_windows * length)
    seed, objective = self._estimation_seed(episode), self.objective.at(episode)
    dtype = _sum_of_losses(carries[0]).dtype
    curve = [length if isinstance(length, int) else None]
    scalars = [(dtype, [])] * 3 + [(tf.bool, []), (tf.int32, [])]
    specs = scalars + [(dtype, curve)] * 3
    records = [tf.TensorArray(d, num_windows, element_shape=s) for d, s in specs]

    def body(i, carries, meta_state, states, records):
      window_seed = seeds.fold_in(seed, i)
      window, start, carries, next_states = self._windows(
        parts, carries, states, window_seed, length, _observe, objective
      )
      values, meta_state = self._learn(window, start, carries, meta_state)
      _, _, _, skipped, *_ = values  # A skipped window leaves these states unchanged.
      keep = lambda old, new: tf.where(skipped, old, new)
      states = tf.nest.map_structure(keep, states, next_states)
      records = [r.write(i, x) for r, x in zip(records, values)]
      if not self._jit_compile:
        self._progress.assign(tf.stack([i + 1, num_windows]))
      return i + 1, carries, meta_state, states, records

    _, carries, meta_state, states, records = tf.while_loop(
      lambda i, *_: i < num_windows,
      body,
      (tf.zeros([], tf.int32), carries, meta_state, states, records),
      maximum_iterations=num_windows,
    )
    metrics = self._metrics(parts, carries, records)
    return metrics, meta_state, self._whole_states(former, states)

  def _metrics(self, parts, carries, records) -> dict[str, Any]:
    first_loss = records[0].read(0)
    losses, gradient_size, update_size = (r.concat() for r in records[5:])
    weighted, count = self.replicas.sum(
      [self._diagnosed(part, own) for part, own in zip(parts, carries)]
    )
    return {
      "meta_loss": records[1].stack(),
      "meta_gradient_norm": records[2].stack(),
      "skipped": records[3].stack(),
      "diverged": records[4].stack(),
      "losses": tf.concat([[first_loss], losses], axis=0),
      "gradient_size": gradient_size,
      "update_size": update_size,
      "diagnostics": tf.nest.map_structure(
        lambda x: x / tf.cast(count, x.dtype), weighted
      ),
    }

  def _diagnosed(self, part: _Part, carries):
    """Returns the diagnostics, times the coordinates, and the number of these."""
    with self._on(part.share):
      optimizer = self._running(part)
      found = [optimizer.diagnostics(c.grads, c.state) for c in carries]
    counts = [_count(c.params) for c in carries]
    add = lambda *x: tf.add_n([n * v for n, v in zip(counts, x)])
    return tf.nest.map_structure(add, *found), tf.constant(float(sum(counts)))

  def _learn(self, window, first_loss, carries, meta_state):
    """Takes a meta-step after a window; returns what to record, and the meta-state."""
    if not self.meta_gradient.draws_tasks:  # It knows where its own windows start.
      meta_loss, gradient = self.objective.of_batch(
        window.meta_loss, window.meta_gradient, first_loss
      )
      window = window._replace(meta_loss=meta_loss, meta_gradient=gradient)
    norm, skipped, meta_state = self._update(window, meta_state)
    loss, *squares = window.observed
    count = self._num_coordinates(carries)
    sizes = [tf.sqrt(x * self._meta_batch_size / count) for x in squares]
    norm, *sizes = (tf.cast(x, loss.dtype) for x in (norm, *sizes))
    diverged = tf.cast(window.diverged, tf.int32)
    scalars = first_loss, window.meta_loss, norm, skipped, diverged
    return (*scalars, loss, *sizes), meta_state

  def _num_coordinates(self, carries) -> int:
    """Returns the coordinates of all tasks, in whatever process."""
    own = sum(_count(c.params) for of_part in carries for c in of_part)
    if self.meta_gradient.draws_tasks:  # Each part has one.
      return own // len(carries)
    return own * self._meta_batch_size // sum(share.size for share in self._shares)

  def _windows(self, parts, carries, states, seed, length, observe, objective):
    """Runs one window of every part.

    Returns:
      The window's mean over all tasks, of all processes; the mean of the losses where
      it starts; and every group's carry and state after it.
    """
    sums, ends, next_states = [], [], []
    for part, start, state in zip(parts, carries, states, strict=True):
      with self._on(part.share):
        results = self._windows_of(part, start, state, seed, length, observe, objective)
      sums.append((self._sum([w for w, _ in results]), _sum_of_losses(start)))
      ends.append([w.carry for w, _ in results])
      next_states.append([state for _, state in results])
    means = self.replicas.sum(sums)
    size = self._meta_batch_size
    if size > 1:  # Needless operations stay out of the graph.
      means = tf.nest.map_structure(lambda x: x / size, means)
    total, first_loss = means
    gradient = total.meta_gradient
    if self._shares_lanes:  # Each share starts from the loss of the same task.
      gradient = self.meta_gradient.of_shares(gradient)
      first_loss /= self.replicas.count
    window = total._replace(meta_gradient=gradient)
    return window, first_loss, ends, next_states

  def _windows_of(self, part, carries, states, seed, length, observe, objective):
    """Runs one window of every group of a part; returns windows, with their states."""
    problem = part.groups[0].problem  # the same in all
    optimizer = self._running(part)

    def run(task, carry, state, length):
      window, state = part.meta_gradient(
        problem, optimizer, task, carry, length, observe, objective, state, seed
      )
      if not self.meta_gradient.draws_tasks:
        meta_loss, gradient = objective.of_task(
          window.meta_loss, window.meta_gradient, carry.loss
        )
        window = window._replace(meta_loss=meta_loss, meta_gradient=gradient)
      return window, state

    tasks = [group.task for group in part.groups]
    calls = [(*each, length) for each in zip(tasks, carries, states, strict=True)]
    return execution.side_by_side(run, calls)

  def _sum(self, windows: list[Window]) -> Window:
    """Returns what is recorded of a part's windows, added up, without the carry."""
    kept = [w._replace(carry=()) for w in windows]
    if self.replicas.spans_processes:  # Numbers of one type travel together.
      kept = [w._replace(diverged=tf.cast(w.diverged, w.meta_loss.dtype)) for w in kept]
    add = lambda *x: tf.add_n(x) if len(x) > 1 else x[0]
    return tf.nest.map_structure(add, *kept)

  def _update(self, window: Window, meta_state):
    """Takes a meta-step along the clipped meta-gradient if the window is finite."""
    phi = self.optimizer.trainable_variables
    with tf.name_scope("meta_optimizer/"):
      norm = tf.linalg.global_norm(dtypes.for_sum(window.meta_gradient))
      finite = tf.math.is_finite(norm) & tf.math.is_finite(window.meta_loss)
      clipped = self.objective.clipped(window.meta_gradient, norm)
      with tf.name_scope(self.meta_optimizer.name):
        values = [tf.convert_to_tensor(v) for v in phi]
        updates, next_state = self.meta_optimizer(
          clipped, meta_state, params=values, loss=window.meta_loss
        )
      for variable, update in zip(phi, updates):
        variable.assign_add(tf.where(finite, update, tf.zeros_like(update)))
      keep = lambda new, old: tf.where(finite, new, old)
      return norm, ~finite, tf.nest.map_structure(keep, next_state, meta_state)


def _check_particles(meta_gradient, meta_batch_size, objective, curriculum) -> None:
  """Raises ValueError for what an estimator with episodes of its own cannot have."""
  if not meta_gradient.draws_tasks:
    return
  name = type(meta_gradient).__name__
  if meta_batch_size > 1:
    raise ValueError(
      f"{name} draws its own tasks; leave out meta_batch_size={meta_batch_size} and"
      " give it more pairs or lanes."
    )
  if objective is not None and objective.clips_tasks:
    raise ValueError(
      f"{name} estimates one gradient over all of its tasks; leave out task_clip_norm,"
      " and give clip_norm."
    )
  if curriculum is not None:
    raise ValueError(
      f"{name} has episodes of its own, which a curriculum does not reach; leave it"
      " out, or give PES(horizon=(least, most)) or the like to vary them."
    )


def _objective(objective, meta_gradient, relative, clip_norm) -> MetaObjective:
  """Returns the meta-objective, given as such or by the separate arguments."""
  is_plain = isinstance(meta_gradient, TruncatedBPTT)
  weights = meta_gradient.weights if is_plain else all_ones
  if objective is None:
    return MetaObjective(weights, relative, clip_norm)
  if relative or clip_norm != float("inf") or weights is not all_ones:
    raise ValueError(
      "MetaTrainer got an objective as well as clip_norm, relative_loss or weights of"
      " the meta-gradient; say it all in the MetaObjective."
    )
  return objective


def _read(structure: Any, variables: list[tf.Variable]) -> Any:
  return tf.nest.pack_sequence_as(structure, [v.read_value() for v in variables])


def _assign(variables: list[tf.Variable], values: Any) -> None:
  for variable, value in zip(variables, tf.nest.flatten(values), strict=True):
    variable.assign(value)


def _observe(carry, updates):
  with tf.name_scope("summaries"):
    (loss,) = dtypes.for_sum([carry.loss])
    return loss, _sum_of_squares(carry.grads), _sum_of_squares(updates)


def _sum_of_losses(carries) -> tf.Tensor:
  return dtypes.add([c.loss for c in carries])


def _count(tensors: list[tf.Tensor]) -> int:
  return sum(x.shape.num_elements() for x in tensors)


def _sum_of_squares(tensors: list[tf.Tensor]) -> tf.Tensor:
  squares = [tf.reduce_sum(tf.square(x)) for x in dtypes.for_sum(tensors)]
  return tf.add_n(squares)
