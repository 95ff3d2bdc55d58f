"""What an optimizer is: g_t, h_{t+1} = m(grad_t, h_t, phi).

Andrychowicz et al. 2016, section 2, equation 3. Learned and hand-designed
optimizers share this interface, and therefore every loop that runs one.
"""

import abc
import contextlib
from typing import Any

import sonnet as snt
import tensorflow as tf

from l2l_tf import dtypes


@snt.allow_empty_variables  # hand-designed rules have none
class Optimizer(snt.Module, abc.ABC):
  """An update rule as a pure function of gradients and its own state.

  Its variables, if any, are phi, the weights that meta-training learns. What
  belongs to one run of the optimizer (momenta, LSTM states) is `state`, which
  the caller carries.
  """

  # Whether the updates depend on nothing but the gradients, the state and phi. Then
  # first-order meta-gradients need no tape through the optimizee.
  reads_gradients_alone = False

  # Whether XLA may compile a step in meta-training.
  jit_compile = False

  # Whether, on top of the first, a coordinate's update depends on its own gradients
  # alone, whatever tensor holds it. Then tasks can share one call, or be kept apart.
  # Parts of its state that are no scalars have the coordinates along their last axis.
  is_coordinatewise = False

  @property
  def name_scope(self) -> contextlib.AbstractContextManager[None]:
    # Sonnet would enter one absolute scope per module. The caller names the
    # scope instead, so that a graph reads step_0/optimizer, step_1/optimizer.
    return contextlib.nullcontext()

  @property
  @abc.abstractmethod
  def config(self) -> dict[str, Any]:
    """The constructor arguments, for export."""

  @abc.abstractmethod
  def initial_state(self, params: list[tf.Tensor]) -> Any:
    """Returns the state h_0 for optimizing `params`, a nest of tensors."""

  @abc.abstractmethod
  def __call__(
    self,
    grads: list[tf.Tensor],
    state: Any,
    params: list[tf.Tensor] | None = None,
    loss: tf.Tensor | None = None,
  ) -> tuple[list[tf.Tensor], Any]:
    """Computes one step.

    Args:
      grads: the gradient of each optimizee parameter.
      state: from `initial_state` or the previous step.
      params: the parameters themselves, for optimizers that read them.
      loss: the scalar loss, likewise.

    Returns:
      `(updates, next_state)`; the caller sets theta <- theta + update.
    """

  def record(self, grads: list[tf.Tensor]) -> Any:
    """Returns of `grads` what `sequence_gradient` needs, a nest of tensors."""
    return grads

  def sequence_gradient(
    self, recorded: Any, state: Any, loss_weights: tf.Tensor
  ) -> list[tf.Tensor]:
    """The first-order meta-gradient of a window, from the gradients met in it.

    For an optimizer that `reads_gradients_alone`, whose update u_t reaches the
    meta-loss only through the later parameters: dL/du_t = sum_{k > t} w_k g_k.

    Args:
      recorded: of g_0, ..., g_T, what `record` returns; each [T + 1, ...].
      state: before the optimizer read g_0.
      loss_weights: w_1, ..., w_T of the meta-loss sum_t w_t f(theta_t); [T].

    Returns:
      Its gradient with respect to each of `trainable_variables`.
    """
    phi = self.trainable_variables
    num_steps = tf.shape(loss_weights)[0]
    weigh = lambda g: tf.einsum("t,t...->t...", tf.cast(loss_weights, g.dtype), g[1:])
    later = [tf.cumsum(weigh(g), axis=0, reverse=True) for g in recorded]  # dL/du

    def body(t, state, total):
      updates, state = self([g[t] for g in recorded], state)
      parts = [tf.reduce_sum(d[t] * u) for d, u in zip(later, updates)]
      return t + 1, state, total + dtypes.add(parts)

    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(phi)
      *_, total = tf.while_loop(
        lambda t, *_: t < num_steps,
        body,
        (0, state, tf.zeros([], dtypes.of_sum(recorded))),
        maximum_iterations=num_steps,
      )
    return tape.gradient(total, phi, unconnected_gradients="zero")

  def diagnostics(self, grads: list[tf.Tensor], state: Any) -> dict[str, tf.Tensor]:
    """Scalars that explain this optimizer's inner working at one step."""
    del grads, state
    return {}
