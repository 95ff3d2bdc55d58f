"""Rows that hold the coordinates of one tensor each, against loops over tensors."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.optimizers.segments import Segments

CASES = [
  [(2, 3), (3,), ()],
  [()],
  [(5,), (0, 2), (1,), (0,), (7, 2)],
  [(300, 7), (10,), (64, 2)],
  [(), (), (2000,)],
]


def tensors_of(shapes):
  return [seeds.normal(s, seeds.make(0, i)) for i, s in enumerate(shapes)]


@pytest.mark.parametrize("shapes", CASES)
def test_tensors_are_laid_out_and_cut_again(shapes):
  segments, tensors = Segments(shapes), tensors_of(shapes)
  rows = segments.lay_out(tensors)
  assert rows.shape == [segments.num_rows, segments.width]
  for x, y in zip(segments.cut(rows, tensors), tensors, strict=True):
    np.testing.assert_array_equal(x, y)
  assert np.size(rows) <= 1.125 * segments.size


@pytest.mark.parametrize("shapes", CASES)
def test_means_are_those_of_each_tensor_without_the_padding(shapes):
  segments, tensors = Segments(shapes), tensors_of(shapes)
  dirty = segments.lay_out([x + 1.0 for x in tensors]) - 1.0  # padded with -1
  filled = [x for x in tensors if np.size(x)]
  expected = [[np.mean(x) for x in filled], [2.0 * np.mean(x) for x in filled]]
  means = segments.means(tf.stack([dirty, 2.0 * dirty]))
  np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-6)
  flat = np.concatenate([np.ravel(x) for x in filled])
  np.testing.assert_allclose(segments.mean(dirty), flat.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shapes", CASES)
def test_values_are_spread_over_the_rows_of_their_tensor(shapes):
  segments, tensors = Segments(shapes), tensors_of(shapes)
  values = tf.range(1.0, 1.0 + segments.count)
  spread = segments.spread(values[tf.newaxis])[0] + tf.zeros([segments.width])
  expected, rows = iter(values.numpy()), segments.cut(spread, tensors)
  for row in rows:
    if np.size(row):
      np.testing.assert_array_equal(row, np.full(row.shape, next(expected)))


def test_rows_are_as_wide_as_the_padding_allows():
  assert Segments([(1000, 1000), (10,)]).width == 128
  assert Segments([(2, 3), (3,), ()]).width == 1
  assert Segments([(32, 64), (8,), (8,), (8,)]).width == 64  # 360 are too many


def test_nothing_is_no_row():
  segments = Segments([(0, 2)])
  assert (segments.size, segments.count, segments.num_rows) == (0, 0, 0)
