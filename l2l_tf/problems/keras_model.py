"""Training any Keras model on any data, as an optimization task.

The model runs under `keras.StatelessScope`, in which its variables take their values
from the tensors that an inner loop carries. https://keras.io/api/models/model/;
Andrychowicz et al. 2016, section 2, https://arxiv.org/abs/1606.04474.
"""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems import initializers, keras_variables
from l2l_tf.problems.base import Problem
from l2l_tf.problems.data.examples import Examples

_TRIED = 2  # examples that a new problem's loss is tried on
_EVALUATED = 500  # held-out examples per call of the model
_AVERAGED = 32  # mini-batches from which batch normalisation's averages are estimated
_ACCURACIES = {
  "sparse_categorical_crossentropy": keras.metrics.sparse_categorical_accuracy,
  "categorical_crossentropy": keras.metrics.categorical_accuracy,
  "binary_crossentropy": keras.metrics.binary_accuracy,
}


class KerasModel(Problem):
  """What `fit` minimizes: a Keras model's loss on a mini-batch, in training mode.

  The seed of a step decides which examples its mini-batch holds, drawn with
  replacement, and what dropout drops. With and without XLA the same seed leads to
  different draws, but each way always to the same ones. The loss is what the model's
  `compute_loss` returns, overridden or not, including regularizers and `add_loss`; a
  custom `train_step` is not called. Under `mixed_float16` the loss is not scaled, so
  small gradients may underflow.

  A task is a fresh initialisation. Each trainable variable is drawn anew by the
  initializer that its layer gave it, whatever integer seed the initializer has. A
  variable that was made from a value or assigned in `build_model`, such as loaded
  weights, starts from that value in every task; so do non-trainable variables.

  As in `fit`, variables that the loss does not depend on keep their first value, and
  constraints are applied after each update.

  State that layers update in training, such as the moving averages of batch
  normalisation, is not carried from step to step; training does not read the averages.
  For `held_out` they are estimated at the given parameters, from 32 mini-batches of
  train data.

  >>> problem = KerasModel(build_model, "mse", (x, y))
  >>> [parameter.role for parameter in problem.parameters()]
  ['kernel', 'bias']
  """

  def __init__(
    self,
    build_model: Callable[[], keras.Model],
    loss: Any,
    dataset: Any,
    held_out: Any = None,
    batch_size: int = 32,
    max_examples: int = 100_000,
    jit_compile: bool = False,
  ):
    """Builds the model and tries its loss on a few examples.

    Args:
      build_model: returns a new model; called once. It may be of any kind, and
        need not be built or compiled.
      loss: as `model.compile` takes it: a name, a `keras.losses.Loss`, a function, or
        a nest of them for several outputs. None keeps the loss that `build_model`
        compiled the model with.
      dataset: arrays `(x, y)` or `(x, y, sample_weight)`, nests allowed, or a finite
        source of batches of such tuples: a `tf.data.Dataset`, a
        `keras.utils.PyDataset`, or any object that has a length and can be indexed or
        iterated over. A source is read once, into memory. How it forms batches, and in
        which order, has no effect; random augmentation is drawn during that one
        reading and then fixed, so augmentation belongs in the model.
      held_out: examples in the same form, which the loss never draws.
      batch_size: examples per mini-batch (Keras's default).
      max_examples: how many examples a source of batches may hold.
      jit_compile: whether XLA compiles the loss and its gradient in meta-training.
        This makes dense layers faster, but rarely convolutions on a CPU.

    Raises:
      ValueError: if `build_model` returns no model or one without trainable
        variables, if the data do not fit the model, if the loss is unknown, or if the
        model draws random numbers that no seed controls.

    Warns:
      UserWarning: if the loss does not depend on some variables; it names them.
    """
    if batch_size < 1 or max_examples < 1:
      raise ValueError(
        f"keras_model got batch_size={batch_size} and max_examples={max_examples};"
        " both must be at least 1."
      )
    if isinstance(loss, str):
      with keras_variables.explained(f"find loss={loss!r}"):
        loss = keras.losses.get(loss)
    self.jit_compile = jit_compile
    self._batch_size = batch_size
    self._train = Examples(dataset, max_examples)
    self._held_out = None if held_out is None else Examples(held_out, max_examples)
    self._model, recorded = _build(build_model, loss, self._train)
    self._trainable = self._model.trainable_variables
    self._others = self._model.non_trainable_variables
    self._values = [tf.convert_to_tensor(v.value) for v in self._others]
    self._starts = [initializers.start(v, recorded.get(id(v))) for v in self._trainable]
    self._accuracy = _accuracy(loss)
    self._fixed = []  # the trainable variables that the loss does not reach
    self._is_fixed = [False] * len(self._trainable)
    params = self._check_init()
    self._averages = self._check_loss(params)
    self._is_fixed = self._find_fixed(params)
    self._trainable, self._fixed = self._sort(self._trainable)
    with keras_variables.explained("apply the constraints of the variables"):
      self.project(*self._sort(params))
    if self._fixed:
      warning = keras_variables.unreached_warning(self._model, self._fixed)
      warnings.warn(warning, stacklevel=3)  # at the line that calls keras_model

  def init(self, seed):
    keys = seeds.split(seed, len(self._starts))
    return self._sort([start(key) for start, key in zip(self._starts, keys)])

  def __call__(self, params, constants, seed):
    batch_seed, state_seed = seeds.split(seed, 2)
    batch = self._train.draw(self._batch_size, batch_seed)
    state = self._seeded(self._values, state_seed)
    return self._run(params, constants, state, batch, training=True)[0]

  def project(self, params, constants):
    """Applies the variables' constraints, as a Keras optimizer does."""
    del constants
    return keras_variables.project(self._trainable, params)

  @property
  def is_constrained(self):
    return keras_variables.is_constrained(self._trainable)

  def held_out(self, params, constants):
    """Evaluates the whole held-out data in inference mode, as `evaluate` does.

    Args:
      params: values of the variables that `parameters()` describes.
      constants: the constants of the same task.

    Returns:
      `held_out_loss`, including regularizers, and, if the loss is a single
      cross-entropy, `held_out_accuracy`, the share of examples that are classified
      correctly. An empty dictionary without held-out data.
    """
    if self._held_out is None:
      return {}
    state, size = self._inference_state(params, constants), self._held_out.size

    def body(start, sums):
      batch = self._held_out.slice(start, _EVALUATED)
      share = tf.cast(tf.minimum(_EVALUATED, size - start), tf.float32) / size
      means = self._evaluate(params, constants, state, batch)
      return start + _EVALUATED, [s + share * m for s, m in zip(sums, means)]

    names = ["held_out_loss", "held_out_accuracy"][: 1 + (self._accuracy is not None)]
    zeros = [tf.zeros([])] * len(names)
    _, sums = tf.while_loop(lambda start, _: start < size, body, (0, zeros))
    return dict(zip(names, sums))

  @property
  def num_held_out(self) -> int:
    """Number of held-out examples."""
    return 0 if self._held_out is None else self._held_out.size

  def data_sources(self):
    named = ("train", self._train), ("held-out", self._held_out)
    return [(name, examples.arrays) for name, examples in named if examples is not None]

  def parameters(self):
    return keras_variables.parameters(self._trainable)

  def variables(self, params) -> list[keras.Variable]:
    """Returns new variables with these values, as a Keras optimizer needs them.

    They have the paths and the constraints of the model's own, which stay as they are.

    Args:
      params: values of the variables that `parameters()` describes.
    """
    return keras_variables.copies(self._trainable, params)

  def _run(self, params, constants, state, batch, training):
    """Returns the loss, the outputs, and the layers' state after the call."""
    x, y, sample_weight = batch
    model = self._model
    given = [
      *zip(self._trainable, params, strict=True),
      *zip(self._fixed, constants, strict=True),
      *zip(self._others, state),
    ]
    with keras.StatelessScope(given, collect_losses=True) as scope:
      outputs = model(x, training=training)
      loss = model.compute_loss(
        x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=training
      )
    return loss, outputs, [scope.get_current_value(v) for v in self._others]

  def _seeded(self, state, seed):
    """Returns `state` with the layers' seed generators set to seeds below `seed`."""
    return [
      tf.cast(seeds.fold_in(seed, i), value.dtype)
      if v.name == keras_variables.SEED
      else value
      for i, (v, value) in enumerate(zip(self._others, state))
    ]

  def _evaluate(self, params, constants, state, batch):
    loss, outputs, _ = self._run(params, constants, state, batch, training=False)
    means = [loss]
    if self._accuracy is not None:
      means.append(tf.reduce_mean(self._accuracy(batch[1], outputs)))
    return [tf.cast(m, tf.float32) for m in means]

  def _inference_state(self, params, constants):
    """Returns the state with the moving averages that training at `params` leads to.

    After k batches a moving average is r start + (1 - r) mean, where r = momentum^k.
    The momentum is not known here. But if one run starts at s and another at s + 1, on
    the same batches, they end r apart; that gives r, and then the mean.
    """
    if not self._averages:
      return self._values
    starts = [self._values[i] for i in self._averages]

    def after(values, seed):
      state = list(self._values)
      for i, value in zip(self._averages, values):
        state[i] = value
      batch_seed, state_seed = seeds.split(seed, 2)
      batch = self._train.draw(self._batch_size, batch_seed)
      state = self._seeded(state, state_seed)
      state = self._run(params, constants, state, batch, training=True)[-1]
      return [state[i] for i in self._averages]

    def body(k, low, high):
      seed = seeds.make(0, k)
      return k + 1, after(low, seed), after(high, seed)

    _, low, high = tf.while_loop(
      lambda k, *_: k < _AVERAGED, body, (0, starts, [s + 1 for s in starts])
    )
    state = list(self._values)
    for i, start, a, b in zip(self._averages, starts, low, high):
      r = b - a
      state[i] = tf.where(r < 1, (a - r * start) / (1 - r), a)
    return state

  def _check_init(self) -> list[tf.Tensor]:
    """Returns initial parameters; raises ValueError if a seed does not fix them."""
    params, again = (self.init(seeds.make(0))[0] for _ in range(2))
    for v, a, b in zip(self._trainable, params, again):
      if not bool(tf.reduce_all(a == b)):
        raise ValueError(
          f"The initializer of {v.path} draws something else each time; give a Keras"
          " initializer, or a function of the shape alone."
        )
    return params

  def _check_loss(self, params) -> list[int]:
    """Tries the loss; returns which of the other variables are moving averages.

    These are the floating-point variables that a call in training mode updates.
    """
    with keras_variables.explained("compute the loss of the data's first examples"):
      batch = self._train.first(_TRIED)
      loss, _, state = self._run(params, [], self._values, batch, training=True)
      held_out = (self._held_out or self._train).first(_TRIED)
      self._evaluate(params, [], self._values, held_out)
    if not tf.is_tensor(loss) or loss.shape.rank != 0:
      raise ValueError(
        f"keras_model got a loss {loss!r} of the first examples; it must be a scalar"
        " tensor, so let it reduce over the examples."
      )
    return [
      i
      for i, (before, after) in enumerate(zip(self._values, state))
      if before.dtype.is_floating and after is not before
    ]

  def _find_fixed(self, params) -> list[bool]:
    """Returns for each trainable variable whether the loss does not reach it.

    The loss is in training mode, as in the inner loop.
    """
    loss = lambda params, seed: self(params, [], seed)
    is_fixed = keras_variables.are_unreached(loss, params)
    if all(is_fixed):
      raise ValueError(
        f"keras_model got {self._model.name}, whose loss reaches none of its trainable"
        " variables; compute it from them by differentiable operations."
      )
    return is_fixed

  def _sort(self, values) -> tuple[list[Any], list[Any]]:
    """Splits values, one per variable, into those of trained and of fixed variables."""
    pairs = list(zip(values, self._is_fixed, strict=True))
    return [x for x, fixed in pairs if not fixed], [x for x, fixed in pairs if fixed]


def keras_model(
  build_model: Callable[[], keras.Model], loss: Any, dataset: Any, **settings: Any
) -> KerasModel:
  """Returns a `KerasModel`, whose constructor takes the same arguments.

  >>> problem = keras_model(build_model, "mse", (x, y), held_out=(x_test, y_test))
  >>> trainer = MetaTrainer(problem, CoordinatewiseLSTM())
  """
  return KerasModel(build_model, loss, dataset, **settings)


def _build(build_model, loss, examples) -> tuple[keras.Model, dict[int, Callable]]:
  """Returns the model, built and compiled, and its variables' initializers by id."""
  with initializers.recorded() as recorded:
    model = build_model()
    if not isinstance(model, keras.Model):
      raise ValueError(
        f"keras_model got a build_model that returned {model!r}; it must return a"
        " keras.Model."
      )
    x, *_ = examples.first(_TRIED)
    with keras_variables.explained(f"call {model.name} on the data's first examples"):
      model(x)
  if not model.trainable_variables:
    raise ValueError(
      f"keras_model got {model.name}, which has no trainable variables; it needs at"
      " least one for an optimizer to move."
    )
  if loss is not None:
    model.compile(loss=loss)
  return model, recorded


def _accuracy(loss: Any) -> Callable | None:
  """Returns the function that computes the accuracy for a loss, or None."""
  name = getattr(loss, "name", getattr(loss, "__name__", None))
  accuracy = _ACCURACIES.get(name)
  config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
  if name == "binary_crossentropy" and config.get("from_logits"):
    return lambda y, outputs: accuracy(y, outputs, threshold=0.0)
  return accuracy
