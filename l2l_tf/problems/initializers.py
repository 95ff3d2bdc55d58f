"""Initial values of a Keras model's variables, as functions of a stateless seed.

Keras draws a variable's initial value once, when the variable is made. An optimization
task needs a new draw for each seed, also while a graph is traced.
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
  """Yields the initializers of the variables made in this context, by variable id.

  A Keras variable does not keep its initializer, and layers keep theirs under many
  different names. Variables that are assigned in this context are left out, since they
  no longer hold what their initializer drew.
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
  """Returns a function that draws the variable's initial value from a seed.

  Without an initializer, the function returns the variable's present value.
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
  """Gives Keras's random functions seeds that are derived from one stateless seed."""

  def __init__(self, seed: tf.Tensor):
    """Does not call the base class, which would make a variable."""
    self._seed = seed
    self._count = 0

  def next(self, ordered: bool = True) -> tf.Tensor:
    del ordered
    self._count += 1
    return seeds.fold_in(self._seed, self._count)
