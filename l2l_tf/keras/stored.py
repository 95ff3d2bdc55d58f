"""A Keras optimizer whose state is stored by variable, and restored where it fits."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.keras import saved_state, transfer
from l2l_tf.keras.blocks import Blocks
from l2l_tf.keras.saved_state import SavedState
from l2l_tf.optimizers import COORDINATE, Optimizer

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
    except saved_state.ForeignStateError as error:
      self._say_mismatches([f"nothing was restored, as {error}"])
      return
    variables = self._state_variables()
    fresh = variables.snapshot()
    restored, problems = self._merged(fresh, loaded)
    self._say_mismatches(problems)
    if not self.built and restored is not fresh:
      self._pending = _Pending(loaded, fresh) if loaded.variables else None
    variables.assign(restored)
    self._known_skips = self.skipped_steps

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
    loaded, before = self._pending
    variables = self._state_variables()
    now = variables.snapshot()
    fresh = now._replace(scalars=now.scalars | before.scalars, weights=before.weights)
    restored, problems = self._merged(fresh, loaded)
    try:
      self._say_mismatches(problems)
    except ValueError:
      for variable in self.variables[num_own:]:
        self._untrack_variable(variable)
      self.built = False
      raise
    if restored is not fresh:  # What was set since it was loaded stays.
      in_use = {name: now.scalars[name] for name in before.scalars}
      restored = restored._replace(scalars=restored.scalars | in_use)
    self._pending = None
    variables.assign(restored)
    self._known_skips = self.skipped_steps

  def _merged(self, fresh: SavedState, loaded: SavedState):
    """Returns `fresh` with all of `loaded` that fits, and sentences on the rest."""
    # Keras begins a moving average in the first step, which a restored run is past.
    begun = fresh._replace(slots=fresh.slots | self._begun_averages())
    is_coordinatewise = self._optimizer.coupling == COORDINATE
    restored, problems = transfer.merged(begun, loaded, is_coordinatewise)
    return fresh if restored is begun else restored, problems

  def _begun_averages(self) -> dict[str, list[np.ndarray | None]]:
    """The moving averages at the variables' values, where they have any yet."""
    if not (self.built and self.use_ema):
      return {}
    pairs = zip(self._model_variables_moving_average, self._trainable_variables)
    source = lambda average, v: v if tf_variable(v).is_initialized() else average
    return {"average": [None if a is None else source(a, v).numpy() for a, v in pairs]}

  def _say_mismatches(self, problems: Sequence[str]) -> None:
    if problems:
      strict = self._mismatched_state == "raise"
      remedy = _LENIENT if strict else _STRICT
      found = "; ".join(problems)
      message = f"{self.name!r} did not restore all of its state: {found}. {remedy}"
      if strict:
        raise ValueError(message)
      warnings.warn(message, stacklevel=3)


def tf_variable(variable: Any) -> tf.Variable:
  """Returns the TensorFlow variable of a Keras one, or the variable itself."""
  return variable.value if isinstance(variable, keras.Variable) else variable
