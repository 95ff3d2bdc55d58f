"""A coordinate-wise optimizer that moves a block of coordinates at a time.

For a coordinate-wise optimizer it makes no difference which tensor a coordinate belongs
to, or how many coordinates share a call. All tensors are concatenated and cut into
equal blocks: blocks that fit the cache are faster than all coordinates at once, a
step's temporary memory is that of one block, and many small layers cost no more calls
than a few large ones.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from l2l_tf import dtypes, registry
from l2l_tf.optimizers import base
from l2l_tf.optimizers.layout import Layout, flatten
from l2l_tf.optimizers.traits import COORDINATE, LOSS, PARAMETERS
from l2l_tf.optimizers.wrapper import Wrapper

# Moves one block: its index, gradients [B], state, parameters [B] or None, and the loss
# to its updates [B] and its next state.
StepBlock = Callable[..., tuple[tf.Tensor, Any]]


@registry.register
class Blocked(Wrapper):
  """Runs a coordinate-wise optimizer block by block; the updates are the same.

  The state is a list, the inner optimizer's state of each block.

  >>> optimizer = Blocked(Adam(0.01), size=4096)
  >>> theta = [tf.ones([100, 100])]
  >>> updates, state = optimizer(theta, optimizer.initial_state(theta))
  """

  def __init__(self, optimizer: base.Optimizer, size: int | None):
    """Wraps an optimizer.

    Args:
      optimizer: whose `coupling` is COORDINATE.
      size: the most coordinates of a block; None for one block.

    Raises:
      ValueError: for another coupling, or a size below one.
    """
    super().__init__(optimizer)
    if optimizer.coupling != COORDINATE:
      raise ValueError(
        f"Blocked got {type(optimizer).__name__}, whose coupling is"
        f" {optimizer.coupling.name}; only an optimizer that treats each coordinate by"
        " itself can be cut into blocks."
      )
    if size is not None and size < 1:
      raise ValueError(f"Blocked got size={size}; a block has at least one coordinate.")
    self._size = size

  @property
  def config(self) -> dict[str, Any]:
    return {"optimizer": self.inner, "size": self._size}

  def rewrapped(self, optimizer):
    return Blocked(optimizer, self._size)

  def layout(self, tensors: Sequence[Any]) -> Layout:
    """Returns how tensors or specs like the parameters are cut."""
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in tensors]
    total = sum(spec.shape.num_elements() for spec in specs)
    count = -(-total // self._size) if self._size and total else 1
    return Layout(specs, count)

  def initial_state(self, params):
    if not params:
      return [self.inner.initial_state(params)]
    return [self.inner.initial_state([x]) for x in self.layout(params).split(params)]

  def __call__(self, grads, state, params=None, loss=None):
    return self.step(self._step_block, grads, state, params, loss)

  def step(
    self,
    step_block: StepBlock,
    grads: list[tf.Tensor],
    state: list[Any],
    params: list[tf.Tensor] | None = None,
    loss: tf.Tensor | None = None,
  ) -> tuple[list[tf.Tensor], list[Any]]:
    """Moves every block by `step_block`, in place of the inner optimizer's call."""
    if not grads:
      return [], state
    layout = self.layout(grads)
    params = layout.split(params) if PARAMETERS in self.reads else [None] * layout.count
    loss = loss if LOSS in self.reads else None
    blocks = zip(layout.split(grads), state, params, strict=True)
    results = [step_block(i, *block, loss) for i, block in enumerate(blocks)]
    return layout.join([u for u, _ in results]), [
      next_state for _, next_state in results
    ]

  def with_total_steps(self, state, total_steps):
    return [self.inner.with_total_steps(block, total_steps) for block in state]

  def decay_rate(self, state):
    return self.inner.decay_rate(state[0])

  def record(self, grads):
    return self.inner.record([flatten(grads, dtypes.of_sum(grads))])

  def sequence_gradient(self, recorded, state, loss_weights):
    # Back-propagation cuts it again, into blocks of the size that suits it.
    size = tf.nest.flatten(recorded)[0].shape[-1]
    return self.inner.sequence_gradient(recorded, joined(state, size), loss_weights)

  def diagnostics(self, grads, state):
    flat = flatten(grads, dtypes.of_sum(grads))
    return self.inner.diagnostics([flat], joined(state, flat.shape[0]))

  def _step_block(self, index, grads, state, params, loss):
    del index
    params = None if params is None else [params]
    (update,), state = self.inner([grads], state, params=params, loss=loss)
    return update, state


def joined(states: Sequence[Any], size: int) -> Any:
  """Returns the state of all coordinates together, given that of each block.

  Args:
    states: each a nest of tensors [..., B] and scalars.
    size: the number of coordinates, without padding.
  """
  join = lambda *parts: (
    tf.concat(parts, axis=-1)[..., :size] if parts[0].shape.rank else parts[0]
  )
  return tf.nest.map_structure(join, *states) if len(states) > 1 else states[0]


def cut(state: Any, count: int) -> list[Any]:
  """Cuts the state of all coordinates into those of `count` blocks.

  The inverse of `joined`; the last block is padded with zeros.
  """

  def parts(x):
    if not x.shape.rank:
      return [x] * count
    padding = -x.shape[-1] % count
    return tf.split(
      tf.pad(x, [(0, 0)] * (x.shape.rank - 1) + [(0, padding)]), count, -1
    )

  leaves = [parts(x) for x in tf.nest.flatten(state)]
  return [tf.nest.pack_sequence_as(state, [x[i] for x in leaves]) for i in range(count)]
