"""Several optimizers, each for the parameters that its predicate selects.

Andrychowicz et al. 2016, section 3.3: one LSTM optimizes the convolutional layers,
another the fully connected ones. https://arxiv.org/abs/1606.04474
"""

import copy
import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import registry
from l2l_tf.optimizers import base
from l2l_tf.optimizers.parameters import Parameter
from l2l_tf.optimizers.traits import TENSOR, Coupling, Reads

Predicate = Callable[[Parameter], bool]


@registry.register
@dataclasses.dataclass(frozen=True)
class Where:
  """Selects the parameters that match every attribute given; `Where()` selects all.

  >>> is_bias = Where(role="bias")
  >>> [p.path for p in digits_mlp().parameters() if is_bias(p)]
  ['layer_0/bias', 'layer_1/bias']

  Attributes:
    path: glob for the whole path, case-sensitive; "*" also matches "/".
    rank: number of dimensions.
    role: "kernel", "bias" or "variable".
  """

  path: str | None = None
  rank: int | None = None
  role: str | None = None

  def __call__(self, parameter: Parameter) -> bool:
    return (
      (self.path is None or fnmatch.fnmatchcase(parameter.path, self.path))
      and self.rank in (None, parameter.rank)
      and self.role in (None, parameter.role)
    )


@registry.register
class Partition(base.Optimizer):
  """Routes each parameter to one of several optimizers, which updates it.

  >>> routes = [(Where(role="kernel"), RNNprop()), (Where(role="bias"), Adam(0.01))]
  >>> trainer = MetaTrainer(digits_mlp(), Partition(routes))
  """

  def __init__(
    self,
    routes: Sequence[tuple[Predicate, base.Optimizer]],
    parameters: Sequence[Parameter | tuple[str, Sequence[int], str]] | None = None,
  ):
    """Assigns each parameter, by its position, to the route that selects it.

    Args:
      routes: pairs of a predicate and the optimizer of the parameters that it
        selects. Only registered predicates, such as `Where`, can be exported.
      parameters: the optimizee's parameters, from `Problem.parameters()`; or, as in
        an exported file, triples of path, shape and role. By default they are left
        open: training, evaluation and Keras say them, by `with_parameters`, and the
        optimizer fits any model whose parameters its predicates tell apart.

    Raises:
      ValueError: for a parameter that no route or more than one route selects, a
        route that selects none, or an optimizer in two routes.
    """
    super().__init__()
    _check_routes(routes)
    self._predicates = [predicate for predicate, _ in routes]
    self._members = [member for _, member in routes]
    self._parameters: list[_Parameter] | None = None
    self._given = parameters is not None
    if parameters is not None:
      self._assign(parameters)

  def _assign(
    self, parameters: Sequence[Parameter | tuple[str, Sequence[int], str]]
  ) -> None:
    asked = [p if hasattr(p, "path") else _Parameter(*p) for p in parameters]
    owners = [
      [i for i, selects in enumerate(self._predicates) if selects(p)] for p in asked
    ]
    self._parameters = [_Parameter(p.path, tuple(p.shape), p.role) for p in asked]
    _check_owners(owners, self._parameters, len(self._members))
    self._indices = [
      [k for k, owner in enumerate(owners) if owner == [i]]
      for i in range(len(self._members))
    ]
    self._members = [
      member.with_parameters(_select(self._parameters, indices))
      for member, indices in zip(self._members, self._indices)
    ]

  @property
  def distinguishes_parameters(self) -> bool:
    return not self._given

  def with_parameters(self, parameters):
    """Returns this optimizer for a model, unless it was made for one."""
    if self._given:
      return self
    view = copy.copy(self)
    view._assign(parameters)
    return view

  @property
  def config(self) -> dict[str, Any]:
    return {
      "routes": list(zip(self._predicates, self._members)),
      "parameters": list(self._parameters) if self._given else None,
    }

  def initial_state(self, params):
    self._check("params", params)
    return tuple(
      member.initial_state(_select(params, indices))
      for member, indices in zip(self._members, self._indices)
    )

  def __call__(self, grads, state, params=None, loss=None):
    self._check("grads", grads)
    if params is not None:
      self._check("params", params)
    updates, next_state = [], []
    for name, member, indices, member_state in self._routed(state):
      with tf.name_scope(name):
        moves, member_state = member(
          _select(grads, indices),
          member_state,
          params=None if params is None else _select(params, indices),
          loss=loss,
        )
      next_state.append(member_state)
      updates.append(moves)
    return self._gather(updates), tuple(next_state)

  @property
  def coupling(self) -> Coupling:
    # A coordinate's route depends on the tensor that it is in.
    return max(TENSOR, *(member.coupling for member in self._members))

  @property
  def jit_compile(self) -> bool:
    return all(member.jit_compile for member in self._members)

  @property
  def reads(self) -> frozenset[Reads]:
    return frozenset().union(*(member.reads for member in self._members))

  def initial_params(self, params):
    self._check("params", params)
    return self._gather(
      member.initial_params(_select(params, indices))
      for member, indices in zip(self._members, self._indices)
    )

  @property
  def learns_start(self) -> bool:
    return any(member.learns_start for member in self._members)

  @property
  def learns_initial_params(self) -> bool:
    return any(member.learns_initial_params for member in self._members)

  @property
  def has_horizon(self) -> bool:
    return any(member.has_horizon for member in self._members)

  def with_total_steps(self, state, total_steps):
    return tuple(
      member.with_total_steps(s, total_steps) for _, member, _, s in self._routed(state)
    )

  def record(self, grads):
    self._check("grads", grads)
    return tuple(
      member.record(_select(grads, indices))
      for member, indices in zip(self._members, self._indices)
    )

  def sequence_gradient(self, recorded, state, loss_weights):
    total = {v.ref(): tf.zeros_like(v) for v in self.get_phi()}
    for member, *seen in zip(self._members, recorded, state):
      gradient = member.sequence_gradient(*seen, loss_weights)
      for v, g in zip(member.get_phi(), gradient):
        total[v.ref()] += g  # Two members may share a variable.
    return [total[v.ref()] for v in self.get_phi()]

  def diagnostics(self, grads, state):
    self._check("grads", grads)
    return {
      f"{route}/{name}": value
      for route, member, indices, member_state in self._routed(state)
      for name, value in member.diagnostics(
        _select(grads, indices), member_state
      ).items()
    }

  def _gather(self, routed: Iterable[list[tf.Tensor]]) -> list[tf.Tensor]:
    """Merges the tensors of all routes into one list, in the parameters' order."""
    gathered: list[Any] = [None] * len(self._parameters)
    for indices, tensors in zip(self._indices, routed):
      for k, x in zip(indices, tensors, strict=True):
        gathered[k] = x
    return gathered

  def _routed(self, state):
    if len(state) != len(self._members):
      raise ValueError(
        f"Partition got the state of {len(state)} routes, but it has"
        f" {len(self._members)}; pass the state that its initial_state made."
      )
    names = [f"route_{i}" for i in range(len(self._members))]
    return zip(names, self._members, self._indices, state)

  def _check(self, what: str, tensors: Sequence[tf.Tensor]) -> None:
    advice = "build a Partition with the parameters of the problem it optimizes."
    if self._parameters is None:
      raise ValueError(
        f"Partition got {len(tensors)} {what} before it was told what they are; call"
        " its with_parameters with the problem's parameters(), or give these to its"
        " constructor."
      )
    if len(tensors) != len(self._parameters):
      raise ValueError(
        f"Partition got {len(tensors)} {what} for {len(self._parameters)}"
        f" parameters; {advice}"
      )
    for i, (x, parameter) in enumerate(zip(tensors, self._parameters)):
      shape = None if x is None else tf.TensorShape(x.shape)
      if shape is None or not shape.is_compatible_with(parameter.shape):
        raise ValueError(
          f"Partition got {what}[{i}] of shape {shape}, but {parameter.path!r} has"
          f" shape {parameter.shape}; {advice}"
        )


class _Parameter(NamedTuple):
  """A parameter as an exported file describes it."""

  path: str
  shape: tuple[int, ...]
  role: str

  @property
  def rank(self) -> int:
    return len(self.shape)


def _select(values: Sequence[Any], indices: Iterable[int]) -> list[Any]:
  return [values[i] for i in indices]


def _check_routes(routes: Sequence[tuple[Predicate, base.Optimizer]]) -> None:
  seen: dict[int, int] = {}
  for i, (predicate, member) in enumerate(routes):
    if not callable(predicate) or not isinstance(member, base.Optimizer):
      raise ValueError(
        f"Partition got route {i} = ({predicate!r}, {member!r}); a route is a"
        " predicate, e.g. Where(rank=2), and an Optimizer."
      )
    if seen.setdefault(id(member), i) != i:
      raise ValueError(
        f"Partition got the same optimizer in routes {seen[id(member)]} and {i};"
        " give it one route whose predicate selects the parameters of both."
      )


def _check_owners(
  owners: Sequence[Sequence[int]], parameters: Sequence[_Parameter], num_routes: int
) -> None:
  rule = "each parameter needs exactly one route"
  unassigned = [p.path for p, owner in zip(parameters, owners) if not owner]
  if unassigned:
    raise ValueError(
      f"Partition: no route selects {_join(unassigned)}; {rule}, so widen a"
      " predicate or add a route."
    )
  for owner in owners:
    if len(owner) > 1:
      contested = [p.path for p, other in zip(parameters, owners) if other == owner]
      raise ValueError(
        f"Partition: routes {', '.join(map(str, owner))} all select"
        f" {_join(contested)}; {rule}, so narrow their predicates."
      )
  for i in range(num_routes):
    if [i] not in owners:
      raise ValueError(
        f"Partition: route {i} selects none of {_join([p.path for p in parameters])};"
        " remove it or correct its predicate."
      )


def _join(paths: Sequence[str], most: int = 10) -> str:
  more = f" and {len(paths) - most} more" if len(paths) > most else ""
  return (", ".join(map(repr, paths[:most])) or "no parameters") + more
