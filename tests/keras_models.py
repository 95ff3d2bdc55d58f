"""Models, data and trainings that the tests of the Keras adapter share."""

import keras
import numpy as np

from l2l_tf.optimizers import CoordinatewiseLSTM

X = np.random.RandomState(0).normal(size=(64, 4)).astype(np.float32)
Y = (X @ [[1.0], [-2.0], [0.5], [0.0]] + 0.1).astype(np.float32)


def lstm(**kwargs):
  return CoordinatewiseLSTM((5, 4), "log_and_sign", output_scale=0.05, **kwargs)


def sequential(has_input, seed=0, **hidden):
  """Two dense layers; without an `Input` they are built in the first step.

  Either way the same seed draws the same weights.
  """
  draws = lambda i: keras.initializers.GlorotUniform(2 * seed + i)
  layers = [
    keras.layers.Dense(6, "tanh", kernel_initializer=draws(0), name="hidden", **hidden),
    keras.layers.Dense(1, kernel_initializer=draws(1), name="out"),
  ]
  return keras.Sequential([keras.Input([4])] * has_input + layers, name="net")


def built(model):
  """Builds a model that has no `Input`, as its user does who needs its weights."""
  if not model.built:
    model.build([None, 4])
  return model


def functional():
  keras.utils.set_random_seed(0)
  x = keras.Input([4])
  hidden = keras.layers.Dense(6, activation="tanh")(x)
  return keras.Model(x, keras.layers.Dense(1)(keras.layers.concatenate([x, hidden])))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self.hidden = keras.layers.Dense(6, activation="tanh")
    self.normalize = keras.layers.BatchNormalization()
    self.out = keras.layers.Dense(1)

  def call(self, x, training=False):
    return self.out(self.normalize(self.hidden(x), training=training))


def fit(model, optimizer, epochs=2, compile_options=None, **kwargs):
  """Fits on the same batches each time; returns the losses."""
  model.compile(optimizer, loss="mse", **(compile_options or {}))
  kwargs = {"x": X, "y": Y, "batch_size": 16, "shuffle": False, "verbose": 0} | kwargs
  return model.fit(epochs=epochs, **kwargs).history["loss"]


def ten_losses(model):
  """Losses of ten more steps, each of them on the next batch."""
  return [
    float(model.train_on_batch(X[i : i + 16], Y[i : i + 16])) for i in range(0, 40, 4)
  ]


def weights(model):
  return np.concatenate([np.ravel(w) for w in model.get_weights()])
