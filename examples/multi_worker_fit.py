"""A learned optimizer in `fit` on several workers, each with a share of every batch.

  l2l-launch --workers=2 -- python examples/multi_worker_fit.py
  python examples/multi_worker_fit.py                           # as one process

Both end with the same weights, but for rounding. With --backup_dir a training that was
killed goes on with its last epoch when it is started again. On several machines set
TF_CONFIG on each, start the script on each, and let --backup_dir be a directory that
all of them read.
"""

import json
import os
import signal

import keras
import tensorflow as tf
from absl import app, flags

import l2l_tf

_OPTIMIZER = flags.DEFINE_string(
  "optimizer", "general", "A pretrained optimizer, or the path of an exported one."
)
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the data.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Of all workers.", lower_bound=1)
_BACKUP_DIR = flags.DEFINE_string("backup_dir", None, "Where to resume from, if given.")


def main(unused_argv: list[str]) -> None:
  cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))
  is_chief = cluster.get("task", {}).get("index", 0) == 0
  strategy = _strategy(bool(cluster))  # before TensorFlow computes anything
  data = l2l_tf.problems.datasets.digits()

  keras.utils.set_random_seed(0)
  with strategy.scope():
    model = keras.Sequential(
      [
        keras.Input([8, 8, 1]),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
      ]
    )
    l2l_tf.keras.for_workers(model).compile(
      l2l_tf.keras.LearnedOptimizer(_OPTIMIZER.value),
      keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      metrics=["accuracy"],
    )
  callbacks = [_backup(is_chief)] if _BACKUP_DIR.value else []
  if model.optimizer.has_horizon:
    callbacks.append(model.optimizer.fit_callback())
  model.fit(
    data.train_images.numpy(),  # the same on all workers
    data.train_labels.numpy(),
    batch_size=_BATCH_SIZE.value,
    epochs=_EPOCHS.value,
    shuffle=False,  # else a resumed training would see another order
    callbacks=callbacks,
    verbose=2 if is_chief else 0,
  )
  right = tf.argmax(model(data.test_images), axis=1, output_type=tf.int32)
  accuracy = tf.reduce_mean(tf.cast(right == data.test_labels, tf.float32))
  if is_chief:
    print(f"Held-out accuracy: {float(accuracy):.4f}")


def _strategy(has_workers: bool) -> tf.distribute.Strategy:
  if not has_workers:
    return tf.distribute.get_strategy()
  tf.get_logger().setLevel("WARNING")  # It would tell of every reduction.
  strategy = tf.distribute.MultiWorkerMirroredStrategy()
  signal.signal(signal.SIGTERM, signal.SIG_DFL)  # The strategy would ignore it.
  return strategy


def _backup(is_chief: bool) -> keras.callbacks.Callback:
  """All workers restore what the first one writes, so that they agree."""
  options = {} if is_chief else {"save_freq": 2**62, "delete_checkpoint": False}
  return keras.callbacks.BackupAndRestore(_BACKUP_DIR.value, **options)


if __name__ == "__main__":
  app.run(main)
