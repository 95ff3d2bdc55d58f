"""L-BFGS as a baseline: SciPy's, counted by its evaluations of the loss.

Nocedal and Wright 2006, Numerical Optimization, algorithm 7.5; Byrd et al. 1995,
https://docs.scipy.org/doc/scipy/reference/optimize.minimize-lbfgsb.html
"""

import numpy as np
import scipy.optimize
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.evaluation.runner import Curves, Progress, unseen
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.problems import Problem

_FIRST_RATE = 1.0  # at which its line searches start, but for the first one
_MEMORY = 20  # pairs of steps and gradient differences; SciPy's default is 10


def run(
  problem: Problem,
  num_steps: int,
  num_draws: int,
  seed: int,
  branch: int,
  progress: Progress = unseen,
) -> Curves:
  """Runs L-BFGS on the draws on which all other optimizers run.

  An evaluation of loss and gradient counts as one step, whether the line search accepts
  it or not. A curve shows the least loss up to each of them, so that what the line
  search tries and rejects does not count against it.

  >>> from l2l_tf.evaluation import quasi_newton
  >>> curves = quasi_newton.run(problems.Simple(), 4, num_draws=1, seed=0, branch=0)
  >>> [float(loss) for loss in curves.losses[0]]
  [1.0, 0.0, 0.0, 0.0, 0.0]

  Args:
    problem: its loss must be the same at every step, without mini-batches.
    num_steps: evaluations after the first one.
    num_draws: draws of the problem.
    seed: seed of all draws.
    branch: of the seed, such as `seeds.EVALUATION`.
    progress: is told the evaluations of each draw.

  Returns:
    Its learning curves, with the rate at which its line searches start.
  """
  evaluate = tf.function(_loss_and_gradient(problem), autograph=False)
  losses, held_out = [], []
  for i in range(num_draws):
    task, params = unroll_lib.draw(problem, seeds.make(seed, branch, i))
    best, curve = _minimize(evaluate, task, params, num_steps)
    losses.append(curve)
    held_out.append(problem.held_out(best, task.constants))
    progress(num_steps)
  names = held_out[0]
  return Curves(
    np.stack(losses),
    {k: np.array([float(h[k]) for h in held_out]) for k in names},
    _FIRST_RATE,
  )


def _loss_and_gradient(problem: Problem):
  def evaluate(params, constants, seed):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(params)
      loss = problem(params, constants, seed)
    return loss, tape.gradient(loss, params)

  return evaluate


def _minimize(evaluate, task, params, num_steps: int):
  """Returns the best iterate, and the least loss up to each evaluation.

  SciPy looks at the budget after a whole line search alone; what it evaluates beyond is
  left out.
  """
  seed = unroll_lib.step_seed(task, tf.constant(0))
  curve: list[float] = []
  best = _flattened(params)

  def value_and_gradient(x):
    nonlocal best
    loss, grads = evaluate(_unflattened(x, params), task.constants, seed)
    if len(curve) <= num_steps and loss <= min(curve, default=np.inf):
      best = np.copy(x)
    curve.append(float(loss))
    return float(loss), _flattened(grads)

  scipy.optimize.minimize(
    value_and_gradient,
    _flattened(params),
    jac=True,
    method="L-BFGS-B",
    options={
      "maxfun": num_steps + 1, "maxiter": num_steps + 1, "maxcor": _MEMORY,
      "ftol": 0.0, "gtol": 0.0,
    },
  )  # fmt: skip
  least = np.minimum.accumulate(curve)[: num_steps + 1]
  # It may end early, where no step lowers the loss any more.
  least = np.pad(least, (0, num_steps + 1 - len(least)), mode="edge")
  return _unflattened(best, params), least.astype(np.float32)


def _flattened(tensors) -> np.ndarray:
  return np.concatenate([np.ravel(x.numpy()) for x in tensors]).astype(np.float64)


def _unflattened(x: np.ndarray, like: list[tf.Tensor]) -> list[tf.Tensor]:
  cuts = np.cumsum([p.shape.num_elements() for p in like])[:-1]
  parts = np.split(x, cuts)
  return [tf.cast(tf.reshape(v, p.shape), p.dtype) for v, p in zip(parts, like)]
