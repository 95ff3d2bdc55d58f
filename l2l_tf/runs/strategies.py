"""The strategy that shares out a command's work, by its name.

The cluster of several workers is what `TF_CONFIG` says, or SLURM where that is not set.
"""

import json
import os
from typing import Any

import tensorflow as tf

from l2l_tf.runs.settings import STRATEGIES

_MIRRORED, _MULTI_WORKER = STRATEGIES
_EXAMPLE = (
  '{"cluster": {"worker": ["host1:2222", "host2:2222"]},'
  ' "task": {"type": "worker", "index": 0}}'
)


class StrategyError(ValueError):
  """The devices or workers are not there, or not described as they should be."""


def build(name: str | None) -> tf.distribute.Strategy | None:
  """Returns the strategy of that name, None for None.

  That of several workers waits for the others, and has to be built before TensorFlow
  computes anything.

  Args:
    name: one of `settings.STRATEGIES`.

  Raises:
    StrategyError: without two GPUs for "mirrored", or if the cluster of "multi_worker"
      is not described well.
  """
  if name is None:
    return None
  return _mirrored() if name == _MIRRORED else _multi_worker()


def _mirrored() -> tf.distribute.Strategy:
  gpus = tf.config.list_logical_devices("GPU")
  if len(gpus) < 2:
    raise StrategyError(
      f"strategy={_MIRRORED} shares out work over the GPUs of this machine, and"
      f" TensorFlow finds {len(gpus)}; leave it out, or start several workers with"
      f" l2l-launch and strategy={_MULTI_WORKER}."
    )
  return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])


def _multi_worker() -> tf.distribute.Strategy:
  if "TF_CONFIG" not in os.environ and "SLURM_JOB_ID" in os.environ:
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver()
  else:
    _check(os.environ.get("TF_CONFIG"))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
  return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


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
    index = task["index"] + (len(cluster.get("chief", [])) * (task["type"] != "chief"))
    return workers, index
  except (TypeError, KeyError, AttributeError):
    return None, None
