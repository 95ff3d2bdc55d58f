"""What an optimizer is: g_t, h_{t+1} = m(grad_t, h_t, phi).

Andrychowicz et al. 2016, section 2, equation 3. Learned and hand-designed
optimizers share this interface, and therefore every loop that runs one.
"""

import abc
import contextlib
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sonnet as snt
import tensorflow as tf

from l2l_tf import dtypes
from l2l_tf.optimizers.parameters import Parameter
from l2l_tf.optimizers.traits import ALL, COORDINATE, GRADIENTS, Coupling, Reads


@snt.allow_empty_variables  # hand-designed rules have none
class Optimizer(snt.Module, abc.ABC):
  """An update rule as a pure function of gradients and its own state.

  Its variables, if any, are phi, the weights that meta-training learns. What belongs to
  one optimization run (momenta, LSTM states) is in `state`, which the caller passes
  from step to step.

  >>> optimizer, theta = Adam(0.1), [tf.constant([1.0, -2.0])]
  >>> state = optimizer.initial_state(theta)
  >>> grads = [2.0 * x for x in theta]  # of the sum of squares
  >>> updates, state = optimizer(grads, state)
  >>> theta = [x + u for x, u in zip(theta, updates)]
  """

  # What the update of one coordinate may depend on. COORDINATE lets the coordinates of
  # many tensors, and of many tasks, share one call; tensors of the state that are not
  # scalars then have the coordinates along their last axis.
  coupling: Coupling = ALL

  # What the updates are computed from. An optimizer that reads gradients alone needs
  # no tape through the optimizee for first-order meta-gradients.
  reads: frozenset[Reads] = frozenset(Reads)

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(**kwargs)
    # The attributes that version 0.1.0 had for this still work.
    if isinstance(cls.__dict__.get("is_coordinatewise"), bool):
      cls.coupling = COORDINATE if cls.is_coordinatewise else ALL
      cls.jit_compile = cls.__dict__.get("jit_compile", False)
    if isinstance(cls.__dict__.get("reads_gradients_alone"), bool):
      cls.reads = {GRADIENTS} if cls.reads_gradients_alone else set(Reads)
    if not isinstance(cls.__dict__.get("reads", cls.reads), property):
      cls.reads = _checked_reads(cls)

  @property
  def name_scope(self) -> contextlib.AbstractContextManager[None]:
    # Sonnet would enter one absolute scope per module. The caller names the
    # scope instead, so that a graph reads step_0/optimizer, step_1/optimizer.
    return contextlib.nullcontext()

  @property
  def jit_compile(self) -> bool:
    """Whether XLA can compile a step.

    By default it can where the coupling is COORDINATE or TENSOR; an optimizer that says
    no coupling may hold anything. A class may say otherwise: `jit_compile = True`.
    """
    return self.coupling != ALL

  @property
  @abc.abstractmethod
  def config(self) -> dict[str, Any]:
    """The constructor arguments, for export."""

  def get_phi(self) -> Sequence[tf.Variable | tf.Tensor]:
    """Returns phi: the variables, or the tensors that `with_phi` was given."""
    return self.__dict__.get("_given_phi", self.trainable_variables)

  def with_phi(self, phi: Sequence[tf.Tensor]) -> "Optimizer":
    """Returns this optimizer with other weights; it and its variables stay as they are.

    The result shares everything else with this object. If the weights depend on other
    tensors, a tape can differentiate through them; they can also be vectorised over.

    >>> optimizer, grads = CoordinatewiseLSTM((5,)), [tf.ones([3])]
    >>> perturbed = [w + 0.01 for w in optimizer.get_phi()]
    >>> state = optimizer.initial_state(grads)
    >>> updates, _ = optimizer.with_phi(perturbed)(grads, state)

    Args:
      phi: a tensor for each entry of `get_phi()`, of its shape.

    Raises:
      ValueError: if the number of tensors or a shape differs.
    """
    _check_phi(self, phi)
    # `identity`: a tensor that is given for two weights becomes two distinct ones.
    return _rebuilt(
      self, {v.ref(): tf.identity(x) for v, x in zip(self.get_phi(), phi)}
    )

  def initial_params(self, params: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns theta_0, given the problem's initial parameters; by default just those.

    An optimizer with a learned start computes it from phi.
    """
    return params

  @property
  def learns_start(self) -> bool:
    """Whether `initial_params` may depend on phi.

    An optimizer whose `initial_state` depends on phi overrides this property.
    """
    return self.learns_initial_params

  @property
  def learns_initial_params(self) -> bool:
    """Whether `initial_params` is not the identity: it has the shapes of one task."""
    return type(self).initial_params is not Optimizer.initial_params

  @abc.abstractmethod
  def initial_state(self, params: list[tf.Tensor]) -> Any:
    """Returns the state h_0 for optimizing `params`, a nest of tensors.

    It depends on the shapes and types of `params` alone: in Keras the state is made
    before the values are known.
    """

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
      loss: the scalar loss, for optimizers that read it.

    Returns:
      `(updates, next_state)`; the caller sets theta <- theta + update.
    """

  # Whether `with_total_steps` makes a difference.
  has_horizon = False

  def with_total_steps(self, state: Any, total_steps: int | tf.Tensor) -> Any:
    """Returns the state with the number of steps that the optimization will have.

    For optimizers with a schedule, whose `has_horizon` is true; others ignore it.

    Args:
      state: from `initial_state`, or of a later step.
      total_steps: all steps, those already taken among them.
    """
    del total_steps
    return state

  # Whether `with_parameters` makes a difference.
  distinguishes_parameters = False

  def with_parameters(self, parameters: Sequence[Parameter]) -> "Optimizer":
    """Returns this optimizer for parameters of known paths and roles.

    By default that is the object itself.

    Args:
      parameters: of the optimizee, from `Problem.parameters()`, in the order of the
        tensors that it will get.
    """
    del parameters
    return self

  def decay_rate(self, state: Any) -> float | tf.Tensor:
    """Returns the factor on a decoupled weight decay at this step; 1 by default.

    An optimizer with a schedule returns its rate, so that the decay follows it.
    """
    del state
    return 1.0

  def record(self, grads: list[tf.Tensor]) -> Any:
    """Returns what `sequence_gradient` needs of a step's gradients, a nest of tensors.

    If the coupling is COORDINATE and `grads` is a single vector, the tensors have its
    coordinates along their last axis.
    """
    return grads

  def sequence_gradient(
    self, recorded: Any, state: Any, loss_weights: tf.Tensor
  ) -> list[tf.Tensor]:
    """Returns a window's first-order meta-gradient, from the gradients recorded in it.

    It is for optimizers that read gradients alone. Their update u_t affects the
    meta-loss only through the later parameters: dL/du_t = sum_{k > t} w_k g_k.

    Args:
      recorded: what `record` returned for g_0, ..., g_T, stacked; each [T + 1, ...].
      state: the optimizer's state before it read g_0.
      loss_weights: w_1, ..., w_T of the meta-loss sum_t w_t f(theta_t); [T].

    Returns:
      The gradient of the meta-loss with respect to each entry of `get_phi()`.
    """
    phi = self.get_phi()
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
    """Returns scalars that describe the optimizer at one step, e.g. gate saturation."""
    del grads, state
    return {}


def _checked_reads(cls: type[Optimizer]) -> frozenset[Reads]:
  reads = frozenset([cls.reads] if isinstance(cls.reads, Reads) else cls.reads)
  if not reads <= frozenset(Reads):
    raise TypeError(
      f"{cls.__name__}.reads={cls.reads!r} must be a set of GRADIENTS, PARAMETERS and"
      " LOSS from l2l_tf.optimizers."
    )
  return reads


def _check_phi(optimizer: Optimizer, phi: Sequence[tf.Tensor]) -> None:
  expected = [tuple(v.shape) for v in optimizer.get_phi()]
  given = [tuple(x.shape) for x in phi]
  if given != expected:
    raise ValueError(
      f"{type(optimizer).__name__}.with_phi got weights of shapes {given}; it needs"
      f" {expected}, one for each entry of its phi."
    )


def _rebuilt(value: Any, phi: Mapping[Any, tf.Tensor]) -> Any:
  """Returns `value` with its variables replaced, in nested modules and containers too.

  What holds none of them is shared, not copied.
  """
  if isinstance(value, tf.Variable):
    return phi.get(value.ref(), value)
  if isinstance(value, tf.Module):
    attributes = {k: _rebuilt(v, phi) for k, v in vars(value).items()}
    if all(attributes[k] is v for k, v in vars(value).items()):
      return value
    view = copy.copy(value)
    view.__dict__.update(attributes)
    if isinstance(value, Optimizer):
      view._given_phi = [phi.get(v.ref(), v) for v in value.get_phi()]
    return view
  if tf.is_tensor(value):  # a weight that an earlier `with_phi` was given
    return phi.get(value.ref(), value)
  if isinstance(value, dict):
    items = {k: _rebuilt(v, phi) for k, v in value.items()}
    return items if any(items[k] is not v for k, v in value.items()) else value
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    items = {name: _rebuilt(v, phi) for name, v in fields.items()}
    changed = {name: v for name, v in items.items() if v is not fields[name]}
    return dataclasses.replace(value, **changed) if changed else value
  if isinstance(value, (list, tuple)):
    value = getattr(value, "__wrapped__", value)  # TensorFlow wraps lists to track them
    items = [_rebuilt(v, phi) for v in value]
    if all(x is y for x, y in zip(items, value)):
      return value
    make = type(value)._make if hasattr(value, "_make") else type(value)
    return make(items)
  return value
