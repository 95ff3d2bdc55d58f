"""Meta-training in JAX: everything under one `jit`, steps and windows scanned."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

VERSION = f"jax {jax.__version__}"
_FORGET_BIAS = 1.0
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7


class Problem(NamedTuple):
  """A distribution of tasks."""

  draw: Callable[[jax.Array], tuple[jax.Array, Any]]  # key -> (theta, constants)
  loss: Callable[[jax.Array, Any], jax.Array]  # of theta of any shape


def quadratic(batch_size: int, num_dims: int) -> Problem:
  """The mean over the batch of ||W theta - y||^2."""

  def draw(key):
    w_key, y_key, theta_key = jax.random.split(key, 3)
    w = jax.random.normal(w_key, (batch_size, num_dims, num_dims))
    y = jax.random.normal(y_key, (batch_size, num_dims))
    return 0.01 * jax.random.normal(theta_key, (batch_size, num_dims)), (w, y)

  def loss(theta, constants):
    w, y = constants
    residual = jnp.einsum("bij,bj->bi", w, theta) - y
    return jnp.mean(jnp.sum(residual**2, axis=1))

  return Problem(draw, loss)


def mlp(sizes: Sequence[int]) -> Problem:
  """Mean cross-entropy of a sigmoid network on one mini-batch, (images, labels)."""
  shapes = [s for n, m in itertools.pairwise(sizes) for s in ((n, m), (m,))]

  def loss(theta, constants):
    images, labels = constants
    *hidden, kernel, bias = _slices(theta, shapes)
    x = images
    for w, b in zip(hidden[::2], hidden[1::2]):
      x = jax.nn.sigmoid(x @ w + b)
    return _cross_entropy(x @ kernel + bias, labels)

  return _classifier(loss, shapes, (sizes[0],), sizes[-1])


def conv_net(shapes: Sequence[Sequence[int]]) -> Problem:
  """The same for convolutions of stride 2, then dense layers, with ReLU."""

  def loss(theta, constants):
    x, labels = constants
    weights = _slices(theta, shapes)
    for w, b in zip(weights[::2], weights[1::2]):
      if w.ndim == 4:
        x = jax.lax.conv_general_dilated(
          x, w, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
      else:
        x = x.reshape(len(labels), -1) @ w
      x = jax.nn.relu(x + b) if b is not weights[-1] else x + b
    return _cross_entropy(x, labels)

  return _classifier(loss, shapes, (28, 28, 1), shapes[-1][0])


def _classifier(loss, shapes, image_shape, num_classes, batch_size=128) -> Problem:
  size = sum(map(math.prod, shapes))

  def draw(key):
    keys = jax.random.split(key, 3)
    images = jax.random.uniform(keys[0], (batch_size, *image_shape))
    labels = jax.random.randint(keys[1], (batch_size,), 0, num_classes)
    return 0.01 * jax.random.normal(keys[2], (size,)), (images, labels)

  return Problem(draw, loss)


def _slices(theta, shapes):
  ends = list(itertools.accumulate(map(math.prod, shapes)))
  parts = zip([0, *ends], ends, shapes)
  return [theta[begin:end].reshape(shape) for begin, end, shape in parts]


def _cross_entropy(logits, labels):
  log_p = jax.nn.log_softmax(logits)
  return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


class AdamState(NamedTuple):
  step: jax.Array
  first: Any
  second: Any


class MetaTraining:
  """What `l2l_tf.meta.trainer.MetaTrainer` does by default."""

  def __init__(
    self,
    problem: Problem,
    weights: Sequence[np.ndarray],
    num_steps: int,
    unroll_length: int,
    learning_rate: float,
  ):
    """Takes weights in the order of `CoordinatewiseLSTM.trainable_variables`."""
    self._problem = problem
    self._phi = [jnp.asarray(w) for w in weights]
    zeros = jax.tree.map(jnp.zeros_like, self._phi)
    self._adam = AdamState(jnp.zeros([]), zeros, zeros)
    window = partial(_window_loss, problem.loss, unroll_length)
    self._differentiate = jax.jit(jax.value_and_grad(window, has_aux=True))
    train = partial(
      _train, problem.loss, window, num_steps // unroll_length, learning_rate
    )
    self._train_on = jax.jit(train)
    self._train_on_fresh = jax.jit(
      lambda phi, adam, key: train(phi, adam, *problem.draw(key))
    )

  def warm_up(self) -> None:
    """Computes one gradient of the problem alone."""
    theta, constants = self._problem.draw(jax.random.key(0))
    jax.block_until_ready(jax.jit(jax.grad(self._problem.loss))(theta, constants))

  def first_window(self, theta, constants) -> tuple[float, list[np.ndarray]]:
    """Returns the meta-loss and the meta-gradient, and updates nothing."""
    inner = _start(self._problem.loss, self._phi, theta, constants)
    (meta_loss, _), grads = self._differentiate(self._phi, inner, constants)
    return float(meta_loss), [np.asarray(g) for g in grads]

  def train_on(self, theta, constants) -> np.ndarray:
    """Trains on a given task; returns the meta-loss of each window."""
    outer, meta_losses = self._train_on(self._phi, self._adam, theta, constants)
    self._phi, self._adam = outer
    return np.asarray(meta_losses)

  def epoch(self, seed: int) -> np.ndarray:
    """Trains on a fresh task; returns the meta-loss of each window."""
    key = jax.random.key(seed)
    outer, meta_losses = self._train_on_fresh(self._phi, self._adam, key)
    self._phi, self._adam = jax.block_until_ready(outer)
    return np.asarray(meta_losses)


def _train(loss, window, num_windows, learning_rate, phi, adam, theta, constants):
  def body(carry, _):
    phi, adam, inner = carry
    differentiate = jax.value_and_grad(window, has_aux=True)
    (meta_loss, inner), grads = differentiate(phi, inner, constants)
    phi, adam = _adam_step(phi, adam, grads, learning_rate)
    return (phi, adam, inner), meta_loss

  carry = (phi, adam, _start(loss, phi, theta, constants))
  (phi, adam, _), meta_losses = jax.lax.scan(body, carry, length=num_windows)
  return (phi, adam), meta_losses


def _start(loss, phi, theta, constants):
  _, *layers, _ = phi
  state = [(jnp.zeros([theta.size, w_h.shape[0]]),) * 2 for w_h in layers[1::3]]
  return theta, state, jax.grad(loss)(theta, constants)


def _window_loss(loss, length, phi, inner, constants):
  def body(inner, _):
    theta, state, grads = inner
    update, state = _optimizer(phi, grads, state)
    theta = theta + update
    value, grads = jax.value_and_grad(loss)(theta, constants)
    return (theta, state, jax.lax.stop_gradient(grads)), value

  inner, losses = jax.lax.scan(body, inner, length=length)
  return jnp.sum(losses), inner


def _optimizer(phi, grads, state):
  b, *layers, w = phi
  x, next_state = grads.reshape(-1, 1), []
  for i, (h, c) in enumerate(state):
    w_x, w_h, bias = layers[3 * i : 3 * i + 3]
    gates = jnp.split(x @ w_x + h @ w_h + bias, 4, axis=1)
    i_gate, f_gate, o_gate = map(
      jax.nn.sigmoid, (gates[0], gates[1] + _FORGET_BIAS, gates[2])
    )
    c = f_gate * c + i_gate * jnp.tanh(gates[3])
    x = o_gate * jnp.tanh(c)
    next_state.append((x, c))
  return (x @ w + b).reshape(grads.shape), next_state


def _adam_step(phi, adam, grads, learning_rate):
  step = adam.step + 1
  mean = lambda beta: lambda old, new: beta * old + (1 - beta) * new
  first = jax.tree.map(mean(_BETA_1), adam.first, grads)
  second = jax.tree.map(mean(_BETA_2), adam.second, [g**2 for g in grads])
  rate = learning_rate * jnp.sqrt(1 - _BETA_2**step) / (1 - _BETA_1**step)
  move = lambda p, m, v: p - rate * m / (jnp.sqrt(v) + _EPSILON)
  return jax.tree.map(move, phi, first, second), AdamState(step, first, second)


class Lanes(NamedTuple):
  """Antithetic pairs of particles; everything [P, ...]."""

  constants: Any
  plus: Any  # theta, the optimizer's state, gradients
  minus: Any
  total: Any  # sum of the episode's perturbations, like phi
  age: jax.Array


class PersistentTraining:
  """Persistent evolution strategies, all lanes under `vmap`, all windows scanned."""

  def __init__(
    self,
    problem: Problem,
    weights: Sequence[np.ndarray],
    pairs: int,
    stddev: float,
    num_steps: int,
    unroll_length: int,
    learning_rate: float,
  ):
    """Takes what `MetaTraining` does; an episode has `num_steps`."""
    self._problem, self._pairs, self._stddev = problem, pairs, stddev
    self._length, self._num_steps = unroll_length, num_steps
    self._learning_rate = learning_rate
    phi = [jnp.asarray(w) for w in weights]
    zeros = jax.tree.map(jnp.zeros_like, phi)
    lanes = self._begin(phi, jax.random.key(0))
    step = num_steps // pairs
    ages = (jnp.arange(pairs) * step) // unroll_length * unroll_length
    self._carry = phi, AdamState(jnp.zeros([]), zeros, zeros), lanes._replace(age=ages)
    self._train = jax.jit(self._epoch)

  def estimate(self, theta, constants, noise) -> list[np.ndarray]:
    """Returns the first window's estimate from given particles."""
    phi, *_ = self._carry
    lanes = self._lanes(phi, jnp.asarray(theta), [jnp.asarray(c) for c in constants])
    gradient, _ = jax.jit(self._window)(phi, lanes, [jnp.asarray(e) for e in noise])
    return [np.asarray(g) for g in gradient]

  def epoch(self, seed: int) -> None:
    carry = self._train(self._carry, jax.random.key(seed))
    self._carry = jax.block_until_ready(carry)

  def _epoch(self, carry, key):
    def body(carry, key):
      phi, adam, lanes = carry
      noise_key, task_key = jax.random.split(key)
      lanes = self._renewed(phi, lanes, task_key)
      keys = jax.random.split(noise_key, len(phi))
      draw = lambda w, k: self._stddev * jax.random.normal(k, (self._pairs, *w.shape))
      noise = [draw(w, k) for w, k in zip(phi, keys)]
      gradient, lanes = self._window(phi, lanes, noise)
      phi, adam = _adam_step(phi, adam, gradient, self._learning_rate)
      return (phi, adam, lanes), None

    keys = jax.random.split(key, self._num_steps // self._length)
    return jax.lax.scan(body, carry, keys)[0]

  def _begin(self, phi, key) -> Lanes:
    theta, constants = jax.vmap(self._problem.draw)(jax.random.split(key, self._pairs))
    return self._lanes(phi, theta, constants)

  def _lanes(self, phi, theta, constants) -> Lanes:
    begin = lambda theta, constants: _start(self._problem.loss, phi, theta, constants)
    inner = jax.vmap(begin)(theta, constants)
    total = [jnp.zeros((self._pairs, *w.shape)) for w in phi]
    return Lanes(constants, inner, inner, total, jnp.zeros([self._pairs], int))

  def _renewed(self, phi, lanes, key) -> Lanes:
    """Begins those episodes anew that have ended."""
    is_over = lanes.age >= self._num_steps

    def mixed():
      expand = lambda x: is_over.reshape([-1] + [1] * (x.ndim - 1))
      choose = lambda new, old: jnp.where(expand(old), new, old)
      return jax.tree.map(choose, self._begin(phi, key), lanes)

    return jax.lax.cond(is_over.any(), mixed, lambda: lanes)

  def _window(self, phi, lanes, noise):
    total = [xi + e for xi, e in zip(lanes.total, noise)]
    run = jax.vmap(partial(_window_loss, self._problem.loss, self._length))
    up, plus = run([w + e for w, e in zip(phi, noise)], lanes.plus, lanes.constants)
    down, minus = run([w - e for w, e in zip(phi, noise)], lanes.minus, lanes.constants)
    slope = (up - down) / (2 * self._stddev**2)
    gradient = [jnp.tensordot(slope, xi, 1) / self._pairs for xi in total]
    lanes = Lanes(lanes.constants, plus, minus, total, lanes.age + self._length)
    return gradient, lanes


class OptimizerSteps:
  """The optimizer alone, its state updated in place."""

  def __init__(self, weights: Sequence[np.ndarray], num_parameters: int):
    """Takes weights in the order of `CoordinatewiseLSTM.trainable_variables`."""
    phi = [jnp.asarray(w) for w in weights]
    step = lambda theta, state, grads: _moved(theta, *_optimizer(phi, grads, state))
    self._step = jax.jit(step, donate_argnums=(0, 1))
    units = [w_h.shape[0] for w_h in phi[1:-1][1::3]]
    self._state = [
      tuple(jnp.zeros([num_parameters, n]) for _ in range(2)) for n in units
    ]
    self._theta = jnp.zeros([num_parameters])

  def __call__(self, grads: np.ndarray) -> np.ndarray:
    """Takes one step; returns the parameters."""
    outer = self._step(self._theta, self._state, jnp.asarray(grads))
    self._theta, self._state = jax.block_until_ready(outer)
    return self._theta


def _moved(theta, update, state):
  return theta + update, state
