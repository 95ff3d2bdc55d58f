"""Training any Keras model on any data, as an optimization task.

The model runs under `keras.StatelessScope`: its variables read the tensors that an
inner loop carries, https://keras.io/api/models/model/ and Andrychowicz et al. 2016,
section 2, https://arxiv.org/abs/1606.04474.
"""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems import initializers
from l2l_tf.problems.base import Parameter, Problem
from l2l_tf.problems.data.examples import Examples

_TRIED = 2  # examples on which a new problem's loss is tried
_EVALUATED = 500  # held-out examples that are evaluated at once
_AVERAGED = 32  # mini-batches whose statistics held-out data are normalised with
_ACCURACIES = {
  "sparse_categorical_crossentropy": keras.metrics.sparse_categorical_accuracy,
  "categorical_crossentropy": keras.metrics.categorical_accuracy,
  "binary_crossentropy": keras.metrics.binary_accuracy,
}
_SEED = "seed_generator_state"  # how Keras names the variable of a SeedGenerator
# Operations whose result depends on more than their inputs, or that have an effect.
_STATEFUL = re.compile("Assign|Random(?!GammaGrad)|TruncatedNormal|Multinomial")


class KerasModel(Problem):
  """What `fit` minimizes: a Keras model's loss on a mini-batch, in training mode.

  Mini-batches are drawn with replacement by the step's seed, and so is what
  dropout drops. The loss is that of `compute_loss`, an overridden one too, with
  regularizers and `add_loss`; a custom `train_step` is not called. Under
  `mixed_float16` it is not scaled, so that small gradients may vanish. Compiled by
  XLA, a seed names other draws than without, but always the same ones.

  A task is a fresh initialisation. Each trainable variable is drawn anew by the
  initializer that its layer gave it, whatever integer seed that has. A variable that
  was made from a value, or assigned in `build_model` (loaded weights), starts there
  in every task; so do those that are not trainable.

  Variables that the loss does not reach stay where they start, and constraints are
  applied after each update, both as in `fit`.

  State that layers update in training does not go from step to step. Batch
  normalisation does not read its own there. For `held_out` it is estimated at the
  parameters given, from 32 mini-batches drawn from the train data.
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
        a nest of them for several outputs. None keeps what `build_model` compiled.
      dataset: arrays `(x, y)` or `(x, y, sample_weight)`, nests allowed, or a finite
        source of batches of such tuples: a `tf.data.Dataset`, a
        `keras.utils.PyDataset` or what else has a length and can be indexed or
        iterated over. That is read once, into memory: its own batches and order play
        no role, and what it drew at random, such as augmentation, stays as it was
        drawn (put it into the model).
      held_out: more of the same, which the loss never draws.
      batch_size: examples per mini-batch (Keras's default).
      max_examples: that a source of batches may hold.
      jit_compile: whether XLA compiles the loss and its gradient in meta-training;
        it pays for dense layers, and rarely for convolutions on a CPU.

    Raises:
      ValueError: for a model that is none or has nothing to train, data that do not
        fit it, an unknown loss, or randomness that no seed controls.

    Warns:
      UserWarning: with the names of variables that the loss does not reach.
    """
    if batch_size < 1 or max_examples < 1:
      raise ValueError(
        f"keras_model got batch_size={batch_size} and max_examples={max_examples};"
        " both must be at least 1."
      )
    if isinstance(loss, str):
      with _explained(f"find loss={loss!r}"):
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
    with _explained("apply the constraints of the variables"):
      self.project(*self._sort(params))
    if self._fixed:
      warnings.warn(self._fixed_warning(), stacklevel=3)  # of whoever calls keras_model

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
    pairs = zip(self._trainable, params, strict=True)
    return [p if v.constraint is None else _constrained(v, p) for v, p in pairs]

  @property
  def is_constrained(self):
    return any(v.constraint is not None for v in self._trainable)

  def held_out(self, params, constants):
    """Evaluates the whole held-out data in inference mode, as `evaluate` does.

    Args:
      params: of `parameters()`.
      constants: of the same task.

    Returns:
      `held_out_loss`, with regularizers; and `held_out_accuracy`, the share
      classified right, where the loss is one cross-entropy. Nothing without
      held-out data.
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

  def parameters(self):
    paths = [v.path for v in self._trainable]
    unique = len(set(paths)) == len(paths)
    return [
      Parameter(path if unique else f"{path}_{i}", tuple(v.shape), _role(v.name))
      for i, (path, v) in enumerate(zip(paths, self._trainable))
    ]

  def _run(self, params, constants, state, batch, training):
    """Returns the loss, the outputs and the state that the layers left."""
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
    """Puts seeds below `seed` into the state of the layers' seed generators."""
    return [
      tf.cast(seeds.fold_in(seed, i), value.dtype) if v.name == _SEED else value
      for i, (v, value) in enumerate(zip(self._others, state))
    ]

  def _evaluate(self, params, constants, state, batch):
    loss, outputs, _ = self._run(params, constants, state, batch, training=False)
    means = [loss]
    if self._accuracy is not None:
      means.append(tf.reduce_mean(self._accuracy(batch[1], outputs)))
    return [tf.cast(m, tf.float32) for m in means]

  def _inference_state(self, params, constants):
    """Returns the state with moving averages as if training had stayed at `params`.

    After k batches such an average is r start + (1 - r) mean, with r = momentum^k.
    Runs from two starts, one apart, end r apart, whatever the momentum.
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
    """Returns initial parameters, the same whenever the seed is."""
    params, again = (self.init(seeds.make(0))[0] for _ in range(2))
    for v, a, b in zip(self._trainable, params, again):
      if not bool(tf.reduce_all(a == b)):
        raise ValueError(
          f"The initializer of {v.path} draws something else each time; give a Keras"
          " initializer, or a function of the shape alone."
        )
    return params

  def _check_loss(self, params) -> list[int]:
    """Tries the loss; returns the positions of the averages that it moves."""
    with _explained("compute the loss of the data's first examples"):
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
    """Returns of each trainable variable whether the loss does not reach it.

    In a graph, where a condition has both of its branches; and in training mode, as
    the inner loop sees it.
    """

    def gradients(params, seed):
      with tf.GradientTape() as tape:
        tape.watch(params)
        loss = self(params, [], seed)
      with _explained("differentiate the loss"):
        found.extend(tape.gradient(loss, params))
      return loss

    found = []
    function = tf.function(gradients, autograph=False)
    _check_stateless(function.get_concrete_function(params, seeds.make(0)).graph)
    is_fixed = [g is None for g in found]
    if all(is_fixed):
      raise ValueError(
        f"keras_model got {self._model.name}, whose loss reaches none of its trainable"
        " variables; compute it from them by differentiable operations."
      )
    return is_fixed

  def _sort(self, values) -> tuple[list[Any], list[Any]]:
    """Parts what belongs to the variables that move from what belongs to the others."""
    pairs = list(zip(values, self._is_fixed, strict=True))
    return [x for x, fixed in pairs if not fixed], [x for x, fixed in pairs if fixed]

  def _fixed_warning(self) -> str:
    paths = [v.path for v in self._fixed]
    more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
    return (
      f"The loss of {self._model.name} does not reach {', '.join(paths[:10])}{more};"
      " they stay where they start, as in fit."
    )


def keras_model(
  build_model: Callable[[], keras.Model], loss: Any, dataset: Any, **settings: Any
) -> KerasModel:
  """Returns a `KerasModel`; its arguments are that class's.

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
    with _explained(f"call {model.name} on the data's first examples"):
      model(x)
  if not model.trainable_variables:
    raise ValueError(
      f"keras_model got {model.name}, which has no trainable variables; it needs at"
      " least one for an optimizer to move."
    )
  if loss is not None:
    model.compile(loss=loss)
  return model, recorded


def _constrained(variable: keras.Variable, value: tf.Tensor) -> tf.Tensor:
  """Returns a variable's value as its constraint would leave it.

  Norms have no derivative at zero, where Keras's constraints would give NaN. Theirs
  is therefore taken a little beside it.
  """

  def apply(value):
    with keras.StatelessScope([(variable, value)]) as scope:
      variable.assign(variable.constraint(variable))
    return scope.get_current_value(variable)

  small = 1e-2 if value.dtype == tf.float16 else 1e-18  # Its square is not zero yet.
  beside = apply(tf.where(value == 0, tf.cast(small, value.dtype), value))
  # Adds nothing, not even by rounding, to the value of what is the constraint's.
  return tf.stop_gradient(apply(value)) + (beside - tf.stop_gradient(beside))


def _role(name: str) -> str:
  """Tells kernels and biases by the names that Keras's layers give them."""
  roles = [role for role in ("kernel", "bias") if name.endswith(role)]
  return roles[0] if roles else "variable"


def _accuracy(loss: Any) -> Callable | None:
  """Returns what computes the accuracy that goes with a loss, or None."""
  name = getattr(loss, "name", getattr(loss, "__name__", None))
  accuracy = _ACCURACIES.get(name)
  config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
  if name == "binary_crossentropy" and config.get("from_logits"):
    return lambda y, outputs: accuracy(y, outputs, threshold=0.0)
  return accuracy


def _check_stateless(graph: tf.Graph) -> None:
  """Raises ValueError if the graph's result depends on more than its inputs."""
  definition = graph.as_graph_def()
  bodies = [definition.node, *(f.node_def for f in definition.library.function)]
  found = {node.op for nodes in bodies for node in nodes if _STATEFUL.match(node.op)}
  # All of the model's own variables are replaced; this is Keras's global generator.
  found |= {v.name for v in graph.variables if _SEED in v.name}
  if found:
    raise ValueError(
      "The model draws at random or stores something in a way that cannot be"
      f" repeated ({', '.join(sorted(found))}); give each layer that draws its own"
      " keras.random.SeedGenerator, and keep state in Keras variables."
    )


@contextlib.contextmanager
def _explained(action: str) -> Iterator[None]:
  """Turns what Keras says, over many lines, into one sentence."""
  try:
    yield
  except Exception as error:
    reason = re.sub(r"\x1b\[\d*m", "", str(error)).split("Arguments received")[0]
    raise ValueError(
      f"keras_model could not {action}: {type(error).__name__},"
      f" {' '.join(reason.split())[:300]!r}."
    ) from error
