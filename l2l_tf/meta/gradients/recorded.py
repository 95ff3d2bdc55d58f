"""Back-propagation over the gradients that an optimizer met, without a tape.

Under first-order meta-gradients the optimizee's gradients g_0, ..., g_T are constants.
The meta-loss sum_t w_t f(theta_t) depends on the update u_t only through the later
parameters, each of which it moves by u_t itself, so dL/du_t = sum_{k > t} w_k g_k. The
window is run once without a tape and its gradients are recorded; what is left is to
back-propagate through the optimizer's own recurrence, fed with these gradients
(`Optimizer.sequence_gradient`). That stores T gradients instead of every activation.
"""

import dataclasses

import tensorflow as tf

from l2l_tf import dtypes
from l2l_tf.meta import execution
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.gradients.base import MetaGradient, Window, with_least
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.optimizers import GRADIENTS, Optimizer
from l2l_tf.problems import Problem


@dataclasses.dataclass(frozen=True)
class RecordedBPTT(MetaGradient):
  """First-order back-propagation for optimizers that read gradients alone."""

  @staticmethod
  def serves(problem: Problem, optimizer: Optimizer, objective: MetaObjective) -> bool:
    """Whether an update reaches the meta-loss as the derivation above says."""
    return (
      objective.is_weighted_sum
      and optimizer.reads <= {GRADIENTS}
      and not optimizer.learns_start
      and not problem.is_constrained
      and not problem.has_meta_loss
    )

  def arranged(self, problem, optimizer, params, objective, is_compiled=False):
    return execution.arranged(problem, optimizer, params, is_compiled)

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
    if not self.serves(problem, optimizer, objective):
      raise ValueError(
        f"RecordedBPTT is not exact for {type(optimizer).__name__} on"
        f" {type(problem).__name__}: it serves optimizers that read gradients alone and"
        " learn no start, on problems without constraints or a meta-loss of their own,"
        " and weighted sums of losses; give TruncatedBPTT(), which takes a tape where"
        " one is needed."
      )

    def run(task, carry, length):
      return unroll_lib.unroll(
        problem,
        optimizer,
        task,
        carry,
        length,
        lambda c, updates: (c.loss, optimizer.record(c.grads), observe(c, updates)),
        unroll_lib.second_order,  # There is no tape to stop gradients for.
      )

    run = execution.compiled_loop(problem, optimizer, run)
    end, (losses, later, observed) = run(task, carry, length)
    (losses,) = dtypes.for_sum([losses])
    weights = objective.step_weights(length, losses.dtype)
    with tf.name_scope("meta_gradient"):
      recorded = tf.nest.map_structure(
        lambda first, rest: tf.concat([first[tf.newaxis], rest], axis=0),
        optimizer.record(carry.grads),
        later,
      )
      gradient = optimizer.sequence_gradient(recorded, carry.state, weights)
    meta_loss = tf.reduce_sum(weights * losses)
    return Window(gradient, meta_loss, with_least(end, losses), observed), state
