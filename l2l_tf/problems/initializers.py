"""How the variables of a Keras model start, as functions of a stateless seed.

Keras draws a variable's first value when it is made, once. An optimization task
needs another one for each seed, also while a graph is traced.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from unittest import mock

import keras
import tensorflow as tf

from l2l_tf import seeds


@contextlib.contextmanager
def recorded() -> Iterator[dict[int, Callable]]:
  """Yields the initializers of the variables made within, by the variables' ids.

  Keras forgets them, and a layer keeps its own under no common name. Variables that
  are assigned within are left out: they hold something else than was drawn.
  """
  found = {}
  original, original_assign = keras.Variable.__init__, keras.Variable.assign

  def init(self, initializer, *args, **kwargs):
    original(self, initializer, *args, **kwargs)
    if isinstance(initializer, str):
      initializer = keras.initializers.get(initializer)
    if callable(initializer):
      found[id(self)] = initializer

  def assign(self, value):
    found.pop(id(self), None)
    return original_assign(self, value)

  with mock.patch.multiple(keras.Variable, __init__=init, assign=assign):
    yield found


def start(variable: keras.Variable, initializer: Callable | None) -> Callable:
  """Returns the function of a seed that draws the variable's first value.

  Without an initializer, that is the value which the variable has now.
  """
  if initializer is None:
    value = tf.convert_to_tensor(variable.value)
    return lambda seed: value
  shape, dtype = tuple(variable.shape), variable.dtype

  def draw(seed):
    seeded = copy.copy(initializer)
    if hasattr(seeded, "seed"):
      seeded.seed = _StatelessSeeds(seed)
    return tf.convert_to_tensor(seeded(shape, dtype=dtype))

  return draw


class _StatelessSeeds(keras.random.SeedGenerator):
  """Seeds for Keras's random functions, all of them below one stateless seed."""

  def __init__(self, seed: tf.Tensor):
    """Does without the base class's variable."""
    self._seed = seed
    self._count = 0

  def next(self, ordered: bool = True) -> tf.Tensor:
    del ordered
    self._count += 1
    return seeds.fold_in(self._seed, self._count)
