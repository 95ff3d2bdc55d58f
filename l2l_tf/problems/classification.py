"""Training a small classifier on images, as an optimization task.

Andrychowicz et al. 2016, section 3.2, https://arxiv.org/abs/1606.04474; sizes
and initialisation as `mnist` in google-deepmind/learning-to-learn, problems.py.
"""

import abc
import itertools
import math
from collections.abc import Sequence

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.base import Parameter, Problem
from l2l_tf.problems.data import datasets

_ACTIVATIONS = {"sigmoid": tf.sigmoid, "relu": tf.nn.relu, "tanh": tf.tanh}
FAN_IN = (
  "fan_in"  # the initial scale that keeps a layer's outputs as large as its inputs
)
_MAX_TRAIN_EVALUATED = 10_000  # as many as MNIST holds out


class Classifier(Problem):
  """Mean cross-entropy of a network on a mini-batch; a subclass says which network.

  The mini-batch is drawn with replacement, from the train split only. A task is
  nothing but a fresh initialisation: every one of them sees the same data.
  """

  jit_compile = True

  def __init__(
    self,
    dataset: datasets.Dataset,
    activation: str,
    batch_size: int,
    stddev: float | str,
    dtype: tf.DType,
  ):
    kind = type(self).__name__
    if batch_size < 1:
      raise ValueError(f"{kind} got batch_size={batch_size}; it must be at least 1.")
    if activation not in _ACTIVATIONS:
      raise ValueError(
        f"{kind} got activation={activation!r}; choose one of"
        f" {', '.join(_ACTIVATIONS)}."
      )
    if isinstance(stddev, str) and stddev != FAN_IN:
      raise ValueError(f"{kind} got stddev={stddev!r}; give a number or {FAN_IN!r}.")
    self._dataset = datasets.as_dataset(*dataset)
    self._activation = _ACTIVATIONS[activation]
    self._batch_size = batch_size
    self._stddev = stddev
    self._dtype = dtype

  @property
  def num_classes(self) -> int:
    """Classes that the data have; a constant guess costs at best their logarithm."""
    return self._dataset.num_classes

  def init(self, seed):
    described = self.parameters()
    keys = seeds.split(seed, len(described))
    return [self._draw(p, key) for p, key in zip(described, keys)], []

  def __call__(self, params, constants, seed):
    batch = seeds.integers([self._batch_size], seed, len(self._dataset.train_images))
    images = tf.gather(self._dataset.train_images, batch)
    labels = tf.gather(self._dataset.train_labels, batch)
    return _cross_entropy(self._logits(params, images), labels)

  def held_out(self, params, constants):
    """Evaluates the whole held-out split, and train data for comparison.

    Args:
      params: of `parameters()`.
      constants: unused.

    Returns:
      `held_out_loss` and `held_out_accuracy` (the share classified right), and
      `train_loss` over the first 10,000 train examples, or all if they are fewer.
    """
    data = self._dataset
    train = self._logits(params, data.train_images[:_MAX_TRAIN_EVALUATED])
    held_out = self._logits(params, data.test_images)
    predicted = tf.argmax(held_out, axis=1, output_type=data.test_labels.dtype)
    right = tf.cast(predicted == data.test_labels, self._dtype)
    return {
      "train_loss": _cross_entropy(train, data.train_labels[:_MAX_TRAIN_EVALUATED]),
      "held_out_loss": _cross_entropy(held_out, data.test_labels),
      "held_out_accuracy": tf.reduce_mean(right),
    }

  @abc.abstractmethod
  def _outputs(self, params: list[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Maps images [B, ...], as floats, to logits [B, num_classes]."""

  def _logits(self, params: list[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    floats = tf.cast(images, self._dtype)
    return self._outputs(params, floats / 255.0 if images.dtype == tf.uint8 else floats)

  def _draw(self, parameter: Parameter, key: tf.Tensor) -> tf.Tensor:
    stddev = self._stddev
    if stddev == FAN_IN:
      *inputs, _ = parameter.shape
      stddev = math.prod(inputs) ** -0.5 if inputs else 0.0
    return seeds.normal(parameter.shape, key, stddev, self._dtype)


class MLP(Classifier):
  """Mean cross-entropy of a multi-layer perceptron on a mini-batch.

  The mini-batch is drawn with replacement, from the train split only. A task is
  nothing but a fresh initialisation: every one of them sees the same data.
  """

  def __init__(
    self,
    dataset: datasets.Dataset,
    layers: Sequence[int] = (20,),
    activation: str = "sigmoid",
    batch_size: int = 128,
    stddev: float | str = 0.01,
    dtype: tf.DType = tf.float32,
  ):
    """Initializes the problem.

    Args:
      dataset: what to classify; examples of any one shape, uint8 (scaled to
        [0, 1] here) or floats (taken as they are).
      layers: sizes of the hidden layers; none is softmax regression.
      activation: of the hidden layers, "sigmoid", "relu" or "tanh".
      batch_size: examples per mini-batch.
      stddev: of the initial kernels and biases, N(0, stddev^2); 0.01 is the
        original code's. "fan_in" draws kernels from N(0, 1 / inputs) and starts
        biases at zero.
      dtype: of parameters and loss.

    Raises:
      ValueError: for sizes below one, an unknown activation or stddev, or a data set
        whose splits do not fit.
    """
    super().__init__(dataset, activation, batch_size, stddev, dtype)
    num_inputs = self._dataset.train_images.shape[1:].num_elements()
    self._sizes = (num_inputs, *_check_sizes(self, "layers", layers), self.num_classes)

  def parameters(self):
    return _affine("layer", [((n,), m) for n, m in itertools.pairwise(self._sizes)])

  def _outputs(self, params, images):
    hidden = tf.reshape(images, [-1, self._sizes[0]])  # [B, D]
    last = len(self._sizes) - 2
    for i, (kernel, bias) in enumerate(zip(params[::2], params[1::2], strict=True)):
      with tf.name_scope(f"layer_{i}"):
        hidden = tf.matmul(hidden, kernel) + bias
        if i < last:
          hidden = self._activation(hidden)
    return hidden


class ConvNet(Classifier):
  """Mean cross-entropy of a small convolutional network on a mini-batch.

  Every convolution halves height and width, rounding up; a linear map of what the
  last one gives is the output. Mini-batches and tasks are as in `MLP`.
  """

  def __init__(
    self,
    dataset: datasets.Dataset,
    filters: Sequence[int] = (8, 16),
    activation: str = "relu",
    batch_size: int = 64,
    stddev: float | str = "fan_in",
    dtype: tf.DType = tf.float32,
  ):
    """Initializes the problem.

    Args:
      dataset: what to classify; images [height, width, channels].
      filters: of each convolution, 3 x 3 with stride 2.
      activation: behind each convolution, as in `MLP`.
      batch_size: examples per mini-batch.
      stddev: as in `MLP`.
      dtype: of parameters and loss.

    Raises:
      ValueError: as `MLP`, and for examples that are no images.
    """
    super().__init__(dataset, activation, batch_size, stddev, dtype)
    shape = self._dataset.train_images.shape[1:]
    if shape.rank != 3:
      raise ValueError(
        f"ConvNet got examples of shape {tuple(shape)}; they must be images [height,"
        " width, channels]."
      )
    self._filters = _check_sizes(self, "filters", filters)
    height, width, channels = shape
    for _ in self._filters:
      height, width = -(-height // 2), -(-width // 2)
    self._channels = (channels, *self._filters)
    self._num_features = height * width * self._channels[-1]

  def parameters(self):
    maps = [((3, 3, n), m) for n, m in itertools.pairwise(self._channels)]
    return [
      *_affine("convolution", maps),
      *_affine("output", [((self._num_features,), self.num_classes)]),
    ]

  def _outputs(self, params, images):
    hidden = images  # [B, height, width, channels]
    *convolutions, kernel, bias = params
    for i, pair in enumerate(zip(convolutions[::2], convolutions[1::2], strict=True)):
      with tf.name_scope(f"convolution_{i}"):
        hidden = tf.nn.conv2d(hidden, pair[0], strides=2, padding="SAME") + pair[1]
        hidden = self._activation(hidden)
    return tf.matmul(tf.reshape(hidden, [-1, self._num_features]), kernel) + bias


def digits_mlp(
  layers: Sequence[int] = (20,), activation: str = "sigmoid", batch_size: int = 128
) -> MLP:
  """Returns an `MLP` on `datasets.digits()`; its arguments are `MLP`'s."""
  return MLP(datasets.digits(), layers, activation, batch_size)


def mnist_mlp(
  layers: Sequence[int] = (20,), activation: str = "sigmoid", batch_size: int = 128
) -> MLP:
  """Returns an `MLP` on `datasets.mnist()`; its arguments are `MLP`'s.

  Raises:
    DatasetUnavailableError: if MNIST is neither prepared nor downloadable.
  """
  return MLP(datasets.mnist(), layers, activation, batch_size)


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
  return tf.reduce_mean(
    tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
  )


def _affine(name: str, shapes: list[tuple[tuple[int, ...], int]]) -> list[Parameter]:
  """Describes the kernel and bias of affine maps, given inputs and outputs."""
  return [
    parameter
    for i, (inputs, outputs) in enumerate(shapes)
    for parameter in (
      Parameter(f"{name}_{i}/kernel", (*inputs, outputs), "kernel"),
      Parameter(f"{name}_{i}/bias", (outputs,), "bias"),
    )
  ]


def _check_sizes(problem: Problem, name: str, sizes: Sequence[int]) -> tuple[int, ...]:
  sizes = tuple(sizes)
  if any(size < 1 for size in sizes):
    raise ValueError(
      f"{type(problem).__name__} got {name}={sizes}; every size must be at least 1."
    )
  return sizes
