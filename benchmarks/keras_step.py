"""Times a step of `LearnedOptimizer` in Keras: the optimizer alone, and the whole step.

The optimizer alone runs against Keras's Adam, the same cell in JAX and in PyTorch
(eager and compiled), and the floor, its matrix products alone; the whole step, with
the model's own work, against Adam's. Before that, all prove that they compute the
same; after it, the peak of memory of one step is measured for several block sizes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import contest
import keras
import memory
import numpy as np
import tensorflow as tf

from l2l_tf import devices
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import CoordinatewiseLSTM

_BATCH = 64
_TOLERANCE = 1e-4
_BLOCK_SIZES = [None, 1 << 14, 1 << 12]


class Case(NamedTuple):
  """A model and how often its steps are timed."""

  build: Callable[[], keras.Model]
  rounds: int


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


_CASES = {"mlp": Case(mlp, 30), "conv_net": Case(conv_net, 10)}


def main() -> None:
  args = _parse_args()
  contest.limit_threads(args.threads)
  case = _CASES[args.case]
  if args.memory_of is not None:
    print(json.dumps(_peak(case, args.memory_of or None, args.jit_compile)))
    return
  others = {n: contest.import_other(n, m) for n, m in contest.OTHERS.items()}
  rounds = args.rounds or case.rounds
  contest.print_header(args.case, rounds, args.threads, list(others.values()))
  print(f"{case.build().count_params():,} parameters, a batch of {_BATCH}\n")
  contenders = _optimizers(case, others)
  contest.report("optimizer step", *contest.take_turns(contenders, rounds))
  print()
  whole = {"l2l_tf": _whole_step(case, _learned()), "Adam": _whole_step(case, "adam")}
  contest.report("whole step", *contest.take_turns(whole, rounds))
  _report_memory(args)


def _parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--case", choices=_CASES, default="mlp")
  contest.add_flags(parser)
  parser.add_argument("--memory_of", type=int, help=argparse.SUPPRESS)
  parser.add_argument("--jit_compile", action="store_true", help=argparse.SUPPRESS)
  return parser.parse_args()


def _lstm() -> CoordinatewiseLSTM:
  return CoordinatewiseLSTM((20, 20), output_scale=1.0)


def _learned(block_size: int | None = 1 << 14) -> LearnedOptimizer:
  return LearnedOptimizer(_lstm(), block_size=block_size)


def _optimizers(case: Case, others: dict[str, Any]) -> dict[str, Callable[[int], Any]]:
  """Returns one step of each optimizer, from gradients at hand."""
  shapes = [tuple(v.shape) for v in case.build().trainable_variables]
  grads = [_normal(shape, i) for i, shape in enumerate(shapes)]
  flat = np.concatenate([g.ravel() for g in grads])
  weights = [v.numpy() for v in _lstm().trainable_variables]
  jax, torch = others["jax"], others["torch"]
  cells = {
    "jax": jax.OptimizerSteps(weights, len(flat)),
    "torch": torch.OptimizerSteps(weights, len(flat)),
    "torch.compile": torch.OptimizerSteps(weights, len(flat), is_compiled=True),
  }
  learned, variables = _keras_step(_learned(), shapes, grads)
  compiled, by_xla = _keras_step(_learned(), shapes, grads, jit_compile=True)
  for _ in range(2):
    learned()
    compiled()
    moved = {name: np.array(step(flat)) for name, step in cells.items()}
  own, moved["l2l_tf, XLA"] = (
    np.concatenate([np.ravel(v) for v in each]) for each in (variables, by_xla)
  )
  for name, theta in moved.items():
    _check(name, theta, own)
  adam, _ = _keras_step(keras.optimizers.Adam(), shapes, grads)
  return {
    "l2l_tf": lambda turn: learned(),
    "l2l_tf, XLA": lambda turn: compiled(),
    **{name: lambda turn, step=step: step(flat) for name, step in cells.items()},
    "Adam": lambda turn: adam(),
    "floor": _floor(len(flat)),
  }


def _keras_step(optimizer, shapes, grads, jit_compile=False):
  """Returns a compiled step of a Keras optimizer on given gradients."""
  variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in shapes]
  grads = [tf.constant(g) for g in grads]

  @tf.function(autograph=False, jit_compile=jit_compile)
  def step():
    optimizer.apply(grads, variables)
    return variables[-1].value.read_value()

  return lambda: step().numpy(), variables


def _check(name: str, theta: np.ndarray, own: np.ndarray) -> None:
  error = np.linalg.norm(theta - own) / np.linalg.norm(own)
  print(f"{name} and l2l_tf agree after two steps to {error:.1e}", flush=True)
  if not error < _TOLERANCE:
    raise SystemExit(f"{name} differs from l2l_tf: their times would say nothing.")


def _floor(num_parameters: int) -> Callable[[int], Any]:
  """Returns the matrix products of one step, on all cores, and nothing else."""
  ends = [end for _, end in devices.shards(num_parameters, num_parameters)]
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

  return lambda turn: [x[-1].numpy() for x in run()]


def _whole_step(case: Case, optimizer) -> Callable[[int], Any]:
  """Returns `train_on_batch` of the compiled model."""
  model = case.build()
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  model.compile(optimizer, loss)
  images = _normal((_BATCH, 28, 28, 1), 0)
  labels = np.arange(_BATCH) % 10
  return lambda turn: model.train_on_batch(images, labels)


def _report_memory(args: argparse.Namespace) -> None:
  """Measures each block size in a process of its own."""
  print("\nMemory of optimizer steps: their state, and the peak of all else that they")
  print("hold, compilation included; seconds of the first step")
  command = [sys.executable, __file__, "--case", args.case, "--memory_of"]
  for flags in [], ["--jit_compile"]:
    for size in _BLOCK_SIZES:
      whole = [*command, str(size or 0), *flags]
      run = subprocess.run(whole, capture_output=True, check=True)
      state, rest, seconds = json.loads(run.stdout.splitlines()[-1])
      print(
        f"block_size={size!s:6}{state:9.0f} MiB{rest:9.0f} MiB{seconds:9.1f} s ",
        *flags,
        flush=True,
      )


def _peak(case: Case, block_size: int | None, jit_compile: bool) -> list[float]:
  shapes = [tuple(v.shape) for v in case.build().trainable_variables]
  grads = [_normal(shape, i) for i, shape in enumerate(shapes)]
  before = memory.held()
  optimizer = _learned(block_size)
  step, _ = _keras_step(optimizer, shapes, grads, jit_compile)
  start = time.perf_counter()
  peaks = [memory.peak(step)]
  seconds = time.perf_counter() - start
  peaks += [memory.peak(step) for _ in range(3)]
  state = sum(v.value.numpy().nbytes for v in optimizer.variables) / 2**20
  return [state, max(peaks) - before - state, seconds]


def _normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
  return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


if __name__ == "__main__":
  main()
