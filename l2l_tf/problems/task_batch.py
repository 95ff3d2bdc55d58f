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
    keys = tf.stack(seeds.split(seed, 2 * self.num_tasks))
    init_keys, batch_keys = keys[: self.num_tasks], keys[self.num_tasks :]
    params, constants = _vectorize(self._draw, init_keys)
    return params, (constants, batch_keys)

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
    def loss(task):
      params, constants, key = task
      value = self._problem(params, constants, _fold(key, seed))
      if value.shape.rank != 0:
        raise ValueError(
          f"{type(self._problem).__name__} returned a loss of shape {value.shape}; it"
          " must return a scalar tensor, so reduce it, e.g. with tf.reduce_mean."
        )
      return value

    return _vectorize(loss, (params, *constants))

  def __call__(self, params, constants, seed):
    losses = dtypes.for_sum([self.task_losses(params, constants, seed)])
    return tf.reduce_sum(losses[0])

  def project(self, params, constants):
    constants, _ = constants
    return _vectorize(lambda task: self._problem.project(*task), (params, constants))

  @property
  def is_constrained(self):
    return self._problem.is_constrained

  def held_out(self, params, constants):
    """Evaluates the mean over the tasks."""
    constants, _ = constants
    values = _vectorize(lambda task: self._problem.held_out(*task), (params, constants))
    return {name: tf.reduce_mean(value) for name, value in values.items()}

  def parameters(self):
    return [
      Parameter(p.path, (self.num_tasks, *p.shape), p.role)
      for p in self._problem.parameters()
    ]


def _vectorize(function, elements):
  return tf.vectorized_map(function, elements, warn=False)


def _fold(key: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Returns the seed of one task's mini-batch at the step that `seed` names."""
  return seeds.fold_in(seeds.fold_in(key, seed[0]), seed[1])
