"""The tasks of l2l-benchmark: Keras models on data that no optimizer here trained on.

Small enough that a laptop can run every optimizer at every rate, and of many kinds:
dense, convolutional, residual, recurrent, attention, mixers, autoencoders, embeddings,
regression. Twelve of the eighteen are of a kind that `suites.GENERAL_TRAINING` has not.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import layers as L

from l2l_tf.problems.data import datasets
from l2l_tf.problems.keras_model import KerasModel
from l2l_tf.problems.suites import CROSS_ENTROPY, Positions

_LENGTH = 48  # characters that a model of text sees
_PATCH = 4  # pixels of a side
_NUM_CIFAR = 20_000  # train images that are used


def _task(
  build: Callable[[], keras.Model],
  data: Callable,
  batch_size: int = 32,
  loss: str | Callable = CROSS_ENTROPY,
  compiled: bool = True,  # XLA makes all but convolutions faster
):
  options = {"batch_size": batch_size, "jit_compile": compiled}
  return lambda: KerasModel(build, loss, *data(), **options)


def _sequential(shape: Sequence[int], layers: Callable[[], Sequence[L.Layer]]):
  return lambda: keras.Sequential([keras.Input(shape), *layers()])


def _softmax(num_classes: int):
  return L.Dense(num_classes, "softmax")


# Data.


def _cifar():
  """CIFAR-10 at half its resolution, 16 x 16, in [-1, 1]."""
  return _halved(datasets.cifar10())


def _omniglot():
  """Omniglot's alphabets, 28 x 28; which of 30 does a character belong to?"""
  data = datasets.omniglot_alphabets()
  return _scaled(data.train_images, data.train_labels), _scaled(
    data.test_images, data.test_labels
  )


def _omniglot_rows():
  return tuple((x[..., 0], y) for x, y in _omniglot())


def _omniglot_copies():
  return tuple((x, x) for x, _ in _omniglot())


def _scaled(images, labels):
  return images.numpy().astype(np.float32) / 255.0, labels.numpy()


def _halved(data: datasets.Dataset):
  def halve(images, labels):
    x, y = _scaled(images, labels)
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    return 2.0 * x - 1.0, y

  train = halve(data.train_images[:_NUM_CIFAR], data.train_labels[:_NUM_CIFAR])
  return train, halve(data.test_images[:1000], data.test_labels[:1000])


def _text():
  """Windows of Python's manual, and at each place the character that follows."""
  text = datasets.manual()
  count = len(text) // (_LENGTH + 1)
  windows = text[: count * (_LENGTH + 1)].reshape(count, _LENGTH + 1)
  pairs = windows[:, :-1], windows[:, 1:]
  return _split(*pairs, count // 20)


def _num_characters() -> int:
  return int(datasets.manual().max()) + 1


def _photograph():
  """Places in a photograph, in [-1, 1], and the colours there."""
  colours = datasets.photograph()
  height, width, _ = colours.shape
  places = np.stack(
    np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"),
    axis=-1,
  )
  order = np.random.RandomState(0).permutation(height * width)
  flat = lambda x: x.reshape(height * width, -1)[order].astype(np.float32)
  return _split(flat(places), flat(colours), height * width // 20)


def _friedman():
  """Friedman's first function of ten numbers, five of which matter, with noise."""
  x, y = datasets.friedman(4000)
  return _split(x, y, 1000)


def _sums():
  """Sequences of numbers, two of them marked; the target is the sum of the two."""
  rng = np.random.RandomState(0)
  numbers, marks = rng.rand(6000, 24), np.zeros([6000, 24])
  for row in marks:
    row[rng.choice(24, 2, replace=False)] = 1
  y = np.sum(numbers * marks, axis=1, keepdims=True)
  x = np.stack([numbers, marks], axis=-1)
  return _split(x.astype(np.float32), y.astype(np.float32), 1000)


def _ratings():
  """What 300 users would give to 200 things, of rank 4, with noise."""
  rng = np.random.RandomState(0)
  users, things = rng.randn(300, 4), rng.randn(200, 4)
  pairs = np.stack([rng.randint(300, size=20000), rng.randint(200, size=20000)], axis=1)
  y = np.sum(users[pairs[:, 0]] * things[pairs[:, 1]], axis=1) / 2
  y = y + 0.2 * rng.randn(len(y))
  return _split(pairs.astype(np.int32), y[:, np.newaxis].astype(np.float32), 2000)


def _split(x, y, num_held_out: int):
  return (x[:-num_held_out], y[:-num_held_out]), (x[-num_held_out:], y[-num_held_out:])


# Models.


def _conv_net():
  conv = lambda n: L.Conv2D(n, 3, activation="relu", padding="same")
  pool = L.MaxPooling2D
  hidden = [L.Flatten(), L.Dense(64, "relu"), L.Dropout(0.3)]
  return [conv(16), pool(), conv(32), pool(), *hidden, _softmax(10)]


def _wide(num_classes: int):
  hidden = [L.Flatten(), L.Dense(512, "relu"), L.Dropout(0.2), L.Dense(512, "relu")]
  return [*hidden, _softmax(num_classes)]


def _deep():
  block = lambda: [L.Dense(48, use_bias=False), L.BatchNormalization(), L.ReLU()]
  return [L.Flatten(), *(layer for _ in range(8) for layer in block()), _softmax(10)]


def _residual_conv() -> keras.Model:
  x = inputs = keras.Input([16, 16, 3])
  x = L.Conv2D(12, 3, padding="same", use_bias=False)(x)
  for filters, stride in [(12, 2), (24, 2), (24, 1)]:
    y = L.ReLU()(L.BatchNormalization()(x))
    skip = x if stride == 1 else L.Conv2D(filters, 1, stride)(y)
    y = L.Conv2D(filters, 3, stride, padding="same", use_bias=False)(y)
    y = L.ReLU()(L.BatchNormalization()(y))
    x = skip + L.Conv2D(filters, 3, padding="same", use_bias=False)(y)
  x = L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(x)))
  return keras.Model(inputs, _softmax(10)(x))


def _patches(x, units: int):
  x = L.Conv2D(units, _PATCH, _PATCH)(x)
  return L.Reshape([x.shape[1] * x.shape[2], units])(x)


def _feed_forward(x, hidden: int, units: int):
  return L.Dense(units)(L.Dense(hidden, "gelu")(x))


def _attending(x, heads: int, causal: bool):
  units = x.shape[-1]
  y = L.LayerNormalization()(x)
  x = x + L.MultiHeadAttention(heads, units // heads)(y, y, use_causal_mask=causal)
  return x + _feed_forward(L.LayerNormalization()(x), 2 * units, units)


def _vision_transformer() -> keras.Model:
  inputs = keras.Input([16, 16, 3])
  x = Positions()(_patches(inputs, 48))
  for _ in range(2):
    x = _attending(x, 4, causal=False)
  x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
  return keras.Model(inputs, _softmax(10)(x))


def _mixer() -> keras.Model:
  inputs = keras.Input([16, 16, 3])
  x = _patches(inputs, 48)
  for _ in range(2):
    y = L.Permute([2, 1])(L.LayerNormalization()(x))
    x = x + L.Permute([2, 1])(_feed_forward(y, 32, x.shape[1]))
    x = x + _feed_forward(L.LayerNormalization()(x), 96, 48)
  x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
  return keras.Model(inputs, _softmax(10)(x))


def _normalised_conv():
  conv = lambda n: [
    L.Conv2D(n, 3, 2, padding="same", use_bias=False),
    L.BatchNormalization(),
    L.ReLU(),
  ]
  return [*conv(16), *conv(32), *conv(32), L.Flatten(), _softmax(30)]


def _bidirectional():
  return [L.Bidirectional(L.GRU(32)), _softmax(30)]


def _conv_autoencoder():
  down = lambda n: L.Conv2D(n, 3, 2, padding="same", activation="relu")
  up = lambda n: L.Conv2DTranspose(n, 3, 2, padding="same", activation="relu")
  code = [L.Flatten(), L.Dense(32), L.Dense(7 * 7 * 16), L.Reshape([7, 7, 16])]
  return [
    down(8), down(16), *code, up(16), up(8),
    L.Conv2D(1, 3, padding="same", activation="sigmoid"),
  ]  # fmt: skip


def _grey_crossentropy(y, outputs):
  """Cross-entropy of grey pixels, which have no accuracy."""
  return keras.losses.binary_crossentropy(y, outputs)


class _Code(L.Layer):
  """A normal sample around the first half of its input; adds the divergence as a loss.

  Kingma and Welling 2014, https://arxiv.org/abs/1312.6114.
  """

  def __init__(self, scale: float, **kwargs):
    super().__init__(**kwargs)
    self._scale, self._seeds = scale, keras.random.SeedGenerator(0)

  def call(self, x, training=False):
    mean, log_variance = keras.ops.split(x, 2, axis=-1)
    excess = mean**2 + keras.ops.exp(log_variance) - 1.0 - log_variance
    self.add_loss(self._scale * 0.5 * keras.ops.mean(keras.ops.sum(excess, axis=-1)))
    if not training:
      return mean
    noise = keras.random.normal(keras.ops.shape(mean), seed=self._seeds)
    return mean + noise * keras.ops.exp(0.5 * log_variance)


def _variational_autoencoder():
  return [
    L.Flatten(), L.Dense(128, "relu"), L.Dense(32), _Code(1.0 / 784),
    L.Dense(128, "relu"), L.Dense(784, "sigmoid"), L.Reshape([28, 28, 1]),
  ]  # fmt: skip


def _text_transformer() -> keras.Model:
  size = _num_characters()
  inputs = keras.Input([_LENGTH], dtype="int32")
  x = Positions()(L.Embedding(size, 64)(inputs))
  for _ in range(2):
    x = _attending(x, 4, causal=True)
  return keras.Model(inputs, _softmax(size)(L.LayerNormalization()(x)))


def _text_lstm():
  size = _num_characters()
  lstm = lambda: L.LSTM(64, return_sequences=True)
  return [L.Embedding(size, 32), lstm(), lstm(), _softmax(size)]


def _text_convolutions():
  size = _num_characters()
  conv = lambda rate: L.Conv1D(
    64, 3, padding="causal", dilation_rate=rate, activation="relu"
  )
  return [L.Embedding(size, 32), conv(1), conv(2), conv(4), conv(8), _softmax(size)]


class _Waves(L.Layer):
  """Sines and cosines of the input at random frequencies.

  Tancik et al. 2020, https://arxiv.org/abs/2006.10739.
  """

  def call(self, x):
    frequencies = np.random.RandomState(0).normal(0, 5, [2, 64]).astype(np.float32)
    y = keras.ops.matmul(x, frequencies)
    return keras.ops.concatenate([keras.ops.sin(y), keras.ops.cos(y)], axis=-1)


def _picture():
  hidden = [L.Dense(64, "relu") for _ in range(3)]
  return [_Waves(), *hidden, L.Dense(3, "sigmoid")]


def _swish():
  return [L.Dense(64, "swish"), L.Dense(64, "swish"), L.Dense(64, "swish"), L.Dense(1)]


def _adder():
  return [L.GRU(48, return_sequences=True), L.GRU(48), L.Dense(1)]


def _factors() -> keras.Model:
  inputs = keras.Input([2], dtype="int32")
  pick = lambda table, column: table(inputs[:, column])
  user, thing = pick(L.Embedding(300, 8), 0), pick(L.Embedding(200, 8), 1)
  bias = pick(L.Embedding(300, 1), 0) + pick(L.Embedding(200, 1), 1)
  return keras.Model(inputs, L.Dot(1)([user, thing]) + bias)


_CIFAR, _OMNIGLOT = [16, 16, 3], [28, 28, 1]

# Name -> function that makes the task; no data are read before it is called.
BENCHMARK_TASKS: Mapping[str, Callable[[], KerasModel]] = {
  "CIFAR: convolutions": _task(_sequential(_CIFAR, _conv_net), _cifar, compiled=False),
  "CIFAR: residual convolutions": _task(_residual_conv, _cifar, compiled=False),
  "CIFAR: vision transformer": _task(_vision_transformer, _cifar),
  "CIFAR: mixer": _task(_mixer, _cifar, 64),
  "CIFAR: 2 x 512": _task(_sequential(_CIFAR, lambda: _wide(10)), _cifar),
  "CIFAR: 8 x 48 batch norm": _task(_sequential(_CIFAR, _deep), _cifar, 64),
  "Omniglot: batch norm": _task(
    _sequential(_OMNIGLOT, _normalised_conv), _omniglot, compiled=False
  ),
  "Omniglot: 2 x 512": _task(_sequential(_OMNIGLOT, lambda: _wide(30)), _omniglot),
  "Omniglot: bidirectional GRU": _task(
    _sequential(_OMNIGLOT[:2], _bidirectional), _omniglot_rows
  ),
  "Omniglot: convolutional autoencoder": _task(
    _sequential(_OMNIGLOT, _conv_autoencoder), _omniglot_copies, 16, "mse", False
  ),
  "Omniglot: variational autoencoder": _task(
    _sequential(_OMNIGLOT, _variational_autoencoder), _omniglot_copies, 64,
    _grey_crossentropy,
  ),
  "manual: transformer": _task(_text_transformer, _text, 16),
  "manual: 2 LSTMs": _task(_sequential([_LENGTH], _text_lstm), _text, 16),
  "manual: dilated convolutions": _task(
    _sequential([_LENGTH], _text_convolutions), _text, 16, compiled=False
  ),
  "photograph: 3 x 64": _task(_sequential([2], _picture), _photograph, 256, "mse"),
  "Friedman: 3 x 64 swish": _task(_sequential([10], _swish), _friedman, 16, "huber"),
  "sums: 2 GRUs": _task(_sequential([24, 2], _adder), _sums, 64, "mse"),
  "ratings: embeddings": _task(_factors, _ratings, 128, "mse"),
}  # fmt: skip
