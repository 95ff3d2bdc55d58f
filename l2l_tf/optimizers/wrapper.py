"""An optimizer that runs another one in its own way."""

import abc

from l2l_tf.optimizers import base


class Wrapper(base.Optimizer):
  """Behaves as the wrapped optimizer does, except where a subclass differs."""

  def __init__(self, optimizer: base.Optimizer):
    super().__init__()
    self.inner = optimizer

  @abc.abstractmethod
  def rewrapped(self, optimizer: base.Optimizer) -> "Wrapper":
    """Returns the same wrapper around another optimizer."""

  @property
  def coupling(self):
    return self.inner.coupling

  @property
  def reads(self):
    return self.inner.reads

  @property
  def jit_compile(self):
    return self.inner.jit_compile

  def get_phi(self):
    return self.inner.get_phi()

  def with_phi(self, phi):
    return self.rewrapped(self.inner.with_phi(phi))

  @property
  def learns_start(self) -> bool:
    return self.inner.learns_start

  @property
  def learns_initial_params(self) -> bool:
    return self.inner.learns_initial_params

  def initial_params(self, params):
    return self.inner.initial_params(params)

  def initial_state(self, params):
    return self.inner.initial_state(params)

  @property
  def has_horizon(self) -> bool:
    return self.inner.has_horizon

  def with_total_steps(self, state, total_steps):
    return self.inner.with_total_steps(state, total_steps)

  @property
  def distinguishes_parameters(self) -> bool:
    return self.inner.distinguishes_parameters

  def with_parameters(self, parameters):
    inner = self.inner.with_parameters(parameters)
    return self if inner is self.inner else self.rewrapped(inner)

  def decay_rate(self, state):
    return self.inner.decay_rate(state)

  def __call__(self, grads, state, params=None, loss=None):
    return self.inner(grads, state, params=params, loss=loss)

  def record(self, grads):
    return self.inner.record(grads)

  def sequence_gradient(self, recorded, state, loss_weights):
    return self.inner.sequence_gradient(recorded, state, loss_weights)

  def diagnostics(self, grads, state):
    return self.inner.diagnostics(grads, state)
