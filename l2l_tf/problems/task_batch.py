"""Independent tasks of one problem, optimized side by side in one batch."""

import tensorflow as tf

from l2l_tf import dtypes, seeds
from l2l_tf.problems.base import Parameter, Problem, draw, stackable


class TaskBatch(Problem):
  """`num_tasks` draws of a problem, stacked along the first axis of all tensors.

  The loss is the sum over the tasks, so that every task's gradient is what it would
  be alone. The problem's operations are vectorised: an MLP's matrix products, for
  example, become batched ones. Operations that cannot be vectorised run in a loop.
  """

  def __init__(self, problem: Problem, num_tasks: int):
    """Initializes the batch.

    Args:
      problem: the problem to draw tasks from.
      num_tasks: number of tasks.

    Raises:
      ValueError: if `num_tasks` is below one.
    """
    if num_tasks < 1:
      raise ValueError(f"TaskBatch got num_tasks={num_tasks}; it must be at least 1.")
    # `jit_compile` stays False: XLA would compile the vectorised draws for every seed.
    self.num_tasks = num_tasks
    self._problem = problem

  def init(self, seed):
    """Draws the tasks; `seed` is one for each, [num_tasks, 2], or one for all, [2]."""
    return _vectorize(self._draw, self._each(seed))

  def _draw(self, seed):
    params, constants = draw(self._problem, seed)
    return params, stackable(self._problem, constants)

  def task_losses(self, params, constants, seed):
    """Returns the losses, [num_tasks]; `seed`, as in `init`, draws mini-batches."""
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
    """Returns the means over the tasks."""
    values = _vectorize(lambda task: self._problem.held_out(*task), (params, constants))
    return {name: tf.reduce_mean(value) for name, value in values.items()}

  def data_sources(self):
    return self._problem.data_sources()

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
