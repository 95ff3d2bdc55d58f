"""How many compiled calls can run side by side.

A compiled call of the sizes met here keeps one core of a CPU busy, so work is split
into as many calls as there are cores; a GPU takes it whole.
"""

import itertools
import os
from collections.abc import Iterator

import tensorflow as tf


def on_gpu() -> bool:
  """Whether TensorFlow has a GPU."""
  return bool(tf.config.list_logical_devices("GPU"))


def num_shards() -> int:
  """Returns into how many parts to split work: the cores that this process may use."""
  if on_gpu():
    return 1
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def shards(size: int, most: int) -> Iterator[tuple[int, int]]:
  """Yields (begin, end) of at most `most` even parts of `range(size)`."""
  count = max(1, min(num_shards(), size, most))
  yield from itertools.pairwise(size * i // count for i in range(count + 1))
