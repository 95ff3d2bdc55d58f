"""Steps of the paper's convolutional net: in l2l_tf's unroll, and written plainly.

All of them train the same net on the same images by Adam at the same rate, and draw
128 of them with replacement in every step.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from l2l_tf.evaluation.runner import Runner
from l2l_tf.optimizers import Adam
from l2l_tf.problems import as_dataset, cifar10_conv

_VERSION = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
_NUM_EXAMPLES, _BATCH, _RATE = 10_000, 128, 0.003


def _images() -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, [_NUM_EXAMPLES, 32, 32, 3], dtype=np.uint8)
  return images, np.arange(_NUM_EXAMPLES, dtype=np.int32) % 10


class Unroll:
  """`Runner`, by which all curves are made; a turn is one run."""

  version = _VERSION

  def __init__(self, num_steps: int):
    images, labels = _images()
    data = as_dataset(images, labels, images[:10], labels[:10])
    self._run = Runner(cifar10_conv(dataset=data), Adam(_RATE), num_steps)

  def turn(self, index: int) -> None:
    self._run(seed=index, branch=0, num_draws=1)


class Plain:
  """A Python loop around one compiled step with a `GradientTape`."""

  version = _VERSION

  def __init__(self, num_steps: int):
    self._num_steps = num_steps
    images, labels = map(tf.constant, _images())
    model, optimizer = _model(), keras.optimizers.Adam(_RATE)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step():
      chosen = tf.random.uniform([_BATCH], 0, _NUM_EXAMPLES, tf.int32)
      x, y = tf.gather(images, chosen), tf.gather(labels, chosen)
      with tf.GradientTape() as tape:
        value = loss(y, model(x, training=True))
      grads = tape.gradient(value, model.trainable_variables)
      optimizer.apply(grads, model.trainable_variables)
      return value

    self._step = step

  def turn(self, index: int) -> Any:
    losses = [self._step() for _ in range(self._num_steps)]
    return [float(x) for x in losses]


class Fit:
  """Keras's `fit`, on batches that are drawn by `tf.data`."""

  version = _VERSION

  def __init__(self, num_steps: int):
    self._num_steps = num_steps
    images, labels = _images()
    data = tf.data.Dataset.from_tensor_slices((images, labels)).cache()
    self._data = data.repeat().shuffle(_NUM_EXAMPLES).batch(_BATCH).prefetch(2)
    self._model = _model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    self._model.compile(keras.optimizers.Adam(_RATE), loss)

  def turn(self, index: int) -> None:
    self._model.fit(self._data, steps_per_epoch=self._num_steps, verbose=0)


def _model() -> keras.Model:
  """The net as one writes it in Keras."""
  parts = [keras.Input([32, 32, 3], dtype="uint8"), layers.Rescaling(1.0 / 255.0)]
  for _ in range(3):
    parts.append(layers.Conv2D(16, 5, padding="same", use_bias=False))
    parts += [layers.BatchNormalization(scale=False), layers.ReLU()]
    parts.append(layers.MaxPooling2D())
  parts += [layers.Flatten(), layers.Dense(32, use_bias=False)]
  parts += [layers.BatchNormalization(scale=False), layers.ReLU(), layers.Dense(10)]
  return keras.Sequential(parts)
