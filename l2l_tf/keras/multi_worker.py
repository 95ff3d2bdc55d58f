"""Lets `fit` and `evaluate` run on several workers, with any optimizer.

Keras 3 (seen up to 3.15) stops under `tf.distribute.MultiWorkerMirroredStrategy` before
the first step, twice: it averages a whole batch over the workers, only to learn its
shapes, and it averages the logs along an axis that scalars do not have.
"""

from typing import Any

import keras
import tensorflow as tf


def for_workers(model: keras.Model) -> keras.Model:
  """Lets `fit` and `evaluate` of a model run on several workers.

  >>> strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before all else
  >>> with strategy.scope():
  ...   model = l2l_tf.keras.for_workers(build_model())
  ...   model.compile(LearnedOptimizer("general"), loss="mse")
  >>> history = model.fit(x, y, verbose=0)

  Every worker runs the same program on the same data; `batch_size` is that of all
  together, and each takes its share of every batch. A batch that the workers cannot
  share equally, such as the last of an epoch, counts as the mean of their means.

  `keras.callbacks.BackupAndRestore` needs one directory that all workers read and only
  the first one writes, as in `examples/multi_worker_fit.py`: with backups of their own
  the workers of a training that was killed may go on from different epochs.

  Args:
    model: made in the scope of its strategy. If that does not span several processes,
      nothing is changed.

  Returns:
    The model.
  """
  strategy = model.distribute_strategy
  if not _spans_processes(strategy):
    return model
  train_step, test_step = model.train_step, model.test_step
  model.train_step = lambda data: _with_axis(train_step(data))
  model.test_step = lambda data: _with_axis(test_step(data))
  build = model._maybe_symbolic_build
  share = lambda x: strategy.experimental_local_results(x)[0]

  def build_from_share(iterator: Any = None, data_batch: Any = None) -> None:
    if iterator is not None:
      *_, batches = next(iter(iterator))
      data_batch = keras.tree.map_structure(share, next(batches))
    build(data_batch=data_batch)

  model._maybe_symbolic_build = build_from_share
  return model


def _spans_processes(strategy: tf.distribute.Strategy) -> bool:
  is_multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
  return is_multi_worker and strategy.num_replicas_in_sync > len(
    strategy.extended.worker_devices
  )


def _with_axis(logs: Any) -> Any:
  """Gives scalars an axis, along which Keras averages those of all workers."""
  return keras.tree.map_structure(lambda x: tf.convert_to_tensor(x)[tf.newaxis], logs)
