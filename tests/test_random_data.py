"""Data drawn at random for small classifiers."""

import numpy as np
import pytest

from l2l_tf.problems import random_data

DATA = {
  "clusters": lambda seed: random_data.clusters(10, separation=2.0, seed=seed),
  "net": lambda seed: random_data.labelled_by_net(8, seed=seed),
}


@pytest.mark.parametrize("name", DATA)
def test_both_classes_are_in_both_splits_and_the_seed_names_the_data(name):
  data, other = DATA[name](1), DATA[name](2)
  assert data.train_images.shape[0] == 1000 and data.test_images.shape[0] == 200
  for labels in (data.train_labels.numpy(), data.test_labels.numpy()):
    assert set(labels) == {0, 1} and 0.05 < labels.mean() < 0.95
  assert np.any(data.train_images != other.train_images)
  random_data.clusters.cache_clear()
  random_data.labelled_by_net.cache_clear()
  for x, y in zip(data, DATA[name](1), strict=True):
    np.testing.assert_array_equal(x, y)


def accuracy(data, neighbours=9):
  """Returns the share of held-out examples that the nearest train examples tell."""
  x, y, x_test, y_test = (t.numpy() for t in data)
  distances = np.linalg.norm(x_test[:, np.newaxis] - x, axis=-1)
  nearest = np.argsort(distances, axis=1)[:, :neighbours]
  return np.mean((y[nearest].mean(axis=1) > 0.5) == y_test)


def test_clusters_further_apart_are_told_more_easily():
  near, far = (accuracy(random_data.clusters(5, separation=s)) for s in (0.2, 3.0))
  assert far > 0.93 and near < far


def test_labels_of_a_net_follow_from_the_points():
  data = random_data.labelled_by_net(5)
  share = data.test_labels.numpy().mean()
  assert accuracy(data) > max(share, 1 - share) + 0.03


def test_the_labels_do_not_depend_on_how_far_a_point_is():
  """ReLU without biases keep the sign of what a point is multiplied by."""
  x, y, *_ = (t.numpy() for t in random_data.labelled_by_net(2))
  angles = np.arctan2(x[:, 1], x[:, 0])
  changes = np.sum(np.diff(y[np.argsort(angles)]) != 0)
  assert 1 <= changes < 20


def test_several_classes():
  assert random_data.clusters(6, num_classes=4).num_classes == 4
