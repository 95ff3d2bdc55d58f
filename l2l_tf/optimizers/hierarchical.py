"""A hierarchy of GRUs: one for every coordinate, one per tensor, and one above all.

Wichrowska et al. 2017, "Learned Optimizers that Scale and Generalize", sections 3.2 and
3.3, https://arxiv.org/abs/1703.04813; where the paper leaves something open, as the
authors' code has it. For one coordinate of a tensor, in the order of a step, h, s and v
being the states of its own GRU, its tensor's and the global one:

    a_k <- b_k a_k + (1 - b_k) g,    b_k = sigm(w_b . h + c_b)^(1 / 2^k),  k = 0 ... 3
    l_k <- d l_k + (1 - d) a_k^2,    d = sigm(w_d . h + c_d)
    m_k = asinh(a_k / sqrt(l_k))                                  scaled gradients
    x   = (m_0 ... m_3, m_0 m_1, m_1 m_2, m_2 m_3,
           log l_k - mean over k of log l_k,  e - mean over all coordinates of e)
    h  <- GRU(x, h; A [s, v])                    each state enters as an affine bias
    s  <- GRU(mean over the tensor of [h, x], s; B v)
    v  <- GRU(mean over the tensors of s, v)
    e^  = e + w_e . h + c_e                                       log rate of this step
    e  <- r e + (1 - r) e^                                        its running average
    q   = w . h + u . m
    theta <- theta - exp(e^) q / RMS(q)                           RMS over the tensor

In the first step b_k = d = 0: the averages begin with the first gradient. A GRU (Cho et
al. 2014, https://arxiv.org/abs/1406.1078) with biases p = b + A [...] from above is

    r = sigm(W_r [x, h] + p_r)     z = sigm(W_z [x, h] + p_z)
    n = tanh(W_n [x, r h] + p_n)   h <- z h + (1 - z) n
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import registry, seeds
from l2l_tf.optimizers import base, coordinatewise, parts
from l2l_tf.optimizers.lstm.cell import sigmoid_by_tanh
from l2l_tf.optimizers.segments import Segments, row_sums
from l2l_tf.optimizers.traits import ALL, GRADIENTS

_UNITS = 10, 20, 20  # of the three levels, from below
_SCALES = 4  # of time
_INPUTS = 3 * _SCALES  # of the lowest level: with the products of neighbours and e
_TINY = 1e-37  # keeps quotients of zeros at zero; the least normal float32 is 1.2e-38
_LARGEST = 33.0  # |log rate|, as in the authors' code
# Of the authors' code: spreads of initial weights, to be divided by sqrt(inputs).
_WEIGHTS = 0.5
_SHORTCUT = 0.1
_GATE_BIAS = 2.2
# Columns of `readouts`: w, w_e, w_b and w_d.
_READOUTS = _DIRECTION, _RATE, _AVERAGE, _SQUARE = range(4)


class Constants(NamedTuple):
  """The learned scalars."""

  log_rate: Any = 0.0  # added to the log of `learning_rate` at the start
  change: Any = 0.0  # c_e
  momentum: Any = 3.2  # logit of r
  average: Any = 2.2  # c_b
  square: Any = 3.2  # c_d


class HierarchicalState(NamedTuple):
  """State of `HierarchicalRNN`: 19 floats a coordinate, in R rows of W; K tensors."""

  step: tf.Tensor  # [], steps taken
  coordinates: tf.Tensor  # h, [10, R, W]
  tensors: tf.Tensor  # s, [20, K]
  whole: tf.Tensor  # v, [20, 1]
  averages: tf.Tensor  # a, [4, R, W]
  squares: tf.Tensor  # l, [4, R, W]
  log_rates: tf.Tensor  # e, [R, W]


class Rows(NamedTuple):
  """Some rows of the gradients, and what they are told from above."""

  grads: tf.Tensor  # [R, W]
  entries: tf.Tensor  # how many each row holds, [R]
  biases: tf.Tensor  # of their GRUs, [30, R, 1]


class Own(NamedTuple):
  """What belongs to the coordinates of some rows in a `HierarchicalState`."""

  coordinates: tf.Tensor
  averages: tf.Tensor
  squares: tf.Tensor
  log_rates: tf.Tensor


@registry.register
class HierarchicalRNN(parts.Divisible, base.Optimizer):
  """GRUs for coordinates, tensors and the whole, which see gradients without scale.

  Wichrowska et al. 2017; the equations stand at the top of this file. The updates do
  not depend on the scale of the loss, for gradients from 1e-15 to 1e18: each step moves
  a tensor by a root mean square of about its learned rate. That also holds for a tensor
  whose gradients vanish, which moves where its state points.

  The paper draws the first log rate of every coordinate between log 1e-6 and log 1e-2,
  so that training meets all of them. Here it is the same for all, `learning_rate` times
  a learned factor, and no run depends on chance. The states in which the GRUs begin are
  learned as well. The paper's attention, gradients at a point ahead of theta, is left
  out: what is to be evaluated at the end is theta, and no optimizer is told of the end.

  The state takes 76 bytes a coordinate in float32. Coordinates that move in one call
  take about 450 bytes each in addition.

  >>> optimizer = HierarchicalRNN(learning_rate=0.01)
  >>> grads = [tf.constant([1e-6, 1.0, -1e6]), tf.ones([2, 2])]
  >>> updates, state = optimizer(grads, optimizer.initial_state(grads))
  >>> [round(float(tf.sqrt(tf.reduce_mean(u**2))), 4) for u in updates]
  [0.01, 0.01]
  """

  coupling = ALL
  reads = {GRADIENTS}
  jit_compile = True
  parts_axis = -2  # rows

  def __init__(
    self, learning_rate: float = 1e-3, seed: int = 0, dtype: str = "float32"
  ):
    """Initializes the weights.

    Args:
      learning_rate: root mean square of the updates of a tensor that training starts
        from; 1e-3, Adam's usual rate, is within the paper's 1e-6 to 1e-2.
      seed: seed of the initial weights.
      dtype: type of the weights and the state, "float32" or "float64"; squares of
        gradients are out of range in the others.

    Raises:
      ValueError: for a rate that is not positive and finite, or another type.
    """
    super().__init__()
    _check_arguments(learning_rate, dtype)
    self._dtype = tf.as_dtype(dtype)
    self._config = {"learning_rate": learning_rate, "seed": seed, "dtype": dtype}
    self._learning_rate = learning_rate
    draw = _Draw(seed, self._dtype)
    below, middle, above = _UNITS
    self.coordinates = GRU(_INPUTS, below, middle + above, draw)
    self.tensors = GRU(below + _INPUTS, middle, above, draw)
    self.whole = GRU(middle, above, 0, draw)
    spread = tf.constant([_WEIGHTS, 0.0, _WEIGHTS, _WEIGHTS], self._dtype)
    readouts = draw.normal([below, len(_READOUTS)], 1.0 / math.sqrt(below))
    self.readouts = tf.Variable(spread * readouts, name="readouts")
    shortcut = draw.normal([_SCALES, 1], _SHORTCUT / math.sqrt(_SCALES))
    self.shortcut = tf.Variable(1.0 / _SCALES + shortcut, name="shortcut")
    self.constants = tf.Variable(Constants(), dtype=self._dtype, name="constants")

  @property
  def config(self) -> dict[str, Any]:
    return dict(self._config)

  @property
  def learns_start(self) -> bool:
    return True  # The initial state depends on phi.

  def initial_state(self, params):
    coordinatewise.check_not_empty(self, params)
    segments = _segments(params)
    rows = [segments.num_rows, segments.width]
    zeros = tf.zeros([_SCALES, *rows], self._dtype)
    log_rate = math.log(self._learning_rate) + self._constants.log_rate
    return HierarchicalState(
      tf.zeros([], tf.int32),
      self.coordinates.initial_state(rows),
      self.tensors.initial_state([segments.count]),
      self.whole.initial_state([1]),
      zeros,
      zeros,
      tf.fill(rows, log_rate),
    )

  def divides(self):
    return HierarchicalState(False, True, False, False, True, True, True)

  def step(self, grads, state, each):
    segments = _segments(grads)
    if not segments.size:
      return list(grads), state
    own = list(map(Own, *(getattr(state, name) for name in Own._fields)))
    ((rows, mean),) = each(
      lambda *given: self._from_above(segments, *given), [(grads, state)]
    )
    move = lambda *part: self._move(*part, state.step, mean)
    moves, own, sums = zip(*each(move, list(zip(rows, own))))
    ((updates, tensors, whole),) = each(
      lambda *given: self._from_below(segments, *given), [(grads, moves, sums, state)]
    )
    own = {name: list(part) for name, part in zip(Own._fields, zip(*own))}
    next_state = state._replace(
      step=state.step + 1, tensors=tensors, whole=whole, **own
    )
    return updates, next_state

  def diagnostics(self, grads, state):
    """Returns the mean log10 rate, the mean decays, and RMS(q) of all tensors."""
    segments = _segments(grads)
    if not segments.size:
      return {}
    whole = parts.divided(state, self.divides())
    (rows,), mean = self._from_above(segments, grads, whole)
    own = Own(*(getattr(state, name) for name in Own._fields))
    average, square = self._decays(own)
    scaled, _, own = self._read(rows, own, state.step, mean)
    direction, _ = self._outputs(own.coordinates, scaled)
    return {
      "log10_rate": segments.mean(state.log_rates) / math.log(10.0),
      "average_decay": segments.mean(average),
      "square_decay": segments.mean(square),
      "direction": tf.sqrt(segments.mean(tf.square(direction))),
    }

  @property
  def _constants(self) -> Constants:
    return Constants(*tf.unstack(tf.convert_to_tensor(self.constants)))

  def _from_above(self, segments: Segments, grads, state):
    """Returns the `Rows` of each part, and the mean of e."""
    with tf.name_scope("from_above"):
      grads = segments.lay_out([tf.cast(g, self._dtype) for g in grads])
      biases, entries = self._biases(segments, state), segments.entries
      sizes = [part.shape[0] for part in state.log_rates]
      cut = lambda x, axis=0: parts.split(x, sizes, axis)
      rows = list(map(Rows, cut(grads), cut(entries), cut(biases, axis=1)))
      sums = [row_sums(e, part.entries) for e, part in zip(state.log_rates, rows)]
      return rows, tf.reduce_sum(tf.concat(sums, axis=0)) / segments.size

  def _move(self, rows: Rows, own: Own, step, mean):
    """Moves the coordinates of some rows.

    Returns:
      exp(e^) q, [R, W]; their next state; and sums over each row, [23, R], of h, x and
      the square of q.
    """
    with tf.name_scope("coordinates"):
      scaled, inputs, own = self._read(rows, own, step, mean)
      direction, change = self._outputs(own.coordinates, scaled)
      log_rate, log_rates = _rates(self._constants, own.log_rates, change)
      summed = [
        *self._summed(own.coordinates, inputs),
        tf.square(direction)[tf.newaxis],
      ]
      sums = row_sums(tf.concat(summed, axis=0), rows.entries)
      return tf.exp(log_rate) * direction, own._replace(log_rates=log_rates), sums

  def _from_below(self, segments: Segments, grads, moves, sums, state):
    """Returns the updates, and the next states of the two levels above."""
    with tf.name_scope("from_below"):
      means = segments.means_of_rows(tf.concat(sums, axis=1))
      tensors, whole = self._levels_above(means[:-1], state)
      root_mean_square = segments.spread(tf.sqrt(means[-1:] + _TINY))[0]
      update = -tf.concat(moves, axis=0) / root_mean_square
      updates = segments.cut(update, grads)
      return [tf.cast(u, g.dtype) for u, g in zip(updates, grads)], tensors, whole

  def _decays(self, own: Own) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns b_0 and d, each [R, W]; the first step does without."""
    readouts, constants = self.readouts[:, _AVERAGE:], self._constants
    average, square = tf.unstack(_product(readouts, own.coordinates))
    average = sigmoid_by_tanh(average + constants.average)
    return average, sigmoid_by_tanh(square + constants.square)

  def _read(self, rows: Rows, own: Own, step, mean):
    """Returns m, x, and the state with the next h, a and l."""
    has_past = tf.cast(step > 0, self._dtype)
    scaled, averages, squares = self._scaled(rows.grads, own, has_past)
    inputs = _inputs(scaled, squares, own.log_rates - mean)
    coordinates = self.coordinates(inputs, own.coordinates, rows.biases)
    return scaled, inputs, Own(coordinates, averages, squares, own.log_rates)

  def _scaled(self, grads, own: Own, has_past):
    """Returns m, a and l, each [4, R, W]."""
    decay, square_decay = self._decays(own)
    decays = [decay]
    for _ in range(_SCALES - 1):
      decays.append(tf.sqrt(decays[-1] + _TINY))
    average = lambda x, decay, new: new + has_past * decay * (x - new)
    averages = average(own.averages, tf.stack(decays), grads)
    squares = average(own.squares, square_decay, tf.square(averages))
    return tf.asinh(averages / tf.sqrt(squares + _TINY)), averages, squares

  def _biases(self, segments: Segments, state: HierarchicalState) -> tf.Tensor:
    """Returns the biases from above in all rows, [30, R, 1]."""
    whole = tf.tile(state.whole, [1, segments.count])
    above = tf.concat([state.tensors, whole], axis=0)
    return segments.spread(self.coordinates.biases(above))

  def _summed(self, coordinates, inputs) -> list[tf.Tensor]:
    """Returns that whose means the level above reads."""
    return [coordinates, inputs]

  def _levels_above(self, means: tf.Tensor, state: HierarchicalState):
    """Returns the next s and v, given the means over each tensor, [22, K]."""
    tensors = self.tensors(means, state.tensors, self.tensors.biases(state.whole))
    mean = tf.reduce_mean(tensors, axis=1, keepdims=True)
    return tensors, self.whole(mean, state.whole, self.whole.biases())

  def _outputs(self, coordinates, scaled) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns q, and w_e . h, each [R, W]."""
    direction, change = tf.unstack(_product(self.readouts[:, : _RATE + 1], coordinates))
    return direction + _product(self.shortcut, scaled)[0], change


class GRU(tf.Module):
  """A GRU whose biases may depend on the states above; the batch is the last axes."""

  def __init__(self, num_inputs: int, units: int, num_above: int, draw: "_Draw"):
    """Initializes the weights.

    Args:
      num_inputs: I, numbers in x.
      units: U, numbers in the state.
      num_above: A, numbers in the states above.
      draw: initial weights.
    """
    super().__init__(name="gru")
    self._units = units
    stddev = lambda fan_in: _WEIGHTS / math.sqrt(fan_in)
    # The columns are r, z and n, U each.
    rows = num_inputs + units
    self.w_x = tf.Variable(draw.normal([num_inputs, 3 * units], stddev(rows)))
    self.w_h = tf.Variable(draw.normal([units, 3 * units], stddev(rows)))
    bias = [_GATE_BIAS] * (2 * units) + [0.0] * units
    self.b = tf.Variable(bias, dtype=draw.dtype)
    self.above = None
    if num_above:
      weights = draw.normal([num_above, 3 * units], stddev(num_above / 2))
      self.above = tf.Variable(weights)
    self.start = tf.Variable(draw.uniform([units]))

  def initial_state(self, shape: list[int]) -> tf.Tensor:
    """Returns the learned start, [U, *shape]."""
    start = tf.reshape(self.start, [-1] + [1] * len(shape))
    return tf.broadcast_to(start, [self._units, *shape])

  def biases(self, above: tf.Tensor | None = None) -> tf.Tensor:
    """Returns p, [3 U, N], given the states above, [A, N]; without any, [3 U, 1]."""
    biases = self.b[:, tf.newaxis]
    return biases if above is None else biases + _product(self.above, above)

  def __call__(self, x: tf.Tensor, h: tf.Tensor, biases: tf.Tensor) -> tf.Tensor:
    """Returns the next state, [U, ...].

    Args:
      x: [I, ...].
      h: the state, [U, ...].
      biases: [3 U, ...], or of sizes that are broadcast to that.
    """
    gates = 2 * self._units
    z = _product(self.w_x, x) + biases
    z_gates = z[:gates] + _product(self.w_h[:, :gates], h)
    reset, keep = tf.split(sigmoid_by_tanh(z_gates), 2)
    new = tf.tanh(z[gates:] + _product(self.w_h[:, gates:], reset * h))
    return new + keep * (h - new)


class _Draw:
  """Draws initial weights, each from its own branch of one seed."""

  def __init__(self, seed: int, dtype: tf.DType):
    self.dtype = dtype
    self._seed, self._count = seed, 0

  def normal(self, shape: list[int], stddev: float) -> tf.Tensor:
    return tf.cast(seeds.normal(shape, self._key(), stddev), self.dtype)

  def uniform(self, shape: list[int]) -> tf.Tensor:
    """Draws from [-1, 1)."""
    return tf.cast(2.0 * seeds.uniform(shape, self._key()) - 1.0, self.dtype)

  def _key(self) -> tf.Tensor:
    self._count += 1
    return seeds.make(self._seed, seeds.WEIGHTS, self._count)


def _segments(tensors) -> Segments:
  return Segments([x.shape for x in tensors])


def _inputs(scaled, squares, relative) -> tf.Tensor:
  """Returns x, [12, R, W]."""
  logs = tf.math.log(squares + _TINY)
  logs -= tf.reduce_mean(logs, axis=0, keepdims=True)
  products = scaled[:-1] * scaled[1:]
  return tf.concat([scaled, products, logs, relative[tf.newaxis]], axis=0)


def _rates(constants: Constants, average, change) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns e^ and the next e, each [R, W]."""
  free = average + change + constants.change
  # Within bounds, whose derivative is left out: what is outside can learn to return.
  bounded = tf.clip_by_value(free, -_LARGEST, _LARGEST)
  log_rate = free + tf.stop_gradient(bounded - free)
  momentum = tf.sigmoid(constants.momentum)
  return log_rate, log_rate + momentum * (average - log_rate)


def _product(weights: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """Maps x [I, ...] by weights [I, O] to [O, ...]."""
  flat = tf.reshape(x, [x.shape[0], -1])
  product = tf.matmul(weights, flat, transpose_a=True)
  return tf.reshape(product, [weights.shape[1], *x.shape[1:]])


def _check_arguments(learning_rate: float, dtype: str) -> None:
  if not 0 < learning_rate < math.inf:
    raise ValueError(
      f"HierarchicalRNN got learning_rate={learning_rate}; it must be a positive,"
      " finite number, e.g. 0.001."
    )
  if dtype not in ("float32", "float64"):
    raise ValueError(
      f"HierarchicalRNN got dtype={dtype!r}; choose 'float32' or 'float64', for squares"
      " of gradients are out of range in the others."
    )
