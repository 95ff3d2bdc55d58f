"""What TensorBoard shows of a meta-training and of an evaluation."""

import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

TRAJECTORY = "loss along the inner trajectory"


class TensorBoard:
  """Writes scalars, text, figures and graphs below one log directory.

  A curve over inner steps is a run of its own, in a subdirectory: runs of the
  same tag lie over each other in one chart.
  """

  def __init__(self, logdir: str | os.PathLike[str]):
    """Opens the directory; it is made if need be."""
    self._logdir = pathlib.Path(logdir)
    self._writer = tf.summary.create_file_writer(str(logdir))

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
    """Shows one epoch; `metrics` as `MetaTrainer.train_episode` returns them."""
    windows = len(metrics["meta_loss"])
    with self._writer.as_default():
      for i in range(windows):
        step = (epoch - 1) * windows + i
        tf.summary.scalar("window/meta_loss", metrics["meta_loss"][i], step)
        norm = metrics["meta_gradient_norm"][i]
        tf.summary.scalar("window/meta_gradient_norm", norm, step)
        tf.summary.scalar("window/skipped", float(metrics["skipped"][i]), step)
      means = {
        "epoch/final_loss": metrics["losses"][-1],
        "epoch/mean_loss": metrics["losses"].mean(),
        "epoch/gradient_size": metrics["gradient_size"].mean(),
        "epoch/update_size": metrics["update_size"].mean(),
        "epoch/inner_steps_per_second": epochs_per_second
        * (len(metrics["losses"]) - 1),
      }
      gates = {f"saturation/{k}": v for k, v in metrics["diagnostics"].items()}
      for name, value in {**means, **gates}.items():
        tf.summary.scalar(name, value, epoch)

  def validation(self, epoch: int, losses: np.ndarray) -> None:
    """Shows a validation's curves, [num_problems, num_steps + 1]."""
    with self._writer.as_default(step=epoch):
      tf.summary.scalar("validation/final_loss", losses[:, -1].mean())
      tf.summary.scalar("validation/mean_loss", losses.mean())
    self.trajectory(f"epoch_{epoch:05d}", losses.mean(axis=0))

  def trajectory(self, run: str, losses: np.ndarray) -> None:
    """Shows a curve over inner steps, [num_steps + 1], as a run of that name."""
    writer = tf.summary.create_file_writer(str(self._logdir / run))
    with writer.as_default():
      for step, loss in enumerate(losses):
        tf.summary.scalar(TRAJECTORY, loss, step)
    writer.close()

  def figure(self, name: str, figure: matplotlib.figure.Figure) -> None:
    """Shows a matplotlib figure as an image."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    with self._writer.as_default(step=0):
      tf.summary.image(name, tf.io.decode_png(png.getvalue(), channels=4)[tf.newaxis])

  def graph(self, graph: tf.Graph | tf.compat.v1.GraphDef) -> None:
    """Shows a graph in the Graphs tab."""
    with self._writer.as_default():
      tf.summary.graph(graph)

  def flush(self) -> None:
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


def _plain(value: Any) -> bool | int | float | str:
  return value if isinstance(value, (bool, int, float, str)) else str(value)
