"""The inner loop, in which an optimizer trains an optimizee; the only one there is.

Andrychowicz et al. 2016, figure 2. A step reads (theta_t, f(theta_t), grad_t), sets
theta_{t+1} = theta_t + g_t, projected if the problem has constraints, and evaluates f
and its gradient at theta_{t+1}; the carry takes both to the next step. So each loss
belongs to exactly one window of a longer run, and no point is evaluated twice.
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem, base


class Carry(NamedTuple):
  """Everything one optimization run carries from step to step."""

  params: list[tf.Tensor]  # theta_t
  state: Any  # h_t, the optimizer's state
  loss: tf.Tensor  # [], f(theta_t)
  grads: list[tf.Tensor]  # the gradient of f at theta_t
  step: tf.Tensor  # [], t
  drawn: Any = ()  # the problem's initial parameters, if the optimizer learns a start
  first_loss: Any = ()  # [], f(theta_0)
  least: Any = ()  # [], the lowest meta-loss up to the window that is being run
  total_steps: Any = ()  # [], of the episode, if the optimizer has a horizon


class Task(NamedTuple):
  """One optimization task, as drawn from a problem."""

  constants: Any  # what stays fixed in it, from Problem.init
  seed: tf.Tensor  # [2], for the mini-batches of all steps; [N, 2] for N tasks


# The loss and its gradient of each problem for which XLA compiles a step: one program,
# wherever it is called.
_compiled: weakref.WeakKeyDictionary[Problem, Callable] = weakref.WeakKeyDictionary()

# What `unroll` records after each step, from the carry and the step's updates.
Observer = Callable[[Carry, list[tf.Tensor]], Any]


def first_order(problem, params, constants, seed):
  """Returns the loss, which can be differentiated, and its gradients as constants.

  Under first-order meta-gradients df/dtheta_t is needed twice: as the optimizer's
  input, where it is a constant, and in the backward pass from the meta-loss. Both are
  the same numbers. So the derivative of the loss is defined by the gradients that are
  computed anyway: the optimizee is differentiated once, and nothing of its forward pass
  has to be kept for the meta-gradient.
  """
  loss, grads = _evaluate(problem, params, constants, seed)
  with tf.name_scope("gradient"):
    grads = [tf.stop_gradient(g) for g in grads]
  # Adds zero, whose derivative with respect to theta_t is the gradient. What
  # tf.custom_gradient is given would never be freed, nor the graph it belongs to
  # (https://github.com/tensorflow/tensorflow/issues/97697).
  with tf.name_scope("first_order"):
    loss = tf.stop_gradient(loss)
    for g, p in zip(grads, params):
      zero = tf.math.multiply_no_nan(g, p - tf.stop_gradient(p))
      loss += tf.cast(tf.reduce_sum(zero), loss.dtype)
  return loss, grads


def second_order(problem, params, constants, seed):
  """Returns the loss and its gradients; an outer tape can differentiate both."""
  return _evaluate(problem, params, constants, seed)


def step_seed(task: Task, step: int | tf.Tensor) -> tf.Tensor:
  """Returns the seed of the mini-batch on which theta_step is evaluated."""
  with tf.name_scope("mini_batch"):
    return seeds.fold_in(task.seed, step)


def meta_loss(problem: Problem, task: Task, carry: Carry) -> tf.Tensor:
  """Returns what meta-training minimizes at theta_t, on the step's mini-batch."""
  if not problem.has_meta_loss:
    return carry.loss  # already evaluated in the step
  seed = step_seed(task, carry.step)
  loss = problem.meta_loss(carry.params, task.constants, seed)
  _check_loss(problem, loss, "meta-loss")
  return loss


def draw(problem: Problem, seed: tf.Tensor) -> tuple[Task, list[tf.Tensor]]:
  """Draws the task that `seed` names; returns it and its initial parameters."""
  with tf.name_scope("init/"):
    init_seed, batch_seed = seeds.split(seed, 2)
    params, constants = base.draw(problem, init_seed)
    return Task(constants, batch_seed), params


def begin(
  problem: Problem,
  optimizer: Optimizer,
  task: Task,
  params: list[tf.Tensor],
  evaluate=first_order,
  total_steps: Any = (),
) -> Carry:
  """Evaluates a task's starting point; returns the carry at step 0.

  Args:
    problem: the optimizee.
    optimizer: learned or hand-designed.
    task: from `draw`.
    params: from `draw`.
    evaluate: `first_order` or `second_order`.
    total_steps: how many steps there will be, for an optimizer that has a horizon;
      () if that is not known.
  """
  drawn = params if optimizer.learns_start else ()
  is_known = optimizer.has_horizon and not isinstance(total_steps, tuple)
  total_steps = tf.cast(total_steps, tf.int32) if is_known else ()
  with tf.name_scope("init/"):
    params, state = initial(optimizer, params, total_steps)
  with tf.name_scope("step_0/"):
    loss, grads = evaluate(problem, params, task.constants, step_seed(task, 0))
  # A meta-loss of the problem's own is not evaluated before the first step.
  least = tf.constant(float("inf"), loss.dtype) if problem.has_meta_loss else loss
  return Carry(
    params, state, loss, grads, tf.zeros([], tf.int32), drawn, loss, least, total_steps
  )


def initial(
  optimizer: Optimizer, params: list[tf.Tensor], total_steps: Any = ()
) -> tuple[list[tf.Tensor], Any]:
  """Returns theta_0 and h_0, given the initial parameters that were drawn."""
  params = optimizer.initial_params(params)
  state = optimizer.initial_state(params)
  if not isinstance(total_steps, tuple):
    state = optimizer.with_total_steps(state, total_steps)
  return params, state


def with_learned_start(
  problem: Problem,
  optimizer: Optimizer,
  task: Task,
  carry: Carry,
  evaluate=first_order,
) -> Carry:
  """Recomputes a carry at step 0 from phi, if the optimizer learns the start.

  The trainer makes the first carry of an episode outside of any meta-gradient. A
  meta-gradient calls this so that its tape sees how the start depends on phi, or so
  that a perturbed phi gets its own start. A later carry, and the carry of an optimizer
  without a learned start, are returned unchanged.
  """
  if not optimizer.learns_start:
    return carry
  begun = lambda: begin(
    problem, optimizer, task, carry.drawn, evaluate, carry.total_steps
  )
  return tf.cond(tf.equal(carry.step, 0), begun, lambda: carry)


def start(
  problem: Problem,
  optimizer: Optimizer,
  seed: tf.Tensor,
  evaluate=first_order,
  total_steps: Any = (),
) -> tuple[Task, Carry]:
  """Draws the task that `seed` names and evaluates its starting point."""
  task, params = draw(problem, seed)
  return task, begin(problem, optimizer, task, params, evaluate, total_steps)


def step(
  problem, optimizer, task, carry, evaluate=first_order, scopes=("step/", "next_step/")
):
  """Takes one step; returns the next carry and the updates."""
  with tf.name_scope(scopes[0]), tf.name_scope("optimizer"):
    updates, state = optimizer(
      carry.grads, carry.state, params=carry.params, loss=carry.loss
    )
    params = [p + u for p, u in zip(carry.params, updates, strict=True)]
  if problem.is_constrained:
    with tf.name_scope(scopes[0]), tf.name_scope("project"):
      params = problem.project(params, task.constants)
  with tf.name_scope(scopes[1]):
    t = carry.step + 1
    loss, grads = evaluate(problem, params, task.constants, step_seed(task, t))
  return carry._replace(
    params=params, state=state, loss=loss, grads=grads, step=t
  ), updates


def unroll(
  problem: Problem,
  optimizer: Optimizer,
  task: Task,
  carry: Carry,
  num_steps: int | tf.Tensor,
  observe: Observer = lambda carry, updates: carry.loss,
  evaluate=first_order,
) -> tuple[Carry, Any]:
  """Runs `num_steps` steps of `optimizer` on `task`, as one `tf.while_loop`.

  Args:
    problem: the optimizee.
    optimizer: learned or hand-designed.
    task: from `start`.
    carry: from `start`, or where an earlier call ended.
    num_steps: steps to take; another value of a tensor does not retrace.
    observe: what to record after each step; by default the loss after it.
    evaluate: `first_order` or `second_order`.

  Returns:
    The last carry, and the observations stacked to [num_steps, ...].

  Raises:
    ValueError: when traced, if the problem's loss is not a scalar or does not depend
      on every parameter.
  """

  def take(carry):
    carry, updates = step(problem, optimizer, task, carry, evaluate)
    return carry, observe(carry, updates)

  structure = observe(carry, carry.grads)  # traced for its types alone
  return repeat(take, carry, num_steps, structure)


def repeat(
  take: Callable[[Any], tuple[Any, Any]],
  carry: Any,
  num_steps: int | tf.Tensor,
  structure: Any,
) -> tuple[Any, Any]:
  """Calls `take` `num_steps` times, in one `tf.while_loop`.

  Args:
    take: returns the next carry, and what to record of the step.
    carry: a nest of tensors.
    num_steps: calls; a tensor does not retrace.
    structure: a nest of tensors or specs like what is recorded.

  Returns:
    The last carry, and the records stacked to [num_steps, ...].
  """

  def body(i, carry, records):
    carry, observed = take(carry)
    flat = tf.nest.flatten(observed)
    return i + 1, carry, [r.write(i, x) for r, x in zip(records, flat, strict=True)]

  records = [
    tf.TensorArray(x.dtype, num_steps, element_shape=x.shape)
    for x in tf.nest.flatten(structure)
  ]
  _, carry, records = tf.while_loop(
    lambda i, *_: i < num_steps,
    body,
    (tf.zeros([], tf.int32), carry, records),
    maximum_iterations=num_steps,
  )
  return carry, tf.nest.pack_sequence_as(structure, [r.stack() for r in records])


def static_unroll(
  problem, optimizer, task, carry, num_steps: int, observe=None, evaluate=first_order
) -> tuple[Carry, Any]:
  """Like `unroll`, but with the steps traced one by one, each in its own name scope.

  It is for graphs that people look at: it computes the same, but compiles slowly and
  only for an integer `num_steps`.
  """
  records = []
  for t in range(num_steps):
    scopes = f"step_{t}/", f"step_{t + 1}/"
    carry, updates = step(problem, optimizer, task, carry, evaluate, scopes)
    records.append(observe(carry, updates) if observe else carry.loss)
  with tf.name_scope("losses"):
    return carry, tf.nest.map_structure(lambda *x: tf.stack(x), *records)


def dense(grad: Any, shape: tf.TensorShape) -> tf.Tensor:
  """Returns a gradient as a tensor of its parameter's shape, the one that is trusted.

  A gradient of gathered rows is sparse; that of data of unknown length often has no
  static shape, which what follows needs.
  """
  if isinstance(grad, tf.IndexedSlices) and shape.is_fully_defined():
    whole = tf.constant(shape.as_list(), grad.indices.dtype)
    grad = tf.IndexedSlices(grad.values, grad.indices, whole)
  grad = tf.convert_to_tensor(grad)
  return grad if grad.shape.is_fully_defined() else tf.ensure_shape(grad, shape)


def _evaluate(problem, params, constants, seed):
  if not problem.jit_compile_steps:
    return _differentiated(problem, params, constants, seed)
  if (compiled := _compiled.get(problem)) is None:
    problem_ref = weakref.ref(problem)  # lest what is kept keeps the problem
    compiled = _compiled[problem] = tf.function(
      lambda *arguments: _differentiated(problem_ref(), *arguments),
      jit_compile=True,
      autograph=False,
    )
  return compiled(params, constants, seed)


def _differentiated(problem, params, constants, seed):
  with tf.GradientTape() as tape:
    tape.watch(params)
    with tf.name_scope("optimizee"):
      loss = problem(params, constants, seed)
      _check_loss(problem, loss)
  with tf.name_scope("gradient"):
    grads = tape.gradient(loss, params)
    _check_gradients(problem, grads, params)
    return loss, [dense(g, p.shape) for g, p in zip(grads, params)]


def _check_loss(problem: Problem, loss: Any, name: str = "loss") -> None:
  is_tensor = tf.is_tensor(loss)
  if not is_tensor or loss.shape.rank not in (0, None):
    came = f"of shape {loss.shape}" if is_tensor else repr(loss)
    raise ValueError(
      f"{type(problem).__name__} returned a {name} {came}; it must return a scalar"
      " tensor, so reduce it, e.g. with tf.reduce_mean."
    )


def _check_gradients(problem: Problem, grads, params: list[tf.Tensor]) -> None:
  missing = [
    f"parameter {i} of shape {p.shape}"
    for i, (g, p) in enumerate(zip(grads, params))
    if g is None
  ]
  if missing:
    raise ValueError(
      f"{type(problem).__name__} has no gradient for {', '.join(missing)}; the loss"
      " must depend on every parameter that init returns, through differentiable"
      " operations on floats."
    )
