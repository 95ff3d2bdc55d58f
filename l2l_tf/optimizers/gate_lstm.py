"""Gradient descent as the cell of an LSTM, whose gates are learned.

Ravi and Larochelle 2017, "Optimization as a Model for Few-Shot Learning", section 3.1,
https://openreview.net/forum?id=rJY0-Kcll. The cell state of an LSTM is updated by

    c_t = f_t * c_{t-1} + i_t * c~_t                                      (equation 2)

With c = theta, the candidate c~_t = -g_t, f_t = 1 and i_t = the learning rate this is
gradient descent. Here a network that all coordinates share computes the gates, from the
loss L_t, the coordinate's gradient g_t and value, and the gates of the step before:

    i~_t = w_I . [x(g_t), x(L_t), theta_{t-1}, i~_{t-1}] + b_I,    i_t = sigm(i~_t)
    f~_t = w_F . [x(g_t), x(L_t), theta_{t-1}, f~_{t-1}] + b_F,    f_t = sigm(f~_t)

where x is log and sign of Andrychowicz et al. 2016. As in the authors' code, the gates
are fed back before their sigmoids, and i~_0 = f~_0 = 0. In first-order meta-gradients
g_t is a constant, as in the paper; L_t, which the paper takes for one too, is not.

With memory, an LSTM with a state for each coordinate stands between g_t and the gates:

    h_t  = LSTM(x(g_t), x(L_t)),   in place of x(g_t), x(L_t) above
    c~_t = -g_t + m . h_t

The h_t in the gates is the authors' code as well; m, which starts at zero, lets the
candidate hold earlier gradients, as momentum does.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import preprocess, registry, seeds
from l2l_tf.optimizers import base, coordinatewise
from l2l_tf.optimizers.lstm import network
from l2l_tf.optimizers.traits import COORDINATE, GRADIENTS, LOSS, PARAMETERS

INPUT, FORGET = 0, 1  # rows of whatever holds both gates
_FEATURES = preprocess.LogAndSign(p=10.0)
_NUM_FEATURES = 4  # two of the gradient, two of the loss
# Section 3.3: the forget gate starts open, the input gate at small learning rates. The
# ranges are those of the authors' code, and so is that of the weights.
_BIASES = {INPUT: (-5.0, -4.0), FORGET: (4.0, 5.0)}
_WEIGHTS = (-0.01, 0.01)


class GateState(NamedTuple):
  """State of a `GateLSTM`."""

  gates: tf.Tensor  # [2, N], i~ and f~ of the step before
  memory: list[network.LSTMState]  # one entry with memory, none without


def cell_update(theta, forget, rate, candidate):
  """Equation 2 as an update: c_t - c_{t-1} = -(1 - f_t) c_{t-1} + i_t c~_t.

  Args:
    theta: c_{t-1}.
    forget: 1 - f_t, which is precise where f_t is close to 1.
    rate: i_t.
    candidate: c~_t.
  """
  return -forget * theta + rate * candidate


@registry.register
class GateLSTM(base.Optimizer):
  """The parameters are the cell of an LSTM: its gates are learning rate and decay.

  Ravi and Larochelle 2017, section 3.1; the equations stand at the top of this file.
  A fresh one is gradient descent with a learning rate of about 0.01 and a decay of
  about 1% a step. `LearnedStart` adds the paper's learned c_0.

  >>> optimizer = GateLSTM(memory=True)
  >>> theta, grads = [tf.ones([3])], [tf.constant([1.0, -2.0, 0.5])]
  >>> state = optimizer.initial_state(theta)
  >>> updates, state = optimizer(grads, state, params=theta, loss=tf.constant(0.7))
  >>> forget, rate = optimizer.gates(state, theta)
  >>> bool(tf.reduce_all(forget[0] > 0.98))
  True
  """

  coupling = COORDINATE
  reads = {GRADIENTS, PARAMETERS, LOSS}

  def __init__(
    self, memory: bool = False, units: int = 20, seed: int = 0, dtype: str = "float32"
  ):
    """Initializes the weights.

    Args:
      memory: whether an LSTM of each coordinate's own stands between the gradient and
        the gates.
      units: of that LSTM (the paper's 20); without memory it has no meaning.
      seed: seed of the initial weights.
      dtype: type of the weights and the state, as a string.

    Raises:
      ValueError: for fewer than one unit, or an unknown type.
    """
    super().__init__()
    self._dtype = coordinatewise.check_dtype(dtype)
    coordinatewise.check_layers((units,))
    self._config = {
      "memory": bool(memory),
      "units": units,
      "seed": seed,
      "dtype": self._dtype.name,
    }
    num_inputs = units if memory else _NUM_FEATURES
    draw = lambda i, shape, limits: tf.Variable(
      _uniform(shape, seeds.make(seed, seeds.WEIGHTS, i), limits, self._dtype)
    )
    # The last row of `kernel` multiplies theta; columns are the two gates.
    self.kernel = draw(1, [num_inputs + 1, 2], _WEIGHTS)
    self.recurrent = draw(2, [2], _WEIGHTS)
    biases = [draw(3 + gate, [], limits) for gate, limits in _BIASES.items()]
    self.bias = tf.Variable(tf.stack(biases))
    self.memory = Memory(units, seed, self._dtype) if memory else None

  @property
  def config(self) -> dict[str, Any]:
    return dict(self._config)

  def initial_state(self, params):
    size = self._flat(params).shape[1]
    memory = [] if self.memory is None else [self.memory.initial_state(size)]
    return GateState(tf.zeros([2, size], self._dtype), memory)

  def __call__(self, grads, state, params=None, loss=None):
    _check_given(self, params=params, loss=loss)
    g, theta = self._flat(grads), self._flat(params)
    with tf.name_scope("preprocess"):
      inputs, candidate, memory = _features(g, tf.cast(loss, self._dtype)), -g, []
    if self.memory is not None:
      with tf.name_scope("memory"):
        moment, lstm = self.memory(inputs, state.memory[0])
      inputs, candidate, memory = lstm.hidden, candidate + moment, [lstm]
    with tf.name_scope("gates"):
      gates = self._gates(inputs, theta, state.gates)
    with tf.name_scope("update"):
      rate, forget = tf.sigmoid(gates[:1]), tf.sigmoid(-gates[1:])
      update = cell_update(theta, forget, rate, candidate)
      updates = coordinatewise.from_coordinates(update, grads)
    return [tf.cast(u, x.dtype) for u, x in zip(updates, grads)], GateState(
      gates, memory
    )

  def gates(
    self, state: GateState, params: list[tf.Tensor]
  ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns f_t and i_t of the step that led to a state.

    Args:
      state: after the step.
      params: tensors like the parameters.

    Returns:
      The forget and the input gates, each a list of tensors like `params`.
    """
    split = lambda row: coordinatewise.from_coordinates(tf.sigmoid(row), params)
    return split(state.gates[FORGET:]), split(state.gates[:FORGET])

  def _gates(self, inputs, theta, before):
    """Returns i~_t and f~_t, [2, N]."""
    w = tf.transpose(self.kernel)
    z = tf.matmul(w, tf.concat([inputs, theta], axis=0))
    return z + self.recurrent[:, tf.newaxis] * before + self.bias[:, tf.newaxis]

  def _flat(self, tensors):
    coordinatewise.check_not_empty(self, tensors)
    return coordinatewise.to_coordinates([tf.cast(x, self._dtype) for x in tensors])


class Memory(tf.Module):
  """An LSTM with a state for each coordinate, and m, which reads moments out of it."""

  def __init__(self, units: int, seed: int, dtype: tf.DType):
    super().__init__(name="memory")
    layer = network.DeepLSTM(
      _NUM_FEATURES, 1, (units,), "truncated_normal", seed, dtype
    ).weights.layers[0]
    self.w_x, self.w_h, self.b = layer
    self.readout = tf.Variable(tf.zeros([units], dtype))

  def initial_state(self, size: int) -> network.LSTMState:
    zeros = tf.zeros([self.w_h.shape[0], size], self.w_h.dtype)
    return network.LSTMState(zeros, zeros)

  def __call__(self, inputs, state):
    """Returns m . h_t, [1, N], and the LSTM's next state."""
    state, _ = network.lstm_step(inputs, state, self.w_x, self.w_h, self.b)
    return tf.matmul(self.readout[tf.newaxis], state.hidden), state


@registry.register
class ConstantGates(base.Optimizer):
  """The same cell with gates that are one learned constant, the learning rate.

  i_t = rate and f_t = 1 - rate * decay: gradient descent, where phi is the logarithm of
  the rate. In a `LearnedStart`, meta-trained in first order, it is first-order MAML
  (Finn et al. 2017, https://arxiv.org/abs/1703.03400) with a learned rate.

  >>> optimizer, theta = ConstantGates(0.1), [tf.constant([1.0, -2.0])]
  >>> updates, _ = optimizer([2.0 * theta[0]], optimizer.initial_state(theta), theta)
  >>> updates[0].numpy().round(6)
  array([-0.2,  0.4], dtype=float32)
  """

  coupling = COORDINATE
  reads = {GRADIENTS, PARAMETERS}

  def __init__(
    self, learning_rate: float = 0.01, decay: float = 0.0, dtype: str = "float32"
  ):
    """Initializes the rate.

    Args:
      learning_rate: that training starts from, positive.
      decay: share of the rate by which parameters shrink in a step; it is not learned.
      dtype: type of the rate, as a string.

    Raises:
      ValueError: for a rate that is not positive and finite, or a negative decay.
    """
    super().__init__()
    if not 0 < learning_rate < math.inf or not 0 <= decay < math.inf:
      raise ValueError(
        f"ConstantGates got learning_rate={learning_rate} and decay={decay}; the rate"
        " must be positive, the decay zero or positive, and both finite."
      )
    self._dtype = coordinatewise.check_dtype(dtype)
    self._config = {
      "learning_rate": learning_rate,
      "decay": decay,
      "dtype": self._dtype.name,
    }
    self._decay = decay
    self.log_rate = tf.Variable(math.log(learning_rate), dtype=self._dtype)

  @property
  def config(self) -> dict[str, Any]:
    return dict(self._config)

  @property
  def rate(self) -> tf.Tensor:
    """The learning rate i, a scalar."""
    return tf.exp(self.log_rate)

  def initial_state(self, params):
    coordinatewise.check_not_empty(self, params)
    return ()

  def __call__(self, grads, state, params=None, loss=None):
    _check_given(self, params=params)
    updates = []
    for g, theta in zip(grads, params, strict=True):
      rate = tf.cast(self.rate, g.dtype)
      updates.append(cell_update(theta, rate * self._decay, rate, -g))
    return updates, state


def _check_given(optimizer: base.Optimizer, **given: Any) -> None:
  missing = [name for name, value in given.items() if value is None]
  if missing:
    raise ValueError(
      f"{type(optimizer).__name__} was called without {' and '.join(missing)}, which it"
      " reads; pass the parameters and the loss to every call."
    )


def _features(grads: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
  """Returns log and sign of the gradients [1, N], and of the loss; [4, N]."""
  of_grads = tf.transpose(_FEATURES(grads[0]))  # [2, N]
  of_loss = tf.transpose(_FEATURES(tf.reshape(loss, [1])))  # [2, 1]
  return tf.concat([of_grads, tf.broadcast_to(of_loss, tf.shape(of_grads))], axis=0)


def _uniform(shape, key, limits: tuple[float, float], dtype: tf.DType) -> tf.Tensor:
  low, high = limits
  return tf.cast(low + (high - low) * seeds.uniform(shape, key), dtype)
