"""The mean learning curves of a run's validations, in a CSV file."""

import csv
import pathlib

import numpy as np
from absl import logging

from l2l_tf import tables
from l2l_tf.storage import files

_COLUMNS = ["epoch", "step", "loss"]


class Validations:
  """Curves by epoch, in a file that is rewritten whenever a curve is added.

  A run that resumes from an earlier epoch than the last one in the file drops the
  curves of later epochs, and adds them again when it reaches these.
  """

  def __init__(self, path: pathlib.Path, last_epoch: int):
    """Reads the curves up to `last_epoch`, if the file exists."""
    self._path = path
    self._curves = {n: c for n, c in _read(path).items() if n <= last_epoch}

  def __contains__(self, epoch: int) -> bool:
    return epoch in self._curves

  def add(self, epoch: int, curve: np.ndarray) -> None:
    """Adds a curve, [num_steps + 1], and writes the file.

    Raises:
      WriteError: if it cannot be written; the file stays as it was.
    """
    self._curves[epoch] = curve
    rows = [_COLUMNS]
    for number, losses in self._curves.items():
      rows += [[number, t, tables.number(x, 9)] for t, x in enumerate(losses)]
    files.write_csv(self._path, rows)


def _read(path: pathlib.Path) -> dict[int, list[float]]:
  curves: dict[int, list[float]] = {}
  try:
    with path.open(newline="") as f:
      for row in csv.DictReader(f):
        curves.setdefault(int(row["epoch"]), []).append(float(row["loss"]))
  except FileNotFoundError:
    pass
  except (ValueError, KeyError, TypeError, csv.Error):
    # Only plots read it, so a training need not stop.
    logging.warning("%r is damaged; its curves begin anew.", str(path))
    return {}
  return curves
