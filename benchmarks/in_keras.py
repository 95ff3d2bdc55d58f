"""Steps of Keras's optimizers, l2l_tf's among them, as contenders."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import memory
import numpy as np
import tensorflow as tf

from l2l_tf import cores
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import CoordinatewiseLSTM, GeneralRule

_BATCH = 64
_BLOCK_SIZE = 1 << 14
_PROVEN_STEPS = 5
_VERSION = f"tensorflow {tf.__version__}, keras {keras.__version__}"


def mlp() -> keras.Model:
  """784-125-10: 99,385 parameters."""
  layers = [keras.layers.Flatten(), keras.layers.Dense(125, "relu")]
  return keras.Sequential([keras.Input([28, 28, 1]), *layers, keras.layers.Dense(10)])


def conv_net() -> keras.Model:
  """Two convolutions and two dense layers: 1,000,690 parameters."""
  layers = [keras.Input([28, 28, 1])]
  for filters in (32, 64):
    layers.append(keras.layers.Conv2D(filters, 3, padding="same", activation="relu"))
    layers.append(keras.layers.MaxPooling2D())
  layers += [keras.layers.Flatten(), keras.layers.Dense(312, "relu")]
  return keras.Sequential([*layers, keras.layers.Dense(10)])


def transformer() -> keras.Model:
  """Ten blocks of 128 features on 784 pixels in 28 rows: 1,987,722 parameters."""
  inputs = x = keras.Input([28, 28, 1])
  x = keras.layers.Dense(128)(keras.layers.Reshape([28, 28])(x))
  for _ in range(10):
    y = keras.layers.LayerNormalization()(x)
    x += keras.layers.MultiHeadAttention(8, 16)(y, y)
    y = keras.layers.Dense(512, "relu")(keras.layers.LayerNormalization()(x))
    x += keras.layers.Dense(128)(y)
  x = keras.layers.GlobalAveragePooling1D()(x)
  return keras.Model(inputs, keras.layers.Dense(10)(x))


def wide() -> keras.Model:
  """Three dense layers of 2,048 units on 784 pixels: 10,020,874 parameters."""
  layers = [keras.layers.Dense(2048, "relu") for _ in range(3)]
  flat = keras.layers.Flatten()
  return keras.Sequential(
    [keras.Input([28, 28, 1]), flat, *layers, keras.layers.Dense(10)]
  )


_MODELS = {
  "mlp": mlp,
  "conv_net": conv_net,
  "transformer": transformer,
  "wide": wide,
}


class Steps:
  """An optimizer alone; a turn is a compiled step from gradients at hand."""

  version = _VERSION

  def __init__(self, model: str, optimizer: str, jit_compile: bool = False):
    """Takes names: a model's, and "l2l_tf", "Adam", or one in `structured.py`."""
    self._shapes, self._arguments = _shapes(model), (optimizer, jit_compile)
    self._grads = [_normal(shape, i) for i, shape in enumerate(self._shapes)]
    self._step, self._variables = _keras_step(
      _optimizer(optimizer), self._shapes, self._grads, jit_compile
    )

  def turn(self, index: int) -> None:
    self._step()

  def answers(self) -> dict[str, np.ndarray]:
    """Takes two steps; returns the parameters."""
    self._step()
    self._step()
    return {"parameters after two steps": _joined(self._variables)}

  def updates(self) -> dict[str, np.ndarray]:
    """Returns those of a fresh optimizer's steps, on gradients that are never alike."""
    name, jit_compile = self._arguments
    optimizer, variables = _optimizer(name), _variables(self._shapes)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step(grads):
      optimizer.apply(grads, variables)

    found = {}
    for t in range(_PROVEN_STEPS):
      before = _joined(variables)
      grads = [_normal(shape, [t, i]) for i, shape in enumerate(self._shapes)]
      step([tf.constant(0.5**t * g) for g in grads])
      found[f"updates of step {t + 1}"] = _joined(variables) - before
    return found

  def reference(self) -> dict[str, Any]:
    """Returns the LSTM's weights, the gradients, and the answers expected of others."""
    return {
      "weights": [v.numpy() for v in _lstm().trainable_variables],
      "gradients": np.concatenate([g.ravel() for g in self._grads]),
      "answers": self.answers(),
    }


class WholeSteps:
  """`train_on_batch` of a compiled model."""

  version = _VERSION

  def __init__(self, model: str, optimizer: str):
    """Takes names, as `Steps` does."""
    self._model = _MODELS[model]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    self._model.compile(_optimizer(optimizer), loss)
    self._images = _normal((_BATCH, 28, 28, 1), 0)
    self._labels = np.arange(_BATCH) % 10

  def turn(self, index: int) -> None:
    self._model.train_on_batch(self._images, self._labels)


class Floor:
  """The matrix products of one step, on all cores, and nothing else."""

  version = _VERSION

  def __init__(self, num_parameters: int):
    ends = [end for _, end in cores.shards(num_parameters, num_parameters)]
    sizes = np.diff([0, *ends])
    heights = [(80, 1 + 20), (80, 20 + 20), (1, 20)]  # rows and columns of the weights
    weights = [tf.constant(_normal(h, i)) for i, h in enumerate(heights)]
    inputs = [[tf.constant(_normal((k, n), k)) for _, k in heights] for n in sizes]

    @tf.function(jit_compile=True, autograph=False)
    def shard(inputs):
      return [tf.matmul(w, x) for w, x in zip(weights, inputs)]

    @tf.function(autograph=False)
    def run():
      return [shard(x) for x in inputs]

    self._run = run

  def turn(self, index: int) -> None:
    for products in self._run():
      products[-1].numpy()


class Memory:
  """Measures steps in a process that has done nothing else."""

  version = _VERSION

  def __init__(self, model: str):
    self._shapes = _shapes(model)
    self._grads = [_normal(shape, i) for i, shape in enumerate(self._shapes)]

  def peak(self, block_size: int | None, jit_compile: bool) -> list[float]:
    """Returns MiB of the state and of all else, and seconds of the first step."""
    before = memory.held()
    optimizer = LearnedOptimizer(_lstm(), block_size=block_size)
    step, _ = _keras_step(optimizer, self._shapes, self._grads, jit_compile)
    start = time.perf_counter()
    peaks = [memory.peak(step)]
    seconds = time.perf_counter() - start
    peaks += [memory.peak(step) for _ in range(3)]
    state = sum(v.value.numpy().nbytes for v in optimizer.variables) / 2**20
    return [state, max(peaks) - before - state, seconds]


def _lstm() -> CoordinatewiseLSTM:
  return CoordinatewiseLSTM((20, 20), output_scale=1.0)


def _optimizer(name: str) -> Any:
  if name in ("Adam", "Muon"):
    return getattr(keras.optimizers, name)()
  if name in ("GeneralRule", "without_blocks"):
    rule = GeneralRule(32 if name == "GeneralRule" else None)
    return LearnedOptimizer(rule, total_steps=1000)
  if name == "l2l_tf":
    return LearnedOptimizer(_lstm(), block_size=_BLOCK_SIZE)
  import structured  # Another checkout that is compared may lack what it imports.

  return structured.optimizer(name)


def _keras_step(
  optimizer, shapes, grads, jit_compile
) -> tuple[Callable[[], Any], list[keras.Variable]]:
  """Returns a compiled step of a Keras optimizer on given gradients."""
  variables = _variables(shapes)
  grads = [tf.constant(g) for g in grads]

  @tf.function(autograph=False, jit_compile=jit_compile)
  def step():
    optimizer.apply(grads, variables)
    return variables[-1].value.read_value()

  return lambda: step().numpy(), variables


def _shapes(model: str) -> list[tuple[int, ...]]:
  return [tuple(v.shape) for v in _MODELS[model]().trainable_variables]


def _variables(shapes: Sequence[tuple[int, ...]]) -> list[keras.Variable]:
  return [keras.Variable(np.zeros(shape, np.float32)) for shape in shapes]


def _joined(variables: Sequence[keras.Variable]) -> np.ndarray:
  return np.concatenate([np.ravel(v) for v in variables])


def _normal(shape: tuple[int, ...], seed: int | Sequence[int]) -> np.ndarray:
  return np.random.RandomState(seed).normal(size=shape).astype(np.float32)
