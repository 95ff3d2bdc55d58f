"""Data that are drawn at random, for small classifiers.

Wichrowska et al. 2017, section 4.1 and appendix, https://arxiv.org/abs/1703.04813;
research/learned_optimizer/problems/datasets.py in tensorflow/models.
"""

import functools

import numpy as np

from l2l_tf.problems.data.datasets import Dataset, as_dataset

_NUM_HELD_OUT = 200
_DEPTH, _WIDTH = 6, 20  # of the net that labels, as in the authors' code
_LEAST_SHARE = 0.1  # of the examples, that each class has


@functools.lru_cache
def clusters(
  num_features: int,
  num_classes: int = 2,
  separation: float = 1.0,
  num_examples: int = 1000,
  seed: int = 0,
) -> Dataset:
  """Returns normal clusters at the corners of a hypercube, two for each class.

  One label in a hundred is wrong.

  >>> problems.random_data.clusters(10).train_images.shape
  TensorShape([1000, 10])

  Args:
    num_features: columns; all of them matter.
    num_classes: C, at most 2^(num_features - 1).
    separation: half the side of the hypercube; clusters overlap less at a greater one.
    num_examples: train examples; 200 further ones are held out.
    seed: names the data.
  """
  from sklearn import datasets

  x, y = datasets.make_classification(
    num_examples + _NUM_HELD_OUT,
    num_features,
    n_informative=num_features,
    n_redundant=0,
    n_classes=num_classes,
    class_sep=separation,
    random_state=seed,
  )
  return _split(x, y)


@functools.lru_cache
def labelled_by_net(
  num_features: int, num_examples: int = 1000, seed: int = 0
) -> Dataset:
  """Returns normal points in two classes, which a random net of six layers tells apart.

  The net has 20 ReLU in each layer, without biases; class 1 is where the first of its
  outputs is positive. Nets are drawn until each class has a tenth of the points.

  >>> problems.random_data.labelled_by_net(8).num_classes
  2

  Args:
    num_features: columns.
    num_examples: train examples; 200 further ones are held out.
    seed: names the data.
  """
  rng = np.random.RandomState(seed)
  x = rng.normal(size=[num_examples + _NUM_HELD_OUT, num_features])
  while True:
    hidden = x
    for _ in range(_DEPTH):
      kernel = rng.normal(size=[hidden.shape[1], _WIDTH]) / np.sqrt(hidden.shape[1])
      hidden = np.maximum(hidden @ kernel, 0.0)
    labels = hidden[:, 0] > 0
    if _LEAST_SHARE <= labels.mean() <= 1 - _LEAST_SHARE:
      return _split(x, labels)


def _split(x: np.ndarray, y: np.ndarray) -> Dataset:
  x, y, cut = x.astype(np.float32), y.astype(np.int32), len(x) - _NUM_HELD_OUT
  return as_dataset(x[:cut], y[:cut], x[cut:], y[cut:])
