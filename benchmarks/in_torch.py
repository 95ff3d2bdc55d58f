"""Meta-training in PyTorch: eager, functional, gradients by `torch.autograd`."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

VERSION = f"torch {torch.__version__}"
_FORGET_BIAS = 1.0


class Problem(NamedTuple):
  """A distribution of tasks."""

  draw: Callable[[torch.Generator], tuple[torch.Tensor, Any]]  # (theta, constants)
  loss: Callable[[torch.Tensor, Any], torch.Tensor]  # of theta of any shape


def quadratic(batch_size: int, num_dims: int) -> Problem:
  """The mean over the batch of ||W theta - y||^2."""

  def draw(generator):
    w = torch.randn(batch_size, num_dims, num_dims, generator=generator)
    y = torch.randn(batch_size, num_dims, generator=generator)
    return 0.01 * torch.randn(batch_size, num_dims, generator=generator), (w, y)

  def loss(theta, constants):
    w, y = constants
    residual = torch.bmm(w, theta.unsqueeze(2)).squeeze(2) - y
    return residual.square().sum(dim=1).mean()

  return Problem(draw, loss)


def mlp(sizes: Sequence[int]) -> Problem:
  """Mean cross-entropy of a sigmoid network on one mini-batch, (images, labels)."""
  shapes = [s for n, m in itertools.pairwise(sizes) for s in ((n, m), (m,))]

  def loss(theta, constants):
    images, labels = constants
    *hidden, kernel, bias = _slices(theta, shapes)
    x = images
    for w, b in zip(hidden[::2], hidden[1::2]):
      x = torch.addmm(b, x, w).sigmoid()
    return functional.cross_entropy(torch.addmm(bias, x, kernel), labels.long())

  return _classifier(loss, shapes, (sizes[0],), sizes[-1])


def conv_net(shapes: Sequence[Sequence[int]]) -> Problem:
  """The same for convolutions of stride 2, then dense layers, with ReLU."""

  def loss(theta, constants):
    images, labels = constants
    weights = _slices(theta, shapes)
    x = images.permute(0, 3, 1, 2)
    for w, b in zip(weights[::2], weights[1::2]):
      if w.dim() == 4:
        x = functional.conv2d(x, w.permute(3, 2, 0, 1), b, stride=2, padding=1)
      else:
        flat = x.permute(0, 2, 3, 1).flatten(1) if x.dim() == 4 else x
        x = torch.addmm(b, flat, w)
      x = x.relu() if b is not weights[-1] else x
    return functional.cross_entropy(x, labels.long())

  return _classifier(loss, shapes, (28, 28, 1), shapes[-1][0])


def _classifier(loss, shapes, image_shape, num_classes, batch_size=128) -> Problem:
  size = sum(map(math.prod, shapes))

  def draw(generator):
    images = torch.rand(batch_size, *image_shape, generator=generator)
    labels = torch.randint(num_classes, (batch_size,), generator=generator)
    return 0.01 * torch.randn(size, generator=generator), (images, labels)

  return Problem(draw, loss)


def _slices(theta, shapes):
  parts = theta.flatten().split([math.prod(shape) for shape in shapes])
  return [part.reshape(tuple(shape)) for part, shape in zip(parts, shapes)]


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
    self._phi = [torch.tensor(w, requires_grad=True) for w in weights]
    self._meta_optimizer = torch.optim.Adam(self._phi, learning_rate, eps=1e-7)
    self._num_windows = num_steps // unroll_length
    self._length = unroll_length

  def warm_up(self) -> None:
    """Computes one gradient of the problem alone."""
    theta, constants = self._problem.draw(torch.Generator().manual_seed(0))
    self._problem.loss(theta.requires_grad_(), constants).backward()

  def first_window(self, theta, constants) -> tuple[float, list[np.ndarray]]:
    """Returns the meta-loss and the meta-gradient, and updates nothing."""
    theta, constants = torch.tensor(theta), [torch.tensor(c) for c in constants]
    meta_loss, _ = self._window(self._start(theta, constants), constants)
    grads = torch.autograd.grad(meta_loss, self._phi)
    return meta_loss.item(), [g.numpy() for g in grads]

  def train_on(self, theta, constants) -> np.ndarray:
    """Trains on a given task; returns the meta-loss of each window."""
    return self._train(torch.tensor(theta), [torch.tensor(c) for c in constants])

  def epoch(self, seed: int) -> np.ndarray:
    """Trains on a fresh task; returns the meta-loss of each window."""
    return self._train(*self._problem.draw(torch.Generator().manual_seed(seed)))

  def _train(self, theta, constants):
    inner, meta_losses = self._start(theta, constants), []
    for _ in range(self._num_windows):
      meta_loss, inner = self._window(inner, constants)
      self._meta_optimizer.zero_grad()
      meta_loss.backward()
      self._meta_optimizer.step()
      meta_losses.append(meta_loss.item())
    return np.array(meta_losses)

  def _start(self, theta, constants):
    theta = theta.detach().requires_grad_()
    (grads,) = torch.autograd.grad(self._problem.loss(theta, constants), theta)
    _, *layers, _ = self._phi
    state = [
      (torch.zeros(theta.numel(), len(w_h)), torch.zeros(theta.numel(), len(w_h)))
      for w_h in layers[1::3]
    ]
    return theta.detach(), state, grads

  def _window(self, inner, constants):
    theta, state, grads = inner
    losses = []
    for _ in range(self._length):
      update, state = _optimizer(self._phi, grads, state)
      theta = theta + update
      losses.append(self._problem.loss(theta, constants))
      (grads,) = torch.autograd.grad(losses[-1], theta, retain_graph=True)
    state = [(h.detach(), c.detach()) for h, c in state]
    return torch.stack(losses).sum(), (theta.detach(), state, grads)


def _optimizer(phi, grads, state):
  b, *layers, w = phi
  x, next_state = grads.reshape(-1, 1), []
  for i, (h, c) in enumerate(state):
    w_x, w_h, bias = layers[3 * i : 3 * i + 3]
    gates = torch.addmm(torch.addmm(bias, x, w_x), h, w_h).chunk(4, dim=1)
    i_gate, f_gate, o_gate = (
      gates[0].sigmoid(),
      (gates[1] + _FORGET_BIAS).sigmoid(),
      gates[2].sigmoid(),
    )
    c = f_gate * c + i_gate * gates[3].tanh()
    x = o_gate * c.tanh()
    next_state.append((x, c))
  return torch.addmm(b, x, w).reshape(grads.shape), next_state


class OptimizerSteps:
  """The optimizer alone, eager or compiled."""

  def __init__(
    self, weights: Sequence[np.ndarray], num_parameters: int, is_compiled: bool = False
  ):
    """Takes weights in the order of `CoordinatewiseLSTM.trainable_variables`."""
    self._phi = [torch.tensor(w) for w in weights]
    self._optimizer = torch.compile(_optimizer) if is_compiled else _optimizer
    units = [w_h.shape[0] for w_h in self._phi[1:-1][1::3]]
    self._state = [
      tuple(torch.zeros(num_parameters, n) for _ in range(2)) for n in units
    ]
    self._theta = torch.zeros(num_parameters)

  @torch.no_grad()
  def __call__(self, grads: np.ndarray) -> np.ndarray:
    """Takes one step; returns the parameters."""
    update, self._state = self._optimizer(
      self._phi, torch.from_numpy(grads), self._state
    )
    self._theta += update
    return self._theta.numpy()
