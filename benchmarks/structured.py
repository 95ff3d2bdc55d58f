"""Optimizers with structure, by the names under which `structure_step.py` times them.

The hierarchy of GRUs has weights of which none is zero, so that what is proved equal
depends on all of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from hierarchical_as_published import AsPublished

from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import NTMBFGS, GlobalAveragingLSTM, HierarchicalRNN, Optimizer

_LEARNING_RATE = 1e-3


class LowestLevel(HierarchicalRNN):
  """The hierarchy without what its upper levels cost: they do not move, nor bias."""

  def _biases(self, segments, state):
    biases = self.coordinates.biases()[..., np.newaxis]  # [30, 1, 1]
    return tf.broadcast_to(biases, [biases.shape[0], segments.num_rows, 1])

  def _summed(self, coordinates, inputs):
    return []

  def _levels_above(self, means, state):
    return state.tensors, state.whole


def hierarchy(make: type[HierarchicalRNN] = HierarchicalRNN) -> HierarchicalRNN:
  """Returns one that has moved a little from its initial weights."""
  optimizer = make(_LEARNING_RATE)
  for i, v in enumerate(optimizer.trainable_variables):
    v.assign_add(0.1 * np.random.RandomState(i).normal(size=v.shape))
  return optimizer


def _learned(make: Callable[[], Optimizer]) -> Callable[[], LearnedOptimizer]:
  return lambda: LearnedOptimizer(make())


def _published(checked: bool = True) -> AsPublished:
  return AsPublished(hierarchy(), _LEARNING_RATE, checked)


_MAKERS: dict[str, Callable[[], Any]] = {
  "HierarchicalRNN": _learned(hierarchy),
  "lowest level": _learned(lambda: hierarchy(LowestLevel)),
  "GlobalAveragingLSTM": _learned(GlobalAveragingLSTM),
  "NTMBFGS": _learned(lambda: NTMBFGS(memory="low_rank")),
  "published": _published,
  "published, unchecked": lambda: _published(checked=False),
}
NAMES = set(_MAKERS)


def optimizer(name: str) -> Any:
  """Returns what has `apply(grads, variables)`, as a Keras optimizer has."""
  return _MAKERS[name]()
