"""Coordinates of many tensors laid end to end, and cut into equal blocks.

An optimizer whose coordinates are independent does not care which tensor holds
them, or how many it is given at once: blocks whose work stays in the cache are
faster than all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from l2l_tf import devices, dtypes
from l2l_tf.optimizers import base

_SIZE = 1 << 13  # coordinates; the fastest of 2^12 to 2^14 on two cores
_MOST_IN_A_PROGRAM = 8  # XLA compiles each of them


class Layout:
  """Where the entries of some tensors lie."""

  def __init__(self, specs: Sequence[tf.TensorSpec], count: int):
    """Cuts into `count` blocks, the last one padded with zeros."""
    self._specs = list(specs)
    self._sizes = [spec.shape.num_elements() for spec in specs]
    self.size = sum(self._sizes)
    self.count = count
    self.padding = -(-self.size // count) * count - self.size
    self.dtype = dtypes.of_sum(specs)

  def split(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns blocks [B] of tensors like `specs`."""
    padding = tf.zeros([self.padding], self.dtype)
    return tf.split(flatten([*tensors, padding], self.dtype), self.count)

  def join(self, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The inverse of `split`."""
    parts = self.cut(tf.concat(blocks, axis=0))
    return [
      tf.cast(tf.reshape(x, spec.shape), spec.dtype)
      for x, spec in zip(parts, self._specs)
    ]

  def cut(self, whole: tf.Tensor) -> list[tf.Tensor]:
    """Cuts [..., all coordinates and the padding] into those of each tensor."""
    return tf.split(whole, [*self._sizes, self.padding], axis=-1)[:-1]


class Blockwise:
  """A coordinate-wise optimizer's steps, block by block."""

  def __init__(
    self,
    optimizer: base.Optimizer,
    step: Callable,
    params: Sequence[tf.Tensor],
    in_one_program: bool,
  ):
    """Lays out the coordinates of `params`.

    Args:
      optimizer: of which each coordinate's update depends on its own gradients alone.
      step: its call, perhaps compiled.
      params: tensors like the gradients.
      in_one_program: whether XLA compiles all blocks as one program.
    """
    self._optimizer, self._step = optimizer, step
    specs = [tf.TensorSpec(p.shape, p.dtype) for p in params]
    size = sum(spec.shape.num_elements() for spec in specs)
    count = 1 if devices.on_gpu() else max(1, -(-size // _SIZE))
    count = min(count, _MOST_IN_A_PROGRAM) if in_one_program else count
    self._layout = Layout(specs, count)

  def is_needed(self, state: Any) -> bool:
    """Whether there is more than one block, and `state` can be cut into theirs."""
    if self._layout.count == 1:
      return False
    # A rule that keeps a moment like each parameter cannot: its state is no vector's.
    vector = tf.zeros([self._layout.size], self._layout.dtype)
    kinds = lambda nest: [(x.shape, x.dtype) for x in tf.nest.flatten(nest)]
    return kinds(self._optimizer.initial_state([vector])) == kinds(state)

  def split(self, state: Any) -> list[Any]:
    """Cuts the optimizer's state into that of each block."""
    leaves = [self._split_leaf(x) for x in tf.nest.flatten(state)]
    return [tf.nest.pack_sequence_as(state, block) for block in zip(*leaves)]

  def join(self, states: Sequence[Any]) -> Any:
    """The inverse of `split`."""
    return tf.nest.map_structure(self._join_leaf, *states)

  def __call__(self, grads, states, params=None, loss=None):
    """An optimizer's step, whose state is one for each block."""
    del params, loss  # Coordinate-wise optimizers read neither.
    blocks = zip(self._layout.split(grads), states)
    results = [self._step([grad], state) for grad, state in blocks]
    updates = self._layout.join([update for (update,), _ in results])
    return updates, [state for _, state in results]

  def _split_leaf(self, x: tf.Tensor) -> list[tf.Tensor]:
    if not x.shape.rank:
      return [x] * self._layout.count
    padded = tf.pad(x, [[0, 0]] * (x.shape.rank - 1) + [[0, self._layout.padding]])
    return tf.split(padded, self._layout.count, axis=-1)

  def _join_leaf(self, *blocks: tf.Tensor) -> tf.Tensor:
    if not blocks[0].shape.rank:
      return blocks[0]
    return tf.concat(blocks, axis=-1)[..., : self._layout.size]


def flatten(tensors: Sequence[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
  """All entries as one vector."""
  return tf.concat([tf.cast(tf.reshape(x, [-1]), dtype) for x in tensors], axis=0)
