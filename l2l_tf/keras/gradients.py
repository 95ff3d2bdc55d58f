"""Prepares the gradients that a Keras optimizer is given for a step."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.meta import unroll
from l2l_tf.problems.keras_variables import path_of


def distinct(variables: Sequence[Any], key: Callable[[Any], Hashable]) -> list[Any]:
  """Returns each variable once, in the order of first occurrence."""
  found: dict[Hashable, Any] = {}
  for variable in variables:
    found.setdefault(key(variable), variable)
  return list(found.values())


def summed(
  grads: Sequence[Any], variables: Sequence[Any], key: Callable[[Any], Hashable]
) -> tuple[list[Any], list[Any]]:
  """Sums the gradients of each variable that is listed more than once.

  Args:
    grads: a tensor, IndexedSlices, or None for each variable.
    variables: Keras or TensorFlow variables.
    key: maps a variable to what identifies it.

  Returns:
    The gradients and the variables, each of them once.
  """
  grads, variables = list(grads), list(variables)
  unique = distinct(variables, key)
  if len(unique) == len(variables):
    return grads, variables
  parts: dict[Hashable, list[Any]] = {key(v): [] for v in unique}
  for grad, variable in zip(grads, variables):
    if grad is not None:
      parts[key(variable)].append(dense(grad, variable))
  add = lambda given: tf.add_n(given) if given else None
  return [add(parts[key(v)]) for v in unique], unique


def dense(grad: Any, variable: Any) -> tf.Tensor:
  """Returns a gradient as a tensor of its variable's shape and type.

  Raises:
    ValueError: if the gradient has another shape.
  """
  shape = tf.TensorShape(variable.shape)
  if not isinstance(grad, tf.IndexedSlices):
    grad = tf.convert_to_tensor(grad)
  if not grad.shape.is_compatible_with(shape):
    raise ValueError(
      f"The gradient of {path_of(variable)!r} has shape {grad.shape}, but the variable"
      f" has shape {tuple(variable.shape)}; give each variable the gradient of the loss"
      " with respect to it."
    )
  return tf.cast(unroll.dense(grad, shape), variable.dtype)
