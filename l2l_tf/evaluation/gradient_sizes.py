"""How large the gradients are that an optimizer meets along its own trajectory.

A learned optimizer has seen the sizes of the problem that it was trained on, and no
others: where they differ, its updates may be of any size.
"""

import numpy as np
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.evaluation.runner import Progress, unseen
from l2l_tf.meta import execution
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def measure(
  problem: Problem,
  optimizer: Optimizer,
  num_steps: int,
  num_draws: int,
  seed: int = 0,
  progress: Progress = unseen,
) -> np.ndarray:
  """Measures quantiles of the absolute gradients, step by step.

  Entries that are zero, such as those of weights of pixels that are always black, are
  left out.

  >>> from l2l_tf.evaluation import gradient_sizes
  >>> gradient_sizes.measure(Simple(), SGD(0.25), num_steps=2, num_draws=1)[:, 0]
  array([2., 1.], dtype=float32)

  Args:
    problem: the distribution of tasks.
    optimizer: what moves the parameters.
    num_steps: steps, the first gradient is that at the starting point.
    num_draws: draws of the problem, the first of those that are reported.
    seed: seed of all draws.
    progress: is told the steps of each draw.

  Returns:
    [num_steps, len(QUANTILES)], means of the draws' quantiles; zero where a gradient
    has no other entries.
  """
  optimizer = execution.prepared(problem, optimizer)

  def run(key):
    task, carry = unroll_lib.start(problem, optimizer, key, total_steps=num_steps)
    before = _quantiles(carry.grads)
    _, after = unroll_lib.unroll(
      problem,
      optimizer,
      task,
      carry,
      num_steps - 1,
      observe=lambda c, updates: _quantiles(c.grads),
    )
    return tf.concat([before[tf.newaxis], after], axis=0)

  whole = execution.compiles_loop(problem, optimizer)
  compiled = tf.function(run, autograph=False, jit_compile=whole)
  draws = []
  for i in range(num_draws):
    draws.append(compiled(seeds.make(seed, seeds.EVALUATION, i)).numpy())
    progress(num_steps)
  return np.mean(draws, axis=0)


def _quantiles(grads: list[tf.Tensor]) -> tf.Tensor:
  flat = [tf.reshape(tf.cast(g, tf.float32), [-1]) for g in grads]
  ordered = tf.sort(tf.abs(tf.concat(flat, axis=0)))  # zeros first
  size = tf.shape(ordered)[0]
  zeros = size - tf.math.count_nonzero(ordered, dtype=tf.int32)
  last = tf.cast(size - 1 - zeros, tf.float32)
  places = zeros + tf.cast(tf.round(tf.constant(QUANTILES) * last), tf.int32)
  return tf.gather(ordered, tf.clip_by_value(places, 0, size - 1))
