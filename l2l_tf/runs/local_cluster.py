"""What each worker of a cluster on this machine is given: a port, cores, TF_CONFIG.

https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable
"""

import contextlib
import itertools
import json
import os
import shutil
import socket
from collections.abc import Sequence

from l2l_tf.runs.settings import LaunchSettings


def check(command: Sequence[str]) -> None:
  """Raises ValueError unless a command can be started as a worker."""
  example = "l2l-launch --workers=2 -- l2l-train --problem=quadratic"
  if not command:
    raise ValueError(
      f"There is no command to start; give it after --, as in {example}."
    )
  if shutil.which(command[0]) is None:
    raise ValueError(
      f"{command[0]!r} is no program that can be started; check its name or path, and"
      " that the file is executable."
    )
  if "TF_CONFIG" in os.environ:
    raise ValueError(
      f"TF_CONFIG is set already, to {os.environ['TF_CONFIG']!r}, and each worker would"
      " get another; unset it, or start the command without l2l-launch."
    )


def ports(settings: LaunchSettings) -> list[int]:
  """Returns a port for each worker, on which nobody listens.

  Raises:
    ValueError: if a port that was chosen cannot be used.
  """
  first, count = settings.port, settings.workers
  if first is not None and first + count - 1 > 65535:
    raise ValueError(
      f"--port={first} leaves no ports for {count} workers, as 65535 is the last one;"
      f" give at most --port={65536 - count}."
    )
  wanted = [0] * count if first is None else range(first, first + count)  # 0: any
  with contextlib.ExitStack() as stack:  # All are bound before the first is released.
    return [_bound(stack.enter_context(socket.socket()), port) for port in wanted]


def _bound(sock: socket.socket, port: int) -> int:
  # Ports of connections that were closed a moment ago can be used again.
  sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    sock.bind(("", port))
  except OSError as e:
    raise ValueError(
      f"Port {port} cannot be used ({e.strerror}); give another --port, or leave it out"
      " for free ones."
    ) from e
  return sock.getsockname()[1]


def shares(settings: LaunchSettings) -> list[set[int] | None]:
  """Returns the cores of each worker; None leaves it all of this process's.

  Raises:
    ValueError: if each shall have its own, and there are too few.
  """
  count, cores = settings.workers, sorted(os.sched_getaffinity(0))
  if settings.pin and len(cores) < count:
    raise ValueError(
      f"{count} workers cannot have cores of their own, as this process may use only"
      f" {len(cores)}; give fewer --workers, or leave out --pin."
    )
  if settings.pin is False or len(cores) < count:
    return [None] * count
  bounds = [len(cores) * i // count for i in range(count + 1)]
  return [set(cores[i:j]) for i, j in itertools.pairwise(bounds)]


def environment(ports: Sequence[int], index: int) -> dict[str, str]:
  """Returns the environment of a worker, in which TF_CONFIG is its own."""
  cluster = {"worker": [f"localhost:{port}" for port in ports]}
  config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
  # Python writes to a pipe rarely otherwise, and the last lines of a crash never.
  return {"PYTHONUNBUFFERED": "1", **os.environ, "TF_CONFIG": json.dumps(config)}
