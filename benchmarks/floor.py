"""The least that a window can cost: its matrix products and transcendentals alone.

For every coordinate and step, two runs of the LSTM (one among the optimizees, one to
go back from), and per layer the two products of the way back.
"""

from typing import Any

import tensorflow as tf

from l2l_tf import cores

_BLOCK = 128


class Epochs:
  """The floor as a contender; a turn is the work of an epoch."""

  version = f"tensorflow {tf.__version__}"

  def __init__(self, case: Any):
    """Takes a `Case` of `meta_train.py`."""
    self._run = make(case.num_parameters, case.num_steps, case.layers)

  def turn(self, index: int) -> None:
    self._run()


def make(num_coordinates: int, num_steps: int, layers=(20, 20), num_features: int = 1):
  """Returns a function that does that work on all cores, and nothing else."""
  blocks = -(-num_coordinates // _BLOCK)
  counts = [end - begin for begin, end in cores.shards(blocks, blocks)]
  sizes = list(zip([num_features, *layers], layers))

  @tf.function(jit_compile=True, autograph=False)
  def shard(count, weights, inputs):
    def body(i, inputs, sums):
      outputs = [_layer(*each) for each in zip(weights, inputs, sums)]
      return i + 1, [x for x, _ in outputs], [s for _, s in outputs]

    sums = [tf.zeros([4 * n, m + n]) for m, n in sizes]
    return tf.while_loop(lambda i, *_: i < count, body, (0, inputs, sums))[2]

  weights = [tf.random.stateless_normal([4 * n, m + n], [0, n]) for m, n in sizes]
  inputs = [tf.random.stateless_normal([m + n, _BLOCK], [1, n]) for m, n in sizes]

  @tf.function(autograph=False)
  def run():
    return [shard(tf.constant(n * num_steps), weights, inputs) for n in counts]

  return lambda: tf.nest.map_structure(lambda x: x.numpy(), run())


def _layer(w, x, total):
  """Two runs forwards, the way back, and the gradient of the weights, of one step."""
  gates = tf.sigmoid(tf.matmul(w, x))  # [4 units, B]; a tanh costs as much
  again = tf.sigmoid(tf.matmul(w, 0.9 * x))
  d_x = tf.matmul(w, gates + again, transpose_a=True)
  # The tanh of both runs' cell states: as many rows, where x is as high as h.
  return tf.tanh(d_x), total + tf.matmul(gates, x, transpose_b=True)
