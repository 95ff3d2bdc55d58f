"""JAX and PyTorch as contenders; neither TensorFlow nor l2l_tf is imported."""

import importlib
import itertools
from collections.abc import Sequence
from typing import Any

import memory
import numpy as np


class Epochs:
  """Meta-training; a turn is an epoch."""

  def __init__(self, module: str, case: Any, weights: Sequence[np.ndarray]):
    """Makes it from the module of that name, a `Case` of `meta_train.py`, and phi."""
    self._module, self._case, self._weights = (
      importlib.import_module(module),
      case,
      weights,
    )
    self.version = self._module.VERSION
    self._training = self._make()

  def turn(self, index: int) -> None:
    self._training.epoch(index)

  def answers(self, theta: np.ndarray, constants: list[np.ndarray]) -> dict[str, Any]:
    """Returns what it computes on a given task."""
    training = self._make()
    meta_loss, meta_gradient = training.first_window(theta, constants)
    return {
      "first window's meta-loss": meta_loss,
      "first window's meta-gradient": meta_gradient,
      "meta-losses of an epoch": training.train_on(theta, constants),
    }

  def memory(self) -> tuple[float, float]:
    """Returns MiB of the first epoch's peak, compilation included, and of the next."""
    self._training.warm_up()
    before, counter = memory.held(), itertools.count()
    return tuple(
      memory.peak(lambda: self.turn(next(counter))) - before for _ in range(2)
    )

  def _make(self) -> Any:
    case = self._case
    return self._module.MetaTraining(
      getattr(self._module, case.problem)(*case.sizes),
      self._weights,
      case.num_steps,
      case.unroll_length,
      case.learning_rate,
    )


class Estimator:
  """Meta-training by persistent evolution strategies; a turn is an epoch."""

  def __init__(self, module: str, case: Any, weights: Sequence[np.ndarray]):
    """Makes it from the module of that name, a `Case` of `estimators.py`, and phi."""
    module = importlib.import_module(module)
    self.version = module.VERSION
    problem = getattr(module, case.problem)(*case.sizes)
    self._training = module.PersistentTraining(
      problem,
      weights,
      case.pairs,
      case.stddev,
      case.num_steps,
      case.unroll_length,
      case.learning_rate,
    )

  def turn(self, index: int) -> None:
    self._training.epoch(index)

  def answers(self, *particles: Any) -> dict[str, Any]:
    """Returns what it estimates from given particles."""
    return {"estimate": self._training.estimate(*particles)}


class Steps:
  """The optimizer alone; a turn is a step from gradients at hand."""

  def __init__(
    self, module: str, weights: Sequence[np.ndarray], grads: np.ndarray, *flags: bool
  ):
    """Makes it from the module of that name; `flags` are PyTorch's `is_compiled`."""
    module = importlib.import_module(module)
    self.version = module.VERSION
    self._step = module.OptimizerSteps(weights, len(grads), *flags)
    self._grads = grads

  def turn(self, index: int) -> None:
    self._step(self._grads)

  def answers(self) -> dict[str, np.ndarray]:
    """Takes two steps; returns the parameters."""
    self.turn(0)
    return {"parameters after two steps": np.array(self._step(self._grads))}
