"""Back-propagation that takes every step of a window once more, on its way back.

Under first-order meta-gradients the optimizee's gradients g_0, ..., g_T are constants,
and the derivative of f(theta_t) is g_t. So nothing has to be kept of how a loss came
about: the window is run once without a tape, and what each step of the optimizer
started from is recorded, (g_t, theta_t, h_t, f(theta_t)). From the last step to the
first, each is then taken again, under a tape of its own, which carries the derivatives
of the meta-loss from (theta_{t+1}, h_{t+1}) back to (theta_t, h_t), f(theta_t) and phi.
XLA compiles this loop, whatever the optimizee consists of, unless the optimizer's step
is vectorised over tasks (`execution.compiles_way_back`).
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import dtypes
from l2l_tf.meta import execution
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.gradients.base import MetaGradient, Window, curve_of, with_least
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem


class Before(NamedTuple):
  """What a step of the optimizer starts from; recorded, each is [T, ...]."""

  grads: list[tf.Tensor]  # g_t
  params: list[tf.Tensor]  # theta_t
  state: Any  # h_t
  loss: tf.Tensor  # f(theta_t)


class Adjoint(NamedTuple):
  """The derivatives of the meta-loss with respect to what a step ends with."""

  params: list[tf.Tensor]
  state: list[tf.Tensor]  # of the floating tensors in it


@dataclasses.dataclass(frozen=True)
class ReplayedBPTT(MetaGradient):
  """First-order back-propagation for optimizers that XLA compiles.

  They may read the parameters and the loss, and learn a start.
  """

  @staticmethod
  def serves(problem: Problem, optimizer: Optimizer, objective: MetaObjective) -> bool:
    """Whether a window's meta-gradient is computed as described above.

    A meta-loss of the problem's own is evaluated at the window's end alone.
    """
    is_of_losses = not problem.has_meta_loss or objective.is_of_last
    return is_of_losses and not problem.is_constrained and optimizer.jit_compile

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
        f"ReplayedBPTT cannot differentiate {type(optimizer).__name__} on"
        f" {type(problem).__name__} with this meta-objective: it serves optimizers"
        " that XLA compiles, on problems without constraints, and a meta-loss of the"
        " problem's own at the window's end alone. Give TruncatedBPTT(), which takes a"
        " tape where one is needed."
      )
    run = _recording(problem, optimizer, observe)
    run = execution.compiled_loop(problem, optimizer, run)
    end, (before, losses, observed) = run(task, carry, length)
    counted, meta_loss, weights, last = _at_end(
      problem, task, carry, end, losses, objective
    )
    with tf.name_scope("meta_gradient"):
      back = functools.partial(_back, execution.uncompiled(optimizer))
      compiled = execution.compiles_way_back(optimizer)
      back = tf.function(back, jit_compile=compiled, autograph=False)
      gradient, first = back(before, weights, last)
      if optimizer.learns_start:
        gradient = _with_start(optimizer, carry, first, gradient)
    return Window(gradient, meta_loss, with_least(end, counted), observed), state


def _recording(problem, optimizer, observe):
  """Returns the inner loop; it records `Before`, the loss after, what is observed."""

  def take(task, carry):
    end, updates = unroll_lib.step(
      problem,
      optimizer,
      task,
      carry,
      unroll_lib.second_order,  # There is no tape to stop gradients for.
    )
    return end, (_before(carry), end.loss, observe(end, updates))

  def run(task, carry, length):
    structure = _before(carry), carry.loss, observe(carry, carry.grads)
    step = functools.partial(take, task)
    return unroll_lib.repeat(step, carry, length, structure)

  return run


def _before(carry: unroll_lib.Carry) -> Before:
  return Before(carry.grads, carry.params, carry.state, carry.loss)


def _at_end(problem, task, carry, end, losses, objective):
  """Evaluates and differentiates the meta-loss of a window that was run.

  Returns:
    The meta-losses [T]; the meta-loss; its derivatives with respect to the loss before
    each step, [T]; and to what the last step ended with, an `Adjoint`.
  """
  (losses,), state = dtypes.for_sum([losses]), _floating(end.state)
  # Those before the window depend on phi where it begins at a learned start. There all
  # three are one tensor, whose derivative would be found three times.
  former = [tf.identity(x) for x in (carry.loss, carry.first_loss, carry.least)]
  carry = carry._replace(loss=former[0], first_loss=former[1], least=former[2])
  sources = losses, former, end.params, state
  with tf.name_scope("meta_loss"), tf.GradientTape() as tape:
    tape.watch(sources)
    counted = losses
    if problem.has_meta_loss:
      counted = dtypes.for_sum([unroll_lib.meta_loss(problem, task, end)])[0][None]
    meta_loss = objective.of_curve(curve_of(carry, end, counted))
  weights, former, params, state = tape.gradient(
    meta_loss, sources, unconnected_gradients="zero"
  )
  params = [p + tf.cast(weights[-1], g.dtype) * g for p, g in zip(params, end.grads)]
  former = tf.cast(dtypes.add(former), weights.dtype)
  weights = tf.concat([former[tf.newaxis], weights[:-1]], axis=0)
  return counted, meta_loss, weights, Adjoint(params, state)


def _back(
  optimizer: Optimizer, before: Before, weights: tf.Tensor, last: Adjoint
) -> tuple[list[tf.Tensor], Adjoint]:
  """Takes all steps again, from the last to the first.

  Args:
    optimizer: that took them.
    before: what each of them started from.
    weights: the derivatives of the meta-loss with respect to the loss before each
      step, [T].
    last: those with respect to what the last step ended with.

  Returns:
    Those with respect to phi, and to what the first step started from.
  """
  phi = list(optimizer.get_phi())

  def body(t, after, total):
    one = tf.nest.map_structure(lambda x: x[t], before)
    after, gradient = _through_step(optimizer, phi, one, weights[t], after)
    return t - 1, after, [x + g for x, g in zip(total, gradient)]

  _, first, total = tf.while_loop(
    lambda t, *_: t >= 0,
    body,
    (tf.shape(weights)[0] - 1, last, [tf.zeros_like(v) for v in phi]),
  )
  return total, first


def _through_step(optimizer, phi, before, weight, after):
  """Returns the derivatives with respect to what a step started from, and to phi."""
  state = _floating(before.state)
  sources = [*before.params, *state, before.loss, *phi]
  with tf.GradientTape(watch_accessed_variables=False) as tape:
    tape.watch(sources)
    updates, next_state = optimizer(
      before.grads, before.state, params=before.params, loss=before.loss
    )
  found = tape.gradient(
    [*updates, *_floating(next_state)],
    sources,
    output_gradients=[*after.params, *after.state],
    unconnected_gradients="zero",
  )
  of_params, of_state, (of_loss,), of_phi = _split(found, before.params, state, [()])
  of_loss += tf.cast(weight, of_loss.dtype)
  params = [
    a + p + tf.cast(of_loss, g.dtype) * g
    for a, p, g in zip(after.params, of_params, before.grads)
  ]
  return Adjoint(params, of_state), of_phi


def _with_start(optimizer, carry, first: Adjoint, gradient):
  """Adds the derivatives with respect to phi of where an episode starts."""
  phi = list(optimizer.get_phi())

  def added():
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(phi)
      params, state = unroll_lib.initial(optimizer, carry.drawn, carry.total_steps)
    start = tape.gradient(
      [*params, *_floating(state)],
      phi,
      output_gradients=[*first.params, *first.state],
      unconnected_gradients="zero",
    )
    return [g + s for g, s in zip(gradient, start)]

  return tf.cond(tf.equal(carry.step, 0), added, lambda: gradient)


def _floating(nest: Any) -> list[tf.Tensor]:
  return [x for x in tf.nest.flatten(nest) if x.dtype.is_floating]


def _split(values: list, *like: list) -> list[list]:
  """Returns as many of the values as each list has, and the rest."""
  parts = []
  for one in like:
    parts.append(values[: len(one)])
    values = values[len(one) :]
  return [*parts, values]
