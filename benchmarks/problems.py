"""l2l_tf's side of the classifiers: the same nets, on one drawn mini-batch."""

import itertools
from collections.abc import Sequence

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems import Problem


class Classifier(Problem):
  """Cross-entropy of a net on uniform noise with random labels.

  The mini-batch is part of the task, so that all contenders can be given the same;
  what it shows does not change what a step costs.
  """

  def __init__(self, shapes: Sequence[Sequence[int]], image_shape: Sequence[int]):
    self._shapes = [tuple(shape) for shape in shapes]
    self._image_shape = tuple(image_shape)

  def init(self, seed):
    image_key, label_key, *keys = seeds.split(seed, 2 + len(self._shapes))
    images = seeds.uniform([128, *self._image_shape], image_key)
    labels = seeds.integers([128], label_key, self._shapes[-1][0])
    params = [seeds.normal(s, k, 0.01) for s, k in zip(self._shapes, keys)]
    return params, [images, labels]

  def __call__(self, params, constants, seed):
    x, labels = constants
    *layers, last = zip(params[::2], params[1::2])
    for kernel, bias in layers:
      x = self._activation(self._apply(x, kernel) + bias)
    logits = self._apply(x, last[0]) + last[1]
    return tf.reduce_mean(
      tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )

  def _apply(self, x, kernel):
    if kernel.shape.rank == 4:
      padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
      return tf.nn.conv2d(padded, kernel, strides=2, padding="VALID")
    return tf.matmul(tf.reshape(x, [x.shape[0], -1]), kernel)


class MLP(Classifier):
  """Sigmoid units."""

  jit_compile = True
  _activation = staticmethod(tf.sigmoid)

  def __init__(self, sizes: Sequence[int]):
    shapes = [s for n, m in itertools.pairwise(sizes) for s in ((n, m), (m,))]
    super().__init__(shapes, sizes[:1])


class ConvNet(Classifier):
  """With ReLU, for images; not compiled, as XLA's convolutions are slow on CPUs."""

  _activation = staticmethod(tf.nn.relu)

  def __init__(self, shapes: Sequence[Sequence[int]]):
    super().__init__(shapes, (28, 28, 1))


class Separable(Problem):
  """mean_i d_i (x_i - y_i)^2: an optimizee that costs next to nothing."""

  jit_compile = True

  def __init__(self, num_parameters: int):
    self._size = num_parameters

  def init(self, seed):
    keys = seeds.split(seed, 3)
    x, y = (seeds.normal([self._size], key) for key in keys[:2])
    return [x], [y, seeds.uniform([self._size], keys[2])]

  def __call__(self, params, constants, seed):
    (x,), (y, d) = params, constants
    return tf.reduce_mean(d * tf.square(x - y))
