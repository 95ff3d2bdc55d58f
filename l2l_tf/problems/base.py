"""What a problem is: a distribution of optimization tasks.

Andrychowicz et al. 2016, section 2: an optimizer is judged by its expected
loss under a distribution of functions f. https://arxiv.org/abs/1606.04474
"""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import tensorflow as tf


class Parameter(NamedTuple):
  """Describes an optimizee parameter, for the predicates of `Partition`."""

  path: str  # unique within the problem, e.g. "layer_0/kernel"
  shape: tuple[int, ...]
  role: str  # "kernel", "bias" or "variable"

  @property
  def rank(self) -> int:
    return len(self.shape)


class Problem(abc.ABC):
  """A distribution of tasks: `init` draws one, and a call evaluates its loss.

  A subclass holds sizes and data, never optimizee parameters: those are plain
  tensors that the caller carries, because gradients have to flow through them.
  """

  # Whether XLA compiles the loss and its gradient in meta-training: faster, but not
  # for every operation, and its convolutions are slow on a CPU.
  jit_compile = False

  # Whether XLA compiles the loss and its gradient of each step by themselves, where it
  # does not compile the inner loop: on a CPU, a few small convolutions are faster so.
  jit_compile_steps = False

  # The number of independent tasks that are stacked along the first axis of all params
  # and all constants. If there are several, they share no draw from a step's seed, and
  # a call with only some of them returns their part of the loss; the parts add up.
  num_tasks = 1

  @abc.abstractmethod
  def init(self, seed: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
    """Draws a task.

    Args:
      seed: int32 tensor of shape [2].

    Returns:
      `(params, constants)`: fresh optimizee parameters, a list of tensors of any
      floating types; and whatever stays fixed while this task is optimized, a nest
      of tensors, possibly empty. Both may hold NumPy arrays, params may be a tuple and
      constants None; `draw` converts them before they are passed to a call.
    """

  @abc.abstractmethod
  def __call__(
    self, params: list[tf.Tensor], constants: Any, seed: tf.Tensor
  ) -> tf.Tensor:
    """Returns the scalar loss f(theta); `seed` draws the mini-batch."""

  def meta_loss(
    self, params: list[tf.Tensor], constants: Any, seed: tf.Tensor
  ) -> tf.Tensor:
    """Returns the scalar that meta-training minimizes at `params`; the loss by default.

    It may differ from the loss whose gradients the optimizer gets: it may be a loss on
    held-out data, or on the query set of a few-shot task.
    """
    return self(params, constants, seed)

  @property
  def has_meta_loss(self) -> bool:
    """Whether `meta_loss` may differ from the loss."""
    return type(self).meta_loss is not Problem.meta_loss

  def project(self, params: list[tf.Tensor], constants: Any) -> list[tf.Tensor]:
    """Projects `params` onto the constraint set; the identity by default.

    The inner loop calls it after every update: theta <- project(theta + update). The
    starting point is not projected.
    """
    del constants
    return params

  @property
  def is_constrained(self) -> bool:
    """Whether `project` may change params; meta-gradients then differentiate it."""
    return type(self).project is not Problem.project

  def task_losses(
    self, params: list[tf.Tensor], constants: Any, seed: tf.Tensor
  ) -> tf.Tensor:
    """Returns the losses of the independent tasks that share one call; [num_tasks].

    Most problems hold a single task; `Quadratic` holds `batch_size` of them, and an
    evaluation reports each one separately.
    """
    return tf.reshape(self(params, constants, seed), [1])

  def held_out(self, params: list[tf.Tensor], constants: Any) -> dict[str, tf.Tensor]:
    """Returns scalars on data that the loss never draws, e.g. loss and accuracy."""
    del params, constants
    return {}

  def data_sources(self) -> list[tuple[str, Sequence[Any]]]:
    """Returns the data that the losses depend on, so that others can be told apart.

    Returns:
      For each kind of data its name, such as "train", and its arrays, the first of
      which has an entry for each example. Empty if code alone makes the tasks.
    """
    return []

  def parameters(self) -> list[Parameter]:
    """Describes the optimizee parameters in the order of `init`."""
    params, _ = draw(self, tf.zeros([2], tf.int32))
    return [
      Parameter(f"param_{i}", tuple(p.shape), "variable") for i, p in enumerate(params)
    ]


def draw(problem: Problem, seed: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
  """Calls `problem.init`, and checks what it returns.

  Returns:
    Its parameters as a list of tensors, and its constants, () in place of None, with
    tensors in place of NumPy arrays.

  Raises:
    ValueError: unless it returned a pair whose first entry is a list or a tuple of
      floating-point tensors or arrays, at least one.
  """
  drawn = problem.init(seed)
  if not isinstance(drawn, (tuple, list)) or len(drawn) != 2:
    _refuse(problem, f"{_described(drawn)} instead of a pair")
  params, constants = drawn
  if not isinstance(params, (tuple, list)) or hasattr(params, "_fields"):
    _refuse(problem, f"its parameters as {_described(params)}")
  if not params:
    _refuse(problem, "no parameters")
  params = [_parameter(problem, i, x) for i, x in enumerate(params)]
  is_numpy = lambda x: isinstance(x, (np.ndarray, np.generic))
  to_tensor = lambda x: tf.convert_to_tensor(x) if is_numpy(x) else x
  constants = () if constants is None else tf.nest.map_structure(to_tensor, constants)
  return params, constants


def stackable(problem: Problem, constants: Any) -> Any:
  """Returns a task's constants as tensors, to be stacked with those of other tasks.

  Raises:
    ValueError: for one that is neither a tensor nor a number.
  """
  for x in tf.nest.flatten(constants):
    if not tf.is_tensor(x) and not isinstance(x, (bool, int, float)):
      raise ValueError(
        f"{type(problem).__name__}.init returned the constant {x!r:.50}, which"
        " cannot be stacked for a batch of tasks; return a nest of tensors, or train"
        " with meta_batch_size=1."
      )
  return tf.nest.map_structure(tf.convert_to_tensor, constants)


def _parameter(problem: Problem, index: int, value: Any) -> tf.Tensor:
  try:
    # A list of numbers counts as a nest, not as an array.
    tensor = None if tf.nest.is_nested(value) else tf.convert_to_tensor(value)
  except (TypeError, ValueError):
    tensor = None
  if tensor is None:
    _refuse(problem, f"parameter {index} as {_described(value)}")
  if not tensor.dtype.is_floating:
    _refuse(problem, f"parameter {index} of type {tensor.dtype.name}")
  return tensor


def _described(value: Any) -> str:
  if tf.is_tensor(value):
    return f"a tensor of shape {value.shape}"
  if type(value) in (tuple, list, dict):
    return f"a {type(value).__name__} of {len(value)}"
  return "None" if value is None else f"a value of type {type(value).__name__}"


def _refuse(problem: Problem, came: str) -> NoReturn:
  raise ValueError(
    f"{type(problem).__name__}.init returned {came}; it must return (params,"
    " constants), where params is a list of floating-point tensors, at least one, and"
    " no dict or deeper nest (constants may be any)."
  )
