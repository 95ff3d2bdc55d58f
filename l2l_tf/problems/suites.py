"""The small tasks that `general` is trained on, and those it is tested on.

Nets of all the usual kinds, small enough that thousands of trainings take an hour, on
the data that come with scikit-learn: 8 x 8 digits, the wines, the irises, the diabetes
table, and the prose that describes these data sets.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L

from l2l_tf.problems.base import Problem
from l2l_tf.problems.classification import FAN_IN, MLP, ConvNet, mnist_mlp
from l2l_tf.problems.data import datasets
from l2l_tf.problems.keras_model import KerasModel
from l2l_tf.problems.synthetic import Polynomial
from l2l_tf.problems.wichrowska import wichrowska as wichrowska

_NUM_SHIFTED = 20_000  # examples of the larger data sets
_CONTEXT = 16  # characters that a model of text sees
CROSS_ENTROPY = "sparse_categorical_crossentropy"


def _mlp(
  data: Callable,
  widths: Sequence[int],
  activation: str,
  batch_size: int,
  stddev: float | str = FAN_IN,
):
  return lambda: MLP(data(), widths, activation, batch_size, stddev)


def _conv_net(filters: Sequence[int], activation: str, batch_size: int):
  data = datasets.digits
  return lambda: ConvNet(data(), filters, activation, batch_size, FAN_IN)


def _keras(
  layers: Callable[[], Sequence[L.Layer]],
  data: Callable,
  batch_size: int = 32,
  loss: str = CROSS_ENTROPY,
):
  """Returns what makes a problem of a sequential model; probabilities come out."""

  def make():
    train, held_out = data()
    build = lambda: keras.Sequential([keras.Input(train[0].shape[1:]), *layers()])
    return KerasModel(build, loss, train, held_out, batch_size, jit_compile=True)

  return make


def _arrays(data: datasets.Dataset):
  x, y, *held_out = (t.numpy() for t in data)
  return (x, y), tuple(held_out)


def _images():
  return _arrays(datasets.digits())


@functools.lru_cache(maxsize=1)
def _shifted() -> datasets.Dataset:
  """Digits shifted by up to two pixels, with noise: more than a net can memorise."""
  (x, y), held_out = _images()
  shifted = []
  for seed, (images, count) in enumerate([(x, _NUM_SHIFTED), (held_out[0], 1000)]):
    rng = np.random.RandomState(seed)
    chosen = rng.randint(len(images), size=count)
    moved = [
      np.roll(images[i], rng.randint(-2, 3, size=2), axis=(0, 1)) for i in chosen
    ]
    noise = rng.normal(0, 0.15, np.shape(moved))
    labels = (y, held_out[1])[seed][chosen]
    shifted += [(moved + noise).astype(np.float32), labels]
  return datasets.as_dataset(*shifted)


@functools.lru_cache(maxsize=1)
def _taught() -> datasets.Dataset:
  """Points in 16 dimensions, in classes that a random net with noise tells apart."""
  rng = np.random.RandomState(0)
  x = rng.normal(size=[_NUM_SHIFTED + 1000, 16]).astype(np.float32)
  hidden = np.tanh(x @ rng.normal(0, 0.5, [16, 32]))
  scores = hidden @ rng.normal(0, 0.7, [32, 5])
  y = np.argmax(scores + rng.gumbel(0, 0.5, scores.shape), axis=-1)
  return datasets.as_dataset(x[:-1000], y[:-1000], x[-1000:], y[-1000:])


def _rows():
  """Digits as sequences of eight rows."""
  return tuple((x[..., 0], y) for x, y in _images())


def _zeros_alone():
  """Is it a zero? One in ten is."""
  return tuple((x, (y == 0).astype(np.int32)) for x, y in _images())


def _wrong_labels():
  """One label in five of the train data is wrong."""
  (x, y), held_out = _images()
  rng = np.random.RandomState(0)
  wrong = rng.rand(len(y)) < 0.2
  return (
    x,
    np.where(wrong, rng.randint(10, size=len(y)), y).astype(np.int32),
  ), held_out


def _copies():
  """Digits as inputs and outputs."""
  flat = lambda x: x.reshape(len(x), -1)
  return tuple((flat(x), flat(x)) for x, _ in _images())


def _next_characters():
  """Windows of text, and the character that follows each."""
  text = datasets.descriptions()
  starts = np.arange(len(text) - _CONTEXT)
  x = text[starts[:, np.newaxis] + np.arange(_CONTEXT)]
  y, cut = text[starts + _CONTEXT], int(0.9 * len(starts))
  return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def _characters() -> int:
  return int(datasets.descriptions().max()) + 1


def _softmax(num_classes: int = 10) -> list[L.Layer]:
  return [L.Dense(num_classes, "softmax")]


def _normalised_conv():
  block = lambda n: [
    L.Conv2D(n, 3, padding="same", use_bias=False),
    L.BatchNormalization(),
    L.ReLU(),
    L.MaxPooling2D(),
  ]
  return [*block(8), *block(16), L.Flatten(), *_softmax()]


def _separable_conv():
  return [
    L.Conv2D(8, 3, activation="relu"),
    L.SeparableConv2D(16, 3, activation="relu"),
    L.GlobalAveragePooling2D(),
    *_softmax(),
  ]


def _recurrent(layer: Callable[..., L.Layer], units: int, **options):
  return lambda: [layer(units, **options), *_softmax()]


def _text_recurrent():
  size = _characters()
  return [L.Embedding(size, 16), L.GRU(32), *_softmax(size)]


def _dropout():
  return [L.Flatten(), L.Dense(64, "relu"), L.Dropout(0.3), *_softmax()]


def _autoencoder():
  hidden = [L.Dense(32, "relu"), L.Dense(8), L.Dense(32, "relu")]
  return [*hidden, L.Dense(64, "sigmoid")]


def _regression():
  return [L.Dense(64, "relu"), L.Dense(64, "relu"), L.Dense(1)]


@keras.saving.register_keras_serializable("l2l_tf")
class _Residual(L.Layer):
  """x + f(norm(x)), with a hidden layer."""

  def __init__(self, units: int, **kwargs):
    super().__init__(**kwargs)
    self._norm, self._hidden = L.LayerNormalization(), L.Dense(2 * units, "gelu")
    self._out = L.Dense(units)

  def build(self, shape):
    self._norm.build(shape)
    self._hidden.build(shape)
    self._out.build(self._hidden.compute_output_shape(shape))

  def call(self, x):
    return x + self._out(self._hidden(self._norm(x)))


@keras.saving.register_keras_serializable("l2l_tf")
class _Attention(L.Layer):
  """x + attention(norm(x)), with two heads; causal if so wished."""

  def __init__(self, units: int, causal: bool = False, **kwargs):
    super().__init__(**kwargs)
    self._norm, self._causal = L.LayerNormalization(), causal
    self._attention = L.MultiHeadAttention(2, units // 2)

  def build(self, shape):
    self._norm.build(shape)
    self._attention.build(shape, shape)

  def call(self, x):
    y = self._norm(x)
    return x + self._attention(y, y, use_causal_mask=self._causal)


@keras.saving.register_keras_serializable("l2l_tf")
class Positions(L.Layer):
  """Adds an embedding of each position."""

  def build(self, shape):
    self._table = L.Embedding(shape[1], shape[2])
    self._table.build(None)

  def call(self, x):
    return x + self._table(tf.range(x.shape[1]))


def _residual():
  return [L.Flatten(), L.Dense(32), _Residual(32), _Residual(32), *_softmax()]


def _attention():
  blocks = [_Attention(24), _Residual(24)]
  return [L.Dense(24), Positions(), *blocks, L.GlobalAveragePooling1D(), *_softmax()]


def _text_attention():
  size = _characters()
  blocks = [Positions(), _Attention(24, causal=True), _Residual(24)]
  return [L.Embedding(size, 24), *blocks, L.Flatten(), *_softmax(size)]


_DIGITS, _WINE = datasets.digits, lambda: datasets.table("wine")
_IRIS = lambda: datasets.table("iris")

# Name -> function that makes the task; no data are read before it is called.
GENERAL_TRAINING: Mapping[str, Callable[[], Problem]] = {
  "digits, softmax regression": _mlp(_DIGITS, (), "relu", 32),
  "digits, 32 relu": _mlp(_DIGITS, (32,), "relu", 16),
  "digits, 128 relu": _mlp(_DIGITS, (128,), "relu", 64),
  "digits, 2 x 256 relu": _mlp(_DIGITS, (256, 256), "relu", 64),
  "digits, 512 relu": _mlp(_DIGITS, (512,), "relu", 128),
  "digits, 4 x 32 tanh": _mlp(_DIGITS, (32,) * 4, "tanh", 64),
  "digits, 6 x 16 relu": _mlp(_DIGITS, (16,) * 6, "relu", 32),
  "digits, 2 x 64 sigmoid": _mlp(_DIGITS, (64, 64), "sigmoid", 512),
  "digits, 64 relu from near zero": _mlp(_DIGITS, (64,), "relu", 32, 0.01),
  "digits, 2 x 32 tanh from afar": _mlp(_DIGITS, (32, 32), "tanh", 64, 0.5),
  "shifted digits, 20 sigmoid": _mlp(_shifted, (20,), "sigmoid", 128, 0.01),
  "shifted digits, 2 x 64 relu": _mlp(_shifted, (64, 64), "relu", 64),
  "shifted digits, batch norm": _keras(_normalised_conv, lambda: _arrays(_shifted())),
  "taught classes, 64 relu": _mlp(_taught, (64,), "relu", 32),
  "taught classes, residual": _keras(_residual, lambda: _arrays(_taught()), 128),
  "wine, 2 x 32 tanh": _mlp(_WINE, (32, 32), "tanh", 16),
  "wine, 64 relu": _mlp(_WINE, (64,), "relu", 32),
  "iris, 16 sigmoid": _mlp(_IRIS, (16,), "sigmoid", 8),
  "digits, 2 convolutions": _conv_net((8, 16), "relu", 32),
  "digits, 3 convolutions": _conv_net((8, 16, 16), "tanh", 64),
  "digits, batch norm": _keras(_normalised_conv, _images),
  "digits, separable convolutions": _keras(_separable_conv, _images),
  "digits, dropout": _keras(_dropout, _images, 16),
  "digits, residual": _keras(_residual, _images),
  "digits, one in ten": _keras(_dropout, _zeros_alone),
  "digits, wrong labels": _keras(_residual, _wrong_labels, 64),
  "digits, GRU": _keras(_recurrent(L.GRU, 24), _rows),
  "digits, LSTM": _keras(_recurrent(L.LSTM, 16), _rows, 64),
  "digits, simple recurrent": _keras(_recurrent(L.SimpleRNN, 32), _rows),
  "digits, attention": _keras(_attention, _rows),
  "digits, autoencoder": _keras(_autoencoder, _copies, 64, "mse"),
  "diabetes, 2 x 64 relu": _keras(_regression, datasets.diabetes, 16, "mse"),
  "text, GRU": _keras(_text_recurrent, _next_characters),
  "text, attention": _keras(_text_attention, _next_characters),
}


_CANCER = lambda: datasets.table("breast_cancer")
_MNIST = datasets.mnist

# No data set is shared with training.
GENERAL_HELD_OUT: Mapping[str, Callable[[], Problem]] = {
  "breast_cancer, softmax regression": _mlp(_CANCER, (), "relu", 64),
  "breast_cancer, 32 relu": _mlp(_CANCER, (32,), "relu", 32),
  "breast_cancer, 2 x 32 tanh": _mlp(_CANCER, (32, 32), "tanh", 64),
  "MNIST, 20 sigmoid": mnist_mlp,
  "MNIST, 2 x 20 relu": _mlp(_MNIST, (20, 20), "relu", 64),
  "MNIST, 4 x 32 relu": _mlp(_MNIST, (32,) * 4, "relu", 64),
  "MNIST, 5 x 24 tanh": _mlp(_MNIST, (24,) * 5, "tanh", 32),
  "polynomials": Polynomial,
}
