"""Imports TensorFlow without its start-up notices. Import this module first.

TensorFlow announces on stderr, before any log level applies, that oneDNN is on
and that there is no GPU; a reader would take these lines for problems.
"""

import os
import re
import signal
import sys
from typing import NoReturn

_NOTICES = re.compile(
  rb"log messages before absl::InitializeLog|oneDNN custom operations"
  rb"|Could not find cuda drivers|failed call to cuInit|rebuild TensorFlow with"
  rb"|optimized to use available CPU instructions"
)


_CLUSTERS = {"TF_CONFIG", "SLURM_JOB_ID"}  # set where there may be other workers


def _import_tensorflow() -> None:
  """Imports TensorFlow, with stderr passing through a filter.

  The filter is a process of its own, so that it still shows the last lines of an import
  that crashes, for example on a processor without AVX.
  """
  if "tensorflow" in sys.modules:
    return
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  sys.stderr.flush()
  stderr = os.dup(2)
  reader, writer = os.pipe()
  child = os.fork()
  if child == 0:
    os.close(writer)
    _filter(reader)
  os.close(reader)
  os.dup2(writer, 2)
  os.close(writer)
  try:
    import tensorflow as tf

    tf.config.list_physical_devices("GPU")
    if not _CLUSTERS & os.environ.keys():  # It has to be joined before computing.
      tf.zeros([])
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.waitpid(child, 0)


def _filter(reader: int) -> NoReturn:
  """Copies all lines but the notices to stderr, until its input ends."""
  try:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(reader, "rb") as lines:
      for line in lines:
        if not _NOTICES.search(line):
          os.write(2, line)
  finally:
    os._exit(0)


_import_tensorflow()
