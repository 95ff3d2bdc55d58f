"""An LSTM optimizer that reads gradients normalized as in Adam and RMSprop.

Lv, Jiang and Li 2017, "Learning Gradient Descent: Better Generalization and Longer
Horizons", section 4. https://arxiv.org/abs/1703.03633
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import registry
from l2l_tf.optimizers import base, coordinatewise
from l2l_tf.optimizers.hand_designed import adam_moments
from l2l_tf.optimizers.lstm import backprop, network
from l2l_tf.optimizers.orthogonal import orthogonalized
from l2l_tf.optimizers.parameters import Parameter, Role, role
from l2l_tf.optimizers.traits import COORDINATE, GRADIENTS, TENSOR, Coupling

# Its square is still a normal number in float32.
_MIN_EPSILON = 1e-18
_RAW = 1.0 / 3.0  # the gradient's share in what is orthogonalised, as in `GeneralRule`


class Moments(NamedTuple):
  """Adam's moving averages, without bias correction."""

  first: tf.Tensor  # [1, N], of the gradient
  second: tf.Tensor  # [1, N], of its square
  step: tf.Tensor  # [], steps taken


class RNNpropState(NamedTuple):
  """State of `RNNprop`."""

  moments: Moments
  lstm: list[network.LSTMState]


def normalize(grad, first, second, step, beta_1, beta_2, epsilon):
  """Section 4.2: m_hat / sqrt(v_hat) and g / sqrt(v_hat), with the updated m and v.

  Epsilon is added inside the root, squared, so that the derivative at g = 0 is finite.
  Steps count from 1.

  Returns:
    Both, and the new m and v.
  """
  first, second = adam_moments(grad, first, second, beta_1, beta_2)
  first_hat = first / (1.0 - beta_1**step)
  second_hat = second / (1.0 - beta_2**step)
  root = tf.sqrt(second_hat + epsilon**2)
  return first_hat / root, grad / root, first, second


def orthogonal_features(normalized, momentum, roles: Sequence[Role], block: int):
  """The momenta of kernels, orthogonalised in blocks, and which coordinates are theirs.

  Args:
    normalized: m_hat / sqrt(v_hat) of all coordinates, [1, N].
    momentum: of the same coordinates; its scale does not matter.
    roles: of the tensors that the coordinates belong to, in their order.
    block: rows of a block.

  Returns:
    [2, N]: of a kernel, the momentum with root mean square 1, and ones; of what is no
    kernel, `normalized`, and zeros.
  """
  sizes = [math.prod(r.shape) for r in roles]
  parts = zip(roles, *(tf.split(x, sizes, axis=1) for x in (normalized, momentum)))
  matrix = lambda r, m: orthogonalized(tf.reshape(m, r.matrix), block)
  rows = [tf.reshape(matrix(r, m), [1, -1]) if r.is_kernel else x for r, x, m in parts]
  ones = [
    tf.fill([1, n], tf.cast(r.is_kernel, x.dtype))
    for r, n, x in zip(roles, sizes, rows)
  ]
  return tf.concat([tf.concat(rows, axis=1), tf.concat(ones, axis=1)], axis=0)


def time_features(step, scales):
  """tanh(t / s - 1) for each scale s; Metz et al. 2022, arxiv.org/abs/2203.11860."""
  return tf.tanh(step / tf.constant(scales, step.dtype) - 1.0)


@dataclasses.dataclass(frozen=True)
class _Inputs:
  """Maps gradients to the network's inputs, and updates the moments.

  Moments have at least float32 precision: squares of small gradients are zero in
  float16.
  """

  beta_1: float
  beta_2: float
  epsilon: float
  time_scales: tuple[float, ...]
  block: int | None
  dtype: tf.DType  # of the inputs

  @property
  def moments_dtype(self) -> tf.DType:
    return tf.float32 if self.dtype.size < 4 else self.dtype

  @property
  def num_features(self) -> int:
    return 2 + 2 * (self.block is not None) + len(self.time_scales)

  def initial(self, size: int) -> Moments:
    zeros = tf.zeros([1, size], self.moments_dtype)
    return Moments(zeros, zeros, tf.zeros([], tf.int32))

  def step(
    self, grads: tf.Tensor, moments: Moments, roles: Sequence[Role] = ()
  ) -> tuple[tf.Tensor, Moments]:
    """Maps gradients [1, N] to inputs [features, N]; `roles` are for the blocks."""
    step = moments.step + 1
    t = tf.cast(step, grads.dtype)
    *features, first, second = normalize(
      grads, *moments[:2], t, self.beta_1, self.beta_2, self.epsilon
    )
    if self.block is not None:
      first_hat = first / (1.0 - self.beta_1**t)
      momentum = (1.0 - _RAW) * first_hat + _RAW * grads
      features.append(orthogonal_features(features[0], momentum, roles, self.block))
    if self.time_scales:
      time = time_features(t, self.time_scales)[:, tf.newaxis]
      features.append(tf.broadcast_to(time, [len(self.time_scales), grads.shape[1]]))
    inputs = tf.cast(tf.concat(features, axis=0), self.dtype)
    return inputs, Moments(first, second, step)

  def __call__(self, grads: tf.Tensor, moments: Moments) -> tf.Tensor:
    """Maps gradients [T, 1, N] to inputs [T, features, N], step by step."""
    num_steps = tf.shape(grads)[0]

    def body(t, moments, inputs):
      step_inputs, moments = self.step(grads[t], moments)
      return t + 1, moments, inputs.write(t, step_inputs)

    shape = [self.num_features, grads.shape[-1]]
    inputs = tf.TensorArray(self.dtype, num_steps, element_shape=shape)
    carry = tf.zeros([], tf.int32), moments, inputs
    return tf.while_loop(lambda t, *_: t < num_steps, body, carry)[2].stack()


@registry.register
class RNNprop(base.Optimizer):
  """A deep LSTM on every coordinate, from normalized gradients to bounded updates.

  Lv, Jiang and Li 2017, section 4. With Adam's bias-corrected moments m_hat and v_hat
  of each coordinate, the LSTM reads m_hat / sqrt(v_hat) and g / sqrt(v_hat), and the
  update is output_scale * tanh(output). So the updates do not change with the scale of
  the loss, and no step changes a parameter by more than output_scale.

  The paper's fully connected layer with ELU before the LSTM is left out: the input
  weights and non-linearities of the first layer's gates take its place.

  With `block`, the LSTM also reads, for kernels, the momentum (2 m_hat + g) / 3,
  orthogonalised as in `GeneralRule`: what a coordinate's gradient says beside those of
  its kernel. It is told which coordinates are a kernel's and which are a bias's or the
  like, which take steps of another size.

  >>> optimizer = RNNprop(output_scale=0.1)
  >>> grads = [tf.constant([1e-6, 1.0, 1e6])]
  >>> updates, state = optimizer(grads, optimizer.initial_state(grads))
  >>> bool(tf.reduce_all(tf.abs(updates[0]) <= 0.1))
  True
  """

  reads = {GRADIENTS}

  def __init__(
    self,
    layers: Sequence[int] = (20, 20),
    beta_1: float = 0.95,
    beta_2: float = 0.95,
    epsilon: float = 1e-16,
    output_scale: float = 0.1,
    time_scales: Sequence[float] = (),
    initializer: str = "truncated_normal",
    seed: int = 0,
    dtype: str = "float32",
    block: int | None = None,
  ):
    """Initializes the weights.

    Args:
      layers: units of each LSTM layer (the paper's 20 and 20); empty for a linear map
        before the tanh.
      beta_1: decay of the mean gradient (the paper's 0.95).
      beta_2: decay of the mean squared gradient (the paper's 0.95).
      epsilon: gradient size below which updates depend on the gradient's scale; at
        least 1e-18.
      output_scale: the largest update of a parameter in one step (alpha, the paper's
        0.1).
      time_scales: each adds an input tanh(t / scale - 1), where the step t counts from
        1, so that updates can shrink in the course of a run; (10, 100, 1000) suit runs
        of thousands of steps. The paper has none.
      initializer: "truncated_normal", of variance 1 / fan-in before truncation at
        two standard deviations, or "zeros".
      seed: seed of the initial weights.
      dtype: type of the weights and the LSTM's state, as a string; the moments are kept
        in float32 if that is more precise.
      block: rows (or columns, whichever are fewer) of a kernel that are orthogonalised
        together; by default there are no such inputs.

    Raises:
      ValueError: for a number out of range or an unknown name.
    """
    super().__init__()
    self._dtype = coordinatewise.check_dtype(dtype)
    _check_numbers(beta_1, beta_2, epsilon, output_scale, time_scales, block)
    time_scales = tuple(time_scales)
    self._config = {
      "layers": coordinatewise.check_layers(layers),
      "beta_1": beta_1,
      "beta_2": beta_2,
      "epsilon": epsilon,
      "output_scale": output_scale,
      "time_scales": time_scales,
      "initializer": initializer,
      "seed": seed,
      "dtype": self._dtype.name,
      "block": block,
    }
    self._roles: list[Role] | None = None
    self._output_scale = output_scale
    self._inputs = _Inputs(beta_1, beta_2, epsilon, time_scales, block, self._dtype)
    self._network = network.DeepLSTM(
      self._inputs.num_features, 1, layers, initializer, seed, self._dtype
    )

  @property
  def config(self) -> dict[str, Any]:
    return dict(self._config)

  @property
  def coupling(self) -> Coupling:
    return COORDINATE if self._inputs.block is None else TENSOR

  @property
  def distinguishes_parameters(self) -> bool:
    return self._inputs.block is not None

  def with_parameters(self, parameters: Sequence[Parameter]) -> "RNNprop":
    if not self.distinguishes_parameters:
      return self
    view = copy.copy(self)
    view._roles = [role(p.shape, p.path) for p in parameters]
    return view

  def initial_state(self, params):
    size = self._flat(params).shape[1]
    return RNNpropState(self._inputs.initial(size), self._network.initial_state(size))

  def __call__(self, grads, state, params=None, loss=None):
    inputs, moments = self._read(grads, state)
    outputs, lstm = self._network(inputs, state.lstm)
    with tf.name_scope("update"):
      bounded = self._output_scale * tf.tanh(outputs)
      updates = coordinatewise.from_coordinates(bounded, grads)
      updates = [tf.cast(u, g.dtype) for u, g in zip(updates, grads)]
    return updates, RNNpropState(moments, lstm)

  def record(self, grads):
    return list(grads) if self.distinguishes_parameters else self._flat(grads)

  def sequence_gradient(self, recorded, state, loss_weights):
    if self.distinguishes_parameters:
      return super().sequence_gradient(recorded, state, loss_weights)
    gradient = backprop.gradient(
      self._network.weights,
      self._inputs,
      self._output_scale,
      recorded,
      tf.cast(loss_weights, self._dtype),
      state.lstm,
      memory=state.moments,
      is_bounded=True,
    )
    return self._network.in_order(gradient, self.get_phi())

  def diagnostics(self, grads, state):
    return self._network.saturation(self._read(grads, state)[0], state.lstm)

  def _read(self, grads, state):
    with tf.name_scope("preprocess"):
      return self._inputs.step(self._flat(grads), state.moments, self._of(grads))

  def _flat(self, grads):
    """Returns all coordinates as [1, N], as precise as the moments."""
    coordinatewise.check_not_empty(self, grads)
    precise = [tf.cast(g, self._inputs.moments_dtype) for g in grads]
    return coordinatewise.to_coordinates(precise)

  def _of(self, tensors) -> list[Role]:
    shapes = [tuple(x.shape) for x in tensors]
    if self._roles is not None and [r.shape for r in self._roles] == shapes:
      return self._roles
    return [role(shape) for shape in shapes]


def _check_numbers(beta_1, beta_2, epsilon, output_scale, time_scales, block) -> None:
  if not (0 <= beta_1 < 1 and 0 <= beta_2 < 1):
    raise ValueError(
      f"RNNprop got beta_1={beta_1} and beta_2={beta_2}; both must lie in [0, 1)."
    )
  if not _MIN_EPSILON <= epsilon < math.inf:
    raise ValueError(f"epsilon={epsilon} must be at least {_MIN_EPSILON}, and finite.")
  if not 0 < output_scale < math.inf:
    raise ValueError(f"output_scale={output_scale} must be a positive, finite number.")
  if not all(0 < scale < math.inf for scale in time_scales):
    raise ValueError(
      f"time_scales={time_scales!r} must be positive, finite numbers of steps, e.g."
      " (10, 100, 1000)."
    )
  if block is not None and (not isinstance(block, int) or block < 1):
    raise ValueError(f"RNNprop got block={block!r}; a block has at least one row.")
