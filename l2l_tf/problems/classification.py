"""Training a small classifier on images, as an optimization task.

Andrychowicz et al. 2016, section 3.2, https://arxiv.org/abs/1606.04474; sizes
and initialisation as `mnist` in google-deepmind/learning-to-learn, problems.py.
"""

from collections.abc import Sequence

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems import datasets
from l2l_tf.problems.base import Parameter, Problem

_ACTIVATIONS = {"sigmoid": tf.sigmoid, "relu": tf.nn.relu, "tanh": tf.tanh}
_MAX_TRAIN_EVALUATED = 10_000  # as many as MNIST holds out


class MLP(Problem):
  """Mean cross-entropy of a multi-layer perceptron on a mini-batch.

  The mini-batch is drawn with replacement, from the train split only. A task is
  nothing but a fresh initialisation: every one of them sees the same data.
  """

  jit_compile = True

  def __init__(
    self,
    dataset: datasets.Dataset,
    layers: Sequence[int] = (20,),
    activation: str = "sigmoid",
    batch_size: int = 128,
    stddev: float = 0.01,
    dtype: tf.DType = tf.float32,
  ):
    """Initializes the problem.

    Args:
      dataset: what to classify; images of any one shape, uint8 (scaled to
        [0, 1] here) or floats (taken as they are).
      layers: sizes of the hidden layers; none is softmax regression.
      activation: of the hidden layers, "sigmoid", "relu" or "tanh".
      batch_size: examples per mini-batch.
      stddev: of the initial kernels and biases, N(0, stddev^2); 0.01 is the
        original code's.
      dtype: of parameters and loss.

    Raises:
      ValueError: for sizes below one, an unknown activation, or a data set whose
        splits do not fit.
    """
    layers = tuple(layers)
    if batch_size < 1 or any(size < 1 for size in layers):
      raise ValueError(
        f"MLP got layers={layers} and batch_size={batch_size}; every size must be"
        " at least 1."
      )
    if activation not in _ACTIVATIONS:
      raise ValueError(
        f"MLP got activation={activation!r}; choose one of {', '.join(_ACTIVATIONS)}."
      )
    self._dataset = datasets.as_dataset(*dataset)
    num_pixels = self._dataset.train_images.shape[1:].num_elements()
    self._sizes = (num_pixels, *layers, self._dataset.num_classes)
    self._activation = _ACTIVATIONS[activation]
    self._batch_size = batch_size
    self._stddev = stddev
    self._dtype = dtype

  def init(self, seed):
    shapes = [p.shape for p in self.parameters()]
    return [
      seeds.normal(shape, s, self._stddev, self._dtype)
      for shape, s in zip(shapes, seeds.split(seed, len(shapes)))
    ], []

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

  def parameters(self):
    return [
      parameter
      for i, (inputs, outputs) in enumerate(zip(self._sizes, self._sizes[1:]))
      for parameter in (
        Parameter(f"layer_{i}/kernel", (inputs, outputs), "kernel"),
        Parameter(f"layer_{i}/bias", (outputs,), "bias"),
      )
    ]

  def _logits(self, params: list[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    hidden = tf.cast(tf.reshape(images, [-1, self._sizes[0]]), self._dtype)  # [B, D]
    if images.dtype == tf.uint8:
      hidden /= 255.0
    last = len(self._sizes) - 2
    for i, (kernel, bias) in enumerate(zip(params[::2], params[1::2], strict=True)):
      with tf.name_scope(f"layer_{i}"):
        hidden = tf.matmul(hidden, kernel) + bias
        if i < last:
          hidden = self._activation(hidden)
    return hidden


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
