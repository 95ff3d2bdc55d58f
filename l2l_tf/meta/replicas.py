"""Training that is shared out over devices and processes, by `tf.distribute`.

A replica is a device that takes a share of an update's tasks, or of its lanes. Sums
over the shares are the same as over all, but for rounding. Between processes they are
all that travels in an update: a vector with an entry for each weight of the optimizer,
and a few for the logs, whatever the size of what is optimized.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

_KINDS = (
  tf.distribute.MirroredStrategy,
  tf.distribute.MultiWorkerMirroredStrategy,
  tf.distribute.OneDeviceStrategy,
)


_Result = TypeVar("_Result")


class Share(NamedTuple):
  """What one replica takes of some tasks, or lanes."""

  begin: int
  end: int
  device: str | None  # None: wherever TensorFlow puts it

  @property
  def size(self) -> int:
    return self.end - self.begin


class ReplicaError(RuntimeError):
  """The processes of a training cannot go on together."""


class Replicas:
  """The replicas of a strategy, of which this process holds one or more.

  >>> from l2l_tf.meta.replicas import Replicas
  >>> replicas = Replicas()
  >>> replicas.count, replicas.is_chief, replicas.shares(5)
  (1, True, [Share(begin=0, end=5, device=None)])

  Attributes:
    count: of the replicas of all processes.
  """

  def __init__(self, strategy: tf.distribute.Strategy | None = None):
    """Asks the strategy which replicas are of this process.

    Args:
      strategy: a `MirroredStrategy` or a `MultiWorkerMirroredStrategy`; None for one
        replica, of this process.

    Raises:
      ValueError: for anything else.
    """
    if strategy is not None and not isinstance(strategy, _KINDS):
      raise ValueError(
        f"strategy={strategy!r} is not supported; give a"
        " tf.distribute.MirroredStrategy, a tf.distribute.MultiWorkerMirroredStrategy,"
        " or None."
      )
    self._strategy = strategy
    self.count, self._own, self._devices = 1, [0], [None]
    self._compiled: dict[tf.DType, Any] = {}
    if strategy is not None:
      self.count = strategy.num_replicas_in_sync
      ids = tf.function(lambda: strategy.run(_replica_id), autograph=False)()
      self._own = [int(i) for i in strategy.experimental_local_results(ids)]
    if len(self._own) > 1:
      self._devices = list(strategy.extended.worker_devices)

  @property
  def is_chief(self) -> bool:
    """Whether this process writes the files: it holds the first replica."""
    return self._own[0] == 0

  @property
  def spans_processes(self) -> bool:
    return self.count > len(self._own)

  @property
  def num_processes(self) -> int:
    return self.count // len(self._own)

  def own_part(self, size: int) -> tuple[int, int]:
    """Returns (begin, end) of what this process runs of independent pieces of work."""
    index, count = self._own[0] // len(self._own), self.num_processes
    return size * index // count, size * (index + 1) // count

  def shares(self, size: int, what: str = "tasks") -> list[Share]:
    """Returns the shares of this process's replicas, which differ by one at most.

    Args:
      size: of all that is shared out.
      what: that is, for an error.

    Raises:
      ValueError: if there are more replicas than can have a share.
    """
    if size < self.count:
      raise ValueError(
        f"{self.count} replicas cannot share out {size} {what}; give each of them at"
        " least one, or use fewer devices or workers."
      )
    cut = lambda i: size * i // self.count
    own = zip(self._own, self._devices, strict=True)
    return [Share(cut(i), cut(i + 1), device) for i, device in own]

  def sum(self, nests: Sequence[Any]) -> Any:
    """Returns the sum over all replicas, in all processes.

    Args:
      nests: of tensors, one for each replica of this process.
    """
    add = lambda *x: tf.add_n(x) if len(x) > 1 else x[0]
    total = tf.nest.map_structure(add, *nests)
    return self._over_processes(total) if self.spans_processes else total

  def gathered(self, part: Any, share: tuple[int, int], size: int) -> Any:
    """Returns what all processes hold of arrays, in order, to each of them.

    Args:
      part: a nest of numeric tensors, each with this process's entries along the
        first axis.
      share: the (begin, end) of these entries.
      size: of that axis in all.
    """
    if not self.spans_processes:
      return part
    begin, end = share

    def padded(x):
      before = tf.zeros([begin, *x.shape[1:]], x.dtype)
      after = tf.zeros([size - end, *x.shape[1:]], x.dtype)
      return tf.concat([before, x, after], axis=0)

    return self._over_processes(tf.nest.map_structure(padded, part))

  def from_chief(self, nest: Any) -> Any:
    """Returns the chief's values, to every process."""
    if not self.spans_processes:
      return nest
    keep = 1 if self.is_chief else 0
    chosen = lambda x: x if keep else tf.zeros_like(x)
    return self._over_processes(tf.nest.map_structure(chosen, nest))

  def led(self, function: Callable[[], _Result]) -> _Result | None:
    """Calls a function in the chief alone; if that fails, all processes fail.

    Returns:
      In the chief, what the function does.

    Raises:
      ReplicaError: in the others, if the chief has raised an error.
    """
    result, error = None, None
    if self.is_chief:
      try:
        result = function()
      except Exception as e:
        error = e
    if self.any(error is not None):
      with contextlib.suppress(tf.errors.OpError):
        self.any(True)  # The chief stays until the others know.
      raise error or ReplicaError("The chief has ended with an error; it says which.")
    return result

  def any(self, value: bool) -> bool:
    """Whether it is true in any process."""
    if not self.spans_processes:
      return value
    return bool(self._over_processes(tf.constant(int(value))) > 0)

  def alike(self, *values: bytes) -> bool:
    """Whether these bytes are the same in all processes."""
    if not self.spans_processes:
      return True
    digest = hashlib.sha256(b"\0".join(values)).digest()
    own = np.frombuffer(digest, np.uint32).astype(np.int64)
    index = self._own[0]
    found = self.gathered(tf.constant(own[np.newaxis]), (index, index + 1), self.count)
    speaking = found.numpy()[np.any(found.numpy() != 0, axis=1)]
    return bool(np.all(speaking == own))

  def _over_processes(self, nest: Any) -> Any:
    """Returns the sum over the processes, in one message for each type of numbers."""
    flat = [tf.convert_to_tensor(x) for x in tf.nest.flatten(nest)]
    summed: list[Any] = [None] * len(flat)
    for dtype in dict.fromkeys(x.dtype for x in flat):
      places = [i for i, x in enumerate(flat) if x.dtype == dtype]
      vector = tf.concat([tf.reshape(flat[i], [-1]) for i in places], axis=0)
      sizes = [tf.size(flat[i]) for i in places]
      for i, piece in zip(places, tf.split(self._all_reduced(vector), sizes)):
        summed[i] = tf.reshape(piece, tf.shape(flat[i]))
        summed[i].set_shape(flat[i].shape)
    return tf.nest.pack_sequence_as(nest, summed)

  def _all_reduced(self, vector: tf.Tensor) -> tf.Tensor:
    if not tf.executing_eagerly():
      return self._reduce(vector)
    dtype = vector.dtype
    if dtype not in self._compiled:  # One for vectors of any length.
      spec = [tf.TensorSpec([None], dtype)]
      self._compiled[dtype] = tf.function(self._reduce, spec, autograph=False)
    return self._compiled[dtype](vector)

  def _reduce(self, vector: tf.Tensor) -> tf.Tensor:
    def reduce():
      # One replica speaks for all of its process.
      speaks = tf.equal(_replica_id(), self._own[0])
      value = tf.where(speaks, vector, tf.zeros_like(vector))
      return tf.distribute.get_replica_context().all_reduce("SUM", value)

    return self._strategy.experimental_local_results(self._strategy.run(reduce))[0]


def _replica_id() -> tf.Tensor | int:
  return tf.distribute.get_replica_context().replica_id_in_sync_group
