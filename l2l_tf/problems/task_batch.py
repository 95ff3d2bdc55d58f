"""Independent tasks of one problem, optimized side by side in one batch."""

import tensorflow as tf

from l2l_tf import dtypes, seeds
from l2l_tf.problems.base import Parameter, Problem, draw


class TaskBatch(Problem):
  """`num_tasks` draws of a problem, stacked along the first axis of everything.

  The loss is the sum over the tasks, so that every task's gradient is what it would
  be alone. What the problem computes is vectorised: an MLP's products become batched
  ones; an operation that cannot be is looped over.
  """

  def __init__(self, problem: Problem, num_tasks: int):
    """Initializes the batch.

    Args:
      problem: whose tasks to draw.
      num_tasks: how many of them.

    Raises:
      ValueError: if `num_tasks` is below one.
    """
    if num_tasks < 1:
      raise ValueError(f"TaskBatch got num_tasks={num_tasks}; it must be at least 1.")
    # Not compiled: XLA would do so anew for every seed of the vectorised draws.
    self.num_tasks = num_tasks
    self._problem = problem

  def init(self, seed):
    """Draws the tasks that `seed` [num_tasks, 2] names, or as many below one [2]."""
    return _vectorize(self._draw, self._each(seed))

  def _draw(self, seed):
    params, constants = draw(self._problem, seed)
    for x in tf.nest.flatten(constants):
      if not tf.is_tensor(x) and not isinstance(x, (bool, int, float)):
        raise ValueError(
          f"{type(self._problem).__name__}.init returned the constant {x!r:.50}, which"
          " cannot be stacked for a batch of tasks; return a nest of tensors, or train"
          " with meta_batch_size=1."
        )
    return params, tf.nest.map_structure(tf.convert_to_tensor, constants)

  def task_losses(self, params, constants, seed):
    """Returns each task's loss; `seed` as in `init` draws its mini-batch."""
    return self._losses(self._problem, params, constants, seed)

  def __call__(self, params, constants, seed):
    return _sum(self.task_losses(params, constants, seed))

  def meta_loss(self, params, constants, seed):
    return _sum(self._losses(self._problem.meta_loss, params, constants, seed))

  @property
  def has_meta_loss(self):
    return self._problem.has_meta_loss

  def _losses(self, function, params, constants, seed):
    def loss(task):
      value = function(*task)
      if value.shape.rank != 0:
        raise ValueError(
          f"{type(self._problem).__name__} returned a loss of shape {value.shape}; it"
          " must return a scalar tensor, so reduce it, e.g. with tf.reduce_mean."
        )
      return value

    return _vectorize(loss, (params, constants, self._each(seed)))

  def _each(self, seed):
    """Returns a seed for each task, [num_tasks, 2]."""
    return seed if seed.shape.rank == 2 else tf.stack(seeds.split(seed, self.num_tasks))

  def project(self, params, constants):
    return _vectorize(lambda task: self._problem.project(*task), (params, constants))

  @property
  def is_constrained(self):
    return self._problem.is_constrained

  def held_out(self, params, constants):
    """Evaluates the mean over the tasks."""
    values = _vectorize(lambda task: self._problem.held_out(*task), (params, constants))
    return {name: tf.reduce_mean(value) for name, value in values.items()}

  def parameters(self):
    return [
      Parameter(p.path, (self.num_tasks, *p.shape), p.role)
      for p in self._problem.parameters()
    ]


def _vectorize(function, elements):
  return tf.vectorized_map(function, elements, warn=False)


def _sum(losses: tf.Tensor) -> tf.Tensor:
  (losses,) = dtypes.for_sum([losses])
  return tf.reduce_sum(losses)
