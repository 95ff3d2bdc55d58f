"""Meta-training in one process on one core, alone or as a worker of several.

TensorFlow is imported only once the process is where it shall be: it counts the cores,
reads TF_CONFIG and looks at the network when it starts.
"""

import ctypes
import functools
import json
import os
import pathlib
import time
from typing import NamedTuple

_CLONE_NEWNET = 0x40000000


class Place(NamedTuple):
  """Where a process runs, and with whom it works."""

  core: int
  index: int = 0  # of this worker
  addresses: tuple[str, ...] = ()  # of all workers; none for a process by itself
  namespace: str | None = None  # of the network, by the name that `ip netns` knows


class Setting(NamedTuple):
  """What is trained: a meta-batch of nets on digits."""

  meta_batch_size: int = 16
  num_steps: int = 100
  unroll_length: int = 20
  units: int = 20  # of the optimizee's hidden layer
  layers: tuple[int, ...] = (20, 20)  # of the optimizer


class Worker:
  """A process that trains when it is told to, and sleeps on its pipe meanwhile."""

  def __init__(self, place: Place):
    if place.namespace is not None:
      enter(place.namespace)
    os.sched_setaffinity(0, {place.core})
    if place.addresses:
      _describe(place)
    from l2l_tf.runs import quiet  # noqa: F401 isort: skip
    import tensorflow as tf

    several = tf.distribute.MultiWorkerMirroredStrategy
    self._strategy = several() if place.addresses else None
    self._trainer, self._episode = None, 0
    self.version = f"tensorflow {tf.__version__}"

  def prepare(self, setting: Setting) -> int:
    """Makes a trainer, compiles what it needs; returns the number of phi's weights."""
    from l2l_tf.meta.trainer import MetaTrainer
    from l2l_tf.optimizers import CoordinatewiseLSTM
    from l2l_tf.problems import digits_mlp

    optimizer = CoordinatewiseLSTM(setting.layers, "log_and_sign", 0.1)
    self._trainer = MetaTrainer(
      digits_mlp([setting.units]),
      optimizer,
      num_steps=setting.num_steps,
      unroll_length=setting.unroll_length,
      meta_batch_size=setting.meta_batch_size,
      strategy=self._strategy,
    )
    self.train(1)
    return sum(v.shape.num_elements() for v in optimizer.trainable_variables)

  def lengthen(self, num_steps: int, unroll_length: int) -> None:
    """Changes the lengths of the trainer's later episodes and windows."""
    self._trainer.num_steps, self._trainer.unroll_length = num_steps, unroll_length
    self.train(1)

  def train(self, num_episodes: int) -> float:
    """Returns the seconds that so many episodes took."""
    start = time.perf_counter()
    for _ in range(num_episodes):
      self._trainer.train_episode(self._episode)
      self._episode += 1
    return time.perf_counter() - start

  def reduce(self, size: int, count: int) -> float:
    """Returns the seconds of one sum of `size` floats over all workers."""
    import tensorflow as tf

    vector, count = tf.zeros([size]), tf.constant(count)
    self._sums(vector, tf.constant(2))
    start = time.perf_counter()
    self._sums(vector, count).numpy()
    return (time.perf_counter() - start) / int(count)

  @functools.cached_property
  def _sums(self):
    import tensorflow as tf

    from l2l_tf.meta.replicas import Replicas

    replicas = Replicas(self._strategy)

    @tf.function(autograph=False)
    def sums(vector, count):
      again = lambda i, x: (i + 1, replicas.sum([x]) / replicas.count)
      return tf.while_loop(lambda i, _: i < count, again, (0, vector))[1]

    return sums

  def sent(self, device: str) -> tuple[int, int]:
    """Returns the bytes, and the packets, that a network device has sent so far."""
    lines = pathlib.Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    rows = [line.replace(":", " ").split() for line in lines]
    return next((int(row[9]), int(row[10])) for row in rows if row[0] == device)


def enter(namespace: str) -> None:
  """Moves this thread, and the threads that it will start, to another network."""
  libc = ctypes.CDLL(None, use_errno=True)
  with open(f"/run/netns/{namespace}") as file:
    if libc.setns(file.fileno(), _CLONE_NEWNET):
      raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")


def _describe(place: Place) -> None:
  """Tells TensorFlow of the other workers."""
  cluster = {"worker": list(place.addresses)}
  task = {"type": "worker", "index": place.index}
  os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
