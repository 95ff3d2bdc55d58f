"""How an optimizer runs on the variables of a model.

A coordinate-wise optimizer runs as `Blocked`; any other one gets all tensors as they
are, in one call, which counts as one block, but may itself be made in parts. In
addition, a step is skipped if a gradient is not finite, variables without a gradient
keep their state, and the state may be stored in another type.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.meta import execution
from l2l_tf.optimizers import PARAMETERS, TENSOR, Blocked, Optimizer, blocked
from l2l_tf.optimizers.layout import Layout, flatten
from l2l_tf.optimizers.parts import InParts


class Blocks:
  """The variables of one model, laid out for one optimizer."""

  def __init__(
    self,
    optimizer: Optimizer,
    specs: Sequence[tf.TensorSpec],
    block_size: int | None = None,
    state_dtype: str | None = None,
  ):
    """Lays out the variables.

    Args:
      optimizer: learned or hand-designed.
      specs: shape and type of every variable.
      block_size: the most coordinates per call of an optimizer that can be cut; by
        default all.
      state_dtype: type in which floating-point states are stored between steps; by
        default the optimizer's own.
    """
    self._specs = list(specs)
    size = sum(spec.shape.num_elements() for spec in specs)
    self._running = execution.blocked(optimizer, block_size, size)
    self._is_cut = isinstance(self._running, Blocked)
    self._optimizer = optimizer if self._is_cut else self._running
    self._state_dtype = state_dtype
    # Compiled once for all blocks, which are alike.
    self._advance = tf.function(
      self._advance_block, jit_compile=self._optimizer.jit_compile, autograph=False
    )
    block = self._layout.split(self._zeros())[:1] if self._is_cut else self._zeros()
    state = self._optimizer.initial_state(block)
    self._state_spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, state)

  def initial_states(self) -> list[list[tf.Tensor]]:
    """Returns each block's initial state, flat, in the types in which it is kept.

    It is made from shapes and types alone: a model that is built while its first step
    is traced has variables, but no values in them yet.
    """
    states = self._states_of(self._running.initial_state(self._zeros()))
    return [self._pack(state) for state in states]

  @property
  def ownership(self) -> list[int] | None:
    """How the parts of the state belong to the variables.

    For an optimizer whose coupling is TENSOR, and in whose state every list with an
    entry for each variable holds what belongs to that variable.

    Returns:
      For every part of the state 0 if it belongs to the whole model; or, for a list
      with an entry for each variable, the number of parts of an entry. None if the
      state is cut into blocks, or belongs to the whole model.
    """
    if self._is_cut or self._optimizer.coupling != TENSOR:
      return None
    found = _ownership(self._state_spec, [spec.shape for spec in self._specs])
    return found if any(found) else None

  def with_total_steps(
    self, states: Sequence[Sequence[tf.Tensor]], total_steps: int
  ) -> list[list[tf.Tensor]]:
    """Returns each block's state, told how many steps there will be."""
    told = lambda state: self._optimizer.with_total_steps(state, total_steps)
    return [self._pack(told(self._unpack(list(state)))) for state in states]

  def decay_rate(self, states: Sequence[Sequence[tf.Tensor]]) -> float | tf.Tensor:
    """Returns the optimizer's factor on a weight decay at this step."""
    return self._optimizer.decay_rate(self._unpack(list(states[0])))

  def joined(self, states: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Returns the state as if there were one block: arrays [..., all coordinates]."""
    if not self._is_cut:
      return self._joined_parts(states[0])
    blocks = [[tf.convert_to_tensor(x) for x in state] for state in states]
    return [x.numpy() for x in blocked.joined(blocks, self._layout.size)]

  def cut(self, leaves: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Returns the state of each block: the inverse of `joined`."""
    if not self._is_cut:
      return [self._divided(leaves)]
    whole = [tf.convert_to_tensor(x) for x in leaves]
    return [[x.numpy() for x in b] for b in blocked.cut(whole, self._layout.count)]

  def step(
    self,
    grads: Sequence[tf.Tensor | None],
    states: Sequence[Sequence[tf.Variable]],
    params: Sequence[tf.Tensor],
    loss: tf.Tensor | None,
    condition: tf.Tensor,
    rate: tf.Tensor,
  ) -> list[tf.Tensor]:
    """Takes one step if `condition` holds.

    Args:
      grads: the gradient of every variable, of its shape. Where it is None, the
        variable's state stays, if the optimizer has one for each variable or each
        coordinate; another one reads zeros.
      states: holds each block's state, and after the step the next one.
      params: the variables' values.
      loss: scalar, for an optimizer that reads it.
      condition: scalar; without it nothing changes, and all updates are zero.
      rate: scalar, multiplies the updates.

    Returns:
      The update of every variable.
    """
    moving, filled = self._moving(grads), self._filled(grads)
    resting = self._resting(grads)

    def advance(i, grads, state, params, loss):
      values = [tf.convert_to_tensor(variable) for variable in state]
      update, values = self._advance(
        grads, values, params, loss, moving[i], condition, rate
      )
      for k, (variable, value) in enumerate(zip(state, values, strict=True)):
        if k not in resting:
          variable.assign(value)
      return update, state

    if self._is_cut:
      return self._running.step(advance, filled, states, params, loss)[0]
    params = list(params) if PARAMETERS in self._optimizer.reads else None
    return advance(0, filled, states[0], params, loss)[0]

  def diagnostics(
    self,
    grads: Sequence[tf.Tensor | None],
    states: Sequence[Sequence[tf.Tensor]],
    groups: Mapping[str, Sequence[int]],
  ) -> dict[str, tf.Tensor]:
    """Returns the optimizer's diagnostics, of every group if it is coordinate-wise.

    Args:
      grads: as in `step`.
      states: the values of each block's state.
      groups: positions of variables, by the group's name.

    Returns:
      Scalars by "<group>/<name>", or by "<name>" of all variables together.
    """
    grads = self._filled(grads)
    if not self._is_cut:
      return self._optimizer.diagnostics(grads, self._unpack(states[0]))
    leaves = [self._per_variable(blocks) for blocks in zip(*states)]
    found = {}
    for group, indices in groups.items():
      flat = flatten([grads[i] for i in indices], self._layout.dtype)
      state = [_together([leaf[i] for i in indices]) for leaf in leaves]
      values = self._optimizer.diagnostics([flat], self._unpack(state))
      found |= {f"{group}/{name}": value for name, value in values.items()}
    return found

  def _joined_parts(self, leaves: Sequence[np.ndarray]) -> list[np.ndarray]:
    if not isinstance(self._running, InParts):
      return list(leaves)
    tensors = [tf.convert_to_tensor(x) for x in leaves]
    state = tf.nest.pack_sequence_as(self._state_spec, tensors)
    return [x.numpy() for x in tf.nest.flatten(self._running.joined(state))]

  def _divided(self, leaves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The inverse of `_joined_parts`."""
    if not isinstance(self._running, InParts):
      return list(leaves)
    tensors = [tf.convert_to_tensor(x) for x in leaves]
    state = tf.nest.pack_sequence_as(self._running.inner.divides(), tensors)
    return [x.numpy() for x in tf.nest.flatten(self._running.divided(state))]

  @property
  def _layout(self) -> Layout:
    return self._running.layout(self._specs)

  def _states_of(self, state: Any) -> list[Any]:
    return state if self._is_cut else [state]

  def _per_variable(self, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Cuts one part of the state, given by block, into those of the variables."""
    if not blocks[0].shape.rank:
      return [blocks[0]] * len(self._specs)
    return self._layout.cut(tf.concat(blocks, axis=-1))

  def _zeros(self) -> list[tf.Tensor]:
    return [tf.zeros(spec.shape, spec.dtype) for spec in self._specs]

  def _filled(self, grads) -> list[tf.Tensor]:
    zeros = lambda spec: tf.zeros(spec.shape, spec.dtype)
    return [zeros(s) if g is None else g for g, s in zip(grads, self._specs)]

  def _moving(self, grads) -> list[tf.Tensor | None]:
    """Which coordinates of each block have a gradient; None where all do."""
    if not self._is_cut:
      return [None]
    if all(g is not None for g in grads):
      return [None] * self._layout.count
    ones = [tf.fill(s.shape, float(g is not None)) for g, s in zip(grads, self._specs)]
    return [tf.cast(block, tf.bool) for block in self._layout.split(ones)]

  def _resting(self, grads) -> set[int]:
    """Which parts of the state belong to a variable without a gradient."""
    if all(g is not None for g in grads) or self.ownership is None:
      return set()
    owners = []
    for size in self.ownership:
      owners += [i for i in range(len(grads)) for _ in range(size)] if size else [None]
    return {k for k, i in enumerate(owners) if i is not None and grads[i] is None}

  def _advance_block(self, grads, packed, params, loss, moving, condition, rate):
    # Under a condition of its own: XLA then finishes a block before it begins the next
    # and moves the state in place. Otherwise it holds all blocks' temporaries at once.
    return tf.cond(
      condition,
      lambda: self._advanced(grads, packed, params, loss, moving, rate),
      lambda: (tf.nest.map_structure(tf.zeros_like, grads), packed),
    )

  def _advanced(self, grads, packed, params, loss, moving, rate):
    one = lambda x: x if x is None or isinstance(x, list) else [x]
    updates, state = self._optimizer(
      one(grads), self._unpack(packed), params=one(params), loss=loss
    )
    updates = [
      tf.cast(rate, g.dtype) * tf.cast(u, g.dtype) for u, g in zip(updates, one(grads))
    ]
    next_packed = self._pack(state)
    if moving is not None:  # A state has its coordinates along the last axis.
      next_packed = [
        tf.where(moving, new, old) if new.shape.rank else new
        for new, old in zip(next_packed, packed)
      ]
    return updates if isinstance(grads, list) else updates[0], next_packed

  def _pack(self, state: Any) -> list[tf.Tensor]:
    return [tf.cast(x, self._kept(x.dtype)) for x in tf.nest.flatten(state)]

  def _kept(self, dtype: tf.DType) -> tf.DType:
    """Returns the type of the variable in which a part of the state is kept."""
    if dtype.is_floating:
      return self._state_dtype or dtype
    # TensorFlow holds variables of int32 in the CPU's memory, where a step compiled for
    # a GPU must not read them.
    return tf.int64 if dtype == tf.int32 else dtype

  def _unpack(self, packed: list[tf.Tensor]) -> Any:
    specs = tf.nest.flatten(self._state_spec)
    leaves = [tf.cast(x, spec.dtype) for x, spec in zip(packed, specs)]
    return tf.nest.pack_sequence_as(self._state_spec, leaves)


def _ownership(node: Any, shapes: Sequence[tf.TensorShape]) -> list[int]:
  """Returns for a nest of specs what `Blocks.ownership` describes."""
  if isinstance(node, list) and len(node) == len(shapes):
    entries = [tf.nest.flatten(entry) for entry in node]
    is_part = lambda x, shape: shape[: x.shape.rank] == x.shape
    fits = all(is_part(x, s) for entry, s in zip(entries, shapes) for x in entry)
    if fits and len({len(entry) for entry in entries}) == 1:
      return [len(entries[0])]
  if isinstance(node, dict):
    node = [node[key] for key in sorted(node)]  # as tf.nest flattens it
  if isinstance(node, (list, tuple)):
    return [k for child in node for k in _ownership(child, shapes)]
  return [0]


def _together(parts: Sequence[tf.Tensor]) -> tf.Tensor:
  return tf.concat(parts, axis=-1) if parts[0].shape.rank else parts[0]
