"""The networks that few-shot episodes train.

Batch normalisation has no running statistics here: whose mean and variance are used is
said in every call, so that nothing can leak from one episode to the next.
"""

import abc
import dataclasses
import math

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.base import Parameter

_EPSILON = 1e-3  # of batch normalisation, Keras's default
_PER_BLOCK = 3  # parameters: kernel, scale, offset
_FEW = 20  # images, up to which XLA's convolutions are faster on a CPU


class Learner(abc.ABC):
  """A network: an embedding of images, and a linear map of it to the classes."""

  jit_compile = False  # as in `Problem`

  def jit_compiles_steps(self, num_images: int) -> bool:
    """Whether XLA compiles steps on that many images, as `Problem` says it."""
    del num_images
    return False

  @abc.abstractmethod
  def parameters(self, shape: tuple[int, ...], ways: int) -> list[Parameter]:
    """Describes the parameters for images of a shape; the last two are the head's."""

  @abc.abstractmethod
  def features(
    self, params: list[tf.Tensor], images: tf.Tensor, num_reference: int | None = None
  ) -> tf.Tensor:
    """Embeds images.

    Args:
      params: as `parameters` describes them; those of the head are not used.
      images: [B, height, width, channels], floats.
      num_reference: how many images, from the first, give the mean and variance by
        which all are normalised; None for all of them.

    Returns:
      [B, features].
    """

  def logits(self, params, images, num_reference=None) -> tf.Tensor:
    """Maps images, as for `features`, to logits [B, ways]."""
    *_, kernel, bias = params
    return tf.matmul(self.features(params, images, num_reference), kernel) + bias

  def init(
    self, seed: tf.Tensor, shape: tuple[int, ...], ways: int, dtype: tf.DType
  ) -> list[tf.Tensor]:
    """Draws parameters: kernels from N(0, 2 / inputs), scales 1, the rest 0."""
    described = self.parameters(shape, ways)
    keys = seeds.split(seed, len(described))
    return [_drawn(p, key, dtype) for p, key in zip(described, keys)]


@dataclasses.dataclass(frozen=True)
class ConvBlocks(Learner):
  """Blocks of convolution, batch normalisation, ReLU and pooling, then a linear map.

  Vinyals et al. 2016, section 4.1. Ravi and Larochelle 2017 have four blocks of 32
  filters, 3 x 3. Pooling halves height and width, rounded down, as long as both are
  above 1. The convolutions have no bias: the normalisation would take it away.

  >>> ConvBlocks(filters=8, blocks=2).parameters((8, 8, 1), ways=5)[-2].shape
  (32, 5)

  Attributes:
    filters: of each block.
    blocks: their number.
  """

  filters: int = 32
  blocks: int = 4

  def __post_init__(self):
    if self.filters < 1 or self.blocks < 1:
      raise ValueError(f"{self} must have at least one filter and one block.")

  def parameters(self, shape, ways):
    height, width, channels = shape
    found = []
    for i in range(self.blocks):
      kernel, vector = (3, 3, channels, self.filters), (self.filters,)
      found.append(Parameter(f"block_{i}/kernel", kernel, "kernel"))
      found.append(Parameter(f"block_{i}/scale", vector, "variable"))
      found.append(Parameter(f"block_{i}/offset", vector, "bias"))
      channels = self.filters
      if min(height, width) > 1:
        height, width = height // 2, width // 2
    return [*found, *_head(height * width * channels, ways)]

  def features(self, params, images, num_reference=None):
    hidden = images
    for i, (kernel, scale, offset) in enumerate(_blocks(params)):
      with tf.name_scope(f"block_{i}"):
        hidden = tf.nn.conv2d(hidden, kernel, strides=1, padding="SAME")
        hidden = self._finished(hidden, scale, offset, num_reference)
    return tf.reshape(hidden, [-1, math.prod(hidden.shape[1:])])

  def jit_compiles_steps(self, num_images):
    return num_images <= _FEW

  def _finished(self, x, scale, offset, num_reference):
    """Normalises and pools the result of a convolution."""
    is_pooled = min(x.shape[1:3]) > 1
    if is_pooled and num_reference is None and (x.shape[0] or math.inf) <= _FEW:
      return pooled_and_normalized(x, scale, offset)
    x = tf.nn.relu(normalized(x, scale, offset, num_reference))
    return tf.nn.max_pool2d(x, 2, strides=2, padding="VALID") if is_pooled else x


@dataclasses.dataclass(frozen=True)
class Dense(Learner):
  """One hidden layer of ReLU units, then a linear map; nothing is normalised.

  >>> [p.shape for p in Dense(units=10).parameters((8, 8, 1), ways=5)]
  [(64, 10), (10,), (10, 5), (5,)]

  Attributes:
    units: of the hidden layer.
  """

  units: int = 64

  jit_compile = True

  def __post_init__(self):
    if self.units < 1:
      raise ValueError(f"{self} must have at least one unit.")

  def parameters(self, shape, ways):
    size = math.prod(shape)
    hidden = [
      Parameter("hidden/kernel", (size, self.units), "kernel"),
      Parameter("hidden/bias", (self.units,), "bias"),
    ]
    return [*hidden, *_head(self.units, ways)]

  def features(self, params, images, num_reference=None):
    kernel, bias = params[:2]
    flat = tf.reshape(images, [-1, kernel.shape[0]])
    return tf.nn.relu(tf.matmul(flat, kernel) + bias)


LEARNERS = {"conv": ConvBlocks, "dense": Dense}


def get(learner: str | Learner) -> Learner:
  """Returns the learner that a name stands for, or the given one.

  Args:
    learner: "conv", "dense" or a `Learner`.

  Raises:
    ValueError: for anything else, such as a class instead of an instance.
  """
  if isinstance(learner, Learner):
    return learner
  if isinstance(learner, str) and learner in LEARNERS:
    return LEARNERS[learner]()
  if isinstance(learner, type):
    example = learner if issubclass(learner, Learner) else Dense
    raise ValueError(
      f"few_shot got the class {learner.__name__} as learner; give an instance of a"
      f" Learner, such as {example.__name__}()."
    )
  is_name = isinstance(learner, str)
  given = f"={learner!r:.60}" if is_name else f" of type {type(learner).__name__}"
  raise ValueError(
    f"few_shot got learner{given}; choose one of {', '.join(LEARNERS)}, or give a"
    " Learner."
  )


def normalized(
  x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, num_reference: int | None = None
) -> tf.Tensor:
  """Batch normalisation by the mean and variance of some of the images.

  Ioffe and Szegedy 2015, algorithm 1, https://arxiv.org/abs/1502.03167

  Args:
    x: [B, height, width, channels].
    scale: gamma, [channels].
    offset: beta, [channels].
    num_reference: as in `Learner.features`.
  """
  if num_reference is None and x.dtype == tf.float32:  # A fifth less time.
    fused = tf.compat.v1.nn.fused_batch_norm
    return fused(x, scale, offset, epsilon=_EPSILON, is_training=True)[0]
  reference = x if num_reference is None else x[:num_reference]
  mean, variance = tf.nn.moments(reference, axes=[0, 1, 2])
  factor = scale * tf.math.rsqrt(variance + _EPSILON)
  return x * factor + (offset - mean * factor)


def pooled_and_normalized(
  x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor
) -> tf.Tensor:
  """Returns max-pooled ReLUs of `normalized(x, scale, offset)`, in less time under XLA.

  Normalisation and ReLU keep the order of the numbers in a channel, or invert it where
  the scale is negative. So the maximum, or minimum, is taken first, which leaves a
  quarter of the numbers to normalise. XLA fuses maxima of slices with what surrounds
  them; its own pooling takes several times as long.
  """
  mean, variance = tf.nn.moments(x, axes=[0, 1, 2])
  sign = tf.where(scale < 0, -tf.ones_like(scale), tf.ones_like(scale))
  factor = scale * tf.math.rsqrt(variance + _EPSILON)
  outermost = sign * _maxima(sign * x)
  return tf.nn.relu(outermost * factor + (offset - mean * factor))


def _maxima(x: tf.Tensor) -> tf.Tensor:
  """Max-pools squares of two by two pixels; x is [B, height, width, channels]."""
  height, width, channels = x.shape[1] // 2, x.shape[2] // 2, x.shape[3]
  x = x[:, : 2 * height, : 2 * width]
  x = tf.reshape(x, [-1, height, 2, width, 2, channels])
  a, b, c, d = (x[:, :, i, :, j] for i in range(2) for j in range(2))
  return tf.maximum(tf.maximum(a, b), tf.maximum(c, d))


def _blocks(params):
  return zip(*(params[i:-2:_PER_BLOCK] for i in range(_PER_BLOCK)), strict=True)


def _head(size: int, ways: int) -> list[Parameter]:
  return [
    Parameter("head/kernel", (size, ways), "kernel"),
    Parameter("head/bias", (ways,), "bias"),
  ]


def _drawn(parameter: Parameter, key: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
  if parameter.role == "kernel":
    stddev = math.sqrt(2.0 / math.prod(parameter.shape[:-1]))
    return seeds.normal(parameter.shape, key, stddev, dtype)
  is_scale = parameter.role == "variable"
  return tf.cast(tf.fill(parameter.shape, 1.0 if is_scale else 0.0), dtype)
