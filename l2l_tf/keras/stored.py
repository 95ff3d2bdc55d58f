"""A Keras optimizer whose state is stored by variable, and restored where it fits."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from l2l_tf import registry
from l2l_tf.keras import saved_state, transfer
from l2l_tf.keras.blocks import Blocks
from l2l_tf.keras.saved_state import SavedState
from l2l_tf.optimizers import COORDINATE, Optimizer
from l2l_tf.registry import ExportError

_STRICT = "Give LearnedOptimizer(mismatched_state='raise') to make this an error."
_LENIENT = "Leave out mismatched_state='raise' to go on with a fresh state there."


class _Pending(NamedTuple):
  """A state that was loaded before the variables that it belongs to were known."""

  loaded: SavedState
  before: SavedState  # what it would replace


class StoredOptimizer(keras.optimizers.Optimizer):
  """Saves and loads what a subclass keeps in the attributes below."""

  _optimizer: Optimizer
  _mismatched_state: str  # "warn" or "raise"
  _blocks: Blocks  # this and the next two after `build`
  _states: list[list[keras.Variable]]  # by block
  _skipped: keras.Variable
  _known_skips: int
  _pending: _Pending | None = None  # loaded before `build`
  total_steps: int | None

  def _tell_total_steps(self) -> bool:
    """Tells the built optimizer `total_steps`; returns whether that is news to it."""
    raise NotImplementedError

  @property
  def skipped_steps(self) -> int:
    """Steps not taken, because a gradient was not finite."""
    return int(self._skipped.numpy()) if self.built else 0

  def save_own_variables(self, store) -> None:
    """Writes state and learned weights, and which variables the state belongs to."""
    saved = self._state_variables().snapshot()
    if self._pending is not None:  # What was loaded, but for what is in use already.
      loaded = self._pending.loaded
      scalars = loaded.scalars | saved.scalars
      saved = loaded._replace(scalars=scalars, weights=saved.weights)
    saved_state.write(saved, store)

  def load_own_variables(self, store) -> None:
    """Reads what `save_own_variables` wrote; before `build`, the state waits for it.

    What does not fit is left as it is, with one warning.

    Raises:
      ValueError: instead, if `mismatched_state` is "raise".
    """
    if not list(store.keys()):  # Saved without an optimizer.
      return
    try:
      loaded = self._read(store)
      restored, problems = self._merged(loaded)
    except saved_state.ForeignStateError as error:
      restored, problems = None, [f"nothing was restored, as {error}"]
    self._say_mismatches(problems)
    variables = self._state_variables()
    before = variables.snapshot()
    if self._pending is not None:  # Another file's state, which this load replaces.
      before = self._undone(before)
      self._pending = None
    if not self.built and restored is not None and loaded.variables:
      self._pending = _Pending(loaded, before)
    variables.assign(before if restored is None else restored)
    self._known_skips = self.skipped_steps
    self._keep_total_steps()

  def _state_variables(self) -> saved_state.StateVariables:
    scalars = {"iteration": self._iterations}
    if isinstance(self._learning_rate, keras.Variable):
      scalars["learning_rate"] = self._learning_rate
    slots = {}
    if self.built:
      scalars["skipped_steps"] = self._skipped
      if self.use_ema:
        slots["average"] = self._model_variables_moving_average
      if self.gradient_accumulation_steps:
        slots["accumulator"] = self._accumulated_gradients
    return saved_state.StateVariables(
      kind=type(self._optimizer).__name__,
      config=_config(self._optimizer),
      model=self._trainable_variables if self.built else [],
      scalars=scalars,
      slots=slots,
      blocks=self._blocks if self.built else None,
      states=self._states if self.built else [],
      weights=self._optimizer.variables,
    )

  def _read(self, store) -> SavedState:
    num_leaves = None
    if self._optimizer.coupling == COORDINATE:
      state = self._optimizer.initial_state([tf.zeros([1])])
      num_leaves = len(tf.nest.flatten(state))
    has_rate = isinstance(self._learning_rate, keras.Variable)
    return saved_state.read(store, num_leaves, has_rate, self.use_ema)

  def _load_pending(self, num_own: int) -> None:
    """Loads the state that waited; an error undoes the build."""
    restored, problems = self._merged(self._pending.loaded)
    try:
      self._say_mismatches(problems)
    except ValueError:
      for variable in self.variables[num_own:]:
        self._untrack_variable(variable)
      self.built = False
      raise
    variables = self._state_variables()
    now = variables.snapshot()
    if restored is None:
      restored = self._undone(now)
    else:  # What was set since it was loaded stays.
      names = now.scalars.keys() & self._pending.before.scalars.keys()
      in_use = {name: now.scalars[name] for name in names}
      restored = restored._replace(scalars=restored.scalars | in_use)
    self._pending = None
    variables.assign(restored)
    self._known_skips = self.skipped_steps
    self._keep_total_steps()

  def _keep_total_steps(self) -> None:
    """Goes on with the number of steps given here, not with that of a loaded state."""
    if self._tell_total_steps():
      warnings.warn(
        f"The saved state of {self.name!r} was laid out for another number of steps;"
        f" the training goes on with total_steps={self.total_steps}.",
        stacklevel=4,
      )

  def _undone(self, now: SavedState) -> SavedState:
    """Returns `now` without what the waiting state brought, where it still stands."""
    loaded, before = self._pending
    scalars = {
      name: value
      for name, value in before.scalars.items()
      if name in now.scalars and now.scalars[name] == loaded.scalars.get(name)
    }
    return now._replace(scalars=now.scalars | scalars, weights=before.weights)

  def _merged(self, loaded: SavedState) -> tuple[SavedState | None, list[str]]:
    """Returns a fresh state with all of `loaded` that fits, and what does not."""
    is_coordinatewise = self._optimizer.coupling == COORDINATE
    ownership = self._blocks.ownership if self.built else None
    return transfer.merged(self._fresh(), loaded, is_coordinatewise, ownership)

  def _fresh(self) -> SavedState:
    """Returns the state as it is before the first step."""
    now = self._state_variables().snapshot()
    if not self.built:
      return now
    blocks = [[np.array(x) for x in block] for block in self._blocks.initial_states()]
    zeros = lambda arrays: [None if x is None else np.zeros_like(x) for x in arrays]
    slots = {name: zeros(arrays) for name, arrays in now.slots.items()}
    return now._replace(
      scalars=now.scalars | {"skipped_steps": np.zeros_like(self._skipped)},
      slots=slots | self._begun_averages(),
      state=self._blocks.joined(blocks),
    )

  def _begun_averages(self) -> dict[str, list[np.ndarray | None]]:
    """The moving averages at the variables' values, where they have any yet.

    Keras begins them in the first step, which a restored run is past.
    """
    if not self.use_ema:
      return {}
    pairs = zip(self._model_variables_moving_average, self._trainable_variables)
    source = lambda average, v: v if tf_variable(v).is_initialized() else average
    return {"average": [None if a is None else source(a, v).numpy() for a, v in pairs]}

  def _say_mismatches(self, problems: Sequence[str]) -> None:
    if problems:
      strict = self._mismatched_state == "raise"
      remedy = _LENIENT if strict else _STRICT
      found = "; ".join(problems)
      message = (
        f"The saved state of {self.name!r} does not fit: {found}. The model's own"
        f" weights are not concerned. {remedy}"
      )
      if strict:
        raise ValueError(message)
      warnings.warn(message, stacklevel=3)


def _config(optimizer: Optimizer) -> dict[str, Any] | None:
  """Returns the constructor's arguments in JSON, if they can be exported."""
  try:
    return registry.describe(optimizer)["config"]
  except ExportError:
    return None


def tf_variable(variable: Any) -> tf.Variable:
  """Returns the TensorFlow variable of a Keras one, or the variable itself."""
  return variable.value if isinstance(variable, keras.Variable) else variable
