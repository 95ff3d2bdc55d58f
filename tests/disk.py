"""Disks as tests need them: one that is full, and one that nobody may touch."""

import contextlib
import resource


@contextlib.contextmanager
def largest_file(num_bytes):
  """A disk on which no file can grow beyond `num_bytes`."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def unchanged(path):
  """Whatever happens inside, no file below `path` is another one after it."""

  def state():
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in path.rglob("*")}

  before = state()
  yield
  assert state() == before
