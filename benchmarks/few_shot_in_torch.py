"""A meta-update on few-shot episodes in PyTorch: eager, with functional gradients."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

_WAYS, _QUERIES, _P = 5, 15, 10.0
_EPSILON = 1e-3  # of batch normalisation


class Updates:
  """Meta-training; a turn is some updates."""

  version = f"torch {torch.__version__}"

  def __init__(
    self, updates: int, shots: int, num_steps: int, reference: dict[str, Any]
  ):
    leaf = lambda x: torch.tensor(x, requires_grad=True)
    self._phi = {name: leaf(value) for name, value in reference["phi"].items()}
    self._updates, self._shots, self._num_steps = updates, shots, num_steps
    self._compared = reference["compared"]
    self._adam = torch.optim.Adam(self._phi.values(), lr=1e-3)
    self._generator = torch.Generator().manual_seed(0)

  @property
  def _start(self) -> list[torch.Tensor]:
    return [v for name, v in self._phi.items() if name.startswith("start_")]

  def turn(self, index: int) -> None:
    for _ in range(self._updates):
      self._update()

  def _update(self) -> None:
    sizes = _WAYS * self._shots, _WAYS * _QUERIES
    draw = lambda n: torch.rand(n, 1, 28, 28, generator=self._generator)
    self._adam.zero_grad()
    self._meta_loss(*map(draw, sizes), num_steps=self._num_steps).backward()
    torch.nn.utils.clip_grad_norm_(self._phi.values(), 0.25)
    self._adam.step()

  def answers(self, support: np.ndarray, query: np.ndarray) -> dict[str, Any]:
    images = [torch.tensor(x).permute(0, 3, 1, 2) for x in (support, query)]
    loss = self._meta_loss(*images, num_steps=self._compared)
    *of_start, bias = torch.autograd.grad(loss, [*self._start, self._phi["bias"]])
    return {
      "meta-loss": loss.detach().numpy(),
      "meta-gradient of the start": [g.numpy() for g in of_start],
      "meta-gradient of the biases": bias.numpy(),
    }

  def _meta_loss(self, support, query, num_steps):
    labels = lambda count: torch.arange(_WAYS).repeat_interleave(count)
    theta, shapes = self._start, [w.shape for w in self._start]
    flat = torch.cat([w.reshape(-1) for w in theta])
    gates = torch.zeros(2, len(flat))
    hidden = cell = None
    for _ in range(num_steps):
      theta = [w.reshape(s) for w, s in zip(flat.split([*map(_size, shapes)]), shapes)]
      loss = functional.cross_entropy(_logits(theta, support), labels(self._shots))
      # First order: constants, but for the derivative of the loss itself.
      grads = torch.autograd.grad(loss, theta, retain_graph=True)
      g = torch.cat([x.reshape(-1) for x in grads]).detach()
      loss = loss.detach() + (g * (flat - flat.detach())).sum()
      x = torch.cat([_features(g), _features(loss[None]).expand(2, len(g))])
      candidate = -g
      if "readout" in self._phi:
        x, cell = self._memory(x, hidden, cell)
        hidden, candidate = x, candidate + self._phi["readout"] @ x
      z = self._phi["kernel"].T @ torch.cat([x, flat[None]])
      gates = z + self._phi["recurrent"][:, None] * gates + self._phi["bias"][:, None]
      rate, forget = torch.sigmoid(gates[0]), torch.sigmoid(-gates[1])
      flat = flat - forget * flat + rate * candidate
    theta = [w.reshape(s) for w, s in zip(flat.split([*map(_size, shapes)]), shapes)]
    return functional.cross_entropy(_logits(theta, query), labels(_QUERIES))

  def _memory(self, x, hidden, cell):
    w_x, w_h, b = (self._phi[name] for name in ("w_x", "w_h", "b"))
    z = w_x.T @ x + b[:, None]
    if hidden is not None:
      z = z + w_h.T @ hidden
    i, f, o, g = z.chunk(4)
    new = torch.sigmoid(i) * torch.tanh(g)
    cell = new if cell is None else torch.sigmoid(f + 1.0) * cell + new
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _logits(theta, images):
  x = images
  *blocks, kernel, bias = theta
  for w, scale, offset in zip(blocks[::3], blocks[1::3], blocks[2::3]):
    x = functional.conv2d(x, w.permute(3, 2, 0, 1), padding=1)
    x = functional.batch_norm(x, None, None, scale, offset, True, eps=_EPSILON)
    x = functional.max_pool2d(functional.relu(x), 2)
  return x.permute(0, 2, 3, 1).reshape(len(x), -1) @ kernel + bias


def _features(x):
  smallest = float(np.exp(-_P))
  log = torch.log(torch.clamp(x.abs(), min=smallest)) / _P
  return torch.stack([log, torch.clamp(x / smallest, -1.0, 1.0)])


def _size(shape) -> int:
  return int(np.prod(shape))
