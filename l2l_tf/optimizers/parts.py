"""Optimizers whose coordinates are coupled, in parts that are moved side by side.

Most of a step is work on single coordinates; a few sums over all of them are what
couples them. So coordinates can be cut into parts, each of which fits the cache and
takes a core of its own; between sums, the parts do not wait for one another.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.optimizers.wrapper import Wrapper

# Calls a function with each of the argument tuples; returns all results.
Each = Callable[[Callable, Sequence[tuple]], list]

_UNIT = 16  # coordinates, of which parts along the last axis are multiples, for vectors


class Divisible(abc.ABC):
  """What an optimizer inherits from, in addition, that can take a step in parts.

  In a divided state each tensor with entries for all coordinates is a list of tensors,
  cut along one axis; what the coordinates share is a tensor as before.
  """

  # Along which tensors of the state are cut, counted from the end.
  parts_axis = -1

  @abc.abstractmethod
  def divides(self) -> Any:
    """Returns for each tensor of a state whether it is cut, a nest of bools."""

  @abc.abstractmethod
  def step(
    self, grads: list[tf.Tensor], state: Any, each: Each
  ) -> tuple[list[tf.Tensor], Any]:
    """Takes a step.

    Args:
      grads: the gradient of each parameter.
      state: divided.
      each: runs what is done with each part.

    Returns:
      The updates, and the next state, divided alike.
    """

  def __call__(self, grads, state, params=None, loss=None):
    divides = self.divides()
    updates, state = self.step(grads, divided(state, divides), one_by_one)
    return updates, joined(state, divides)


class InParts(Wrapper):
  """Runs an optimizer in parts, each of which XLA compiles; its state is divided."""

  def __init__(self, optimizer: Divisible, count: int):
    """Wraps an optimizer; `count` is the number of parts, or fewer for few entries."""
    super().__init__(optimizer)
    self._count = count

  @property
  def config(self) -> dict[str, Any]:
    return {"optimizer": self.inner, "count": self._count}

  def rewrapped(self, optimizer):
    return InParts(optimizer, self._count)

  @property
  def jit_compile(self) -> bool:
    return False  # As a whole it would be one program, which takes a single core.

  def initial_state(self, params):
    return self.divided(self.inner.initial_state(params))

  def __call__(self, grads, state, params=None, loss=None):
    return self.inner.step(grads, state, compiled)

  def with_total_steps(self, state, total_steps):
    return self.divided(self.inner.with_total_steps(self.joined(state), total_steps))

  def decay_rate(self, state):
    return self.inner.decay_rate(self.joined(state))

  def diagnostics(self, grads, state):
    return self.inner.diagnostics(grads, self.joined(state))

  def divided(self, state: Any) -> Any:
    """Cuts a state of the wrapped optimizer."""
    inner = self.inner
    return divided(state, inner.divides(), self._count, inner.parts_axis)

  def joined(self, state: Any) -> Any:
    """The inverse of `divided`."""
    return joined(state, self.inner.divides(), self.inner.parts_axis)


def divided(state: Any, divides: Any, count: int = 1, axis: int = -1) -> Any:
  """Cuts a state into at most `count` parts, of one size except for the last.

  Args:
    state: a nest of tensors.
    divides: which of them are cut, a nest of bools.
    count: of parts.
    axis: to be cut, counted from the end.
  """

  def cut(x):
    length, unit = x.shape[axis], _UNIT if axis == -1 else 1
    size = -(-length // (count * unit)) * unit
    sizes = [min(size, length - begin) for begin in range(0, length, size)]
    return tf.split(x, sizes, axis) if len(sizes) > 1 else [x]

  in_parts = cut if count > 1 else lambda x: [x]
  choose = lambda is_cut, x: in_parts(x) if is_cut else x
  return tf.nest.map_structure(choose, divides, state)


def joined(state: Any, divides: Any, axis: int = -1) -> Any:
  """The inverse of `divided`."""
  flags, leaves = tf.nest.flatten(divides), tf.nest.flatten(state)
  count = 1 + (len(leaves) - len(flags)) // sum(flags)
  source, whole = iter(leaves), []
  for is_cut in flags:
    parts = [next(source) for _ in range(count if is_cut else 1)]
    whole.append(tf.concat(parts, axis) if len(parts) > 1 else parts[0])
  return tf.nest.pack_sequence_as(divides, whole)


def split(x: tf.Tensor, sizes: Sequence[int | None], axis: int) -> list[tf.Tensor]:
  """Cuts a tensor into parts; the size of a single one need not be known."""
  return [x] if len(sizes) == 1 else tf.split(x, sizes, axis)


def one_by_one(function: Callable, calls: Sequence[tuple]) -> list:
  """Calls a function with each of the argument tuples."""
  return [function(*call) for call in calls]


def compiled(function: Callable, calls: Sequence[tuple]) -> list:
  """The same in a graph, as XLA programs that run side by side."""
  program = tf.function(function, jit_compile=True, autograph=False)
  return [program(*call) for call in calls]
