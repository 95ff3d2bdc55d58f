"""Traits: what an optimizer's update depends on, which decides how it can be run."""

import enum


class Coupling(enum.IntEnum):
  """What the update of one coordinate may depend on, besides phi and the loss."""

  COORDINATE = 0  # its own gradients and value alone, whichever tensor it is in
  TENSOR = 1  # the gradients and values of its own tensor, and which tensor that is
  ALL = 2  # the gradients and values of all tensors


class Reads(enum.Enum):
  """What an optimizer computes its updates from, besides its state and phi."""

  GRADIENTS = "gradients"
  PARAMETERS = "parameters"
  LOSS = "loss"


COORDINATE, TENSOR, ALL = Coupling
GRADIENTS, PARAMETERS, LOSS = Reads
