"""What a learned optimizer does to a model while it trains, layer by layer."""

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from l2l_tf.keras.optimizer import LearnedOptimizer
from l2l_tf.optimizers.layout import flatten

# Thresholds of the findings, for medians over the last half of the records.
_HARDLY = 1e-6  # relative update in one step: below it, a layer hardly moves
_WILDLY = 0.1  # relative update in one step: above it, a layer moves too far
_SATURATED = 0.9  # fraction of a gate's activations within 0.05 of 0 or 1


class Diagnostics(keras.callbacks.Callback):
  """Shows in TensorBoard why a model learns, or why it does not.

  >>> diagnostics = Diagnostics("logs")
  >>> model.fit(x, y, callbacks=[diagnostics])
  >>> diagnostics.findings()

  For each layer and every `period` steps, over all entries of its variables, with
  gradient g, update u (times the learning rate) and weights theta:

  - gradient_size, update_size: root mean square of g and u;
  - relative_update: root mean square of u over that of theta;
  - cosine: that of the angle between u and -g; 1 is steepest descent, and a negative
    one is uphill;
  - effective_learning_rate: -<u, g> / <g, g>, the rate of the step of plain gradient
    descent that is nearest to u;
  - saturation: the fraction of the LSTM's gates within 0.05 of 0 or 1, for each kind of
    gate (of all layers together, if the optimizer is not coordinate-wise).

  And for the whole model skipped_steps, the number of steps whose gradient was not
  finite, which is in the logs of `fit` too. A recorded step takes about twice as long
  as any other.
  """

  def __init__(
    self,
    log_dir: str | os.PathLike[str] | None = None,
    period: int = 10,
    verbose: bool = True,
  ):
    """Initializes the callback.

    Args:
      log_dir: TensorBoard's directory; the logs are in `<log_dir>/optimizer`. None
        writes nothing.
      period: steps of the optimizer from record to record.
      verbose: whether to print the findings when training ends.

    Raises:
      ValueError: if `period` is below one.
    """
    super().__init__()
    if period < 1:
      raise ValueError(f"Diagnostics got period={period}; it must be at least 1.")
    self._log_dir, self._period, self._verbose = log_dir, period, verbose
    self._records: list[tuple[int, dict[str, float]]] = []

  @property
  def records(self) -> list[tuple[int, dict[str, float]]]:
    """The recorded steps, each with its values by name, "<kind>/<layer>"."""
    return list(self._records)

  def on_train_begin(self, logs=None):
    self._optimizer = _learned(self.model.optimizer)
    self._records.clear()
    self._recorder = _Recorder(self._optimizer, self._period)
    self._optimizer.observers.add(self._recorder)
    self.model.make_train_function(force=True)  # A trace from before records nothing.
    path = None if self._log_dir is None else os.path.join(self._log_dir, "optimizer")
    open_writer = tf.summary.create_file_writer
    self._writer = (
      tf.summary.create_noop_writer() if path is None else open_writer(path)
    )

  def on_train_batch_end(self, batch, logs=None):
    self._optimizer.check_gradients()
    record = self._recorder.after(self._records[-1][0] if self._records else -1)
    if record is None:
      return
    self._records.append(record)
    step, values = record
    with self._writer.as_default(step=step):
      for name, value in values.items():
        tf.summary.scalar(name, value)
      tf.summary.scalar("skipped_steps", self._optimizer.skipped_steps)

  def on_epoch_end(self, epoch, logs=None):
    if logs is not None:
      logs["skipped_steps"] = self._optimizer.skipped_steps
    self._writer.flush()

  def on_train_end(self, logs=None):
    self._optimizer.observers.discard(self._recorder)
    self.model.make_train_function(force=True)
    findings = self.findings()
    with self._writer.as_default(step=0):
      tf.summary.text("findings", "\n\n".join(findings))
    self._writer.close()
    if self._verbose:
      print("\n".join(["Diagnostics:", *(f"  {finding}" for finding in findings)]))

  def findings(self) -> list[str]:
    """Returns sentences on what stands out, or one that nothing does."""
    if not self._records:
      return ["Nothing was recorded; train for more steps than `period`."]
    late = [values for _, values in self._records[len(self._records) // 2 :]]
    late = [values for values in late if all(map(math.isfinite, values.values()))]
    names = late[0] if late else ()
    medians = {k: statistics.median(values[k] for values in late) for k in names}
    found = [
      sentence
      for name, value in medians.items()
      if (sentence := _finding(*name.split("/", 1), value))
    ]
    if not late:
      found.append(
        "No record of the last half was finite; look for NaN in the data, or lower the"
        " loss's scale."
      )
    if self._optimizer.skipped_steps:
      found.append(
        f"{self._optimizer.skipped_steps} steps were skipped, as a gradient was not"
        " finite; look for NaN in the data, or a loss that overflows."
      )
    return found or ["Nothing stands out: every layer moves, and downhill."]


def _finding(kind: str, where: str, value: float) -> str | None:
  """Returns a sentence on one median, or None if it is unremarkable."""
  if kind == "gradient_size" and value == 0.0:
    return f"{where}: no gradient reaches it; look at the layers behind it."
  if kind == "cosine" and value < 0.0:
    return (
      f"{where}: its updates go uphill (cosine {value:.2g}); its gradients are unlike"
      " those that the optimizer was trained on."
    )
  if kind == "relative_update" and value < _HARDLY:
    return f"{where}: it hardly moves ({value:.1g} of its size in a step)."
  if kind == "relative_update" and value > _WILDLY:
    return (
      f"{where}: it moves by {value:.2g} of its size in a step; a lower learning_rate,"
      " such as 0.3, may help."
    )
  # An optimizer may describe itself by other numbers than shares of gates, too.
  if kind == "saturation" and "gate" in where and value > _SATURATED:
    return (
      f"{where}: {value:.0%} saturated; the optimizer hardly tells these gradients"
      " apart. Scale the loss to what it was trained on."
    )
  return None


class _Recorder:
  """Computes a record within the step, and keeps it until it is read."""

  def __init__(self, optimizer: LearnedOptimizer, period: int):
    self._optimizer, self._period = optimizer, period
    self._names: list[str] = []
    self._step = tf.Variable(-1, dtype=tf.int64, trainable=False)
    self._values: tf.Variable | None = None

  def after(self, step: int) -> tuple[int, dict[str, float]] | None:
    """Returns the last record, or None if it is not later than `step`."""
    latest = int(self._step.numpy())
    if latest <= step:
      return None
    return latest, dict(zip(self._names, self._values.numpy().tolist()))

  def __call__(
    self,
    params: Sequence[tf.Tensor],
    grads: Sequence[tf.Tensor | None],
    updates: Sequence[tf.Tensor],
    diagnose: Callable[[dict[str, list[int]]], Mapping[str, tf.Tensor]],
  ) -> None:
    """Records every `period`-th step; the optimizer calls this within each step."""
    step = tf.cast(self._optimizer.iterations, tf.int64)

    def record():
      filled = [tf.zeros_like(p) if g is None else g for g, p in zip(grads, params)]
      layers = self._layers()
      values = _per_layer(layers, params, filled, updates)
      values |= {f"saturation/{k}": v for k, v in diagnose(layers).items()}
      self._hold(step, values)
      return step

    tf.cond(step % self._period == 0, record, lambda: step)

  def _hold(self, step: tf.Tensor, values: dict[str, tf.Tensor]) -> None:
    with tf.init_scope():
      if self._values is None:
        self._names = list(values)
        self._values = tf.Variable(tf.zeros([len(values)]), trainable=False)
    self._values.assign(tf.stack([tf.cast(v, tf.float32) for v in values.values()]))
    self._step.assign(step)

  def _layers(self) -> dict[str, list[int]]:
    """Returns the positions of each layer's variables, by the layer's path."""
    layers: dict[str, list[int]] = {}
    for i, variable in enumerate(self._optimizer.model_variables):
      layers.setdefault(os.path.dirname(variable.path) or variable.path, []).append(i)
    return layers


def _per_layer(layers, params, grads, updates) -> dict[str, tf.Tensor]:
  values = {}
  for name, indices in layers.items():
    theta, g, u = (
      flatten([tensors[i] for i in indices], tf.float32)
      for tensors in (params, grads, updates)
    )
    downhill = -tf.reduce_sum(u * g)
    values[f"gradient_size/{name}"] = _root_mean_square(g)
    values[f"update_size/{name}"] = _root_mean_square(u)
    values[f"relative_update/{name}"] = tf.math.divide_no_nan(
      tf.norm(u), tf.norm(theta)
    )
    values[f"cosine/{name}"] = tf.math.divide_no_nan(downhill, tf.norm(u) * tf.norm(g))
    values[f"effective_learning_rate/{name}"] = tf.math.divide_no_nan(
      downhill, tf.reduce_sum(tf.square(g))
    )
  return values


def _root_mean_square(x: tf.Tensor) -> tf.Tensor:
  return tf.sqrt(tf.reduce_mean(tf.square(x)))


def _learned(optimizer: keras.optimizers.Optimizer) -> LearnedOptimizer:
  inner = getattr(optimizer, "inner_optimizer", optimizer)  # of LossScaleOptimizer
  if not isinstance(inner, LearnedOptimizer):
    raise TypeError(
      f"Diagnostics looks into a LearnedOptimizer, but the model was compiled with"
      f" {type(inner).__name__}."
    )
  return inner
