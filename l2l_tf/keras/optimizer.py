"""A learned optimizer as a Keras optimizer.

It holds what Keras asks of an optimizer (variables, saving, options) and none of
the mathematics, which is the wrapped `l2l_tf.Optimizer`'s.
"""

import base64
import copy
import json
import os
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf import cards, export
from l2l_tf.keras.blocks import Blocks
from l2l_tf.optimizers import Optimizer

_REMEDY = (
  "lower the loss's scale, look for a NaN in the data, or give"
  " LearnedOptimizer(nonfinite_gradients='skip')"
)
_STATE_DTYPES = ("bfloat16", "float32", "float64")  # float16 has too few exponents


@keras.saving.register_keras_serializable("l2l_tf")
class LearnedOptimizer(keras.optimizers.Optimizer):
  """Trains a Keras model with an `l2l_tf.Optimizer`, learned or hand-designed.

  >>> model.compile(LearnedOptimizer("general"), loss="mse")
  >>> model.fit(x, y, callbacks=[keras.callbacks.TerminateOnNaN()])

  What a model is saved with holds the learned weights too, so that loading needs no
  other file and training goes on exactly.

  Keras's options work as with any optimizer. Some of them change the gradients that
  the optimizer meets, or what its updates do, from what it was trained on, and may
  make it worse: `clipnorm`, `global_clipnorm` and `clipvalue` (smaller gradients; the
  last makes infinite ones finite),
  `gradient_accumulation_steps` (less noise), `weight_decay` (a move of the weights
  that it did not make). As in Keras the decay is times `learning_rate`, which is 1.0
  here: what one gives Adam is a thousand times too much.

  Memory: the state is kept for every parameter of the model; two layers of 20 units
  take 2 * 2 * 20 floats, 320 bytes a parameter, where Adam takes 8. On top, a step
  needs copies of the gradients and what one block needs.

  A variable without a gradient stays where it is, and so does its state; but an
  optimizer that is not coordinate-wise reads a zero there.

  A process that loads such a model imports `l2l_tf.keras` first, so that Keras knows
  the class.
  """

  def __init__(
    self,
    optimizer: Optimizer | str | os.PathLike[str],
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1.0,
    *,
    nonfinite_gradients: str = "raise",
    block_size: int | None = 1 << 14,
    state_dtype: str | None = None,
    name: str = "learned_optimizer",
    **kwargs: Any,
  ):
    """Wraps a copy of `optimizer`.

    Args:
      optimizer: an `l2l_tf.Optimizer`; the name of a pretrained one, of those that
        `l2l_tf.pretrained()` lists; or the path of an exported one.
      learning_rate: factor on the updates, a float or a schedule. It is no rate to
        tune: the optimizer has learned how far to go. 0.5 halves every step; try 0.1
        on nets much wider than those that it was trained on.
      nonfinite_gradients: what to do where a gradient has a NaN or an infinity;
        "raise" an error that names the variable, or "skip" the step, which
        `skipped_steps` counts, and `Diagnostics` in the logs of `fit`. Either way
        neither model nor state change. Within what XLA compiled (with
        `compile(jit_compile=True)`, and by default on a GPU) nothing can be raised:
        there the step is skipped, and `check_gradients` raises, which `fit` calls
        when it ends, and `Diagnostics` after every batch.
      block_size: coordinates that one call moves, at most, which bounds a step's
        temporary memory; None for all at once. For optimizers that treat each
        coordinate by itself; others see whole tensors. XLA compiles every block by
        itself: with `jit_compile=True` a model of many millions of parameters starts
        sooner with larger ones, such as 1 << 18.
      state_dtype: "bfloat16" halves the state's memory, at some loss of precision;
        by default the state has the optimizer's own type.
      name: of the optimizer.
      **kwargs: of every Keras optimizer: `clipnorm`, `global_clipnorm`, `clipvalue`,
        `weight_decay`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
        `loss_scale_factor`, `gradient_accumulation_steps`.

    Raises:
      FileNotFoundError: if there is no such file and no pretrained optimizer.
      ExportError: if the file is no export.
      TypeError: if `optimizer` is neither an optimizer nor text.
      ValueError: for another argument that does not fit.
    """
    super().__init__(learning_rate=learning_rate, name=name, **kwargs)
    _check_arguments(nonfinite_gradients, block_size, state_dtype)
    self._optimizer = _private_copy(optimizer)
    self._nonfinite_gradients = nonfinite_gradients
    self._block_size = block_size
    self._state_dtype = state_dtype
    self._pending: dict[str, np.ndarray] | None = None  # loaded before it was built
    self._observers: weakref.WeakSet = weakref.WeakSet()
    self._known_skips = 0  # of which `check_gradients` says nothing any more

  @property
  def optimizer(self) -> Optimizer:
    """The wrapped optimizer, with this object's own copy of the learned weights."""
    return self._optimizer

  @property
  def skipped_steps(self) -> int:
    """Steps not taken, because a gradient was not finite."""
    return int(self._skipped.numpy()) if self.built else 0

  @property
  def model_variables(self) -> list[keras.Variable]:
    """The model's variables that it was built for, in its order."""
    return list(self._trainable_variables)

  @property
  def observers(self) -> weakref.WeakSet:
    """Those called in every step that is traced from now on; not kept alive here."""
    return self._observers

  def build(self, variables: Sequence[keras.Variable]) -> None:
    """Makes the state for `variables`, once.

    Raises:
      ValueError: if it was built on others, or one is not of floating point.
    """
    variables = list(variables)
    if self.built:
      self._check_variables_are_known(variables)
      return
    if not variables:  # Keras builds for those of a frozen model.
      return
    _check_variables(variables)
    if self._pending is not None:
      self._check_model(self._pending, variables)
    num_own = len(self.variables)
    super().build(variables)
    specs = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
    self._blocks = Blocks(self._optimizer, specs, self._block_size, self._state_dtype)
    self._skipped = self.add_variable((), dtype="int64", name="skipped_steps")
    with tf.init_scope():  # The first step may be traced already.
      states = self._blocks.initial_states([tf.convert_to_tensor(v) for v in variables])
      self._states = [
        [self._add_state(f"block_{i}_state_{k}", x) for k, x in enumerate(state)]
        for i, state in enumerate(states)
      ]
      if self._pending is not None:
        self._load_pending(num_own)

  def check_gradients(self) -> None:
    """Raises, where that is wished, for steps skipped since it was called last.

    For training loops compiled by XLA, within which nothing can be raised.

    Raises:
      tf.errors.InvalidArgumentError: if a gradient was not finite and
        `nonfinite_gradients` is "raise".
    """
    new, self._known_skips = self.skipped_steps - self._known_skips, self.skipped_steps
    if new > 0 and self._nonfinite_gradients == "raise":
      skipped = f"{new} of the steps compiled by XLA"
      message = f"Skipped {skipped}, as a gradient was not finite; {_REMEDY}."
      raise tf.errors.InvalidArgumentError(None, None, message)

  def finalize_variable_values(self, var_list) -> None:
    """Ends a training, as Keras does, and raises what its steps could not."""
    super().finalize_variable_values(var_list)
    self.check_gradients()

  def get_config(self) -> dict[str, Any]:
    """Returns what `from_config` takes, the learned weights among it."""
    return super().get_config() | {
      "optimizer": base64.b64encode(export.dumps(self._optimizer)).decode(),
      "nonfinite_gradients": self._nonfinite_gradients,
      "block_size": self._block_size,
      "state_dtype": self._state_dtype,
    }

  @classmethod
  def from_config(cls, config, custom_objects=None):
    optimizer = export.loads(base64.b64decode(config["optimizer"]))
    return super().from_config(config | {"optimizer": optimizer}, custom_objects)

  def save_own_variables(self, store) -> None:
    """Writes state and learned weights, and of what variables the state is."""
    if self._pending is not None:  # What the own variables would be without.
      for key, array in self._pending.items():
        store[key] = array
      return
    super().save_own_variables(store)
    for i, weight in enumerate(self._optimizer.variables):
      store[f"weight_{i}"] = weight.numpy()
    store["shapes"] = _shapes(self._trainable_variables)

  def load_own_variables(self, store) -> None:
    """Reads what `save_own_variables` wrote; before `build`, the state waits for it.

    Raises:
      ValueError: if it is the state of another optimizer, or for another model.
    """
    loaded = {key: np.asarray(store[key]) for key in sorted(store.keys())}
    if not loaded:  # Saved without an optimizer.
      return
    self._check_kind(loaded)
    is_unused = loaded["shapes"].tobytes() == b"[]"  # saved before its first step
    whole = self.built and not is_unused
    num_own = 1 + isinstance(self._learning_rate, keras.Variable)
    self._load(loaded, self.variables if whole else self.variables[:num_own], whole)
    if not self.built and not is_unused:
      self._pending = loaded

  def _apply_weight_decay(self, variables) -> None:
    """Leaves it to `_move`, which knows whether the gradients are finite."""

  def _distributed_tf_update_step(self, distribution, grads_and_vars, learning_rate):
    # Keras calls `update_step` for each variable. Here one call moves all of them,
    # on each device that holds the first, with that device's copies.
    grads, variables = zip(*grads_and_vars)
    indices = [self._get_variable_index(v) for v in variables]
    distribution.extended.update(
      variables[0],
      lambda first, *args: self._move(*args),
      args=(
        [v.value for v in self._trainable_variables],
        dict(zip(indices, grads)),
        tf.nest.map_structure(lambda v: v.value, self._states),
        self._skipped.value,
        learning_rate,
      ),
      group=False,
    )

  def _move(self, variables, grads, states, skipped, learning_rate) -> None:
    """Moves those of `variables` that have an entry, by index, in `grads`."""
    grads = {i: self._checked(i, tf.convert_to_tensor(g)) for i, g in grads.items()}
    finite = [tf.reduce_all(tf.math.is_finite(g)) for g in grads.values()]
    is_finite = tf.reduce_all(finite)
    skipped.assign_add(tf.cast(tf.logical_not(is_finite), skipped.dtype))
    self._decay([variables[i] for i in grads], learning_rate, is_finite)
    every = [grads.get(i) for i in range(len(variables))]
    params = [tf.convert_to_tensor(v) for v in variables]
    held = None
    if self._observers:
      held = [[tf.convert_to_tensor(v) for v in state] for state in states]
    updates = self._blocks.step(every, states, params, is_finite)
    updates = [tf.cast(learning_rate, u.dtype) * u for u in updates]
    for i in grads:
      variables[i].assign_add(updates[i])
    if held is not None:
      diagnose = lambda groups: self._blocks.diagnostics(every, held, groups)
      for observer in self._observers:
        observer(params, every, updates, diagnose)

  def _decay(self, variables, learning_rate, is_finite) -> None:
    if self.weight_decay is None:
      return
    for v in variables:
      if self._use_weight_decay(v):
        factor = tf.cast(learning_rate, v.dtype) * tf.cast(self.weight_decay, v.dtype)
        v.assign_sub(v * factor * tf.cast(is_finite, v.dtype))

  def _checked(self, index: int, grad: tf.Tensor) -> tf.Tensor:
    if self._nonfinite_gradients == "skip":
      return grad
    path = self._trainable_variables[index].path
    return tf.debugging.check_numerics(
      grad,
      f"The gradient of {path!r} is not finite; {_REMEDY}",
    )

  def _add_state(self, name: str, value: tf.Tensor) -> keras.Variable:
    # A buffer of its own, for XLA moves in place only what no other variable shares.
    initializer = lambda shape, dtype: np.array(value)
    dtype = keras.backend.standardize_dtype(value.dtype)
    return self.add_variable(tuple(value.shape), initializer, dtype, name=name)

  def _load(
    self, loaded: dict[str, np.ndarray], variables: list[keras.Variable], whole: bool
  ) -> None:
    """Assigns the first variables, and the weights; `whole` if nothing is left over."""
    if whole:
      self._check_model(loaded, self._trainable_variables)
    targets = {str(i): v for i, v in enumerate(variables)}
    for i, weight in enumerate(self._optimizer.variables):
      targets[f"weight_{i}"] = weight
    expected = {key: tuple(v.shape) for key, v in targets.items()}
    arrays = {k: x for k, x in loaded.items() if k in expected or whole}
    found = {key: array.shape for key, array in arrays.items() if key != "shapes"}
    if found != expected:
      raise ValueError(
        f"{self.name!r} was given the state of an optimizer with other layers,"
        f" block_size or options ({len(found)} arrays for {len(expected)}); construct"
        " it with the arguments with which it was saved."
      )
    for key, target in targets.items():
      target.assign(loaded[key])
    if whole:
      self._known_skips = int(self._skipped.numpy())

  def _load_pending(self, num_own: int) -> None:
    """Loads the state that waited; one that does not fit undoes the build."""
    own = {str(i): v.numpy() for i, v in enumerate(self.variables[:num_own])}
    try:
      self._load(self._pending | own, self.variables, whole=True)
    except ValueError:
      for variable in self.variables[num_own:]:
        self._untrack_variable(variable)
      self.built = False
      raise
    self._pending = None

  def _check_kind(self, loaded: dict[str, np.ndarray]) -> None:
    if "shapes" not in loaded:
      raise ValueError(
        f"{self.name!r} was given the state of another kind of optimizer"
        f" ({len(loaded)} arrays); compile the model with the optimizer that it was"
        " saved with, or load the weights before compile."
      )

  def _check_model(
    self, loaded: dict[str, np.ndarray], variables: Sequence[keras.Variable]
  ) -> None:
    own, given = _shapes(variables).tobytes(), loaded["shapes"].tobytes()
    if own != given:
      raise ValueError(
        f"{self.name!r} was given the state of a model whose variables have shapes"
        f" {given.decode()}; those of this model have {own.decode()}."
      )

  def _check_variables_are_known(self, variables):
    known = self._trainable_variables_indices
    unknown = [v.path for v in variables if self._var_key(v) not in known]
    if unknown:
      raise ValueError(
        f"{self.name!r} was built for another model and does not know"
        f" {', '.join(unknown[:5])}; give every model a LearnedOptimizer of its own."
      )


def _shapes(variables: Sequence[keras.Variable]) -> np.ndarray:
  """The variables' shapes as an array, which any store can hold."""
  shapes = [list(v.shape) for v in variables]
  return np.frombuffer(json.dumps(shapes).encode(), np.uint8)


def _private_copy(optimizer: Any) -> Optimizer:
  """Loads the optimizer, or copies it: later training elsewhere leaves it alone."""
  if isinstance(optimizer, Optimizer):
    return copy.deepcopy(optimizer)
  if isinstance(optimizer, (str, os.PathLike)):
    return cards.load(optimizer)
  raise TypeError(
    f"LearnedOptimizer got {optimizer!r:.100}; it wraps an l2l_tf.Optimizer, a"
    " pretrained one by its name, or the path of an exported one."
  )


def _check_arguments(nonfinite_gradients: Any, block_size: Any, state_dtype: Any):
  if nonfinite_gradients not in ("raise", "skip"):
    raise ValueError(
      f"nonfinite_gradients={nonfinite_gradients!r} is unknown; choose 'raise' or"
      " 'skip'."
    )
  if block_size is not None and not (isinstance(block_size, int) and block_size > 0):
    raise ValueError(
      f"block_size={block_size!r} must be a positive integer, or None for one block."
    )
  if state_dtype not in (None, *_STATE_DTYPES):
    raise ValueError(
      f"state_dtype={state_dtype!r} is unknown; choose one of"
      f" {', '.join(map(repr, _STATE_DTYPES))}, or None."
    )


def _check_variables(variables: Sequence[keras.Variable]) -> None:
  for v in variables:
    if not tf.as_dtype(v.dtype).is_floating:
      raise ValueError(
        f"LearnedOptimizer cannot move {v.path!r} of type {v.dtype}; its variables must"
        " be of floating point. Make this one not trainable."
      )
