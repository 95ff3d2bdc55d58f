"""Ordinary training on all of a few-shot data set's training classes.

The baselines of Ravi and Larochelle 2017, section 5.1, start from such a net:
https://openreview.net/forum?id=rJY0-Kcll
"""

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.base import Parameter, Problem
from l2l_tf.problems.few_shot import FewShot, cross_entropy


class AllClasses(Problem):
  """Mean cross-entropy of a few-shot learner that tells all classes apart.

  Mini-batches are drawn with replacement. All but the last two parameters are those of
  the few-shot problem's learner.

  >>> problem = AllClasses(few_shot("digits", ways=3, learner="dense"), batch_size=32)
  >>> [p.shape for p in problem.parameters()]
  [(64, 64), (64,), (64, 7), (7,)]
  """

  def __init__(self, problem: FewShot, batch_size: int = 64):
    """Initializes the problem.

    Args:
      problem: whose classes and learner.
      batch_size: images of a step.
    """
    self._problem, self._batch_size = problem, batch_size
    self.jit_compile = problem.jit_compile

  def init(self, seed):
    ways = self._problem.classes.num_classes
    shape, dtype = self._problem.shape, tf.float32
    return self._problem.learner.init(seed, shape, ways, dtype), ()

  def __call__(self, params, constants, seed):
    classes = self._problem.classes
    size, per_class = classes.num_classes * classes.num_images, classes.num_images
    batch = seeds.integers([self._batch_size], seed, size)
    rows = tf.gather(tf.reshape(classes.rows, [-1]), batch)
    images = self._problem.floats(tf.gather(classes.images, rows))
    logits = self._problem.learner.logits(params, images)
    return cross_entropy(logits, batch // per_class)

  def data_sources(self):
    return self._problem.data_sources()

  def parameters(self) -> list[Parameter]:
    problem = self._problem
    return problem.learner.parameters(problem.shape, problem.classes.num_classes)
