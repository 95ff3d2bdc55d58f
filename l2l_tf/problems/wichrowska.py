"""The training set of a learned optimizer that shall generalise, without real data.

Wichrowska et al. 2017, section 4.1 and appendix, https://arxiv.org/abs/1703.04813.
Sizes, mini-batches, noise and scales are those of the authors' code, research/
learned_optimizer/problems/problem_sets.py in tensorflow/models, where it has them. It
differs in these points: every problem comes in every version, where the code chooses
some; classifiers have two logits and no weight decay; tasks are drawn afresh in every
episode, where the code's matrices are fixed. Left out are the code's quadratics of 784
and more dimensions, its matrix-multiplication problems and its saddle, which no set of
the code contains and whose loss is negative.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from l2l_tf.problems.altered import LogLoss, NoisyGradients, SparseGradients
from l2l_tf.problems.base import Problem
from l2l_tf.problems.classic_functions import ClassicFunction
from l2l_tf.problems.classification import FAN_IN, MLP
from l2l_tf.problems.data import random_data
from l2l_tf.problems.landscapes import (
  Bowl,
  DependencyChain,
  MinMaxWell,
  Norm,
  OutwardSnake,
  ProjectionQuadratic,
)
from l2l_tf.problems.scaled import ScaledParameters
from l2l_tf.problems.synthetic import Ensemble, Quadratic

_SEED = 123  # of the data
_FUNCTIONS = (
  "ackley", "beale", "booth", "branin", "log_sum_exp", "matyas", "michalewicz",
  "rosenbrock", "styblinski_tang",
)  # fmt: skip


class _Base(NamedTuple):
  """A problem, and what its noisy and its rescaled version do to it."""

  make: Callable[[], Problem]
  noise: float = 0.1  # standard deviation, on each coordinate of the gradient
  scale: float = 10.0  # of the parameters


def _quadratic(num_dims: int) -> Quadratic:
  return Quadratic(batch_size=1, num_dims=num_dims, stddev=1.0)


def _function(name: str) -> _Base:
  return _Base(lambda: ClassicFunction(name), noise=1.0)


def _regression(
  num_features: int, separation: float, batch_size: int, num_classes: int = 2
):
  data = lambda: random_data.clusters(num_features, num_classes, separation, seed=_SEED)
  return lambda: MLP(data(), (), "sigmoid", batch_size, FAN_IN)


def _net(num_features: int, layers: Sequence[int], batch_size: int) -> _Base:
  data = lambda: random_data.labelled_by_net(num_features, seed=_SEED)
  return _Base(lambda: MLP(data(), layers, "sigmoid", batch_size, FAN_IN))


def _sum_of_quadratics() -> Ensemble:
  return Ensemble([_quadratic(n) for n in (11, 3, 9, 7, 5, 13, 12)])


def _sum_of_functions() -> Ensemble:
  return Ensemble([ClassicFunction(name) for name in _FUNCTIONS])


_BASES: Mapping[str, _Base] = {
  "quadratic, 20-d": _Base(lambda: _quadratic(20), 0.5, 0.1),
  "quadratic, 25-d": _Base(lambda: _quadratic(25), 0.5, 10.0),
  "quadratic, 50-d": _Base(lambda: _quadratic(50), 1.0, 350.0),
  "quadratic, 100-d": _Base(lambda: _quadratic(100), 2.0, 132.0),
  "bowl, 0.1": _Base(lambda: Bowl(0.1, angle=0.0)),
  "bowl, 1": _Base(lambda: Bowl(1.0, angle=0.0)),
  "bowl, 5": _Base(lambda: Bowl(5.0, angle=0.0)),
  "bowl, 5, turned": _Base(lambda: Bowl(5.0, angle=math.pi / 4)),
  "norm, 1": _Base(lambda: Norm(27, 1.0), scale=1000.0),
  "norm, 2": _Base(lambda: Norm(25, 2.0), scale=50.0),
  "norm, 3": _Base(lambda: Norm(22, 3.0), scale=200.0),
  **{name: _function(name) for name in _FUNCTIONS},
  "logistic regression, 10-d": _Base(_regression(10, 2.0, 100), 0.5),
  "logistic regression, 100-d": _Base(_regression(100, 1.0, 50)),
  "logistic regression, 200-d": _Base(_regression(200, 1.5, 20)),
  "softmax regression, 4 classes": _Base(_regression(10, 2.0, 100, 4)),
  "net, 8": _net(9, (8,), 128),
  "net, 8-5": _net(8, (8, 5), 10),
  "net, 8-5-3": _net(12, (8, 5, 3), 200),
  "net, 4-4-4-4": _net(5, (4, 4, 4, 4), 100),
  "net, 32-64": _net(7, (32, 64), 16),
  "dependency chain": _Base(lambda: DependencyChain(20)),
  "min-max well": _Base(lambda: MinMaxWell(12)),
  "outward snake": _Base(lambda: OutwardSnake(12, batch_size=10)),
  "projection quadratic": _Base(lambda: ProjectionQuadratic(12, batch_size=10)),
  "sum of quadratics": _Base(_sum_of_quadratics),
  "sum of functions": _Base(_sum_of_functions),
}

# Version -> what it makes of a problem.
_VERSIONS: Mapping[str, Callable[[_Base], Problem]] = {
  "plain": lambda base: base.make(),
  "log": lambda base: LogLoss(base.make()),
  "rescaled": lambda base: ScaledParameters(
    base.make(), 1.0 / base.scale, 1.0 / base.scale
  ),
  "noisy": lambda base: NoisyGradients(base.make(), base.noise),
  "sparse": lambda base: SparseGradients(base.make(), zero_probability=0.99),
}


def wichrowska(
  versions: Sequence[str] = tuple(_VERSIONS),
) -> dict[str, Callable[[], Problem]]:
  """Returns the training set of Wichrowska et al. 2017: what makes a problem, by name.

  >>> from l2l_tf.problems import suites
  >>> tasks = suites.wichrowska(versions=["plain", "noisy"])
  >>> tasks["rosenbrock"]().parameters()
  [Parameter(path='point', shape=(2,), role='variable')]
  >>> "rosenbrock, noisy" in tasks
  True

  Args:
    versions: "plain"; "log", of the loss; "rescaled" parameters; "noisy" and "sparse"
      gradients. All but the plain one stand behind the problem's name.

  Raises:
    ValueError: for an unknown version, or none.
  """
  if not versions or not {*versions} <= {*_VERSIONS}:
    raise ValueError(
      f"wichrowska got versions={list(versions)}; choose one or more of"
      f" {', '.join(_VERSIONS)}."
    )
  make = lambda version, base: lambda: _VERSIONS[version](base)
  return {
    name if version == "plain" else f"{name}, {version}": make(version, base)
    for name, base in _BASES.items()
    for version in versions
  }
