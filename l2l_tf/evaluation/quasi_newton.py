"""BFGS and L-BFGS as baselines: SciPy's, counted by their evaluations of the loss.

Nocedal and Wright 2006, Numerical Optimization, algorithms 6.1 and 7.5:
  x_{k+1} = x_k - alpha_k H_k g_k,  alpha_k by a line search (Wolfe conditions)
  s_k = x_{k+1} - x_k,  y_k = g_{k+1} - g_k,  rho_k = 1 / y_k^T s_k
  H_{k+1} = (I - rho_k s_k y_k^T) H_k (I - rho_k y_k s_k^T) + rho_k s_k s_k^T
BFGS keeps H_k; L-BFGS keeps the last pairs (s_k, y_k) instead.
https://docs.scipy.org/doc/scipy/reference/optimize.minimize-bfgs.html
https://docs.scipy.org/doc/scipy/reference/optimize.minimize-lbfgsb.html
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.evaluation.runner import Curves, Progress, unseen
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.problems import Problem

_NEVER = 10**9  # iterations; the evaluations are what is limited
_MEMORY = 20  # pairs of steps and gradient differences; SciPy's default is 10


class Method(NamedTuple):
  """A quasi-Newton method, which needs no learning rate."""

  name: str
  scipy_name: str
  options: Mapping[str, Any]
  most_coordinates: float  # of one task


# H_k and the products that update it are n x n matrices of float64, 200 MB each at the
# limit.
BFGS = Method("BFGS", "BFGS", {"maxiter": _NEVER, "gtol": 0.0}, 5_000)
LBFGS = Method(
  "L-BFGS",
  "L-BFGS-B",
  {
    "maxiter": _NEVER, "maxfun": _NEVER, "maxcor": _MEMORY,
    "ftol": 0.0, "gtol": 0.0,
  },
  math.inf,
)  # fmt: skip
METHODS = {method.name: method for method in (BFGS, LBFGS)}


def check(problem: Problem, method: Method) -> None:
  """Raises ValueError for a problem that a method cannot minimize.

  It cannot if the problem has constraints, or, for BFGS, more than 5,000 coordinates
  in one task.
  """
  kind = type(problem).__name__
  if problem.is_constrained:
    raise ValueError(
      f"{method.name} got {kind}, which has constraints, and would leave them in its"
      " line searches; leave it out, or give a problem without constraints."
    )
  sizes = [math.prod(p.shape) for p in problem.parameters()]
  size = sum(sizes) // problem.num_tasks
  if size > method.most_coordinates:
    raise ValueError(
      f"{method.name} got {kind}, whose tasks have {size} coordinates each, and would"
      f" keep a matrix of {size} x {size}; it takes up to {method.most_coordinates}"
      f" coordinates, so take {LBFGS.name} instead."
    )


def run(
  problem: Problem,
  num_steps: int,
  num_draws: int,
  seed: int,
  branch: int,
  progress: Progress = unseen,
  method: Method = LBFGS,
) -> Curves:
  """Runs a method on the draws on which all other optimizers run.

  An evaluation of loss and gradient counts as one step, whether the line search accepts
  it or not. A curve shows the loss at the best iterate up to each of them, so that what
  the line search tries and rejects does not count against it. Independent tasks of one
  draw are minimized one by one.

  A line search needs one function: of a problem with mini-batches, the loss on the
  first one is minimized. The curve then shows the losses of its best iterates on the
  mini-batches that all other optimizers meet.

  >>> from l2l_tf.evaluation import quasi_newton
  >>> curves = quasi_newton.run(problems.Simple(), 4, num_draws=1, seed=0, branch=0)
  >>> [float(loss) for loss in curves.losses[0]]
  [1.0, 0.0, 0.0, 0.0, 0.0]

  Args:
    problem: to draw from.
    num_steps: evaluations after the first one, for each task.
    num_draws: draws of the problem.
    seed: seed of all draws.
    branch: of the seed, such as `seeds.EVALUATION`.
    progress: is told the evaluations of each draw.
    method: `BFGS` or `LBFGS`.

  Returns:
    Its learning curves.

  Raises:
    ValueError: as `check`.
  """
  check(problem, method)
  functions = _functions(problem)
  losses, held_out = [], []
  for i in range(num_draws):
    task, params = unroll_lib.draw(problem, seeds.make(seed, branch, i))
    best, curves = _minimize_all(problem, functions, method, task, params, num_steps)
    losses.append(curves)
    held_out.append(problem.held_out(best, task.constants))
    progress(num_steps)
  return Curves(
    np.concatenate(losses),
    {k: np.array([float(h[k]) for h in held_out]) for k in held_out[0]},
    without_rate=True,
  )


class _Functions(NamedTuple):
  """A problem as functions of one task's coordinates."""

  # (x, index, params, constants, seed) -> loss to minimize, its gradient, task losses
  value_and_gradient: Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
  task_losses: Callable[..., tf.Tensor]  # likewise -> [1], or all if it is one task


class _Spent(Exception):
  """All evaluations have been made."""


def _functions(problem: Problem) -> _Functions:
  is_one = problem.num_tasks == 1

  def task_losses(x, index, params, constants, seed):
    params = _placed(problem, x, index, params)
    losses = problem.task_losses(params, constants, seed)
    return losses if is_one else losses[index, tf.newaxis]

  def value_and_gradient(x, index, params, constants, seed):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(x)
      losses = task_losses(x, index, params, constants, seed)
      # A task of several is minimized by itself, not as its share of their mean.
      alone = lambda: problem(_placed(problem, x, index, params), constants, seed)
      loss = alone() if is_one else losses[0]
    return loss, tape.gradient(loss, x), losses

  compiled = lambda function: tf.function(function, autograph=False)
  return _Functions(compiled(value_and_gradient), compiled(task_losses))


def _placed(
  problem: Problem, x: tf.Tensor, index: tf.Tensor, params: list[tf.Tensor]
) -> list[tf.Tensor]:
  """Returns `params` with the coordinates `x` of one task, [n], in their places."""
  rows = [p.shape if problem.num_tasks == 1 else p.shape[1:] for p in params]
  parts = tf.split(x, [row.num_elements() for row in rows])
  parts = [
    tf.cast(tf.reshape(part, row), p.dtype)
    for part, row, p in zip(parts, rows, params, strict=True)
  ]
  if problem.num_tasks == 1:
    return parts
  place = lambda p, row: tf.tensor_scatter_nd_update(p, [[index]], row[tf.newaxis])
  return [place(p, row) for p, row in zip(params, parts)]


def _minimize_all(problem, functions, method, task, params, num_steps):
  """Returns the best parameters of all tasks of a draw, and their curves."""
  best, curves = params, []
  for i in range(problem.num_tasks):
    index = tf.constant(i)
    mine = params if problem.num_tasks == 1 else [p[i] for p in params]
    start = np.concatenate([np.ravel(p).astype(np.float64) for p in mine])
    point = _Best(functions, (index, params, task.constants), task, num_steps)
    with np.errstate(all="ignore"):  # where a loss is not finite
      found = point.minimize(method, start)
    curves.append(point.curves())
    best = _placed(problem, tf.constant(found), index, best)
  return best, np.concatenate(curves)


class _Best:
  """The best iterate of one task up to each evaluation."""

  def __init__(self, functions: _Functions, where: tuple, task, num_steps: int):
    self._functions, self._where, self._task = functions, where, task
    self._num_steps = num_steps
    self._seed = unroll_lib.step_seed(task, tf.constant(0))
    self._least, self._best = math.inf, None
    self._rows: list[np.ndarray] = []  # of the curves, one for each evaluation
    self._varies = False

  def minimize(self, method: Method, start: np.ndarray) -> np.ndarray:
    """Minimizes from `start`; returns the best iterate.

    It may end early, where no step lowers the loss any more.
    """
    first, second = (self._losses(start, step) for step in (0, 1))
    self._varies = not np.array_equal(first, second)
    self._best = start
    options = {"jac": True, "method": method.scipy_name, "options": method.options}
    with contextlib.suppress(_Spent):
      scipy.optimize.minimize(self._evaluate, start, **options)
    while len(self._rows) <= self._num_steps:
      self._append(self._rows[-1])
    return self._best

  def curves(self) -> np.ndarray:
    """Returns [1, num_steps + 1], or a row for each of the losses of a joint task."""
    return np.stack(self._rows, axis=1)

  def _evaluate(self, x: np.ndarray) -> tuple[float, np.ndarray]:
    if len(self._rows) > self._num_steps:
      raise _Spent
    value_and_gradient = self._functions.value_and_gradient
    loss, grad, losses = value_and_gradient(tf.constant(x), *self._where, self._seed)
    loss = float(loss)
    if loss <= self._least:  # never where it is not a number
      self._best, self._least = np.copy(x), loss
    is_shown = not self._rows or loss <= self._least
    self._append(losses.numpy() if is_shown else self._rows[-1])
    return loss, grad.numpy()

  def _append(self, row: np.ndarray) -> None:
    """Adds a row to the curves, which is of the step's own mini-batch if there are."""
    step = len(self._rows)
    self._rows.append(self._losses(self._best, step) if self._varies else row)

  def _losses(self, x: np.ndarray, step: int) -> np.ndarray:
    seed = unroll_lib.step_seed(self._task, tf.constant(step))
    return self._functions.task_losses(tf.constant(x), *self._where, seed).numpy()
