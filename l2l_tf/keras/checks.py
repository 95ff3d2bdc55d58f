"""Checks what `LearnedOptimizer` is given."""

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.optimizers import Optimizer
from l2l_tf.problems.keras_variables import path_of

_STATE_DTYPES = ("bfloat16", "float32", "float64")  # float16's range is too small


def check_arguments(nonfinite_gradients, mismatched_state, block_size, state_dtype):
  if nonfinite_gradients not in ("raise", "skip"):
    raise ValueError(
      f"nonfinite_gradients={nonfinite_gradients!r} is unknown; choose 'raise' or"
      " 'skip'."
    )
  if mismatched_state not in ("raise", "warn"):
    raise ValueError(
      f"mismatched_state={mismatched_state!r} is unknown; choose 'raise' or 'warn'."
    )
  if block_size is not None and not (isinstance(block_size, int) and block_size > 0):
    raise ValueError(
      f"block_size={block_size!r} must be a positive integer, or None for one block."
    )
  if state_dtype not in (None, *_STATE_DTYPES):
    raise ValueError(
      f"state_dtype={state_dtype!r} is unknown; choose one of"
      f" {', '.join(map(repr, _STATE_DTYPES))}, or None."
    )


def check_total_steps(optimizer: Optimizer, total_steps: Any) -> None:
  if total_steps is None:
    return
  if not optimizer.has_horizon:
    raise ValueError(
      f"{type(optimizer).__name__} has no schedule, so total_steps={total_steps!r}"
      " would do nothing; leave it out."
    )
  is_number = isinstance(total_steps, numbers.Integral)
  if not is_number or isinstance(total_steps, bool) or not 1 <= total_steps < 2**31:
    raise ValueError(
      f"total_steps={total_steps!r} must be a positive whole number: the steps that the"
      " training will have, batches an epoch times epochs."
    )


def check_variables(variables: Sequence[keras.Variable]) -> None:
  for v in variables:
    if not tf.as_dtype(v.dtype).is_floating:
      raise ValueError(
        f"LearnedOptimizer cannot move {path_of(v)!r} of type {v.dtype}; its variables"
        " must be of floating point. Make this one not trainable."
      )
    if not tf.TensorShape(v.shape).is_fully_defined():
      raise ValueError(
        f"LearnedOptimizer cannot keep a state for {path_of(v)!r} of shape"
        f" {v.shape}; its variables must have fixed shapes."
      )
