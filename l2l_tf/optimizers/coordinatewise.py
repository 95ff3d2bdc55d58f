"""LSTM optimizers that share their weights over all coordinates or kernels.

Andrychowicz et al. 2016, section 2.1 and figure 3: one small LSTM for all coordinates,
with shared weights and a separate state for each coordinate.
https://arxiv.org/abs/1606.04474
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf import preprocess as preprocess_lib
from l2l_tf import registry
from l2l_tf.optimizers import base
from l2l_tf.optimizers.lstm import backprop, network
from l2l_tf.optimizers.traits import ALL, COORDINATE, GRADIENTS, TENSOR, Coupling


@dataclasses.dataclass(frozen=True)
class _Inputs:
  """Maps gradients [..., rows, N] to the network's inputs [..., rows * F, N]."""

  preprocess: preprocess_lib.Preprocess

  def __call__(self, grads: tf.Tensor, memory: tuple[()] = ()) -> tf.Tensor:
    del memory  # Each entry's features depend on that entry alone.
    features = self.preprocess(tf.reshape(grads, [-1]))  # [..., F]
    rows, size, num_features = *grads.shape[-2:], features.shape[-1]
    outer = tf.shape(grads)[:-2]
    features = tf.reshape(features, tf.concat([outer, [rows, size, num_features]], 0))
    features = tf.linalg.matrix_transpose(features)  # [..., rows, F, N]
    return tf.reshape(features, tf.concat([outer, [rows * num_features, size]], 0))


class ColumnwiseLSTM(base.Optimizer):
  """A deep LSTM on a batch of columns; a subclass says what a column is."""

  _own_coupling = TENSOR  # if the preprocess is elementwise
  reads = {GRADIENTS}

  def __init__(
    self,
    num_rows: int,
    layers: Sequence[int],
    preprocess: str | preprocess_lib.Preprocess,
    output_scale: float,
    initializer: str,
    seed: int,
    dtype: str,
  ):
    super().__init__()
    self._dtype = check_dtype(dtype)
    if not math.isfinite(output_scale):
      raise ValueError(f"output_scale={output_scale} must be a finite number.")
    preprocess = preprocess_lib.get(preprocess)
    self._inputs = _Inputs(preprocess)
    self._is_elementwise = preprocess_lib.is_elementwise(preprocess)
    self._config = {
      "layers": check_layers(layers),
      "preprocess": preprocess,
      "output_scale": output_scale,
      "initializer": initializer,
      "seed": seed,
      "dtype": self._dtype.name,
    }
    self._num_rows = num_rows
    self._output_scale = output_scale
    num_features = num_features_of(preprocess, self._dtype)
    self._network = network.DeepLSTM(
      num_rows * num_features, num_rows, layers, initializer, seed, self._dtype
    )

  @property
  def coupling(self) -> Coupling:
    # A preprocess that does not declare itself elementwise may mix all gradients.
    return self._own_coupling if self._is_elementwise else ALL

  @property
  def config(self) -> dict[str, Any]:
    return dict(self._config)

  @abc.abstractmethod
  def _to_columns(self, tensors: list[tf.Tensor]) -> tf.Tensor:
    """Lays out tensors like the parameters as [num_rows, N]."""

  @abc.abstractmethod
  def _from_columns(self, columns: tf.Tensor, like: list[tf.Tensor]) -> list[tf.Tensor]:
    """The inverse of `_to_columns`."""

  def initial_state(self, params):
    return self._network.initial_state(self._columns(params).shape[1])

  def __call__(self, grads, state, params=None, loss=None):
    outputs, next_state = self._network(self._features(grads), state)
    with tf.name_scope("update"):
      updates = self._from_columns(self._output_scale * outputs, grads)
      return [tf.cast(u, g.dtype) for u, g in zip(updates, grads)], next_state

  @property
  def _has_pass(self) -> bool:
    """Whether `backprop.gradient` computes the gradient with respect to all of phi."""
    # A preprocess may have weights of its own, which it does not differentiate.
    num_weights = len(tf.nest.flatten(self._network.weights))
    return self._is_elementwise and len(self.get_phi()) == num_weights

  def record(self, grads):
    return self._columns(grads) if self._has_pass else grads

  def sequence_gradient(self, recorded, state, loss_weights):
    if not self._has_pass:
      return super().sequence_gradient(recorded, state, loss_weights)
    gradient = backprop.gradient(
      self._network.weights,
      self._inputs,
      self._output_scale,
      recorded,
      tf.cast(loss_weights, self._dtype),
      state,
    )
    return self._network.in_order(gradient, self.get_phi())

  def diagnostics(self, grads, state):
    return self._network.saturation(self._features(grads), state)

  def _columns(self, tensors: list[tf.Tensor]) -> tf.Tensor:
    check_not_empty(self, tensors)
    return self._to_columns([tf.cast(x, self._dtype) for x in tensors])

  def _features(self, grads: list[tf.Tensor]) -> tf.Tensor:
    with tf.name_scope("preprocess"):
      return self._inputs(self._columns(grads))


@registry.register
class CoordinatewiseLSTM(ColumnwiseLSTM):
  """A deep LSTM on every coordinate, with shared weights and separate states.

  It is m in g_t, h_{t+1} = m(grad_t, h_t, phi), Andrychowicz et al. 2016, equation 3.
  The coordinates of all parameters run as one batch of N columns, with one row each.

  >>> optimizer = CoordinatewiseLSTM(layers=(20, 20), preprocess="log_and_sign")
  >>> grads = [tf.ones([3]), tf.ones([2, 2])]
  >>> updates, state = optimizer(grads, optimizer.initial_state(grads))
  >>> [u.shape for u in updates]
  [TensorShape([3]), TensorShape([2, 2])]
  """

  _own_coupling = COORDINATE

  def __init__(
    self,
    layers: Sequence[int] = (20, 20),
    preprocess: str | preprocess_lib.Preprocess = "identity",
    output_scale: float = 1.0,
    initializer: str = "truncated_normal",
    seed: int = 0,
    dtype: str = "float32",
  ):
    """Initializes the weights.

    Args:
      layers: units of each LSTM layer (the paper's 20 and 20); empty for a
        linear map from the preprocessed gradient to the update.
      preprocess: "identity", "clamp", "log_and_sign", or a callable from
        gradients [N] to features [N, F].
      output_scale: factor on the output, so that a fresh optimizer takes small
        steps.
      initializer: "truncated_normal", of variance 1 / fan-in before truncation at
        two standard deviations, or "zeros".
      seed: seed of the initial weights.
      dtype: type of the weights and the state, as a string.

    Raises:
      ValueError: for a layer below one unit, an output_scale that is not finite, or an
        unknown name.
    """
    super().__init__(1, layers, preprocess, output_scale, initializer, seed, dtype)

  def _to_columns(self, tensors):
    return to_coordinates(tensors)

  def _from_columns(self, columns, like):
    return from_coordinates(columns, like)


@registry.register
class KernelwiseLSTM(ColumnwiseLSTM):
  """A deep LSTM that reads and updates one whole convolution kernel at a time.

  google-deepmind/learning-to-learn, networks.py, `KernelDeepLSTM`: for filters
  of shape [height, width, in, out], each of the in * out kernels is one column.
  Use it in a `Partition`, for the filters alone.

  >>> kernels = KernelwiseLSTM(kernel_shape=(3, 3))
  >>> routes = [(Where(rank=4), kernels), (Where(role="bias"), Adam())]
  >>> routes += [(Where(rank=2), CoordinatewiseLSTM())]
  >>> problem = ConvNet(problems.datasets.digits())
  >>> optimizer = Partition(routes, problem.parameters())
  """

  def __init__(
    self,
    kernel_shape: Sequence[int],
    layers: Sequence[int] = (20, 20),
    preprocess: str | preprocess_lib.Preprocess = "identity",
    output_scale: float = 1.0,
    initializer: str = "truncated_normal",
    seed: int = 0,
    dtype: str = "float32",
  ):
    """Initializes the weights.

    Args:
      kernel_shape: (height, width) of the kernels.
      layers: as in `CoordinatewiseLSTM`, and so are the arguments below.
      preprocess: applied to every entry of a kernel.
      output_scale: factor on the output.
      initializer: "truncated_normal" or "zeros".
      seed: seed of the initial weights.
      dtype: type of the weights and the state, as a string.

    Raises:
      ValueError: for a layer or a kernel side below one, an output_scale that is not
        finite, or an unknown name.
    """
    if not _are_positive_integers(kernel_shape) or len(kernel_shape) != 2:
      raise ValueError(
        f"kernel_shape={kernel_shape!r} must be (height, width), both positive"
        " integers."
      )
    self._kernel_shape = tuple(kernel_shape)
    size = self._kernel_shape[0] * self._kernel_shape[1]
    super().__init__(size, layers, preprocess, output_scale, initializer, seed, dtype)
    self._config["kernel_shape"] = self._kernel_shape

  def _to_columns(self, tensors):
    for x in tensors:
      if x.shape.rank != 4 or tuple(x.shape[:2]) != self._kernel_shape:
        raise ValueError(
          f"KernelwiseLSTM got a parameter of shape {tuple(x.shape)}; it moves"
          f" filters of shape {self._kernel_shape} + (in, out). Route the others"
          " elsewhere with Partition."
        )
    return tf.concat([tf.reshape(x, [self._num_rows, -1]) for x in tensors], axis=1)

  def _from_columns(self, columns, like):
    parts = tf.split(columns, [x.shape[2] * x.shape[3] for x in like], axis=1)
    return [tf.reshape(p, x.shape) for p, x in zip(parts, like)]


def to_coordinates(tensors: list[tf.Tensor]) -> tf.Tensor:
  """Lays out all entries of all tensors as [1, N]."""
  return tf.concat([tf.reshape(x, [1, -1]) for x in tensors], axis=1)


def from_coordinates(coordinates: tf.Tensor, like: list[tf.Tensor]) -> list[tf.Tensor]:
  """The inverse of `to_coordinates`."""
  parts = tf.split(coordinates, [x.shape.num_elements() for x in like], axis=1)
  return [tf.reshape(p, x.shape) for p, x in zip(parts, like)]


def check_not_empty(optimizer: base.Optimizer, tensors: list[tf.Tensor]) -> None:
  if not tensors:
    raise ValueError(
      f"{type(optimizer).__name__} got an empty list; it needs at least one parameter."
    )


def check_layers(layers: Sequence[int]) -> tuple[int, ...]:
  if not _are_positive_integers(layers):
    raise ValueError(
      f"layers={layers!r} must be a sequence of positive integers, e.g. (20, 20)."
    )
  return tuple(layers)


def _are_positive_integers(values: Any) -> bool:
  return isinstance(values, Sequence) and all(
    isinstance(n, int) and n > 0 for n in values
  )


def check_dtype(dtype: str) -> tf.DType:
  known = [tf.float16, tf.bfloat16, tf.float32, tf.float64]
  if dtype not in known:
    names = ", ".join(repr(d.name) for d in known)
    raise ValueError(f"dtype={dtype!r} is unknown; choose one of {names}.")
  return tf.as_dtype(dtype)


def num_features_of(preprocess: preprocess_lib.Preprocess, dtype: tf.DType) -> int:
  shape = preprocess(tf.zeros([2], dtype)).shape
  if len(shape) != 2 or shape[0] != 2:
    raise ValueError(
      f"preprocess={preprocess!r} maps gradients [2] to features"
      f" {list(shape)}; it must map [N] to [N, F]."
    )
  return shape[1]
