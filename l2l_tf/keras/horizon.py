"""Tells an optimizer with a schedule how many steps `fit` will take."""

from typing import Any

import keras


class FitHorizon(keras.callbacks.Callback):
  """Sets an optimizer's `total_steps` when `fit` begins; see `fit_callback`.

  Where the number of batches is not known, such as with a generator, it is set after
  the first epoch. Steps that the optimizer has taken before count too.
  """

  def __init__(self, optimizer: Any):
    super().__init__()
    self._optimizer = optimizer
    self._begun = self._batches = 0
    self._epoch: int | None = None

  def on_train_begin(self, logs=None):
    self._epoch, self._is_set = None, False

  def on_epoch_begin(self, epoch, logs=None):
    if self._epoch is None:  # with `initial_epoch` not the first
      self._epoch, self._batches = epoch, 0
      # Not before, as another callback may restore a training when this one begins.
      # Batches, for with accumulation a step may have begun.
      self._begun = int(self._optimizer._iterations.numpy())
      if self.params.get("steps"):
        self._set(self.params["steps"])

  def on_train_batch_end(self, batch, logs=None):
    self._batches = batch + 1

  def on_epoch_end(self, epoch, logs=None):
    if not self._is_set:
      self._set(self._batches)

  def _set(self, batches: int) -> None:
    epochs = self.params["epochs"] - self._epoch
    every = self._optimizer.gradient_accumulation_steps or 1
    steps = (self._begun + epochs * batches) // every
    self._optimizer.total_steps = max(1, steps)
    self._is_set = True
