"""Training a small classifier on images or tables, as an optimization task.

Andrychowicz et al. 2016, section 3.2, https://arxiv.org/abs/1606.04474. Default sizes
and initialisation are those of `mnist` in google-deepmind/learning-to-learn,
problems.py.
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
# An initial scale at which a layer's outputs are about as large as its inputs.
FAN_IN = "fan_in"
_MAX_TRAIN_EVALUATED = 10_000  # the size of MNIST's test split


class Classifier(Problem):
  """Mean cross-entropy of a network on a mini-batch; subclasses define the network.

  Mini-batches are drawn with replacement from the train split. Tasks differ only in
  their initial parameters; all of them train on the same data.
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
    """Number of classes C; guessing each class with probability 1 / C costs log C."""
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
      params: values of what `parameters()` describes.
      constants: unused.

    Returns:
      `held_out_loss` and `held_out_accuracy`, the share of examples classified
      correctly; and `train_loss`, over the first 10,000 train examples, or over all of
      them if there are fewer.
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

  def data_sources(self):
    train, held_out = self._dataset[:2], self._dataset[2:]
    return [("train", train), ("held-out", held_out)]

  @abc.abstractmethod
  def _outputs(self, params: list[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Maps images [B, ...] of floats to logits [B, num_classes]."""

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

  Mini-batches are drawn with replacement from the train split. Tasks differ only in
  their initial parameters; all of them train on the same data.

  >>> problem = MLP(problems.datasets.digits(), layers=[20], activation="relu")
  >>> [parameter.shape for parameter in problem.parameters()]
  [(64, 20), (20,), (20, 10), (10,)]
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
      dataset: the examples to classify, all of one shape. uint8 values are scaled to
        [0, 1]; floats are used as they are.
      layers: sizes of the hidden layers; without any, this is softmax regression.
      activation: activation function of the hidden layers: "sigmoid", "relu" or "tanh".
      batch_size: examples per mini-batch.
      stddev: standard deviation of the initial kernels and biases, which are drawn
        from N(0, stddev^2); the original code has 0.01. "fan_in" draws kernels from
        N(0, 1 / inputs) and starts biases at zero.
      dtype: floating type of the parameters and the loss.

    Raises:
      ValueError: for sizes below one, for an unknown activation or stddev, or if the
        splits of the data set do not fit each other.
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

  Every convolution halves height and width, rounding up. A linear map of the last
  convolution's output returns the logits. Mini-batches and tasks are as in `MLP`.

  >>> problem = ConvNet(problems.datasets.digits(), filters=[4])
  >>> [parameter.shape for parameter in problem.parameters()]
  [(3, 3, 1, 4), (4,), (64, 10), (10,)]
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
      dataset: the images to classify, [height, width, channels].
      filters: number of filters of each convolution; they are 3 x 3, with stride 2.
      activation: activation function after each convolution, as in `MLP`.
      batch_size: examples per mini-batch.
      stddev: standard deviation of the initial parameters, as in `MLP`.
      dtype: floating type of the parameters and the loss.

    Raises:
      ValueError: as in `MLP`, and if the examples are not images.
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
  """Returns an `MLP` on `datasets.digits()`, with arguments as in `MLP`.

  >>> problem = digits_mlp(batch_size=64)
  >>> params, constants = problem.init(tf.constant([0, 1]))
  >>> sorted(problem.held_out(params, constants))
  ['held_out_accuracy', 'held_out_loss', 'train_loss']
  """
  return MLP(datasets.digits(), layers, activation, batch_size)


def mnist_mlp(
  layers: Sequence[int] = (20,), activation: str = "sigmoid", batch_size: int = 128
) -> MLP:
  """Returns an `MLP` on `datasets.mnist()`, with arguments as in `MLP`.

  Raises:
    DatasetUnavailableError: if MNIST is not on this machine and cannot be downloaded.
  """
  return MLP(datasets.mnist(), layers, activation, batch_size)


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
  return tf.reduce_mean(
    tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
  )


def _affine(name: str, shapes: list[tuple[tuple[int, ...], int]]) -> list[Parameter]:
  """Describes the kernels and biases of affine maps with these (inputs, outputs)."""
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
