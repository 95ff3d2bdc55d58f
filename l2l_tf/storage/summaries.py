"""TensorBoard logs of a meta-training and of an evaluation."""

import contextlib
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from l2l_tf.storage import files

# TensorBoard sorts charts by name; the numbers put the most important ones first.
CURVE = "1_evaluation/loss_by_step"
LEARNING_CURVES = "1_evaluation/learning_curves"
TRAJECTORIES = "2_validation/trajectories"
WINDOWS = "4_window/meta_gradients"
_VALIDATION, _EPOCH, _WINDOW = "2_validation", "3_epoch", "4_window"
_WINDOW_METRICS = ("meta_loss", "meta_gradient_norm", "skipped")
_SATURATION = "5_saturation"
_EVENTS = "events.out.tfevents."  # prefix of the names of TensorFlow's event files
_RECORD_BYTES = 8 + 4 + 4  # a TFRecord's overhead: the length and two checksums


class TensorBoard:
  """Writes scalars, text, figures and graphs of one run into one log directory.

  An evaluation's curves over inner steps are separate runs in subdirectories, because
  TensorBoard draws runs with the same tag into one chart.
  """

  def __init__(
    self, logdir: str | os.PathLike[str], kind: str, after: int | None = None
  ):
    """Opens the directory, creating it if needed.

    Args:
      logdir: the run's directory; its path below TensorBoard's --logdir is the run's
        name.
      kind: the kind of run, such as "training"; logs of another kind in the same
        directory are left alone.
      after: the epoch after which a run is resumed. Logs of later epochs are removed,
        as these are trained again. By default the run is new, and all logs of an
        earlier run of this kind are removed.
    """
    self._logdir = pathlib.Path(logdir)
    self._suffix = f".{kind}"
    for file in self._logdir.glob(f"{_EVENTS}*{self._suffix}"):
      if after is None:
        file.unlink()
      else:
        _forget_later(file, after)
    self._writer = self._create_writer(self._logdir, self._suffix)

  def flags(
    self, flags: Mapping[str, Any], hyper_parameters: Sequence[str] = (), step: int = 0
  ) -> None:
    """Shows all flags as text, and the named ones, if any, in the HParams tab."""
    lines = ["| flag | value |", "|---|---|"]
    lines += [f"| {name} | `{value}` |" for name, value in flags.items()]
    with self._writer.as_default(step=step):
      tf.summary.text("flags", "\n".join(lines))
      if hyper_parameters:
        hparams.hparams({k: _plain(flags[k]) for k in hyper_parameters})

  def training(
    self, epoch: int, metrics: Mapping[str, Any], epochs_per_second: float
  ) -> None:
    """Shows one epoch's metrics, as `MetaTrainer.train_episode` returns them."""
    windows = len(metrics["meta_loss"])
    # Most runs have no particles, or none that diverges: then there is no chart.
    rare = ["diverged"] if np.any(metrics.get("diverged", 0)) else []
    inner_steps = len(metrics["losses"]) - 1
    means = {
      "final_loss": metrics["losses"][-1],
      "mean_loss": metrics["losses"].mean(),
      "gradient_size": metrics["gradient_size"].mean(),
      "update_size": metrics["update_size"].mean(),
      "inner_steps_per_second": epochs_per_second * inner_steps,
    }
    with self._writer.as_default():
      for name, value in means.items():  # These come first: see `_forget_later`.
        tf.summary.scalar(f"{_EPOCH}/{name}", value, epoch)
      for name, value in metrics["diagnostics"].items():
        tf.summary.scalar(f"{_SATURATION}/{name}", value, epoch)
      for i in range(windows):
        step = (epoch - 1) * windows + i
        for name in (*_WINDOW_METRICS, *rare):
          tf.summary.scalar(f"{_WINDOW}/{name}", float(metrics[name][i]), step)

  def validation(self, epoch: int, losses: np.ndarray) -> None:
    """Shows means of a validation's curves, [num_tasks, num_steps + 1]."""
    with self._writer.as_default(step=epoch):
      tf.summary.scalar(f"{_VALIDATION}/final_loss", losses[:, -1].mean())
      tf.summary.scalar(f"{_VALIDATION}/mean_loss", losses.mean())

  def scalars(self, values: Mapping[str, float], step: int = 0) -> None:
    """Shows numbers by their tags."""
    with self._writer.as_default(step=step):
      for name, value in values.items():
        tf.summary.scalar(name, float(value))

  def curves(self, curves: Mapping[str, np.ndarray]) -> None:
    """Shows curves over inner steps, each [num_steps + 1], in place of earlier ones.

    Each becomes a TensorBoard run in a subdirectory, named by its key.
    """
    for file in self._logdir.glob(f"*/{_EVENTS}*{self._suffix}_curve"):
      file.unlink()
      with contextlib.suppress(OSError):  # The directory may hold other files.
        file.parent.rmdir()
    for name, losses in curves.items():
      path = self._logdir / name.replace("/", "_")
      writer = self._create_writer(path, f"{self._suffix}_curve")
      with writer.as_default():
        for step, loss in enumerate(losses):
          tf.summary.scalar(CURVE, loss, step)
      writer.close()

  def figure(self, name: str, figure: matplotlib.figure.Figure, step: int = 0) -> None:
    """Shows a matplotlib figure as an image."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    with self._writer.as_default(step=step):
      tf.summary.image(name, tf.io.decode_png(png.getvalue(), channels=4)[tf.newaxis])

  def graph(self, graph: tf.Graph | tf.compat.v1.GraphDef) -> None:
    """Shows a graph in the Graphs tab."""
    with self._writer.as_default():
      tf.summary.graph(graph)

  def flush(self) -> None:
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()

  def _create_writer(self, path: pathlib.Path, suffix: str):
    return tf.summary.create_file_writer(str(path), filename_suffix=suffix)


def _forget_later(file: pathlib.Path, epoch: int) -> None:
  """Truncates an event file before the first event of any later epoch.

  The first event of an epoch is numbered by epoch, not by window.
  """
  size, is_cut = 0, False  # of the records to keep, in bytes
  try:
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
      event = tf.compat.v1.Event.FromString(record)
      is_window = any(v.tag.startswith(_WINDOW) for v in event.summary.value)
      is_cut = event.step > epoch and not is_window
      if is_cut:
        break
      size += len(record) + _RECORD_BYTES
  except tf.errors.DataLossError:  # The process was killed while writing a record.
    is_cut = True
  if is_cut:
    files.write_atomically(file, file.read_bytes()[:size])


def _plain(value: Any) -> bool | int | float | str:
  return value if isinstance(value, (bool, int, float, str)) else str(value)
