"""Back-propagation through a window, recorded by a tape.

It serves every optimizer and problem, first order and second. The tape holds what
every step computed, so memory grows with the length of the window.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.gradients.base import MetaGradient, Window, run_window
from l2l_tf.meta.objective import MetaObjective


@dataclasses.dataclass(frozen=True)
class TapedBPTT(MetaGradient):
  """Differentiates the unroll itself.

  Attributes:
    second_derivatives: whether the optimizee's gradients are differentiated too.
    unroll: the inner loop, `unroll` or `static_unroll`.
  """

  second_derivatives: bool = False
  unroll: Callable = unroll_lib.unroll

  @property
  def evaluate(self) -> Callable:
    return (
      unroll_lib.second_order if self.second_derivatives else unroll_lib.first_order
    )

  def __call__(
    self,
    problem,
    optimizer,
    task,
    carry,
    length,
    observe,
    objective=MetaObjective(),  # noqa: B008
    state=(),
    seed=None,
  ):
    phi = list(optimizer.get_phi())
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(phi)
      carry, curve, observed = run_window(
        problem,
        optimizer,
        task,
        carry,
        length,
        observe,
        self.evaluate,
        self.unroll,
        only_last=objective.is_of_last,
      )
      with tf.name_scope("meta_loss"):
        meta_loss = objective.of_curve(curve)
    with tf.name_scope("meta_gradient"):
      gradient = tape.gradient(
        meta_loss, phi, unconnected_gradients=tf.UnconnectedGradients.ZERO
      )
      return Window(gradient, meta_loss, carry, observed), state
