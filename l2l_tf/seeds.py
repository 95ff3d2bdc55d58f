"""Stateless seeds: the same integers always name the same draw.

A seed is an int32 tensor of shape [2], as `tf.random.stateless_*` takes it.
Nothing in the package draws from a global generator, so a run that is killed
and resumed, or repeated on another machine, meets the same problems.
"""

import tensorflow as tf

# First branch below a run's seed. Problems that select anything (a learning
# rate, the best weights) are never those that train or those that are reported.
WEIGHTS, TRAINING, VALIDATION, TUNING, EVALUATION = range(5)


def make(seed: int, *path: int | tf.Tensor) -> tf.Tensor:
  """Returns the seed at `path` below the integer `seed`; int32, shape [2]."""
  key = tf.constant([seed & 0x7FFFFFFF, (seed >> 31) & 0x7FFFFFFF], tf.int32)
  for branch in path:
    key = tf.random.fold_in(key, tf.cast(branch, tf.int32))
  return key
