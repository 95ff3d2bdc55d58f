"""An optimizer whose step XLA compiles."""

from typing import Any

import tensorflow as tf

from l2l_tf.optimizers import base
from l2l_tf.optimizers.wrapper import Wrapper


class Compiled(Wrapper):
  """Runs another optimizer's step as one XLA program, which all calls share."""

  def __init__(self, optimizer: base.Optimizer):
    """Wraps an optimizer; XLA must be able to compile all of its operations."""
    super().__init__(optimizer)
    self._step = tf.function(optimizer.__call__, jit_compile=True, autograph=False)

  @property
  def config(self) -> dict[str, Any]:
    return {"optimizer": self.inner}

  def rewrapped(self, optimizer):
    return Compiled(optimizer)

  def __call__(self, grads, state, params=None, loss=None):
    return self._step(grads, state, params=params, loss=loss)
