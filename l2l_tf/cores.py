"""Who may use how many cores.

A compiled call of the sizes met here keeps one core of a CPU busy, so work is split
into as many calls as there are cores; a GPU takes it whole. Who has split work already
gives each part its share, so that parts within parts do not add up to more calls than
there are cores.
"""

import contextlib
import contextvars
import itertools
import os
from collections.abc import Iterator

import tensorflow as tf

_share: contextvars.ContextVar[int] = contextvars.ContextVar("share", default=1)


def on_gpu() -> bool:
  """Whether TensorFlow has a GPU."""
  return bool(tf.config.list_logical_devices("GPU"))


def available() -> int:
  """Returns the cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def num_shards() -> int:
  """Returns into how many parts to split work here, while a graph is traced."""
  return 1 if on_gpu() else max(1, available() // _share.get())


@contextlib.contextmanager
def shared_by(count: int) -> Iterator[None]:
  """Lets what is traced within use one of `count` equal shares of the cores."""
  token = _share.set(_share.get() * count)
  try:
    yield
  finally:
    _share.reset(token)


def shards(size: int, most: int) -> Iterator[tuple[int, int]]:
  """Yields (begin, end) of at most `most` even parts of `range(size)`."""
  count = max(1, min(num_shards(), size, most))
  yield from itertools.pairwise(size * i // count for i in range(count + 1))
