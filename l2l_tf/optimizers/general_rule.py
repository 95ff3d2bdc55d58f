"""A rule with meta-learned constants, which needs no rate but the number of steps.

It brings together a momentum on two time scales and Adam's second moment (Kingma and Ba
2015, https://arxiv.org/abs/1412.6980), momenta orthogonalised in blocks (Jordan et al.
2024, https://kellerjordan.github.io/posts/muon/), steps in proportion to the weights'
own size (You et al. 2017, https://arxiv.org/abs/1708.03888), and a schedule that
depends on the number of steps and on the depth of the net. Its constants are phi.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import registry
from l2l_tf.optimizers import base
from l2l_tf.optimizers.orthogonal import orthogonalized
from l2l_tf.optimizers.parameters import Kind, Parameter, Role, role
from l2l_tf.optimizers.traits import GRADIENTS, PARAMETERS, TENSOR

_TINY = 1e-37  # keeps quotients of zeros at zero; the least normal float32 is 1.2e-38


class Constants(NamedTuple):
  """What is learned, in the units of the equations. T: number of steps in all."""

  fast: Any  # decay of the average m of gradients
  slow: Any  # decay of the average s of gradients
  second: Any  # decay of the average v of squared gradients
  raw: Any  # n, the gradient's share in the momentum
  slow_weight: Any  # w, what the slow average adds to the momentum
  agreement: Any  # q, how much less signs that change shorten a step
  rate: Any  # p, the rate at T = 1,000 and three kernels
  horizon_power: Any  # kT, of T / 1,000 in the rate
  depth_power: Any  # kL, of the number of kernels / 3
  warm_up: Any  # w0, share of T in which the rate rises
  cooling: Any  # s, power of the share of T that is left
  end: Any  # e, the rate at T, as a share of p
  least_size: Any  # c, least root mean square of a kernel, times sqrt(fan)
  size_power: Any  # a, of the kernel's own size in its steps
  vector_rate: Any  # b, the steps of biases and scales
  decay: Any  # of kernels, in units of the rate, at T = 1,000
  decay_power: Any  # of T / 1,000 in the decay
  decline_power: Any  # z, how the decay grows as the gradients decline
  open_rate: Any  # where T is unknown: the rate after 1,000 steps
  open_power: Any  # where T is unknown: of the steps taken / 1,000


# The coordinates in which phi holds them: a change by 0.1 matters about equally in all.
_LOG, _PLAIN, _DECAY = "log", "plain", "log of -log"
_COORDINATES = Constants(
  fast=_DECAY,
  slow=_DECAY,
  second=_DECAY,
  raw=_LOG,
  slow_weight=_LOG,
  agreement=_LOG,
  rate=_LOG,
  horizon_power=_PLAIN,
  depth_power=_PLAIN,
  warm_up=_LOG,
  cooling=_LOG,
  end=_LOG,
  least_size=_LOG,
  size_power=_LOG,
  vector_rate=_LOG,
  decay=_LOG,
  decay_power=_PLAIN,
  decline_power=_LOG,
  open_rate=_LOG,
  open_power=_PLAIN,
)
_ENCODE = {_LOG: math.log, _PLAIN: float, _DECAY: lambda x: math.log(-math.log(x))}
_DECODE = {_LOG: tf.exp, _PLAIN: tf.identity, _DECAY: lambda x: tf.exp(-tf.exp(x))}


class GeneralRuleState(NamedTuple):
  """State of `GeneralRule`: three averages, 12 bytes a coordinate in float32."""

  step: tf.Tensor  # [], steps taken
  total_steps: tf.Tensor  # [], T, or 0 if it is unknown
  fast: list[tf.Tensor]  # m, like the parameters
  slow: list[tf.Tensor]  # s
  second: list[tf.Tensor]  # v
  counts: list[tf.Tensor]  # steps in which a row had a gradient, [rows]; or [] scalars
  largest: list[tf.Tensor]  # the largest mean of v so far, [] scalars


class _Slots(NamedTuple):
  """The state of one tensor; the fields are those of `GeneralRuleState`."""

  fast: tf.Tensor
  slow: tf.Tensor
  second: tf.Tensor
  count: tf.Tensor
  largest: tf.Tensor


@registry.register
class GeneralRule(base.Optimizer):
  """One rule for every model, without a rate to choose.

  With averages m, s of the gradient g and v of its square, corrected for their bias,
  the step of a kernel W of `fan` inputs, out of L kernels (the two of a recurrent layer
  count as one), is

    M = (1 - n) m + n g + w s
    rho = RMS(M / sqrt(v))                  how far the signs of the gradients agree
    O = M, orthogonalised in blocks, of RMS 1  (M / sqrt(v) / rho without blocks)
    W <- (1 - lambda eta) W - eta max(RMS(W), c / sqrt(fan))^a fan^(-(1 - a) / 2)
         rho^(1 - q) O
    lambda = lambda_1 (T / 1000)^kd (G / max G)^(-z),  G = sqrt(mean(v))
    eta = p (T / 1000)^kT (L / 3)^kL min(1, (t + 1) / (w0 T))
          ((1 - t / T)^s (1 - e) + e)

  where t counts the steps from 0 to T, and max G is the largest G so far. The gradients
  of a net that memorises its data vanish, and the decay grows. With z = 0 it does not
  depend on them; with z = 1 it is that of a penalty on the squared weights, beside a
  loss that vanishes. A decay is at most 0.1 of a kernel a step, and z counts declines
  down to 0.001. What is no kernel moves by eta b rho^(-q) M / sqrt(v). How tensors are
  told apart is described in `l2l_tf.optimizers.parameters`: an embedding's rows that
  have no gradient do not move, nor does their state; embeddings and depthwise filters
  are never orthogonalised.

  The steps do not depend on the scale of the loss, for gradients from 1e-14 to 1e17.
  Without `total_steps` (see `with_total_steps`) the rate falls with a power of the
  steps taken instead; after them, it stays at its last value.

  >>> optimizer, theta = GeneralRule(), [tf.ones([8, 4]), tf.zeros([4])]
  >>> state = optimizer.with_total_steps(optimizer.initial_state(theta), 100)
  >>> updates, state = optimizer(theta, state, params=theta)
  """

  coupling = TENSOR
  reads = {GRADIENTS, PARAMETERS}
  has_horizon = True
  distinguishes_parameters = True

  def __init__(self, block: int | None = 32, constants: Sequence[float] | None = None):
    """Initializes phi.

    Args:
      block: rows (or columns, whichever are fewer) of a kernel that are orthogonalised
        together; None for no orthogonalisation, which takes less time a step.
      constants: the initial values, as in `Constants`, in its order; by default what
        was found for `block`.

    Raises:
      ValueError: if `block` is not positive, or the number of constants differs.
    """
    super().__init__()
    if block is not None and block < 1:
      raise ValueError(f"GeneralRule got block={block}; a block has at least one row.")
    found = _WITHOUT_BLOCKS if block is None else _WITH_BLOCKS
    given = tuple(found if constants is None else constants)
    if len(given) != len(Constants._fields):
      raise ValueError(
        f"GeneralRule got {len(given)} constants; it has {len(Constants._fields)}:"
        f" {', '.join(Constants._fields)}."
      )
    self._block = block
    self._given = None if constants is None else given
    self._roles: list[Role] | None = None
    encoded = [_ENCODE[kind](x) for kind, x in zip(_COORDINATES, given)]
    self.coordinates = tf.Variable(encoded, dtype=tf.float32, name="constants")

  @property
  def config(self) -> dict[str, Any]:
    return {"block": self._block, "constants": self._given}

  @property
  def constants(self) -> Constants:
    """The present values, of phi or of the weights given to `with_phi`."""
    (phi,) = self.get_phi()
    values = tf.unstack(tf.convert_to_tensor(phi))
    return Constants(*(_DECODE[kind](x) for kind, x in zip(_COORDINATES, values)))

  def with_parameters(self, parameters: Sequence[Parameter]) -> "GeneralRule":
    view = copy.copy(self)
    view._roles = [role(p.shape, p.path) for p in parameters]
    return view

  def with_total_steps(self, state, total_steps):
    return state._replace(total_steps=tf.cast(total_steps, state.total_steps.dtype))

  def initial_state(self, params):
    if not params:
      raise ValueError(
        "GeneralRule got an empty list; it needs at least one parameter to move."
      )
    zeros = lambda p: tf.zeros(p.shape, _dtype(p))
    rows = lambda p, r: p.shape[:1] if r.kind == Kind.EMBEDDING else []
    return GeneralRuleState(
      tf.zeros([], tf.int32),
      tf.zeros([], tf.int32),
      *([zeros(p) for p in params] for _ in range(3)),
      [tf.zeros(rows(p, r), tf.int32) for p, r in zip(params, self._of(params))],
      [tf.zeros([], _dtype(p)) for p in params],
    )

  def __call__(self, grads, state, params=None, loss=None):
    if params is None:
      raise ValueError(
        "GeneralRule reads the parameters and was not given them; call it with"
        " params=..., as l2l_tf's loops and LearnedOptimizer do."
      )
    roles = self._of(grads)
    constants = self.constants
    eta = self._rate(constants, state)
    decay = eta * _decay(constants, state)
    slots = map(_Slots._make, zip(*state[2:]))
    moved = [
      self._move(constants, eta, decay, *one)
      for one in zip(roles, grads, params, slots)
    ]
    updates, slots = zip(*moved)
    lists = map(list, zip(*slots))
    return list(updates), GeneralRuleState(state.step + 1, state.total_steps, *lists)

  def decay_rate(self, state):
    return self._rate(self.constants, state)

  def diagnostics(self, grads, state):
    """Returns the rate of the next step."""
    del grads
    return {"rate": self._rate(self.constants, state)}

  def _move(self, constants, eta, decay, role, grad, param, slots):
    """Returns a tensor's update and its next slots."""
    if not slots.fast.shape.num_elements():
      return grad, slots
    g, w = tf.cast(grad, slots.fast.dtype), tf.cast(param, slots.fast.dtype)
    eta, decay = tf.cast(eta, g.dtype), tf.cast(decay, g.dtype)
    c = Constants(*(tf.cast(x, g.dtype) for x in constants))
    touched = _touched(role, g)
    slots = _averaged(c, touched, g, slots)
    momentum, second = _momentum(c, g, slots)
    direction = _direction(role, momentum, second)
    if touched is not None:
      direction = tf.where(touched, direction, 0.0)
    rho = tf.sqrt(_mean_square(direction, touched) + _TINY)
    if self._block and role.is_kernel:
      direction = rho * _orthogonalized(role, momentum, self._block)
    update = -eta * _unit(c, role, w) * direction * rho**-c.agreement
    if role.is_kernel or role.kind == Kind.FILTERS:
      decline, slots = _decline(second, slots)
      update -= tf.minimum(decay * decline**-c.decline_power, _MOST_DECAY) * w
    return tf.cast(update, grad.dtype), slots

  def _rate(self, constants, state) -> tf.Tensor:
    num_kernels = sum(r.kind == Kind.KERNEL for r in self._of(state.fast))
    return rate(constants, state.step, state.total_steps, num_kernels)

  def _of(self, tensors: Sequence[tf.Tensor]) -> list[Role]:
    shapes = [tuple(x.shape) for x in tensors]
    if self._roles is not None and [r.shape for r in self._roles] == shapes:
      return self._roles
    return [role(shape) for shape in shapes]


def rate(constants: Constants, step, total_steps, num_kernels: int) -> tf.Tensor:
  """Returns eta, the rate of a step that is counted from 0."""
  c, t = constants, tf.cast(step, tf.float32)
  depth = (max(num_kernels, 1) / 3.0) ** c.depth_power
  total = tf.cast(tf.maximum(total_steps, 1), tf.float32)
  done = tf.minimum(t, total - 1.0) / total
  rising = tf.minimum(1.0, (done + 1.0 / total) / c.warm_up)
  falling = (1.0 - done) ** c.cooling * (1.0 - c.end) + c.end
  known = c.rate * (total / 1000.0) ** c.horizon_power * rising * falling
  rising = tf.minimum(1.0, (t + 1.0) / _OPEN_WARM_UP)
  unknown = c.open_rate * ((t + 1.0) / 1000.0) ** c.open_power * rising
  return depth * tf.where(total_steps > 0, known, unknown)


_LEAST_DECLINE = 1e-3  # of the gradients, that the decay reacts to
_MOST_DECAY = 0.1  # of a kernel in one step
_OPEN_WARM_UP = 20.0  # steps, where their number is unknown


def _decay(c: Constants, state: GeneralRuleState) -> tf.Tensor:
  """Returns lambda, the decay of kernels in units of eta."""
  total = tf.where(state.total_steps > 0, state.total_steps, state.step + 1)
  return c.decay * (tf.cast(total, tf.float32) / 1000.0) ** c.decay_power


def _averaged(c: Constants, touched: tf.Tensor | None, g, slots: _Slots) -> _Slots:
  """Returns the slots with the gradient in the averages of the rows that have one."""
  rows = 1 if touched is None else tf.cast(tf.reshape(touched, [-1]), slots.count.dtype)
  kept = lambda new, old: new if touched is None else tf.where(touched, new, old)
  mean = lambda beta, average, x: kept(beta * average + (1.0 - beta) * x, average)
  return slots._replace(
    fast=mean(c.fast, slots.fast, g),
    slow=mean(c.slow, slots.slow, g),
    second=mean(c.second, slots.second, tf.square(g)),
    count=slots.count + rows,
  )


def _momentum(c: Constants, g, slots: _Slots) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns M, and v corrected for its bias."""
  taken = _like_rows(tf.cast(slots.count, g.dtype), g)
  hat = lambda average, beta: average / (1.0 - beta**taken)
  momentum = (1.0 - c.raw) * hat(slots.fast, c.fast) + c.raw * g
  momentum += c.slow_weight * hat(slots.slow, c.slow)
  return momentum, hat(slots.second, c.second)


def _decline(second: tf.Tensor, slots: _Slots) -> tuple[tf.Tensor, _Slots]:
  """Returns G / max G, and the slots with the new maximum."""
  mean = tf.reduce_sum(second / second.shape.num_elements())  # The sum may overflow.
  largest = tf.maximum(slots.largest, mean)
  decline = tf.sqrt(tf.math.divide_no_nan(mean, largest))
  return tf.maximum(decline, _LEAST_DECLINE), slots._replace(largest=largest)


def _direction(role: Role, momentum, second) -> tf.Tensor:
  """Returns M / sqrt(v). Biases and scales are guarded against coordinates at rest."""
  if role.kind == Kind.VECTOR:
    second += 1e-8 * tf.reduce_mean(second)
  return momentum * tf.math.rsqrt(second + _TINY)


def _orthogonalized(role: Role, momentum: tf.Tensor, block: int) -> tf.Tensor:
  flat = tf.reshape(momentum, role.matrix)
  return tf.reshape(orthogonalized(flat, block), momentum.shape)


def _unit(c: Constants, role: Role, param: tf.Tensor) -> tf.Tensor:
  """Returns the length of a step of rate 1: of a kernel, in proportion to its size."""
  if role.kind == Kind.VECTOR:
    return c.vector_rate
  root = math.sqrt(role.fan)
  size = tf.sqrt(tf.reduce_mean(tf.square(param)) + _TINY)
  size = tf.maximum(size, c.least_size / root)
  return size**c.size_power * (1.0 / root) ** (1.0 - c.size_power)


def _touched(role: Role, grad: tf.Tensor) -> tf.Tensor | None:
  """Returns which rows of an embedding have a gradient, [rows, 1, ...]."""
  if role.kind != Kind.EMBEDDING:
    return None
  axes = list(range(1, grad.shape.rank))
  return tf.reduce_any(tf.not_equal(grad, 0.0), axis=axes, keepdims=True)


def _like_rows(count: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
  """Reshapes one number per row to be used with the rows; at least 1."""
  if count.shape.rank:
    count = tf.reshape(count, [-1] + [1] * (like.shape.rank - 1))
  return tf.maximum(count, 1.0)


def _mean_square(x: tf.Tensor, touched: tf.Tensor | None) -> tf.Tensor:
  if touched is None:
    return tf.reduce_mean(tf.square(x))
  share = tf.reduce_mean(tf.cast(touched, x.dtype))
  return tf.math.divide_no_nan(tf.reduce_mean(tf.square(x)), share)


def _dtype(param: Any) -> tf.DType:
  """Averages have at least the precision of float32."""
  return tf.float32 if param.dtype.size < 4 else param.dtype


_WITH_BLOCKS = Constants(
  fast=0.857,
  slow=0.991,
  second=0.992,
  raw=0.331,
  slow_weight=0.146,
  agreement=0.228,
  rate=0.0511,
  horizon_power=-0.5,
  depth_power=-0.3,
  warm_up=0.0124,
  cooling=1.15,
  end=0.00811,
  least_size=0.726,
  size_power=0.427,
  vector_rate=0.152,
  decay=0.0061,
  decay_power=0.0443,
  decline_power=0.587,
  open_rate=0.00976,
  open_power=-0.6,
)
_WITHOUT_BLOCKS = Constants(
  fast=0.8497,
  slow=0.9889,
  second=0.9897,
  raw=0.473,
  slow_weight=0.206,
  agreement=0.336,
  rate=0.0527,
  horizon_power=-0.410,
  depth_power=-0.287,
  warm_up=0.0200,
  cooling=1.177,
  end=0.0066,
  least_size=0.711,
  size_power=0.695,
  vector_rate=0.0731,
  decay=0.007,
  decay_power=0.5,
  decline_power=0.6,
  open_rate=0.0161,
  open_power=-0.410,
)
