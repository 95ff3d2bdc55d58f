"""Saves tests what TensorFlow does for every operation that is traced.

What the graphs compute stays the same, bit for bit.
"""

import functools
import typing


def make() -> None:
  """Changes TensorFlow, which has to be imported already, in this process."""
  _record_one_stack_for_all_operations()
  _look_for_resources_only_where_there_are_some()
  _list_allowed_types_only_for_errors()
  _convert_numbers_once()
  # What a protocol consists of does not change; Python 3.12 keeps it by itself.
  typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)


def _record_one_stack_for_all_operations() -> None:
  """Saves a tenth: TensorFlow notes where each operation was made, for errors."""
  from tensorflow.python.util import tf_stack

  stack = tf_stack.extract_stack()
  list(stack)  # Looks up names and lines now: XLA's own threads cannot.
  tf_stack.extract_stack = lambda stacklevel=1: stack


def _look_for_resources_only_where_there_are_some() -> None:
  """Saves some more: TensorFlow asks every operation which resources it touches."""
  from tensorflow.python.framework import auto_control_deps, dtypes

  touched = auto_control_deps._get_resource_inputs

  def touched_quickly(op):
    return touched(op) if any(t.dtype == dtypes.resource for t in op.inputs) else ()

  auto_control_deps._get_resource_inputs = touched_quickly


def _list_allowed_types_only_for_errors() -> None:
  """Saves a thirtieth: TensorFlow writes that list down for every input."""
  from tensorflow.python.framework import op_def_library

  check = op_def_library._SatisfiesTypeConstraint

  def check_quickly(dtype, attr_def, param_name):
    if dtype not in attr_def.allowed_values.list.type:
      check(dtype, attr_def, param_name)

  op_def_library._SatisfiesTypeConstraint = check_quickly


def _convert_numbers_once() -> None:
  """Saves a thirtieth: graphs consist of few different numbers."""
  from tensorflow.python.framework import tensor_util

  convert = tensor_util.make_tensor_proto
  # 1, 1.0 and True are equal, and so are 0.0 and -0.0; their texts are not.
  once = functools.cache(lambda kind, text, dtype: convert(kind(text), dtype))

  def convert_quickly(values, dtype=None, shape=None, **kwargs):
    if type(values) in (int, float) and shape is None:
      return once(type(values), repr(values), dtype)
    return convert(values, dtype, shape, **kwargs)

  tensor_util.make_tensor_proto = convert_quickly
