"""The saved state of a `LearnedOptimizer`, as plain arrays, and its file format.

Saved state does not depend on how the optimizer was run: a coordinate-wise state is
stored by coordinate, not by block, and every part is identified by the variable of the
model that it belongs to.
"""

import json
import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.keras.blocks import Blocks
from l2l_tf.problems.keras_variables import path_of

_HEADER = "header"
_SCALARS = ("iteration", "learning_rate", "skipped_steps")
_SLOTS = ("average", "accumulator")  # arrays that Keras keeps for each variable
_LEGACY_HEADER = "shapes"  # of version 0.1.0


class VariableSpec(NamedTuple):
  """A variable of the model, as a file names it."""

  path: str
  shape: tuple[int, ...]

  @property
  def size(self) -> int:
    return int(np.prod(self.shape, dtype=np.int64))


class SavedState(NamedTuple):
  """The state of a `LearnedOptimizer` in plain arrays."""

  kind: str | None  # class name of the wrapped optimizer; None if unknown
  config: dict[str, Any] | None  # its constructor's arguments, as JSON; None if unknown
  variables: list[VariableSpec]  # the model's; empty before the first step
  scalars: dict[str, np.ndarray]  # some of `_SCALARS`
  slots: dict[str, list[np.ndarray | None]]  # some of `_SLOTS`, by variable
  state: list[np.ndarray]  # [..., all coordinates] if coordinate-wise, else as it is
  weights: list[np.ndarray]  # phi


class StateVariables(NamedTuple):
  """Where a `LearnedOptimizer` keeps its state."""

  kind: str
  config: dict[str, Any] | None
  model: Sequence[keras.Variable | tf.Variable]  # variables that it was built for
  scalars: dict[str, keras.Variable]
  slots: dict[str, list[keras.Variable | None]]
  blocks: Blocks | None  # None before it is built
  states: list[list[keras.Variable]]  # by block
  weights: Sequence[tf.Variable]

  def snapshot(self) -> SavedState:
    """Returns the values."""
    value = lambda variable: None if variable is None else variable.numpy()
    states = [[value(v) for v in block] for block in self.states]
    return SavedState(
      self.kind,
      self.config,
      [VariableSpec(path_of(v), tuple(v.shape)) for v in self.model],
      {name: value(v) for name, v in self.scalars.items()},
      {name: [value(v) for v in slot] for name, slot in self.slots.items()},
      self.blocks.joined(states) if self.blocks else [],
      [value(v) for v in self.weights],
    )

  def assign(self, saved: SavedState) -> None:
    """Sets the variables to the arrays in `saved`, which has one for each."""
    pairs = [(v, saved.scalars[name]) for name, v in self.scalars.items()]
    for name, slot in self.slots.items():
      pairs += zip(slot, saved.slots[name], strict=True)
    cut = self.blocks.cut(saved.state) if self.blocks else []
    for block, values in zip(self.states, cut, strict=True):
      pairs += zip(block, values, strict=True)
    pairs += zip(self.weights, saved.weights, strict=True)
    for variable, value in pairs:
      if variable is not None:
        variable.assign(value)


class ForeignStateError(ValueError):
  """The file was written by another kind of optimizer."""


def write(saved: SavedState, store: MutableMapping[str, np.ndarray]) -> None:
  """Writes `saved` into a Keras store, an array per key."""
  header = {"kind": saved.kind, "config": saved.config, "variables": saved.variables}
  store[_HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
  for name, value in saved.scalars.items():
    store[name] = value
  for name, arrays in {
    **saved.slots,
    "state": saved.state,
    "weight": saved.weights,
  }.items():
    for i, array in enumerate(arrays):
      if array is not None:
        store[f"{name}_{i}"] = array


def read(
  store: Mapping[str, np.ndarray],
  num_leaves: int | None,
  has_rate: bool,
  uses_ema: bool,
) -> SavedState:
  """Reads what `write` wrote, or the format of version 0.1.0.

  Args:
    store: arrays by key.
    num_leaves: number of tensors in one block's state, if the optimizer that reads is
      coordinate-wise; None for other optimizers, which have one block. This and the
      arguments below interpret the older format, which does not record them.
    has_rate: whether the learning rate is a variable.
    uses_ema: whether the optimizer keeps moving averages.

  Raises:
    ForeignStateError: if the store holds neither format.
  """
  arrays = {key: np.asarray(store[key]) for key in store.keys()}  # noqa: SIM118
  if _HEADER in arrays:
    return _read(arrays)
  if _LEGACY_HEADER in arrays:
    return _read_legacy(arrays, num_leaves, has_rate, uses_ema)
  raise ForeignStateError("the file holds the state of another kind of optimizer")


def _read(arrays: Mapping[str, np.ndarray]) -> SavedState:
  header = json.loads(arrays[_HEADER].tobytes())
  variables = [VariableSpec(path, tuple(shape)) for path, shape in header["variables"]]
  slots = {}
  for name in _SLOTS:
    found = [arrays.get(f"{name}_{i}") for i in range(len(variables))]
    if any(array is not None for array in found):
      slots[name] = found
  return SavedState(
    header["kind"],
    header["config"],
    variables,
    {name: arrays[name] for name in _SCALARS if name in arrays},
    slots,
    _numbered(arrays, "state"),
    _numbered(arrays, "weight"),
  )


def _numbered(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
  count = sum(re.fullmatch(rf"{name}_\d+", key) is not None for key in arrays)
  return [arrays[f"{name}_{i}"] for i in range(count)]


def _read_legacy(arrays, num_leaves, has_rate, uses_ema) -> SavedState:
  """Reads Keras's list of variables: scalars, slots, skipped steps, then the blocks."""
  shapes = json.loads(arrays[_LEGACY_HEADER].tobytes())
  variables = [VariableSpec("", tuple(shape)) for shape in shapes]
  values = [arrays[str(i)] for i in range(sum(key.isdecimal() for key in arrays))]
  names = list(_SCALARS[: 1 + has_rate])
  scalars, values = dict(zip(names, values)), values[len(names) :]
  weights = _numbered(arrays, "weight")
  if not variables:
    return SavedState(None, None, [], scalars, {}, [], weights)
  is_count = [x.shape == () and np.issubdtype(x.dtype, np.integer) for x in values]
  end = is_count.index(True)
  scalars["skipped_steps"] = values[end]
  slots, count = {}, len(variables)
  kinds = _SLOTS if uses_ema else _SLOTS[1:]
  for i, name in enumerate(kinds[: end // count]):
    slots[name] = values[i * count : (i + 1) * count]
  size = sum(v.size for v in variables)
  state = _joined(values[end + 1 :], num_leaves, size)
  return SavedState(None, None, variables, scalars, slots, state, weights)


def _joined(arrays, num_leaves: int | None, size: int) -> list[np.ndarray]:
  """Joins the blocks of a coordinate-wise state."""
  if not num_leaves or len(arrays) % num_leaves:
    return list(arrays)
  leaves = [arrays[k::num_leaves] for k in range(num_leaves)]
  join = lambda blocks: np.concatenate(blocks, -1)[..., :size]
  return [join(blocks) if blocks[0].ndim else blocks[0] for blocks in leaves]
