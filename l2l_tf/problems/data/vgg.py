"""The first seven convolutions of VGG-16, trained on ImageNet.

Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", configuration D. https://arxiv.org/abs/1409.1556
"""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from l2l_tf.problems.data import datasets

VARIABLE = "L2L_VGG16"
NAMES = (
  "block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2", "block3_conv1",
  "block3_conv2", "block3_conv3",
)  # fmt: skip
_BLOCK = (0, 0, 1, 1, 2, 2, 2)  # of each convolution; a pooling lies between two
_FILTERS = (64, 128, 256)  # of each block
_PAGE = "https://keras.io/api/applications/vgg"
_URL = (
  "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
  "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)


class Convolution(NamedTuple):
  """The weights of one convolution."""

  kernel: np.ndarray  # [3, 3, inputs, outputs]
  bias: np.ndarray  # [outputs]


@functools.lru_cache(maxsize=1)
def vgg16() -> tuple[Convolution, ...]:
  """Returns the weights of block1_conv1 to block3_conv3.

  They are read from the file that the environment variable L2L_VGG16 names, or else
  from `keras.applications`, which downloads 59 MB on its first call.

  Raises:
    DatasetUnavailableError: if they cannot be read and cannot be downloaded.
    ValueError: if the file holds other weights.
  """
  path = os.environ.get(VARIABLE)
  return _downloaded() if not path else read(path)


def read(path: str | os.PathLike[str]) -> tuple[Convolution, ...]:
  """Reads the weights from an .npz file.

  Its arrays are called as in Keras, block1_conv1/kernel and block1_conv1/bias and so
  on, up to block3_conv3; others are not looked at.

  Raises:
    DatasetUnavailableError: if there is no such file, or it cannot be read.
    ValueError: if an array is missing or has another shape.
  """
  path = pathlib.Path(path).expanduser()
  try:
    with np.load(path) as file:
      held = {name: file[name] for name in file.files if name.startswith(NAMES)}
  # Of a broken file: OSError, ValueError, zipfile.BadZipFile and more.
  except Exception as error:
    raise _unavailable("read", str(path), error) from None
  for name, shape in _shapes(_FILTERS):
    came = held[name].shape if name in held else "no such array"
    if came != shape:
      raise ValueError(
        f"{str(path)!r}, which {VARIABLE} names, holds other weights than VGG-16's:"
        f" {name} has {came}, not {shape}; unset the variable to download them."
      )
  return tuple(
    Convolution(*(np.float32(held[f"{name}/{part}"]) for part in Convolution._fields))
    for name in NAMES
  )


def untrained(filters: Sequence[int] = (8, 16, 32), seed: int = 0):
  """Returns random weights of a network of the same form, for examples and tests.

  >>> [weights.kernel.shape for weights in vgg.untrained((2, 3, 4))][:3]
  [(3, 3, 3, 2), (3, 3, 2, 2), (3, 3, 2, 3)]

  Args:
    filters: number of filters of each of the three blocks.
    seed: names the weights, which keep the size of a layer's outputs (He et al. 2015).
  """
  rng = np.random.default_rng(seed)
  drawn = {
    name: rng.normal(size=shape) * np.sqrt(2.0 / np.prod(shape[:-1]))
    for name, shape in _shapes(filters)
    if name.endswith("kernel")
  }
  return tuple(
    Convolution(kernel.astype(np.float32), np.zeros(kernel.shape[-1], np.float32))
    for kernel in drawn.values()
  )


def check(weights: Sequence[Convolution]) -> None:
  """Raises ValueError unless weights are those of seven convolutions, as in `NAMES`.

  >>> vgg.check(vgg.untrained((2, 3, 4)))

  Args:
    weights: of any number of filters in each convolution.
  """
  if len(weights) != len(NAMES):
    raise ValueError(
      f"The weights are those of {len(weights)} convolutions; give the {len(NAMES)} of"
      f" VGG-16 from {NAMES[0]} to {NAMES[-1]}, as vgg.vgg16() returns them."
    )
  inputs = 3
  for name, (kernel, bias) in zip(NAMES, weights):
    came, outputs = np.shape(kernel), np.shape(bias)
    if len(outputs) != 1 or came != (3, 3, inputs, *outputs):
      raise ValueError(
        f"The weights of {name} have the shapes {came} and {outputs}; a kernel must be"
        f" (3, 3, {inputs}, n) and its bias (n,), as vgg.vgg16() returns them."
      )
    (inputs,) = outputs


def _shapes(filters: Sequence[int]):
  """Yields the name and the shape of every array."""
  inputs = 3
  for name, block in zip(NAMES, _BLOCK, strict=True):
    outputs = filters[block]
    yield f"{name}/kernel", (3, 3, inputs, outputs)
    yield f"{name}/bias", (outputs,)
    inputs = outputs


def _downloaded() -> tuple[Convolution, ...]:
  import keras

  try:
    if not _cached().exists():
      datasets.require_reachable(_URL)
    model = keras.applications.VGG16(include_top=False, input_shape=(32, 32, 3))
    return tuple(Convolution(*model.get_layer(name).get_weights()) for name in NAMES)
  # The exceptions for a broken cache, disk or network have no common base class.
  except Exception as error:
    raise _unavailable("download", _URL, error) from None


def _cached() -> pathlib.Path:
  """Returns where Keras keeps the file."""
  home = os.environ.get("KERAS_HOME") or pathlib.Path("~/.keras").expanduser()
  return pathlib.Path(home) / "models" / _URL.rpartition("/")[2]


def _unavailable(action: str, where: str, error: Exception) -> Exception:
  reason = (str(error).strip() or "no message").splitlines()[0][:200]
  return datasets.DatasetUnavailableError(
    f"Could not {action} VGG-16's ImageNet weights, {where} ({type(error).__name__}:"
    f" {reason}); run once with a network, so that keras.applications downloads them"
    f" ({_PAGE}), or set {VARIABLE} to an .npz file of its arrays block1_conv1/kernel"
    " to block3_conv3/bias."
  )
