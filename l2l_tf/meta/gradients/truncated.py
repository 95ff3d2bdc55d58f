"""Truncated back-propagation through time: through the window, nothing before it.

Andrychowicz et al. 2016, section 2. https://arxiv.org/abs/1606.04474
"""

import dataclasses
from collections.abc import Callable, Sequence

from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.gradients.base import MetaGradient
from l2l_tf.meta.gradients.recorded import RecordedBPTT
from l2l_tf.meta.gradients.replayed import ReplayedBPTT
from l2l_tf.meta.gradients.taped import TapedBPTT
from l2l_tf.meta.objective import MetaObjective, Weights, all_ones
from l2l_tf.optimizers import ALL


@dataclasses.dataclass(frozen=True)
class TruncatedBPTT(MetaGradient):
  """Back-propagation through a window, by a tape only where one is needed.

  Attributes:
    weights: w_t of the window's losses, where the trainer is given no `MetaObjective`
      that says so.
    second_derivatives: whether the optimizee's gradients are differentiated too.
      False, the paper's choice, drops the gradient along the dashed edges of its
      figure 2; True is the true gradient of the window's meta-loss.
    unroll: the inner loop, `unroll` or `static_unroll`.

  >>> meta_gradient = TruncatedBPTT(second_derivatives=True)
  >>> problem, optimizer = Quadratic(), CoordinatewiseLSTM()
  >>> trainer = MetaTrainer(problem, optimizer, meta_gradient=meta_gradient)
  """

  weights: Weights | Sequence[float] = all_ones
  second_derivatives: bool = False
  unroll: Callable = unroll_lib.unroll

  @property
  def evaluate(self) -> Callable:
    return self._taped.evaluate

  @property
  def _taped(self) -> TapedBPTT:
    return TapedBPTT(self.second_derivatives, self.unroll)

  def method(
    self,
    problem,
    optimizer,
    objective=MetaObjective(),  # noqa: B008
  ) -> MetaGradient:
    """Returns which of the three ways is taken."""
    # A spelled-out unroll is for looking at: there the tape's own graph is wanted.
    is_plain = not self.second_derivatives and self.unroll is unroll_lib.unroll
    ways = [RecordedBPTT, ReplayedBPTT] if is_plain else []
    if optimizer.coupling == ALL:  # None of these has back-propagation of its own.
      ways.reverse()
    for way in ways:
      if way.serves(problem, optimizer, objective):
        return way()
    return self._taped

  def arranged(self, problem, optimizer, params, objective, is_compiled=False):
    method = self.method(problem, optimizer, objective)
    return method.arranged(problem, optimizer, params, objective, is_compiled)

  def __call__(
    self,
    problem,
    optimizer,
    task,
    carry,
    length,
    observe,
    objective=None,
    state=(),
    seed=None,
  ):
    objective = MetaObjective(self.weights) if objective is None else objective
    method = self.method(problem, optimizer, objective)
    return method(
      problem, optimizer, task, carry, length, observe, objective, state, seed
    )
