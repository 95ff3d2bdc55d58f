"""A start that is learned together with the optimizer that goes on from it.

Ravi and Larochelle 2017, section 3.1: the initial cell state c_0, which is theta_0, is
a parameter of the meta-learner. https://openreview.net/forum?id=rJY0-Kcll
"""

import copy
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf import registry
from l2l_tf.optimizers import base, coordinatewise
from l2l_tf.optimizers.wrapper import Wrapper


@registry.register
class LearnedStart(Wrapper):
  """Runs another optimizer from parameters c_0 that are part of phi.

  c_0 is saved and loaded with the other weights. In place of the initial parameters of
  a problem whose parameters have the same shapes, every run begins at c_0.

  >>> optimizer = LearnedStart(GateLSTM(), shapes=[(4, 1), (1,)])
  >>> theta = optimizer.begin_at([tf.ones([4, 1]), tf.zeros([1])]).initial_params(
  ...   [tf.zeros([4, 1]), tf.zeros([1])])
  >>> float(theta[0][0, 0])
  1.0
  """

  def __init__(
    self,
    optimizer: base.Optimizer,
    shapes: Sequence[Sequence[int]],
    dtype: str = "float32",
  ):
    """Begins at zero; `begin_at` says another place.

    Args:
      optimizer: any, without a learned start of its own.
      shapes: of the parameters, in their order.
      dtype: type of c_0, as a string.

    Raises:
      ValueError: for an optimizer that learns a start, or without shapes.
    """
    super().__init__(optimizer)
    if optimizer.learns_start or not len(shapes):
      raise ValueError(
        f"LearnedStart got {type(optimizer).__name__} and {len(shapes)} shapes; it"
        " needs an optimizer that learns no start yet, and the shape of every"
        " parameter."
      )
    self._shapes = tuple(tuple(map(int, shape)) for shape in shapes)
    self._dtype = coordinatewise.check_dtype(dtype)
    self.start = [tf.Variable(tf.zeros(s, self._dtype)) for s in self._shapes]

  @property
  def config(self) -> dict[str, Any]:
    shapes = [list(shape) for shape in self._shapes]
    return {"optimizer": self.inner, "shapes": shapes, "dtype": self._dtype.name}

  def rewrapped(self, optimizer):
    view = copy.copy(self)
    view.inner = optimizer
    return view

  # phi is not that of the inner optimizer alone.
  get_phi = base.Optimizer.get_phi
  with_phi = base.Optimizer.with_phi

  @property
  def learns_start(self) -> bool:
    return True

  @property
  def learns_initial_params(self) -> bool:
    return True

  def begin_at(self, values: Sequence[tf.Tensor]) -> "LearnedStart":
    """Sets c_0, in place, and returns this optimizer.

    Args:
      values: a tensor for each parameter.

    Raises:
      ValueError: for other shapes.
    """
    self._check(values)
    for variable, value in zip(self.start, values):
      variable.assign(tf.cast(value, self._dtype))
    return self

  def initial_params(self, params):
    """Returns c_0.

    Raises:
      ValueError: for parameters of other shapes.
    """
    self._check(params)
    return [tf.cast(tf.identity(s), p.dtype) for s, p in zip(self.start, params)]

  def _check(self, params: Sequence[tf.Tensor]) -> None:
    given = tuple(tuple(p.shape) for p in params)
    if given != self._shapes:
      raise ValueError(
        f"The learned start is of shapes {_text(self._shapes)}, but the parameters are"
        f" of shapes {_text(given)}; use it for a model of the same shapes, or train"
        " one for this model."
      )


def _text(shapes: Sequence[tuple[int, ...]], most: int = 8) -> str:
  more = f", and {len(shapes) - most} more" if len(shapes) > most else ""
  return ", ".join(str(list(shape)) for shape in shapes[:most]) + more
