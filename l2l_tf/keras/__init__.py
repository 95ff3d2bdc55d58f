"""The package's optimizers in Keras 3, for `model.compile` and custom loops."""

import keras

if keras.backend.backend() != "tensorflow":
  raise ImportError(
    "l2l_tf.keras needs Keras's TensorFlow backend, but Keras runs on"
    f" {keras.backend.backend()!r}; set KERAS_BACKEND=tensorflow before Keras is"
    " imported."
  )

from l2l_tf.keras.diagnostics import Diagnostics
from l2l_tf.keras.multi_worker import for_workers
from l2l_tf.keras.optimizer import LearnedOptimizer
