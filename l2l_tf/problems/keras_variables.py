"""The trainable variables of a Keras model, as parameters of an optimization task.

Which of them the loss reaches, what `Partition` knows about them, and their
constraints as projections, https://keras.io/api/layers/constraints/.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.base import Parameter

SEED = "seed_generator_state"  # how Keras names the variable of a SeedGenerator
# Operations whose result depends on more than their inputs, or that have side effects.
_STATEFUL = re.compile("Assign|Random(?!GammaGrad)|TruncatedNormal|Multinomial")
_NAMED = 10  # variables that a warning lists by name, at most


def parameters(variables: Sequence[keras.Variable]) -> list[Parameter]:
  """Describes Keras's or TensorFlow's variables; no two by the same path."""
  paths = [path_of(v) for v in variables]
  unique = len(set(paths)) == len(paths)
  return [
    Parameter(path if unique else f"{path}_{i}", tuple(v.shape), _role(v.name))
    for i, (path, v) in enumerate(zip(paths, variables))
  ]


def path_of(variable: Any) -> str:
  """Returns the path of a Keras variable, or the name of a TensorFlow one."""
  return getattr(variable, "path", None) or variable.name.removesuffix(":0")


def _role(name: str) -> str:
  """Recognizes kernels and biases by the names that Keras's layers give them."""
  name = name.removesuffix(":0")
  roles = [role for role in ("kernel", "bias") if name.endswith(role)]
  return roles[0] if roles else "variable"


def copies(
  variables: Sequence[keras.Variable], values: Sequence[tf.Tensor]
) -> list[keras.Variable]:
  """Returns new variables with these values, of the same paths and constraints."""
  return [_copy(v, value) for v, value in zip(variables, values, strict=True)]


def _copy(variable: keras.Variable, value: tf.Tensor) -> keras.Variable:
  *scopes, name = variable.path.split("/")
  with contextlib.ExitStack() as stack:
    for scope in scopes:
      stack.enter_context(keras.name_scope(scope))
    copy = keras.Variable(value, name=name)
  copy.constraint = variable.constraint
  return copy


def are_unreached(
  loss: Callable[[list[tf.Tensor], tf.Tensor], tf.Tensor], values: list[tf.Tensor]
) -> list[bool]:
  """Returns for each of the values whether the loss does not depend on it.

  The answer is read from a graph, which holds both branches of a condition.

  Args:
    loss: maps values and a seed to a scalar.
    values: the values of all trainable variables.

  Raises:
    ValueError: if the loss cannot be differentiated, or draws at random or stores
      something in a way that no seed controls.
  """

  def gradients(values, seed):
    with tf.GradientTape() as tape:
      tape.watch(values)
      result = loss(values, seed)
    with explained("differentiate the loss"):
      found.extend(tape.gradient(result, values))
    return result

  found = []
  function = tf.function(gradients, autograph=False)
  _check_stateless(function.get_concrete_function(values, seeds.make(0)).graph)
  return [gradient is None for gradient in found]


def unreached_warning(model: keras.Model, variables: Sequence[keras.Variable]) -> str:
  """Returns a sentence that names the variables the loss does not reach."""
  paths = [v.path for v in variables]
  more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
  return (
    f"The loss of {model.name} does not reach {', '.join(paths[:_NAMED])}{more};"
    " they stay where they start, as in fit."
  )


def is_constrained(variables: Sequence[keras.Variable]) -> bool:
  """Whether any of the variables has a constraint."""
  return any(v.constraint is not None for v in variables)


def project(
  variables: Sequence[keras.Variable], values: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
  """Applies the variables' constraints to their values, as a Keras optimizer does."""
  pairs = zip(variables, values, strict=True)
  return [x if v.constraint is None else _constrained(v, x) for v, x in pairs]


def _constrained(variable: keras.Variable, value: tf.Tensor) -> tf.Tensor:
  """Applies the variable's constraint to a value, with a finite derivative.

  Norms have no derivative at zero, and Keras's constraints give NaN there. So the
  derivative is taken at a point very near to zero instead.
  """

  def apply(value):
    with keras.StatelessScope([(variable, value)]) as scope:
      variable.assign(variable.constraint(variable))
    return scope.get_current_value(variable)

  small = 1e-2 if value.dtype == tf.float16 else 1e-18  # its square is above zero
  nearby = apply(tf.where(value == 0, tf.cast(small, value.dtype), value))
  # The value is exactly the constraint's, as the added difference is zero.
  return tf.stop_gradient(apply(value)) + (nearby - tf.stop_gradient(nearby))


def _check_stateless(graph: tf.Graph) -> None:
  """Raises ValueError if the graph's result depends on more than its inputs."""
  definition = graph.as_graph_def()
  bodies = [definition.node, *(f.node_def for f in definition.library.function)]
  found = {node.op for nodes in bodies for node in nodes if _STATEFUL.match(node.op)}
  # All variables of the model are replaced by tensors. If the graph still holds a seed
  # variable, it belongs to Keras's global generator.
  found |= {v.name for v in graph.variables if SEED in v.name}
  if found:
    raise ValueError(
      "The model draws at random or stores something in a way that cannot be"
      f" repeated ({', '.join(sorted(found))}); give each layer that draws its own"
      " keras.random.SeedGenerator, and keep state in Keras variables."
    )


@contextlib.contextmanager
def explained(action: str) -> Iterator[None]:
  """Turns an error from Keras, which may fill many lines, into one sentence."""
  try:
    yield
  except Exception as error:
    reason = re.sub(r"\x1b\[\d*m", "", str(error)).split("Arguments received")[0]
    raise ValueError(
      f"keras_model could not {action}: {type(error).__name__},"
      f" {' '.join(reason.split())[:300]!r}."
    ) from error
