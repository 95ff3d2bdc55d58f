"""Keras's well-known MNIST MLP, with a learned optimizer in place of RMSprop.

  python examples/mnist_mlp_fit.py                      # a learned optimizer
  python examples/mnist_mlp_fit.py --optimizer=rmsprop  # the original's

The model is that of `mnist_mlp.py` among the examples of Keras 2; only the line of the
optimizer differs.

MNIST comes through tensorflow-datasets, from TFDS_DATA_DIR if that is set.
"""

import keras
from absl import app, flags

import l2l_tf

_OPTIMIZER = flags.DEFINE_string(
  "optimizer", "general", "A pretrained optimizer, the path of an export, or adam, ..."
)
_RATE = flags.DEFINE_float(
  "learning_rate", 1.0, "Factor on a learned optimizer's updates; leave it at 1."
)
_EPOCHS = flags.DEFINE_integer("epochs", 5, "Passes over the data.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps_per_epoch", None, "By default, all of the data.")
_LOGDIR = flags.DEFINE_string("logdir", None, "Where TensorBoard's logs go, if given.")


def main(unused_argv: list[str]) -> None:
  data = l2l_tf.problems.datasets.mnist()
  x_train = data.train_images.numpy().reshape(60000, 784).astype("float32") / 255
  x_test = data.test_images.numpy().reshape(10000, 784).astype("float32") / 255
  y_train, y_test = data.train_labels.numpy(), data.test_labels.numpy()

  keras.utils.set_random_seed(0)
  model = keras.Sequential(
    [
      keras.Input([784]),
      keras.layers.Dense(512, activation="relu"),
      keras.layers.Dropout(0.2),
      keras.layers.Dense(512, activation="relu"),
      keras.layers.Dropout(0.2),
      keras.layers.Dense(10, activation="softmax"),
    ]
  )
  model.compile(
    loss="sparse_categorical_crossentropy",
    optimizer=_optimizer(_OPTIMIZER.value),
    metrics=["accuracy"],
  )
  callbacks = []
  if _LOGDIR.value:
    callbacks.append(keras.callbacks.TensorBoard(_LOGDIR.value))
    if isinstance(model.optimizer, l2l_tf.keras.LearnedOptimizer):
      callbacks.append(l2l_tf.keras.Diagnostics(_LOGDIR.value))
  if getattr(model.optimizer, "has_horizon", False):
    callbacks.append(model.optimizer.fit_callback())
  model.fit(
    x_train,
    y_train,
    batch_size=128,
    epochs=_EPOCHS.value,
    steps_per_epoch=_STEPS.value,
    validation_data=(x_test, y_test),
    callbacks=callbacks,
  )
  loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
  print(f"Test loss: {loss:.4f}\nTest accuracy: {accuracy:.4f}")


def _optimizer(name: str):
  try:
    return keras.optimizers.get(name)
  except ValueError:
    return l2l_tf.keras.LearnedOptimizer(name, _RATE.value)


if __name__ == "__main__":
  app.run(main)
