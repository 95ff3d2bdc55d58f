"""The strategy that shares out a command's work, by its name.

The cluster of several workers is what `TF_CONFIG` says, or SLURM where that is not set.
"""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from l2l_tf.runs.settings import STRATEGIES

_MIRRORED, _MULTI_WORKER = STRATEGIES
_EXAMPLE = (
  '{"cluster": {"worker": ["host1:2222", "host2:2222"]},'
  ' "task": {"type": "worker", "index": 0}}'
)


_WORKER = re.compile(r"/job:\w+/(?:replica:\d+/)?task:(\d+)")
_LOST = (
  tf.errors.UnavailableError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
  tf.errors.DeadlineExceededError,
)
_PATIENCE = 5.0  # seconds before it is said who is waited for


class StrategyError(ValueError):
  """The devices or workers are not there, or not described as they should be."""


class WorkerLost(RuntimeError):
  """Another worker has ended, or cannot be reached any more."""


@contextlib.contextmanager
def joined(
  name: str | None, worker_timeout: float
) -> Iterator[tf.distribute.Strategy | None]:
  """Gives the strategy of that name, None for None, to a block that computes with it.

  That of several workers waits for the others, and has to be made before TensorFlow
  computes anything.

  Args:
    name: one of `settings.STRATEGIES`.
    worker_timeout: seconds to wait for the other workers.

  Raises:
    StrategyError: without two GPUs for "mirrored"; or for "multi_worker", if the
      cluster is not described well, a worker does not come in time, or its port is in
      use.
    WorkerLost: if another worker ends while the block computes.
  """
  if name is None:
    yield None
    return
  strategy = _mirrored() if name == _MIRRORED else _multi_worker(worker_timeout)
  try:
    yield strategy
  except _LOST as e:
    if name == _MIRRORED:
      raise
    raise WorkerLost(_explanation(str(e))) from e


def _explanation(message: str) -> str:
  found = _WORKER.search(message)
  which = "Another worker" if found is None else f"Worker {found[1]}"
  return (
    f"{which} has ended or cannot be reached, so this one ends as well; the same"
    " command, started for all workers, goes on from the last checkpoint, if any."
  )


def _mirrored() -> tf.distribute.Strategy:
  gpus = tf.config.list_logical_devices("GPU")
  if len(gpus) < 2:
    raise StrategyError(
      f"strategy={_MIRRORED} shares out work over the GPUs of this machine, and"
      f" TensorFlow finds {len(gpus)}; leave it out, or start several workers with"
      f" l2l-launch and strategy={_MULTI_WORKER}."
    )
  return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])


def _multi_worker(worker_timeout: float) -> tf.distribute.Strategy:
  if "TF_CONFIG" not in os.environ and "SLURM_JOB_ID" in os.environ:
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver()
  else:
    _check(os.environ.get("TF_CONFIG"))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
  cluster = resolver.cluster_spec().as_dict()
  addresses = [*cluster.get("chief", []), *cluster["worker"]]
  own = cluster[resolver.task_type][resolver.task_id]
  _meet(addresses, addresses.index(own), worker_timeout)
  strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
  if threading.current_thread() is threading.main_thread():
    # TensorFlow has taken SIGTERM for itself, and does nothing when it comes.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
  return strategy


def _meet(addresses: Sequence[str], own: int, seconds: float) -> None:
  """Waits until all workers listen at their ports, which TensorFlow will take over.

  TensorFlow's own waiting has no end, and cannot be interrupted.
  """
  waiting = {i: a for i, a in enumerate(addresses) if i != own}
  start, is_said = time.monotonic(), False
  with _listening(addresses[own]):
    while waiting:
      for i, address in list(waiting.items()):
        if _answers(address):
          del waiting[i]
      waited, missing = time.monotonic() - start, _listed(waiting)
      if waiting and waited > seconds:
        raise StrategyError(
          f"After {seconds:g} seconds there is still no answer from {missing}; check"
          " that it was started, that its address is right and can be reached, or give"
          " a longer --worker_timeout."
        )
      if waiting and waited > _PATIENCE and not is_said:
        print(f"Waiting for {missing}, {seconds:g} s at most.", file=sys.stderr)
        is_said = True
      if waiting:
        time.sleep(0.1)


def _listening(address: str) -> socket.socket:
  """Listens at a worker's own port."""
  port = int(address.rpartition(":")[2])
  try:
    return socket.create_server(("", port))
  except OSError as e:
    raise StrategyError(
      f"Port {port}, which TF_CONFIG gives this worker, cannot be used ({e.strerror});"
      " end the process that has it, or give another port to all workers."
    ) from None


def _answers(address: str) -> bool:
  host, _, port = address.rpartition(":")
  try:
    socket.create_connection((host, int(port)), timeout=1).close()
  except OSError:
    return False
  return True


def _listed(workers: dict[int, str]) -> str:
  return ", ".join(f"worker {i} at {address}" for i, address in workers.items())


def _check(text: str | None) -> None:
  """Refuses a `TF_CONFIG` that TensorFlow would wait for in vain, or ignore."""
  if text is None:
    raise StrategyError(
      f"strategy={_MULTI_WORKER} needs TF_CONFIG, which is not set; start the command"
      f" with l2l-launch --workers=2 -- ..., or set it to {_EXAMPLE}, say."
    )
  try:
    config = json.loads(text)
  except ValueError as e:
    raise StrategyError(f"TF_CONFIG is no JSON ({e}); write {_EXAMPLE}, say.") from None
  workers, index = _described(config)
  is_listed = isinstance(workers, list) and all(isinstance(w, str) for w in workers)
  if not is_listed or not isinstance(index, int) or not 0 <= index < len(workers):
    raise StrategyError(
      f"TF_CONFIG={text!r} does not name this worker among those of a cluster; write"
      f" {_EXAMPLE}, say."
    )


def _described(config: Any) -> tuple[Any, Any]:
  """Returns the cluster's workers, and which of them this one is."""
  try:
    cluster, task = config["cluster"], config["task"]
    workers = [*cluster.get("chief", []), *cluster["worker"]]
    if any(not a.rpartition(":")[2].isdecimal() for a in workers):
      return None, None
    index = task["index"] + (len(cluster.get("chief", [])) * (task["type"] != "chief"))
    return workers, index
  except (TypeError, KeyError, AttributeError):
    return None, None
