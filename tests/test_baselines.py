"""The baselines, and their grids."""

import numpy as np
import pytest

from l2l_tf.evaluation import baselines
from l2l_tf.optimizers import Optimizer
from l2l_tf.pretraining import cards


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_a_baseline_is_a_function_of_a_learning_rate(name):
  optimizer = baselines.BASELINES[name](0.25)
  assert isinstance(optimizer, Optimizer) and optimizer.learning_rate == 0.25


def test_a_card_compares_with_baselines_of_the_table():
  assert list(baselines.CARD_BASELINES) == [
    cards.TUNED_ADAM, "momentum", "RMSprop", cards.DEFAULT_ADAM,
  ]  # fmt: skip
  for baseline in baselines.CARD_BASELINES.values():
    assert baseline.name in baselines.BASELINES
  assert baselines.CARD_BASELINES[cards.DEFAULT_ADAM].learning_rates == (0.001,)


@pytest.mark.parametrize(
  "grid, first, last, num",
  [
    (baselines.LEARNING_RATES, 1e-4, 1e2, 6 * 4 + 1),
    (baselines.NORMALISED_RATES, 1e-3, 1.0, 3 * 3 + 1),
    (baselines.MOMENTUM_RATES, 1e-2, 10.0, 3 * 3 + 1),
  ],
)
def test_a_grid_has_equal_ratios(grid, first, last, num):
  assert (grid[0], grid[-1], len(grid)) == (first, last, num)
  ratio = (last / first) ** (1 / (num - 1))
  np.testing.assert_allclose(np.divide(grid[1:], grid[:-1]), ratio)
