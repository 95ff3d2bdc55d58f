"""Stateless seeds: the same integers always give the same random numbers.

A seed is an int32 tensor of shape [2] without negative entries. Nothing in the package
draws from a global generator, so that a run which is killed and resumed, or repeated on
another machine, draws the same problems.

TensorFlow and XLA generate the same random bits from such a seed. They differ for seeds
with negative entries, and in how they turn bits into floats. The functions here
therefore keep seeds non-negative and turn bits into floats themselves.
"""

import tensorflow as tf

# First branch below a run's seed. Tasks that select something (a learning rate, the
# best weights) are never those that are trained on or those that are reported.
WEIGHTS, TRAINING, VALIDATION, TUNING, EVALUATION, ESTIMATION = range(6)

_POSITIVE = 0x7FFFFFFF


def make(seed: int, *path: int | tf.Tensor) -> tf.Tensor:
  """Returns the seed at `path` below the integer `seed`, int32 of shape [2].

  >>> seed = seeds.make(0, seeds.TRAINING, 5)  # of the sixth training task
  >>> bool(tf.reduce_all(seed == seeds.make(0, seeds.TRAINING, 5)))
  True
  """
  key = tf.constant([seed & _POSITIVE, (seed >> 31) & _POSITIVE], tf.int32)
  for branch in path:
    key = fold_in(key, branch)
  return key


def fold_in(seed: tf.Tensor, branch: int | tf.Tensor) -> tf.Tensor:
  """Returns the seed that the integer `branch` names below `seed`; shape [2].

  For N seeds [N, 2], returns the branch of each, [N, 2].

  >>> seed = seeds.make(0, seeds.TRAINING)
  >>> bool(tf.reduce_all(seeds.fold_in(seed, 5) == seeds.make(0, seeds.TRAINING, 5)))
  True
  """
  seed = tf.convert_to_tensor(seed)
  if seed.shape.rank == 2:
    return tf.vectorized_map(lambda one: fold_in(one, branch), seed, warn=False)
  key = tf.random.fold_in(seed, tf.cast(branch, tf.int32))
  return tf.bitwise.bitwise_and(key, _POSITIVE)


def split(seed: tf.Tensor, num: int) -> list[tf.Tensor]:
  """Returns `num` seeds below `seed`, each of shape [2], or [N, 2] like `seed`.

  >>> init_seed, batch_seed = seeds.split(seeds.make(0), 2)
  """
  seed = tf.convert_to_tensor(seed)
  if seed.shape.rank == 2:
    below = tf.vectorized_map(lambda one: tf.stack(split(one, num)), seed, warn=False)
    return tf.unstack(below, axis=1)
  keys = tf.bitwise.bitwise_and(tf.random.split(seed, num), _POSITIVE)
  return tf.unstack(keys)


def uniform(
  shape: list[int], seed: tf.Tensor, dtype: tf.DType = tf.float32
) -> tf.Tensor:
  """Draws from the uniform distribution on [0, 1), in multiples of 2^-23.

  >>> seeds.uniform([2, 3], seeds.make(0)).shape
  TensorShape([2, 3])
  """
  return tf.cast(_bits(shape, seed), dtype) * 2.0**-23


def normal(
  shape: list[int], seed: tf.Tensor, stddev: float = 1.0, dtype: tf.DType = tf.float32
) -> tf.Tensor:
  """Draws from N(0, stddev^2), by the inverse distribution function.

  >>> theta = seeds.normal([10], seeds.make(0), stddev=0.01)
  """
  centred = (tf.cast(_bits(shape, seed), dtype) + 0.5) * 2.0**-22 - 1.0  # in (-1, 1)
  return stddev * 2.0**0.5 * tf.math.erfinv(centred)


def integers(shape: list[int], seed: tf.Tensor, limit: int) -> tf.Tensor:
  """Draws int32 numbers from 0 to `limit` - 1, with equal probability.

  >>> batch = seeds.integers([32], seeds.make(0), limit=1000)  # of 1000 examples
  """
  return tf.random.stateless_uniform(shape, seed, 0, limit, tf.int32)


def _bits(shape, seed):
  """Draws integers from [0, 2^23), which float32 represents exactly."""
  bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32)
  return tf.bitwise.right_shift(bits, 9)
