"""An optimizer that moves several tasks, each by itself, in one call.

The tasks' parameters are stacked along a first axis, [N, ...]. To an optimizer that
treats each coordinate by itself a stack is one large task. Any other one would couple
what belongs to different tasks: here its step is vectorised over them.
"""

from typing import Any

import tensorflow as tf

from l2l_tf.optimizers.traits import PARAMETERS
from l2l_tf.optimizers.wrapper import Wrapper


class Stacked(Wrapper):
  """Runs an optimizer on N stacked tasks; each has the updates that it has alone.

  The state is that of one task, with the tasks along the first axis of every tensor.
  The loss of all tasks is no task's own, so the optimizer must not read it.

  >>> from l2l_tf.optimizers.stacked import Stacked
  >>> inner, theta = GlobalAveragingLSTM(), tf.constant([[1.0, 2.0], [3.0, 4.0]])
  >>> optimizer = Stacked(inner)
  >>> (update,), _ = optimizer([theta], optimizer.initial_state([theta]))
  >>> (alone,), _ = inner([theta[1]], inner.initial_state([theta[1]]))
  >>> np.allclose(update[1], alone, atol=1e-6)
  True
  """

  @property
  def config(self) -> dict[str, Any]:
    return {"optimizer": self.inner}

  def rewrapped(self, optimizer):
    return Stacked(optimizer)

  def initial_params(self, params):
    return params  # A learned start of the parameters has the shapes of one task.

  def initial_state(self, params):
    # It depends on shapes and types alone, and is the same for all.
    state = self.inner.initial_state([p[0] for p in params])
    repeat = lambda x: tf.broadcast_to(x, [params[0].shape[0], *x.shape])
    return tf.nest.map_structure(repeat, state)

  def with_total_steps(self, state, total_steps):
    if not self.has_horizon:
      return state
    # `identity`: what is vectorised returns no eager tensor from outside.
    tell = lambda own: self.inner.with_total_steps(own, tf.identity(total_steps))
    return _each(tell, state)

  def decay_rate(self, state):
    return self.inner.decay_rate(tf.nest.map_structure(lambda x: x[0], state))

  def __call__(self, grads, state, params=None, loss=None):
    if not grads:
      return [], state
    params = list(params) if PARAMETERS in self.reads else []
    step = lambda task: self.inner(task[0], task[1], params=task[2] or None)
    return _each(step, (list(grads), state, params))

  def record(self, grads):
    return _each(self.inner.record, list(grads))

  def sequence_gradient(self, recorded, state, loss_weights):
    # One after the other: back-propagation has operations of its own, and a task's
    # activations are kept as long as it is its turn.
    tasks_first = lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
    recorded = tf.nest.map_structure(tasks_first, recorded)
    phi, num_tasks = self.get_phi(), tf.nest.flatten(recorded)[0].shape[0]

    def body(i, total):
      pick = lambda nest: tf.nest.map_structure(lambda x: x[i], nest)
      gradient = self.inner.sequence_gradient(pick(recorded), pick(state), loss_weights)
      return i + 1, [x + g for x, g in zip(total, gradient, strict=True)]

    return tf.while_loop(
      lambda i, _: i < num_tasks,
      body,
      (0, [tf.zeros_like(v) for v in phi]),
      maximum_iterations=num_tasks,
      parallel_iterations=1,
    )[1]

  def diagnostics(self, grads, state):
    """Returns the means over the tasks."""
    found = _each(lambda task: self.inner.diagnostics(*task), (list(grads), state))
    return {name: tf.reduce_mean(value) for name, value in found.items()}


def _each(function, tasks):
  """Calls a function of one task for all of them at once."""
  return tf.vectorized_map(function, tasks, warn=False)
