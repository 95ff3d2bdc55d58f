"""A problem around a problem, which forwards what it does not change."""

from l2l_tf.problems.base import Problem, draw


class Wrapped(Problem):
  """Forwards everything but the loss to another problem.

  `num_tasks` stays 1: what subclasses do to the loss of several tasks is no sum over
  them, or shares the draws of a step's seed.
  """

  def __init__(self, problem: Problem):
    self._problem = problem
    self.jit_compile = problem.jit_compile
    self.jit_compile_steps = problem.jit_compile_steps

  def init(self, seed):
    return draw(self._problem, seed)

  def meta_loss(self, params, constants, seed):
    return self._problem.meta_loss(params, constants, seed)

  @property
  def has_meta_loss(self):
    return self._problem.has_meta_loss

  def project(self, params, constants):
    return self._problem.project(params, constants)

  @property
  def is_constrained(self):
    return self._problem.is_constrained

  def task_losses(self, params, constants, seed):
    return self._problem.task_losses(params, constants, seed)

  def held_out(self, params, constants):
    return self._problem.held_out(params, constants)

  def data_sources(self):
    return self._problem.data_sources()

  def parameters(self):
    return self._problem.parameters()
