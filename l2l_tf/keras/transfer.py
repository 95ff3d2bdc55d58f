"""Transfers a saved state to another `LearnedOptimizer`, as far as it fits."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from l2l_tf.keras.saved_state import SavedState, VariableSpec

_OTHER_OPTIONS = "its optimizer has other layers or options"
_FREE = {"seed", "initializer", "dtype"}  # arguments that may differ


def match(own: Sequence[VariableSpec], saved: Sequence[VariableSpec]) -> dict[int, int]:
  """Pairs this model's variables with the saved ones, by path and shape.

  Keras numbers layers and models as they are made, so the same layer may have another
  number in another process. Variables of equal shape, whose paths differ in these
  numbers alone, therefore form a group. If it has as many own as saved members, they
  are paired in order; otherwise, for example after a layer was frozen or replaced, by
  the exact path. Files of version 0.1.0 have no paths; their variables are paired by
  position if all shapes agree.

  Returns:
    A dict from positions in `own` to positions in `saved`.
  """
  if not all(v.path for v in saved):
    is_same = [v.shape for v in own] == [v.shape for v in saved]
    return {i: i for i in range(len(own))} if is_same else {}
  found: dict[int, int] = {}
  theirs = _groups(saved)
  for key, ours in _groups(own).items():
    others = theirs.get(key, [])
    if len(ours) == len(others):
      found |= dict(zip(ours, others))
    else:
      mine, exact = ({v[k]: k for k in ks} for v, ks in ((own, ours), (saved, others)))
      found |= {i: exact[v] for v, i in mine.items() if v in exact}
  return found | _match_ends(own, saved, found)


def _match_ends(own, saved, found: Mapping[int, int]) -> dict[int, int]:
  """Pairs variables left over, where one path is the end of the other.

  A model that is loaded from a file may build its layers before their parents: what was
  sequential/gru/gru_cell/kernel is gru/gru_cell/kernel then.
  """
  taken, more = set(found.values()), defaultdict(list)
  for i, v in enumerate(own):
    if i not in found:
      ends = [j for j, w in enumerate(saved) if j not in taken and _is_end(v, w)]
      more[tuple(ends)].append(i)
  pairs = ((mine, ends) for ends, mine in more.items() if len(mine) == len(ends))
  return {i: j for mine, ends in pairs for i, j in zip(mine, ends)}


def _is_end(one: VariableSpec, other: VariableSpec) -> bool:
  paths = [re.sub(r"_\d+(?=/)", "", f"/{v.path}") for v in (one, other)]
  short, long = sorted(paths, key=len)
  return one.shape == other.shape and short.count("/") > 1 and long.endswith(short)


def _groups(variables: Sequence[VariableSpec]) -> dict[VariableSpec, list[int]]:
  groups = defaultdict(list)
  for i, variable in enumerate(variables):
    groups[_without_numbers(variable)].append(i)
  return groups


def _without_numbers(variable: VariableSpec) -> VariableSpec:
  """Drops the numbers of the layers in a path, and the model's name."""
  *layers, name = variable.path.split("/")
  names = [re.sub(r"_\d+$", "", layer) for layer in layers[1:] or layers]
  return variable._replace(path="/".join([*names, name]))


def merged(
  fresh: SavedState,
  saved: SavedState,
  is_coordinatewise: bool,
  ownership: Sequence[int] | None = None,
) -> tuple[SavedState | None, list[str]]:
  """Merges saved state into fresh state, as far as it fits.

  Args:
    fresh: the state of an optimizer that was just built.
    saved: the state of the other optimizer.
    is_coordinatewise: whether each coordinate's state can be transferred separately.
    ownership: which parts of the state each variable has, from `Blocks.ownership`, if
      the optimizer is not coordinate-wise but keeps a state for every variable.

  Returns:
    `fresh` with all of `saved` that fits, or None if nothing does; and sentences on
    what does not fit.
  """
  is_split = is_coordinatewise or ownership is not None
  reason = _other_optimizer(fresh, saved, is_split)
  if reason:
    return None, [f"nothing was restored, as {reason}"]
  scalars = {k: saved.scalars.get(k, x) for k, x in fresh.scalars.items()}
  weights = [y.astype(x.dtype) for x, y in zip(fresh.weights, saved.weights)]
  begun = fresh._replace(scalars=scalars, weights=weights)
  if not (fresh.variables and saved.variables):  # One of them has not taken a step.
    return begun, []
  pairs = match(fresh.variables, saved.variables)
  difference = _difference(fresh, saved, pairs)
  reason = _is_unfit(fresh, saved, difference, is_coordinatewise, ownership)
  if reason or not pairs:
    return None, [f"nothing was restored, as {reason or difference}"]
  slots, lost = _merged_slots(fresh, saved, pairs)
  if ownership is None:
    state = [
      _merged_leaf(x, y, fresh.variables, saved.variables, pairs, is_coordinatewise)
      for x, y in zip(fresh.state, saved.state)
    ]
  else:
    state = _merged_by_variable(fresh, saved, pairs, ownership)
  problems = [difference] if difference else []
  return begun._replace(slots=slots, state=state), problems + lost


def _other_optimizer(own, saved, is_split) -> str | None:
  """Returns how the optimizers differ in kind or weights, or None."""
  if saved.kind not in (None, own.kind):
    return f"it is the state of {saved.kind}, and this is {own.kind}"
  if is_split and own.weights and own.config and saved.config:
    # phi is only valid with the arguments that it was trained with.
    for name in sorted((own.config.keys() | saved.config.keys()) - _FREE):
      there, here = saved.config.get(name), own.config.get(name)
      if there != here:
        return (
          f"its optimizer has {name}={there!r:.60}, and this one {name}={here!r:.60}"
        )
  if _shapes(own.weights) != _shapes(saved.weights):
    return _OTHER_OPTIONS
  return None


def _is_unfit(own, saved, difference, is_coordinatewise, ownership) -> str | None:
  """Returns why the state cannot be split by this model's variables, or None."""
  if is_coordinatewise:
    outer = lambda arrays: [(np.ndim(x), np.shape(x)[:-1]) for x in arrays]
    return None if outer(own.state) == outer(saved.state) else _OTHER_OPTIONS
  if ownership is not None:
    count = sum(k * len(saved.variables) if k else 1 for k in ownership)
    return None if len(saved.state) == count else _OTHER_OPTIONS
  if difference:
    return f"{own.kind} keeps one state for the whole model, and {difference}"
  return None if _shapes(own.state) == _shapes(saved.state) else _OTHER_OPTIONS


def _shapes(arrays: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
  return [np.shape(x) for x in arrays]


def _difference(own: SavedState, saved: SavedState, pairs: Mapping[int, int]) -> str:
  """Names variables without a saved state, and saved states without a variable."""
  fresh = [v for i, v in enumerate(own.variables) if i not in pairs]
  taken = set(pairs.values())
  dropped = [v for i, v in enumerate(saved.variables) if i not in taken]
  sentences = []
  if fresh:
    sentences.append(f"there is no saved state for {_names(fresh)}")
  if dropped:
    sentences.append(f"this model does not train {_names(dropped)}, which was saved")
  return ", and ".join(sentences)


def _names(variables: Sequence[VariableSpec], most: int = 5) -> str:
  name = lambda v: f"{v.path or 'a variable'} of shape {list(v.shape)}"
  more = [f"{len(variables) - most} more"] if len(variables) > most else []
  return ", ".join([*map(name, variables[:most]), *more])


def _merged_slots(own, saved, pairs):
  """Merges the arrays that Keras's options keep; returns sentences on those lost."""
  slots, lost = {}, []
  for name, arrays in own.slots.items():
    theirs = saved.slots.get(name, [None] * len(saved.variables))
    slots[name] = [
      x if x is None or i not in pairs or theirs[pairs[i]] is None else theirs[pairs[i]]
      for i, x in enumerate(arrays)
    ]
  for name in saved.slots.keys() - own.slots.keys():
    option = {"average": "use_ema", "accumulator": "gradient_accumulation_steps"}[name]
    lost.append(f"the saved {name}s were dropped, as {option} is not set")
  return slots, lost


def _merged_leaf(own, saved, own_variables, saved_variables, pairs, is_coordinatewise):
  """Returns one tensor of the state, with the saved values of paired variables."""
  saved = saved.astype(own.dtype)
  if not is_coordinatewise or not own.ndim:
    return saved
  ends = lambda variables: np.cumsum([0] + [v.size for v in variables])
  to, since, leaf = ends(own_variables), ends(saved_variables), own.copy()
  for i, j in pairs.items():
    leaf[..., to[i] : to[i + 1]] = saved[..., since[j] : since[j + 1]]
  return leaf


def _merged_by_variable(own, saved, pairs, ownership):
  """Returns the state, with the saved parts of paired variables."""
  state, theirs = [], iter(saved.state)
  ours = iter(own.state)
  take = lambda source, count: [next(source) for _ in range(count)]
  for size in ownership:
    if not size:  # of the whole model
      leaf = next(ours)
      state.append(next(theirs).astype(leaf.dtype))
      continue
    parts = [take(theirs, size) for _ in saved.variables]
    for i in range(len(own.variables)):
      fresh = take(ours, size)
      found = parts[pairs[i]] if i in pairs else fresh
      state += [y.astype(x.dtype) for x, y in zip(fresh, found)]
  return state
