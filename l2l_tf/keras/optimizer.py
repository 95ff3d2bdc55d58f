"""A learned optimizer as a Keras optimizer.

It implements what Keras asks of an optimizer: variables, saving, options. The update
rule itself is the wrapped `l2l_tf.Optimizer`'s.
"""

import base64
import copy
import os
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.keras import checks, gradients
from l2l_tf.keras.blocks import Blocks
from l2l_tf.keras.horizon import FitHorizon
from l2l_tf.keras.stored import StoredOptimizer, tf_variable
from l2l_tf.optimizers import LOSS, Optimizer
from l2l_tf.pretraining import cards
from l2l_tf.problems import keras_variables
from l2l_tf.problems.keras_variables import path_of
from l2l_tf.registry import ExportError
from l2l_tf.storage import export

_REMEDY = (
  "lower the loss's scale, look for a NaN in the data, or give"
  " LearnedOptimizer(nonfinite_gradients='skip')"
)


@keras.saving.register_keras_serializable("l2l_tf")
class LearnedOptimizer(StoredOptimizer):
  """Trains a Keras model with an `l2l_tf.Optimizer`, learned or hand-designed.

  >>> model.compile(LearnedOptimizer("general"), loss="mse")
  >>> model.fit(x, y, callbacks=[keras.callbacks.TerminateOnNaN()])

  A saved model contains the learned weights and the optimizer's state, so that it can
  be loaded without any other file and its training continues exactly.

  Keras's options work as with any optimizer. Some of them give the optimizer other
  gradients than it was meta-trained on, or change its updates, and may make it worse:
  `clipnorm`, `global_clipnorm` and `clipvalue` (smaller gradients; the last makes
  infinite ones finite), `gradient_accumulation_steps` (less noise), `weight_decay` (a
  change of the weights that is not its own). As in Keras the decay is multiplied by
  `learning_rate`, which is 1.0 here: a decay meant for Adam is a thousand times too
  large. That of "general" is multiplied by the rule's own rate as well, which is about
  0.04 at first for a thousand steps; it decays kernels already.

  Memory: every parameter of the model has a state. That of `GeneralRule` ("general")
  takes 12 bytes per parameter, that of an LSTM of two layers of 20 units
  2 * 2 * 20 floats, 320 bytes, where Adam takes 8. A step needs copies of the gradients
  and the activations of the blocks in hand in addition. `HierarchicalRNN` takes 76
  bytes, and about 450 more in a step for each parameter of these blocks.

  A model of the shapes of a learned start (`Optimizer.initial_params`) begins there
  after `assign_start`, else at its initializers or loaded weights. A model of other
  shapes is refused.

  On several replicas, under `MirroredStrategy` or `MultiWorkerMirroredStrategy`, it
  ends as on one with the joint batch, but for rounding, with all of Keras's options:
  what is clipped is the sum of all replicas' gradients (Keras's own optimizers clip
  each replica's share), and `gradient_accumulation_steps` and
  `ema_overwrite_frequency` work (where Keras's own raise an error). Accumulated are
  sums over the replicas too, so that a checkpoint between two steps has all of them.
  Several processes need `for_workers` in addition.

  A variable without a gradient keeps its value, and its state; an optimizer that has
  one state for all variables reads a zero gradient there.

  Saved state is taken over variable by variable, by path and shape, also after layers
  were frozen, thawed or replaced. An optimizer that is not coordinate-wise keeps one
  state for the whole model, which is taken over as a whole or not at all. `block_size`,
  `state_dtype` and Keras's options may differ from those it was saved with. What was
  not restored, and why, is said in one warning. All this holds for Keras's `.keras` and
  `.weights.h5` files; `tf.train.Checkpoint`, Keras's `LossScaleOptimizer` and legacy
  `.h5` files keep variables by position, and need equal ones.

  A process that loads such a model imports `l2l_tf.keras` first, so that Keras knows
  the class.
  """

  def __init__(
    self,
    optimizer: Optimizer | str | os.PathLike[str],
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1.0,
    *,
    nonfinite_gradients: str = "raise",
    mismatched_state: str = "warn",
    total_steps: int | None = None,
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
        tune: the optimizer has learned how far to go. 0.5 halves every step. An LSTM
        may need 0.1 on nets much wider than those that it was trained on.
      nonfinite_gradients: what to do where a gradient has a NaN or an infinity;
        "raise" an error that names the variable, or "skip" the step, which
        `skipped_steps` counts, and `Diagnostics` in the logs of `fit`. Either way
        neither model nor state change. Within what XLA compiled (with
        `compile(jit_compile=True)`, and by default on a GPU) nothing can be raised:
        there the step is skipped, and `check_gradients` raises, which `fit` calls
        when it ends, and `Diagnostics` after every batch.
      mismatched_state: what to do where saved state that is loaded does not fit this
        model or optimizer: "warn" and go on with a fresh state there, as Keras's
        optimizers do, or "raise" an error and load nothing of it.
      total_steps: how many steps the training will have, for an optimizer with a
        schedule, such as "general"; it is no limit. `fit_callback` finds it in `fit`,
        and the attribute `total_steps` can be set at any time.
      block_size: the most coordinates that are updated in one call, which bounds a
        step's temporary memory; None for all at once. It applies to coordinate-wise
        optimizers, to `HierarchicalRNN` and to `GlobalAveragingLSTM`; others get whole
        tensors. XLA compiles every block separately: with
        `jit_compile=True` a model of many millions of parameters compiles faster with
        larger blocks, such as 1 << 18.
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
    checks.check_arguments(
      nonfinite_gradients, mismatched_state, block_size, state_dtype
    )
    self._optimizer = _private_copy(optimizer)
    checks.check_total_steps(self._optimizer, total_steps)
    self._total_steps = total_steps
    self._nonfinite_gradients = nonfinite_gradients
    self._mismatched_state = mismatched_state
    self._block_size = block_size
    self._state_dtype = state_dtype
    self._observers: weakref.WeakSet = weakref.WeakSet()
    self._loss: tf.Tensor | None = None  # of the step that is being taken
    self._known_skips = 0  # of which `check_gradients` says nothing any more

  @property
  def optimizer(self) -> Optimizer:
    """The wrapped optimizer, with this object's own copy of the learned weights."""
    return self._optimizer

  @property
  def model_variables(self) -> list[keras.Variable]:
    """The model's variables that it was built for, in its order."""
    return list(self._trainable_variables)

  @property
  def has_horizon(self) -> bool:
    """Whether the optimizer has a schedule, which `total_steps` lays out."""
    return self._optimizer.has_horizon

  @property
  def total_steps(self) -> int | None:
    """Steps that the training will have, if that was said.

    It may be set before and while training; the schedule goes on from the present step,
    as if it had always been laid out for this number.
    """
    return self._total_steps

  @total_steps.setter
  def total_steps(self, value: int) -> None:
    checks.check_total_steps(self._optimizer, value)
    self._total_steps = value
    self._tell_total_steps()

  def fit_callback(self) -> keras.callbacks.Callback:
    """Returns a callback that sets `total_steps` from what `fit` will do.

    >>> optimizer = LearnedOptimizer("general")
    >>> model.compile(optimizer, loss="mse")
    >>> model.fit(x, y, epochs=2, callbacks=[optimizer.fit_callback()])
    """
    return FitHorizon(self)

  @property
  def observers(self) -> weakref.WeakSet:
    """Those called in every step that is traced from now on; not kept alive here."""
    return self._observers

  def build(self, variables: Sequence[keras.Variable]) -> None:
    """Makes the state for `variables`, once.

    Raises:
      ValueError: if it was built on others, or one is not of floating point, or the
        optimizer has a learned start of other shapes.
    """
    variables = gradients.distinct(variables, self._var_key)
    if self.built:
      self._check_variables_are_known(variables)
      return
    if not variables:  # Keras builds for those of a frozen model.
      return
    checks.check_variables(variables)
    if self._optimizer.learns_start:  # of these shapes?
      with tf.init_scope():
        self._optimizer.initial_params([tf.zeros(v.shape, v.dtype) for v in variables])
    num_own = len(self.variables)
    with tf.init_scope():  # The first step may be traced already.
      super().build(variables)
      specs = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
      optimizer = self._optimizer.with_parameters(keras_variables.parameters(variables))
      self._blocks = Blocks(optimizer, specs, self._block_size, self._state_dtype)
      self._skipped = self.add_variable((), dtype="int64", name="skipped_steps")
      self._states = [
        [self._add_state(f"block_{i}_state_{k}", x) for k, x in enumerate(state)]
        for i, state in enumerate(self._blocks.initial_states())
      ]
      self._tell_total_steps()
      if self._pending is not None:
        self._load_pending(num_own)

  def assign_start(self, model: keras.Model) -> None:
    """Sets a model's trainable variables to the optimizer's learned start.

    >>> shapes = [v.shape for v in model.trainable_variables]
    >>> start = [tf.ones(shape) for shape in shapes]
    >>> learned = l2l_tf.optimizers.LearnedStart(Adam(), shapes).begin_at(start)
    >>> model.compile(optimizer := LearnedOptimizer(learned), loss="mse")
    >>> optimizer.assign_start(model)

    Args:
      model: built, so that its variables exist.

    Raises:
      ValueError: if the optimizer learns no start, or one of other shapes, or the model
        is not built.
    """
    if not self._optimizer.learns_start:
      raise ValueError(
        f"{type(self._optimizer).__name__} learns no start; the model begins at its"
        " initializers, so leave assign_start out."
      )
    variables = model.trainable_variables
    if not variables:
      raise ValueError(
        f"{model.name} has no variables yet; build it first, as by model.build([None,"
        " 4]) for inputs of 4 numbers, or give it an Input."
      )
    start = self._optimizer.initial_params([v.value for v in variables])
    for variable, value in zip(variables, start, strict=True):
      variable.assign(value)

  def scale_loss(self, loss):
    """Notes the loss, which Keras hands to its optimizer in every step of `fit`."""
    self._loss = loss
    return super().scale_loss(loss)

  def apply_gradients(self, grads_and_vars, loss=None):
    """Takes one step as `apply` does, given pairs; returns the iterations."""
    grads, trainable_variables = zip(*grads_and_vars)
    self.apply(grads, trainable_variables, loss=loss)
    return self._iterations

  @tf.autograph.experimental.do_not_convert  # It would take longer than the tracing.
  def apply(self, grads, trainable_variables=None, *, loss=None) -> None:
    """Takes one step, as every Keras optimizer does.

    Args:
      grads: a gradient, or None, for each variable.
      trainable_variables: Keras's or TensorFlow's variables, by default those that it
        was built for. The gradients of one that is listed more than once are summed.
      loss: scalar, in a loop of one's own, for an optimizer that reads it; `fit` hands
        it on by itself. With `gradient_accumulation_steps` it is the last batch's.

    Raises:
      ValueError: if a gradient does not have its variable's shape, or the optimizer
        reads the loss and is not given it.
    """
    if trainable_variables is not None:
      grads, trainable_variables = gradients.summed(
        grads, trainable_variables, self._var_key
      )
    self._loss = self._loss if loss is None else loss
    # What an optimizer reads that does not say so is not known; it is given None.
    is_declared = self._optimizer.reads is not Optimizer.reads
    if is_declared and LOSS in self._optimizer.reads and self._loss is None:
      raise ValueError(
        f"{type(self._optimizer).__name__} reads the loss, and was not given it; pass"
        " apply(grads, variables, loss=loss) in a loop of your own. Under mixed_float16"
        " Keras's LossScaleOptimizer does not hand it on in fit: use mixed_bfloat16, or"
        " declare what the optimizer reads, as in reads = {GRADIENTS}."
      )
    try:
      super().apply(grads, trainable_variables)
    finally:
      self._loss = None  # It belongs to this step, and to the graph that is traced.

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
      "mismatched_state": self._mismatched_state,
      "total_steps": self._total_steps,
      "block_size": self._block_size,
      "state_dtype": self._state_dtype,
    }

  @classmethod
  def from_config(cls, config, custom_objects=None):
    optimizer = export.loads(base64.b64decode(config["optimizer"]))
    return super().from_config(config | {"optimizer": optimizer}, custom_objects)

  def _tell_total_steps(self) -> bool:
    if not self.built or self._total_steps is None:
      return False
    states = [[tf.convert_to_tensor(v) for v in state] for state in self._states]
    told = self._blocks.with_total_steps(states, self._total_steps)
    leaves = zip(*map(tf.nest.flatten, (self._states, states, told)), strict=True)
    changed = [(v, new) for v, old, new in leaves if new is not old]
    is_news = any(bool(tf.reduce_any(v.value != new)) for v, new in changed)
    for variable, new in changed:
      variable.assign(new)
    return is_news

  def _apply_weight_decay(self, variables) -> None:
    """Leaves it to `_move`, which knows whether the gradients are finite."""

  def _clip_gradients(self, grads):
    """Leaves it to `_move`, which knows the sum of all replicas' gradients."""
    return grads

  def _backend_apply_gradients(self, grads, trainable_variables) -> None:
    """Does what Keras does, in another order.

    Keras's own accumulates and overwrites under conditions around what replicas do
    together, which TensorFlow refuses. Here the conditions are within it.
    """
    self._backend_update_step(grads, trainable_variables, self.learning_rate)
    if self.use_ema:
      self._update_model_variables_moving_average(self._trainable_variables)
      if self.ema_overwrite_frequency:
        self._overwrite_now_and_then()

  def _overwrite_now_and_then(self) -> None:
    pairs = zip(self._trainable_variables, self._model_variables_moving_average)
    pairs = [(tf_variable(v), a.value) for v, a in pairs if a is not None]
    is_due = (self.iterations + 1) % self.ema_overwrite_frequency == 0

    def overwrite(distribution, pairs, is_due):
      for variable, average in pairs:
        value = lambda v, a, is_due: v.assign(tf.where(is_due, a, v))
        args = average, is_due
        distribution.extended.update(variable, value, args=args, group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(
      overwrite, self._distribution_strategy, pairs, is_due
    )

  def _backend_update_step(self, grads, trainable_variables, learning_rate):
    if LOSS not in self._optimizer.reads or self._loss is None:
      loss = None
    elif context := tf.distribute.get_replica_context():
      # Summed as gradients are: each replica's loss is divided by their number.
      loss = context.all_reduce(tf.distribute.ReduceOp.SUM, self._loss)
    else:
      loss = tf.convert_to_tensor(self._loss)
    is_due = None
    if every := self.gradient_accumulation_steps:
      is_due = (self._iterations + 1) % every == 0
    # Keras passes its last argument on as it is.
    given = is_due, learning_rate, loss
    super()._backend_update_step(grads, trainable_variables, given)

  def _distributed_tf_update_step(self, distribution, grads_and_vars, given):
    # Keras calls `update_step` for each variable. Here one call moves all of them,
    # on each device that holds the first, with that device's copies.
    grads, variables = zip(*grads_and_vars)
    indices = [self._get_variable_index(v) for v in variables]
    is_due, *rate_and_loss = given
    held = self._accumulated_gradients if is_due is not None else []
    distribution.extended.update(
      variables[0],
      lambda first, *args: self._accumulate_or_move(*args),
      args=(
        [v.value for v in held],
        is_due,
        [tf_variable(v) for v in self._trainable_variables],
        dict(zip(indices, grads)),
        tf.nest.map_structure(lambda v: v.value, self._states),
        self._skipped.value,
        *rate_and_loss,
      ),
      group=False,
    )

  def _accumulate_or_move(self, accumulators, is_due, variables, grads, *args) -> None:
    if is_due is None:
      self._move(variables, grads, *args)
      return
    sums = {
      i: gradients.dense(g, variables[i]) + accumulators[i] for i, g in grads.items()
    }

    def move():
      count = self.gradient_accumulation_steps
      self._move(variables, {i: g / count for i, g in sums.items()}, *args)
      for accumulator in accumulators:
        accumulator.assign(tf.zeros_like(accumulator))

    def accumulate():
      for i, g in sums.items():
        accumulators[i].assign(g)

    tf.cond(is_due, move, accumulate)

  def _move(self, variables, grads, states, skipped, learning_rate, loss) -> None:
    """Moves those of `variables` that have an entry, by index, in `grads`."""
    grads = dict(zip(grads, super()._clip_gradients(list(grads.values()))))
    grads = {i: gradients.dense(g, variables[i]) for i, g in grads.items()}
    is_finite = self._are_finite(grads)
    skipped.assign_add(tf.cast(tf.logical_not(is_finite), skipped.dtype))
    learning_rate = tf.convert_to_tensor(learning_rate)
    decay_rate = learning_rate * self._blocks.decay_rate(states)
    self._decay([variables[i] for i in grads], decay_rate, is_finite)
    every = [grads.get(i) for i in range(len(variables))]
    params = [tf.convert_to_tensor(v) for v in variables]
    held = None
    if self._observers:
      held = [[tf.convert_to_tensor(v) for v in state] for state in states]
    updates = self._blocks.step(every, states, params, loss, is_finite, learning_rate)
    for i in grads:
      variables[i].assign_add(updates[i])
    if held is not None:
      diagnose = lambda groups: self._blocks.diagnostics(every, held, groups)
      for observer in self._observers:
        observer(params, every, updates, diagnose)

  def _decay(self, variables, rate, is_finite) -> None:
    if self.weight_decay is None:
      return
    for v in variables:
      if self._use_weight_decay(v):
        factor = tf.cast(rate, v.dtype) * tf.cast(self.weight_decay, v.dtype)
        v.assign_sub(v * factor * tf.cast(is_finite, v.dtype))

  def _are_finite(self, grads: dict[int, tf.Tensor]) -> tf.Tensor:
    """Returns whether all gradients are finite, or raises, where that is wished."""
    found = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in grads.values()])
    if self._nonfinite_gradients == "skip":
      return found
    # Only then is each of them searched, to name the variable.
    return tf.cond(found, lambda: found, lambda: self._raised(grads))

  def _raised(self, grads: dict[int, tf.Tensor]) -> tf.Tensor:
    message = "The gradient of {!r} is not finite; {}".format
    path = lambda i: path_of(self._trainable_variables[i])
    check = tf.debugging.check_numerics
    checked = [check(g, message(path(i), _REMEDY)) for i, g in grads.items()]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in checked])

  def _add_state(self, name: str, value: tf.Tensor) -> keras.Variable:
    # A buffer of its own, for XLA moves in place only what no other variable shares.
    initializer = lambda shape, dtype: np.array(value.numpy())
    dtype = keras.backend.standardize_dtype(value.dtype)
    return self.add_variable(tuple(value.shape), initializer, dtype, name=name)

  def _check_variables_are_known(self, variables):
    known = self._trainable_variables_indices
    unknown = [path_of(v) for v in variables if self._var_key(v) not in known]
    if unknown:
      raise ValueError(
        f"{self.name!r} was built for another model and does not know"
        f" {', '.join(unknown[:5])}; give every model a LearnedOptimizer of its own."
      )


def _private_copy(optimizer: Any) -> Optimizer:
  """Loads or copies the optimizer, so that training it elsewhere does not change it."""
  if isinstance(optimizer, Optimizer):
    return _mirrored_copy(optimizer) or copy.deepcopy(optimizer)
  if isinstance(optimizer, (str, os.PathLike)):
    return cards.load(optimizer)
  raise TypeError(
    f"LearnedOptimizer got {optimizer!r:.100}; it wraps an l2l_tf.Optimizer, a"
    " pretrained one by its name, or the path of an exported one."
  )


def _mirrored_copy(optimizer: Optimizer) -> Optimizer | None:
  """Makes it anew with weights on every device of a strategy, if they are on one only.

  XLA reads no weights of another device.
  """
  is_mirrored = lambda v: isinstance(v, tf.distribute.DistributedValues)
  if not tf.distribute.has_strategy() or all(map(is_mirrored, optimizer.variables)):
    return None
  if len(tf.distribute.get_strategy().extended.worker_devices) == 1:
    return None
  try:
    return export.loads(export.dumps(optimizer))
  except ExportError as error:
    raise ValueError(
      f"{type(optimizer).__name__} has its weights on one device, and the strategy has"
      " several; make it in the strategy's scope too, as in with strategy.scope():"
      " LearnedOptimizer(CoordinatewiseLSTM(...))."
    ) from error
