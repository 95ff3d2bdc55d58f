"""How many cores each part of the work may use.

An XLA call of the sizes that occur here keeps one CPU core busy, so work is split into
as many calls as there are cores; a GPU gets it in one call. Code that splits its work
gives each part a share of the cores, so that nested splits do not add up to more calls
than there are cores.
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
  """Returns the number of cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def num_shards() -> int:
  """Returns how many parts to split work into, here in the trace of a graph."""
  return 1 if on_gpu() else max(1, available() // _share.get())


@contextlib.contextmanager
def shared_by(count: int) -> Iterator[None]:
  """Gives what is traced in this context one of `count` equal shares of the cores."""
  token = _share.set(_share.get() * count)
  try:
    yield
  finally:
    _share.reset(token)


def shards(size: int, most: int) -> Iterator[tuple[int, int]]:
  """Splits `range(size)` into at most `most` even parts; yields their (begin, end)."""
  count = max(1, min(num_shards(), size, most))
  yield from itertools.pairwise(size * i // count for i in range(count + 1))
