"""Imports TensorFlow without its start-up notices. Import this module first.

TensorFlow announces on stderr, before any log level applies, that oneDNN is on
and that there is no GPU; a reader would take these lines for problems.
"""

import os
import re
import sys
import tempfile

_NOTICES = re.compile(
  rb"log messages before absl::InitializeLog|oneDNN custom operations"
  rb"|Could not find cuda drivers|failed call to cuInit|rebuild TensorFlow with"
  rb"|optimized to use available CPU instructions"
)


def _import_tensorflow() -> None:
  """Holds back what the import writes to stderr; shows all but the notices."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      import tensorflow as tf

      tf.config.list_physical_devices("GPU")
      tf.zeros([])
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
      held.seek(0)
      kept = [line for line in held if not _NOTICES.search(line)]
      os.write(2, b"".join(kept))


_import_tensorflow()
