"""The curves of a run's validations, written and read back."""

import csv

import numpy as np
import pytest
from disk import unchanged

from l2l_tf.storage.validations import Validations


def rows(path):
  with path.open(newline="") as f:
    return [
      (int(r["epoch"]), int(r["step"]), float(r["loss"])) for r in csv.DictReader(f)
    ]


def write(path, epochs, after=0):
  validations = Validations(path, after)
  for epoch in epochs:
    validations.add(epoch, np.array([4.0, 1.0 / epoch]))


def test_each_curve_is_a_row_per_step(tmp_path):
  path = tmp_path / "validation.csv"
  write(path, [3, 6])
  expected = [(3, 0, 4.0), (3, 1, 1 / 3), (6, 0, 4.0), (6, 1, 1 / 6)]
  np.testing.assert_allclose(rows(path), expected, rtol=1e-8)


@pytest.mark.parametrize("after", [0, 3, 5, 6, 9])
def test_a_run_that_goes_on_makes_the_later_curves_again(tmp_path, after):
  whole, path = tmp_path / "whole.csv", tmp_path / "validation.csv"
  write(whole, [3, 6, 9, 12])
  write(path, [3, 6, 9])
  with unchanged(tmp_path):
    Validations(path, after)
  write(path, [n for n in (3, 6, 9, 12) if n > after], after)
  assert path.read_text() == whole.read_text()


def test_a_loss_that_is_not_finite_is_kept(tmp_path):
  path = tmp_path / "validation.csv"
  Validations(path, 0).add(1, np.array([np.nan, np.inf]))
  write(path, [2], after=1)
  assert np.isnan(rows(path)[0][2]) and np.isinf(rows(path)[1][2])


@pytest.mark.parametrize("content", ["epoch\n3\n", "epoch,step,loss\n3,0,x\n", "\x00"])
def test_a_damaged_file_stops_no_training(tmp_path, content):
  path = tmp_path / "validation.csv"
  path.write_text(content)
  write(path, [6], after=3)
  assert [row[0] for row in rows(path)] == [6, 6]
