"""What share of the machine's arithmetic and memory bandwidth an epoch reaches."""

import time
from collections.abc import Callable, Sequence

import tensorflow as tf

from l2l_tf import cores

_FLOATS = 1 << 26  # 256 MiB
_TRIALS = 5


def report(
  seconds: float, num_coordinates: int, num_steps: int, layers: Sequence[int]
) -> None:
  """Prints the shares, of peaks that are measured here and now.

  Args:
    seconds: of an epoch.
    num_coordinates: of the optimizee.
    num_steps: of the epoch.
    layers: units of the LSTM's layers, which reads one feature.
  """
  side = 8192 if cores.on_gpu() else 2048
  a, x = tf.random.stateless_normal([side, side], [0, 0]), tf.ones([_FLOATS])
  product = tf.function(lambda: tf.matmul(a, a)[0, 0], autograph=False)
  addition = tf.function(lambda: (x + 1.0)[0], autograph=False)
  flops = 2 * side**3 / _fastest(lambda: product().numpy())
  bandwidth = 2 * 4 * _FLOATS / _fastest(lambda: addition().numpy())
  count = num_coordinates * num_steps / seconds
  arithmetic = count * _flops(layers) / flops
  traffic = count * _bytes(layers) / bandwidth
  print(
    f"\nThe products of an epoch of l2l_tf reach {arithmetic:.0%} of the"
    f" {flops / 1e9:,.0f} GFLOP/s of a product\nof {side:,} x {side:,}; its least"
    f" traffic {traffic:.0%} of the {bandwidth / 1e9:,.0f} GB/s of an addition to"
    " 256 MiB."
  )
  if not cores.on_gpu():
    print("No GPU: these are the processor's, and a GPU's shares are open.")


def _flops(layers: Sequence[int]) -> int:
  """Of a coordinate and step: the LSTM forwards twice, and twice that backwards."""
  sizes = zip([1, *layers], layers)
  return 4 * 2 * (sum(4 * n * (m + n) for m, n in sizes) + layers[-1])


def _bytes(layers: Sequence[int]) -> int:
  """Of a coordinate and step: state in and out, a gradient recorded and read."""
  return 4 * (2 * 2 * sum(layers) + 2)


def _fastest(function: Callable) -> float:
  function()
  seconds = []
  for _ in range(_TRIALS):
    start = time.perf_counter()
    function()
    seconds.append(time.perf_counter() - start)
  return min(seconds)
