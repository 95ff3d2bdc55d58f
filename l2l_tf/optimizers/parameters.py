"""What is known of an optimizee's parameters, and how a matrix is seen in each."""

import enum
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Parameter(Protocol):
  """A parameter as its problem names it; `l2l_tf.problems.Parameter` is one."""

  @property
  def path(self) -> str: ...

  @property
  def shape(self) -> tuple[int, ...]: ...

  @property
  def role(self) -> str: ...

  @property
  def rank(self) -> int: ...


class Kind(enum.Enum):
  """What a tensor is in its layer."""

  KERNEL = "kernel"  # a linear map, from `fan` inputs to the outputs
  RECURRENT = "recurrent kernel"  # the same, of a layer that has a kernel besides
  FILTERS = "filters"  # a filter of `fan` weights for each channel: depthwise kernels
  EMBEDDING = "embedding"  # a table whose rows are looked up
  VECTOR = "vector"  # biases, scales, offsets, single numbers


class Role(NamedTuple):
  """How an optimizer may look at a tensor."""

  kind: Kind
  fan: int  # inputs of one output; the length of a row of an embedding
  shape: tuple[int, ...]

  @property
  def is_kernel(self) -> bool:
    """Whether it is a linear map, be it of what a recurrent layer has put out."""
    return self.kind in (Kind.KERNEL, Kind.RECURRENT)

  @property
  def matrix(self) -> tuple[int, int]:
    """The shape of the linear map: inputs and outputs."""
    return self.fan, math.prod(self.shape) // max(self.fan, 1)


# The last part of a path, of Keras's layers and Sonnet's modules. Their ranks differ: a
# GRU's bias has two dimensions, attention's biases and PReLU's slopes have up to three.
_VECTORS = ("bias", "beta", "gamma", "scale", "offset", "alpha", "b")
_EMBEDDINGS = ("embedding", "embeddings")
_RECURRENT = ("recurrent_kernel", "w_h")
_DEPTHWISE = "depthwise"  # in the name of the layer, or of its kernel
# Kernels [inputs, heads, outputs of a head]; other kernels have the outputs last.
_PROJECTIONS = ("query", "key", "value")


def role(shape: Sequence[int], path: str = "") -> Role:
  """Returns the role of a tensor, from its shape and, where that is known, its path.

  >>> from l2l_tf.optimizers.parameters import role
  >>> role((3, 3, 16, 32)).matrix
  (144, 32)
  >>> role((64, 4, 16), "attention/query/kernel").matrix
  (64, 64)
  >>> role((2, 96), "gru/bias").kind
  <Kind.VECTOR: 'vector'>
  """
  shape = tuple(shape)
  *parents, name = path.removesuffix(":0").split("/")
  size = math.prod(shape)
  ends = lambda names: any(name == n or name.endswith(f"_{n}") for n in names)
  inputs = math.prod(shape[:-1])
  is_lone_row = len(shape) > 2 and inputs == 1  # such as a class token
  if len(shape) < 2 or size <= 1 or ends(_VECTORS) or is_lone_row:
    return Role(Kind.VECTOR, 1, shape)
  if ends(_EMBEDDINGS):
    return Role(Kind.EMBEDDING, size // max(shape[0], 1), shape)
  if len(shape) > 2 and any(_DEPTHWISE in part for part in (*parents[-1:], name)):
    return Role(Kind.FILTERS, max(math.prod(shape[:-2]), 1), shape)
  if len(shape) == 3 and parents and parents[-1] in _PROJECTIONS:
    inputs = shape[0]
  return Role(Kind.RECURRENT if name in _RECURRENT else Kind.KERNEL, inputs, shape)
