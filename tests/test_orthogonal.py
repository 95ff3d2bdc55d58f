"""Newton-Schulz iterations on small square matrices, against those on the whole."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.optimizers.orthogonal import orthogonalized


def plain(matrix, block):
  """Jordan et al. 2024, block by block of the shorter side, in float64."""
  matrix = np.asarray(matrix, np.float64)
  if matrix.shape[0] > matrix.shape[1]:
    return plain(matrix.T, block).T
  count = -(-len(matrix) // block)
  height = -(-len(matrix) // count)
  blocks = []
  for start in range(0, len(matrix), height):
    x = matrix[start : start + height]
    x = x / np.linalg.norm(x)
    for _ in range(5):
      a = x @ x.T
      x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    blocks.append(x)
  whole = np.concatenate(blocks)
  return whole / np.sqrt(np.mean(whole**2))


@pytest.mark.parametrize(
  ("shape", "block"),
  [
    ((4, 4), 4),
    ((3, 17), 32),
    ((17, 3), 32),
    ((20, 30), 8),
    ((30, 20), 7),
    ((1, 5), 1),
  ],
)
def test_it_equals_the_iterations_on_the_whole_matrix(shape, block):
  matrix = np.random.RandomState(0).normal(size=shape)
  for run in (orthogonalized, tf.function(orthogonalized)):
    found = run(tf.constant(matrix), block)
    np.testing.assert_allclose(found, plain(matrix, block), rtol=1e-9, atol=1e-12)


def test_float32_keeps_its_precision_if_singular_values_differ_by_far():
  rng = np.random.RandomState(0)
  u, v = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (32, 64))
  matrix = (u * np.logspace(0, -6, 32)) @ v[:32]
  found = orthogonalized(tf.constant(matrix, tf.float32), 32)
  error = np.abs(found - plain(matrix.astype(np.float32), 32))
  assert error.max() < 0.01  # of a root mean square of 1


def test_singular_values_come_near_to_each_other():
  matrix = np.random.RandomState(0).normal(size=(16, 64))
  matrix *= np.logspace(0, -1.5, 16)[:, np.newaxis]
  values = np.linalg.svd(orthogonalized(tf.constant(matrix), 16), compute_uv=False)
  assert values.max() / values.min() < 2


@pytest.mark.parametrize("scale", [1e-15, 1e-5, 1e5, 1e15])
def test_the_scale_does_not_matter(scale):
  matrix = np.random.RandomState(0).normal(size=(6, 9)).astype(np.float32)
  expected = orthogonalized(tf.constant(matrix), 4)
  found = orthogonalized(tf.constant(matrix * np.float32(scale)), 4)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 5)])
def test_zeros_and_empty_matrices_stay_as_they_are(shape):
  np.testing.assert_array_equal(orthogonalized(tf.zeros(shape), 4), np.zeros(shape))


def test_rounding_errors_of_a_matrix_of_rank_one_stay_small():
  rng = np.random.RandomState(0)
  matrix = np.outer(rng.normal(size=4), rng.normal(size=6)).astype(np.float32)
  noise = 1e-7 * rng.normal(size=(4, 6)).astype(np.float32)
  one, other = (orthogonalized(tf.constant(m), 32) for m in (matrix, matrix + noise))
  assert np.abs(one - other).max() < 1e-3
