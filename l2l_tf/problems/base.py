"""What a problem is: a distribution of optimization tasks.

Andrychowicz et al. 2016, section 2: an optimizer is judged by its expected
loss under a distribution of functions f. https://arxiv.org/abs/1606.04474
"""

import abc
from typing import Any, NamedTuple

import tensorflow as tf


class Parameter(NamedTuple):
  """How one optimizee parameter is known to `Partition`'s predicates."""

  path: str  # unique within the problem, e.g. "layer_0/kernel"
  shape: tuple[int, ...]
  role: str  # "kernel", "bias" or "variable"

  @property
  def rank(self) -> int:
    return len(self.shape)


class Problem(abc.ABC):
  """A callable that returns losses, and a sampler of what it is called with.

  A subclass holds sizes and data, never optimizee parameters: those are plain
  tensors that the caller carries, because gradients have to flow through them.
  """

  # Whether XLA compiles the loss and its gradient in meta-training: faster, but not
  # for every operation, and its convolutions are slow on a CPU.
  jit_compile = False

  # Independent tasks, if more than one, that all params and all constants hold along
  # their first axis, and that draw nothing together from a step's seed. Called with
  # some of them, the problem returns their part of the loss; the parts add up.
  num_tasks = 1

  @abc.abstractmethod
  def init(self, seed: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
    """Draws a task.

    Args:
      seed: int32 tensor of shape [2].

    Returns:
      `(params, constants)`: fresh optimizee parameters, and whatever stays fixed
      while this task is optimized (a nest of tensors, possibly empty).
    """

  @abc.abstractmethod
  def __call__(
    self, params: list[tf.Tensor], constants: Any, seed: tf.Tensor
  ) -> tf.Tensor:
    """Returns the scalar loss f(theta); `seed` draws the mini-batch."""

  def task_losses(
    self, params: list[tf.Tensor], constants: Any, seed: tf.Tensor
  ) -> tf.Tensor:
    """Losses of the independent tasks that share one call; shape [num_tasks].

    Most problems hold a single task; `Quadratic` holds
    `batch_size` of them, and an evaluation reports each one by itself.
    """
    return tf.reshape(self(params, constants, seed), [1])

  def held_out(self, params: list[tf.Tensor], constants: Any) -> dict[str, tf.Tensor]:
    """Scalars on data that the loss never draws, e.g. loss and accuracy."""
    del params, constants
    return {}

  def parameters(self) -> list[Parameter]:
    """Describes the optimizee parameters in the order of `init`."""
    params, _ = self.init(tf.zeros([2], tf.int32))
    return [
      Parameter(f"param_{i}", tuple(p.shape), "variable") for i, p in enumerate(params)
    ]
