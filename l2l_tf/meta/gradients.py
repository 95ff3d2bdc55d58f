"""How the gradient of the meta-loss with respect to phi is computed.

Andrychowicz et al. 2016, equation 3: L(phi) = sum_t w_t f(theta_t), by
back-propagation through time over a window of the trajectory.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from l2l_tf import dtypes
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.optimizers import Optimizer, layout
from l2l_tf.problems import Problem

# A window length (scalar int32) -> the weight of each step's loss, [length].
Weights = Callable[[tf.Tensor], tf.Tensor]


def all_ones(length: tf.Tensor) -> tf.Tensor:
  """The paper's choice: every step counts."""
  return tf.ones([length])


def last_only(length: tf.Tensor) -> tf.Tensor:
  """Only the window's last loss counts."""
  return tf.one_hot(length - 1, length)


class Window(NamedTuple):
  """What one window gives."""

  meta_gradient: list[tf.Tensor]  # like the optimizer's trainable variables
  meta_loss: tf.Tensor  # [], float32 at least
  carry: unroll_lib.Carry  # where the next window starts
  observed: object  # each [length, ...]


@dataclasses.dataclass(frozen=True)
class TruncatedBPTT:
  """Back-propagation through the window, nothing before it.

  Attributes:
    weights: w_t of the window's losses: a function of its length, or one number
      per step.
    second_derivatives: whether the optimizee's gradients are differentiated too.
      False, the paper's choice, drops the gradient along the dashed edges of its
      figure 2; True is the true gradient of the window's meta-loss.
    unroll: the inner loop, `unroll` or `static_unroll`.
  """

  weights: Weights | Sequence[float] = all_ones
  second_derivatives: bool = False
  unroll: Callable = unroll_lib.unroll

  @property
  def evaluate(self) -> Callable:
    """How the inner loop evaluates the optimizee, as `unroll` takes it."""
    return (
      unroll_lib.second_order if self.second_derivatives else unroll_lib.first_order
    )

  def __call__(
    self,
    problem: Problem,
    optimizer: Optimizer,
    task: unroll_lib.Task,
    carry: unroll_lib.Carry,
    length: int | tf.Tensor,
    observe: unroll_lib.Observer,
  ) -> Window:
    """Unrolls one window of `length` steps and differentiates its meta-loss.

    Raises:
      ValueError: if the weights are a sequence of another length;
        InvalidArgumentError, when run, if the length is a tensor.
    """
    # What an update does to later parameters has to be the identity for the former.
    is_recordable = (
      optimizer.reads_gradients_alone
      and not self.second_derivatives
      and not problem.is_constrained
    )
    # A spelled-out unroll is for looking at: there the tape's own graph is wanted.
    if is_recordable and self.unroll is unroll_lib.unroll:
      return self._recorded(problem, optimizer, task, carry, length, observe)
    return self._taped(problem, optimizer, task, carry, length, observe)

  def _recorded(self, problem, optimizer, task, carry, length, observe):
    """Runs without a tape, then back-propagates over the gradients that it met."""
    # XLA compiles the whole loop, or the optimizer's step in it, or neither.
    step, whole = optimizer, problem.jit_compile and optimizer.jit_compile
    if optimizer.jit_compile and not whole:
      step = tf.function(optimizer.__call__, jit_compile=True, autograph=False)
    run = lambda task, carry, length, step=step: self.unroll(
      problem,
      step,
      task,
      carry,
      length,
      lambda c, updates: (c.loss, optimizer.record(c.grads), observe(c, updates)),
      unroll_lib.second_order,  # No tape is there to be stopped.
    )
    if optimizer.is_coordinatewise and all(
      x.shape.is_fully_defined() for x in carry.params
    ):
      # XLA compiles whole episodes for lengths that are no tensors.
      one_program = whole or not tf.is_tensor(length)
      blockwise = layout.Blockwise(optimizer, step, carry.params, one_program)
      if blockwise.is_needed(carry.state):
        run = functools.partial(_run_blockwise, run, blockwise)
    if whole:
      run = tf.function(run, jit_compile=True, autograph=False)
    end, (losses, later, observed) = run(task, carry, length)
    (losses,) = dtypes.for_sum([losses])
    weights = self._weights_of(length, losses.dtype)
    with tf.name_scope("meta_gradient"):
      recorded = tf.nest.map_structure(
        lambda first, rest: tf.concat([first[tf.newaxis], rest], axis=0),
        optimizer.record(carry.grads),
        later,
      )
      gradient = optimizer.sequence_gradient(recorded, carry.state, weights)
    return Window(gradient, tf.reduce_sum(weights * losses), end, observed)

  def _taped(self, problem, optimizer, task, carry, length, observe):
    """Differentiates the unroll itself."""
    phi = optimizer.trainable_variables
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(phi)
      carry, (losses, observed) = self.unroll(
        problem,
        optimizer,
        task,
        carry,
        length,
        lambda c, updates: (c.loss, observe(c, updates)),
        self.evaluate,
      )
      with tf.name_scope("meta_loss"):
        (losses,) = dtypes.for_sum([losses])
        meta_loss = tf.reduce_sum(self._weights_of(length, losses.dtype) * losses)
    with tf.name_scope("meta_gradient"):
      gradient = tape.gradient(
        meta_loss, phi, unconnected_gradients=tf.UnconnectedGradients.ZERO
      )
      return Window(gradient, meta_loss, carry, observed)

  def _weights_of(self, length, dtype) -> tf.Tensor:
    if callable(self.weights):
      return tf.cast(self.weights(length), dtype)
    count = len(self.weights)
    error = (
      f"TruncatedBPTT got {count} weights for a window of another length; give one"
      " weight for each of its steps, or a function of the length such as last_only."
    )
    if not tf.is_tensor(length) and count != length:
      raise ValueError(error.replace("another length", f"{length} steps"))
    with tf.control_dependencies([tf.debugging.assert_equal(length, count, error)]):
      return tf.constant(self.weights, dtype)


def _run_blockwise(run, blockwise, task, carry, length):
  """Runs with the state cut into blocks, which the loop carries one by one."""
  carry = carry._replace(state=blockwise.split(carry.state))
  end, records = run(task, carry, length, blockwise)
  return end._replace(state=blockwise.join(end.state)), records
