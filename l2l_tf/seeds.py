"""Stateless seeds: the same integers always name the same draw.

A seed is an int32 tensor of shape [2], neither entry negative. Nothing in the
package draws from a global generator, so a run that is killed and resumed, or
repeated on another machine, meets the same problems.

TensorFlow and XLA agree on the random bits of such a seed, but not on those of
a negative one, nor on how bits become floats; hence the functions here.
"""

import tensorflow as tf

# First branch below a run's seed. Problems that select anything (a learning
# rate, the best weights) are never those that train or those that are reported.
WEIGHTS, TRAINING, VALIDATION, TUNING, EVALUATION, ESTIMATION = range(6)

_POSITIVE = 0x7FFFFFFF


def make(seed: int, *path: int | tf.Tensor) -> tf.Tensor:
  """Returns the seed at `path` below the integer `seed`; int32, shape [2]."""
  key = tf.constant([seed & _POSITIVE, (seed >> 31) & _POSITIVE], tf.int32)
  for branch in path:
    key = fold_in(key, branch)
  return key


def fold_in(seed: tf.Tensor, branch: int | tf.Tensor) -> tf.Tensor:
  """Returns the seed that the integer `branch` names below `seed`; shape [2].

  Of several seeds, [N, 2], as many.
  """
  if seed.shape.rank == 2:
    return tf.vectorized_map(lambda one: fold_in(one, branch), seed, warn=False)
  key = tf.random.fold_in(seed, tf.cast(branch, tf.int32))
  return tf.bitwise.bitwise_and(key, _POSITIVE)


def split(seed: tf.Tensor, num: int) -> list[tf.Tensor]:
  """Returns `num` seeds below `seed`, each of shape [2], or [N, 2] like `seed`."""
  if seed.shape.rank == 2:
    below = tf.vectorized_map(lambda one: tf.stack(split(one, num)), seed, warn=False)
    return tf.unstack(below, axis=1)
  keys = tf.bitwise.bitwise_and(tf.random.split(seed, num), _POSITIVE)
  return tf.unstack(keys)


def uniform(
  shape: list[int], seed: tf.Tensor, dtype: tf.DType = tf.float32
) -> tf.Tensor:
  """Draws from U[0, 1), a multiple of 2^-23."""
  return tf.cast(_bits(shape, seed), dtype) * 2.0**-23


def normal(
  shape: list[int], seed: tf.Tensor, stddev: float = 1.0, dtype: tf.DType = tf.float32
) -> tf.Tensor:
  """Draws from N(0, stddev^2), by the inverse of the distribution function."""
  centred = (tf.cast(_bits(shape, seed), dtype) + 0.5) * 2.0**-22 - 1.0  # in (-1, 1)
  return stddev * 2.0**0.5 * tf.math.erfinv(centred)


def integers(shape: list[int], seed: tf.Tensor, limit: int) -> tf.Tensor:
  """Draws int32 numbers from 0 up to, but not including, `limit`."""
  return tf.random.stateless_uniform(shape, seed, 0, limit, tf.int32)


def _bits(shape, seed):
  """Draws integers from [0, 2^23), which float32 holds exactly."""
  bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32)
  return tf.bitwise.right_shift(bits, 9)
