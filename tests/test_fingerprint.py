"""Fingerprints tell data apart, and nothing else."""

import numpy as np
import pytest

from l2l_tf import problems
from l2l_tf.problems import MLP, Ensemble, NeuralStyle, Problem, ScaledLoss, TaskBatch
from l2l_tf.problems.fingerprint import fingerprint

X, Y = np.arange(24.0, dtype=np.float32).reshape(4, 6), np.array([0, 1, 1, 0])


def classifier(x=X, y=Y, held_out=2, **options):
  return MLP(problems.as_dataset(x, y, X[:held_out], Y[:held_out]), (2,), **options)


def painter(picture, weights=(2, 3, 4), **options):
  picture = np.full([16, 20, 3], picture, np.uint8)
  return NeuralStyle([picture], [picture], 16, problems.vgg.untrained(weights))


def test_equal_data_have_equal_fingerprints_whatever_is_made_of_them():
  found = fingerprint(classifier())
  assert found == fingerprint(classifier(np.copy(X), batch_size=3, activation="relu"))
  assert found.startswith("4 train (") and ", 2 held-out (" in found
  for wrapped in (ScaledLoss(classifier()), TaskBatch(classifier(), 2)):
    assert fingerprint(wrapped) == found
  # Data that members share are named once.
  assert fingerprint(Ensemble([classifier(), classifier()])) == found


@pytest.mark.parametrize(
  "other",
  [
    classifier(X[:3], Y[:3]),
    classifier(X + np.eye(4, 6)),
    classifier(X[::-1]),
    classifier(y=1 - Y),
    classifier(held_out=1),
    Ensemble([classifier(), classifier(2 * X)]),
  ],
)
def test_other_data_have_another_one(other):
  assert fingerprint(other) != fingerprint(classifier())


def test_pictures_and_the_networks_weights_count():
  found = [fingerprint(p) for p in (painter(1), painter(2), painter(1, (2, 3, 5)))]
  assert len(set(found)) == 3 and found[0] == fingerprint(painter(1))
  assert found[0].startswith("1 photographs (") and "7 convolutions" in found[0]


def test_arrays_of_any_type_count():
  class Own(Problem):
    def __init__(self, *arrays):
      self.arrays = arrays

    def init(self, seed):
      raise NotImplementedError

    def __call__(self, params, constants, seed):
      raise NotImplementedError

    def data_sources(self):
      return [("rows", self.arrays)]

  words = lambda *words: fingerprint(Own(np.array(words, object)))
  assert words("one", "two") == words("o" + "ne", "two") != words("one", "too")
  zeros = [fingerprint(Own(np.zeros(4, t))) for t in (np.int32, np.float32)]
  assert zeros[0] != zeros[1]
