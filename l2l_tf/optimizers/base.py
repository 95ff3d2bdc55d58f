"""What an optimizer is: g_t, h_{t+1} = m(grad_t, h_t, phi).

Andrychowicz et al. 2016, section 2, equation 3. Learned and hand-designed
optimizers share this interface, and therefore every loop that runs one.
"""

import abc
import contextlib
from typing import Any

import sonnet as snt
import tensorflow as tf


@snt.allow_empty_variables  # hand-designed rules have none
class Optimizer(snt.Module, abc.ABC):
  """An update rule as a pure function of gradients and its own state.

  Its variables, if any, are phi, the weights that meta-training learns. What
  belongs to one run of the optimizer (momenta, LSTM states) is `state`, which
  the caller carries.
  """

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

  def diagnostics(self, grads: list[tf.Tensor], state: Any) -> dict[str, tf.Tensor]:
    """Scalars that explain this optimizer's inner working at one step."""
    del grads, state
    return {}
