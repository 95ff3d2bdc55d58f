"""How an optimizer runs on the variables of a model: in blocks, each one call.

An optimizer whose coordinates are independent does not care which tensor holds
them. All tensors are then laid end to end and cut into equal blocks: a model of
many small layers costs no more calls than one of few large ones, and a step's
temporary memory is that of one block. Any other optimizer sees all tensors as they
are, in one call.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf.optimizers import Optimizer
from l2l_tf.optimizers.layout import Layout, flatten


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
      block_size: coordinates per call, at most, of a coordinate-wise optimizer; by
        default all.
      state_dtype: in which floating-point states are kept between steps; by default
        the optimizer's own.
    """
    self._optimizer = optimizer
    self._specs = list(specs)
    total = sum(spec.shape.num_elements() for spec in specs)
    is_cut = optimizer.is_coordinatewise and block_size and total
    count = -(-total // block_size) if is_cut else 1
    self._layout = Layout(specs, count)
    self._state_dtype = state_dtype
    self._state_spec: Any = None  # of one block, as the optimizer makes it
    # Compiled once for all blocks, which are alike.
    self._advance = tf.function(
      self._advance_block, jit_compile=optimizer.jit_compile, autograph=False
    )

  def initial_states(self) -> Iterator[list[tf.Tensor]]:
    """Yields each block's initial state, flat, in the types in which it is kept.

    It is made from shapes and types alone: a model that is built while its first step
    is traced has variables, but no values in them yet.
    """
    for block in self._split(self._filled([None] * len(self._specs))):
      state = self._optimizer.initial_state(block)
      self._state_spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, state)
      yield self._pack(state)

  @property
  def num_leaves(self) -> int:
    """Tensors in the state of one block, after `initial_states`."""
    return len(tf.nest.flatten(self._state_spec))

  def joined(self, states: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Returns the state as if there were one block: arrays [..., all coordinates]."""
    join = lambda parts: np.concatenate(parts, -1)[..., : self._layout.size]
    if not self._optimizer.is_coordinatewise:
      return list(states[0])
    return [join(x) if x[0].ndim else x[0] for x in zip(*states, strict=True)]

  def cut(self, leaves: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Returns the state of each block: the inverse of `joined`, padded with zeros."""
    if not self._optimizer.is_coordinatewise:
      return [list(leaves)]
    count, padding = self._layout.count, [(0, self._layout.padding)]
    pad = lambda x: np.pad(x, [(0, 0)] * (x.ndim - 1) + padding)
    split = lambda x: np.split(pad(x), count, -1) if x.ndim else [x] * count
    return [list(block) for block in zip(*map(split, leaves))]

  def step(
    self,
    grads: Sequence[tf.Tensor | None],
    states: Sequence[Sequence[tf.Variable]],
    params: Sequence[tf.Tensor],
    condition: tf.Tensor,
  ) -> list[tf.Tensor]:
    """Takes one step if `condition` holds.

    Args:
      grads: the gradient of every variable, of its shape. Where it is None, the
        state of a coordinate-wise optimizer stays; another one reads zeros.
      states: holds each block's state, and after the step the next one.
      params: the variables' values.
      condition: scalar; without it nothing changes, and all updates are zero.

    Returns:
      The update of every variable.
    """
    needs_params = not self._optimizer.reads_gradients_alone
    params = self._split(params) if needs_params else [None] * self._layout.count
    blocks = zip(self._split(self._filled(grads)), states, params, self._moving(grads))
    updates = []
    for grad, state, param, moving in blocks:
      values = [tf.convert_to_tensor(variable) for variable in state]
      update, values = self._advance(grad, values, param, moving, condition)
      for variable, value in zip(state, values, strict=True):
        variable.assign(value)
      updates.append(update)
    return self._join(updates)

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
    if not self._optimizer.is_coordinatewise:
      return self._optimizer.diagnostics(grads, self._unpack(states[0]))
    leaves = [self._per_variable(blocks) for blocks in zip(*states)]
    found = {}
    for group, indices in groups.items():
      flat = flatten([grads[i] for i in indices], self._layout.dtype)
      state = [_together([leaf[i] for i in indices]) for leaf in leaves]
      values = self._optimizer.diagnostics([flat], self._unpack(state))
      found |= {f"{group}/{name}": value for name, value in values.items()}
    return found

  def _per_variable(self, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Cuts one part of the state, given by block, into those of the variables."""
    if not blocks[0].shape.rank:
      return [blocks[0]] * len(self._specs)
    return self._layout.cut(tf.concat(blocks, axis=-1))

  def _filled(self, grads) -> list[tf.Tensor]:
    zeros = lambda spec: tf.zeros(spec.shape, spec.dtype)
    return [zeros(s) if g is None else g for g, s in zip(grads, self._specs)]

  def _moving(self, grads) -> list[tf.Tensor | None]:
    """Which coordinates of each block have a gradient; None where all do."""
    if not self._optimizer.is_coordinatewise or all(g is not None for g in grads):
      return [None] * self._layout.count
    ones = [tf.fill(s.shape, float(g is not None)) for g, s in zip(grads, self._specs)]
    return [tf.cast(block, tf.bool) for (block,) in self._split(ones)]

  def _advance_block(self, grads, packed, params, moving, condition):
    # Under a condition of its own: XLA then finishes a block before it begins the next
    # and moves the state in place. Otherwise it holds all blocks' temporaries at once.
    return tf.cond(
      condition,
      lambda: self._advanced(grads, packed, params, moving),
      lambda: ([tf.zeros_like(g) for g in grads], packed),
    )

  def _advanced(self, grads, packed, params, moving):
    updates, state = self._optimizer(grads, self._unpack(packed), params=params)
    next_packed = self._pack(state)
    if moving is not None:  # A state has its coordinates along the last axis.
      next_packed = [
        tf.where(moving, new, old) if new.shape.rank else new
        for new, old in zip(next_packed, packed)
      ]
    return [tf.cast(u, g.dtype) for u, g in zip(updates, grads)], next_packed

  def _pack(self, state: Any) -> list[tf.Tensor]:
    leaves = tf.nest.flatten(state)
    if self._state_dtype is None:
      return leaves
    return [tf.cast(x, self._state_dtype) if x.dtype.is_floating else x for x in leaves]

  def _unpack(self, packed: list[tf.Tensor]) -> Any:
    specs = tf.nest.flatten(self._state_spec)
    leaves = [tf.cast(x, spec.dtype) for x, spec in zip(packed, specs)]
    return tf.nest.pack_sequence_as(self._state_spec, leaves)

  def _split(self, tensors: Sequence[tf.Tensor]) -> list[list[tf.Tensor]]:
    if not self._optimizer.is_coordinatewise:
      return [list(tensors)]
    return [[block] for block in self._layout.split(tensors)]

  def _join(self, blocks: list[list[tf.Tensor]]) -> list[tf.Tensor]:
    if not self._optimizer.is_coordinatewise:
      return blocks[0]
    return self._layout.join([block for (block,) in blocks])


def _together(parts: Sequence[tf.Tensor]) -> tf.Tensor:
  return tf.concat(parts, axis=-1) if parts[0].shape.rank else parts[0]
