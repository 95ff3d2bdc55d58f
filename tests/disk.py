"""Disks as tests need them: one that is full, and one that nobody may touch."""

import contextlib
import os
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


@contextlib.contextmanager
def read_only(path):
  """A folder in which nothing can be made or replaced, not by root either."""
  user, mode = os.geteuid(), path.stat().st_mode
  path.chmod(0o555)
  try:
    if user == 0:
      os.seteuid(65534)  # Root may write anywhere.
    yield
  finally:
    os.seteuid(user)
    path.chmod(mode)
