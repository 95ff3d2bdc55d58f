"""What an optimizer's update depends on: all that decides how it can be run."""

import enum


class Coupling(enum.IntEnum):
  """What the update of one coordinate may depend on, besides phi and the loss."""

  COORDINATE = 0  # its own gradients and value alone, whatever tensor holds it
  TENSOR = 1  # those of the tensor that holds it, and which tensor that is
  ALL = 2  # those of every tensor


class Reads(enum.Enum):
  """What an optimizer computes its updates from, besides its state and phi."""

  GRADIENTS = "gradients"
  PARAMETERS = "parameters"
  LOSS = "loss"


COORDINATE, TENSOR, ALL = Coupling
GRADIENTS, PARAMETERS, LOSS = Reads
