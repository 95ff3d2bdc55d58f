"""Each statistic against NumPy or by hand, and what is written read back."""

import csv
import math

import numpy as np
import pytest

from l2l_tf.evaluation.protocol import Curves
from l2l_tf.evaluation.report import (
  mean_band,
  median_band,
  plot,
  summarize,
  table,
  write,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def curves(*rows, rate=None, **held_out):
  return Curves(
    np.array(rows, np.float32), {k: np.array(v) for k, v in held_out.items()}, rate
  )


def hand_made():
  """Finals 1.5 for the best baseline, which `lstm` reaches at step 1."""
  return {
    "lstm": curves([4, 1, 0.5], [4, 2, 1.5], accuracy=[0.5, 1.0]),
    "Adam": curves([4, 4, 2], [4, 2, 1], rate=0.1, accuracy=[0.25, 0.75]),
    "SGD": curves([4, 4, 3], [4, 4, 3], rate=1.0, accuracy=[0.0, 0.0]),
  }


def row(name, given):
  (found,) = [r for r in summarize(given) if r.optimizer == name]
  return found


def normal(n, steps=3):
  return np.random.RandomState(n).normal(size=[n, steps])


def test_the_mean_and_its_interval():
  losses = normal(50)
  mean, low, high = mean_band(losses)
  np.testing.assert_allclose(mean, np.mean(losses, axis=0))
  half = 1.96 * np.std(losses, axis=0, ddof=1) / np.sqrt(50)
  np.testing.assert_allclose(high - mean, half)
  np.testing.assert_allclose(mean - low, half)


def test_the_interval_of_the_mean_covers_the_truth_as_often_as_it_says():
  trials = np.random.RandomState(0).normal(loc=2.0, size=[100, 1000])
  _, low, high = mean_band(trials)
  assert 0.92 < np.mean((low < 2.0) & (high > 2.0)) < 0.97


def test_large_float32_losses_do_not_overflow():
  mean, low, high = mean_band(np.array([[1e30], [3e30]], np.float32))
  np.testing.assert_allclose(mean, [2e30], rtol=1e-6)
  np.testing.assert_allclose(high - mean, [1.96e30], rtol=1e-6)
  np.testing.assert_allclose(mean - low, [1.96e30], rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 10, 99, 100])
def test_the_median_and_its_interval(n):
  losses = normal(n)
  median, low, high = median_band(losses)
  np.testing.assert_allclose(median, np.median(losses, axis=0))
  ranks = []
  for column, bounds in zip(losses.T, zip(low, high)):
    assert set(bounds) <= set(column)
    ranks.append([np.sum(column < bound) + 1 for bound in bounds])
  (first, last), *others = ranks
  assert all(other == [first, last] for other in others)
  # P(X_(first) <= median <= X_(last)), for any continuous distribution.
  coverage = sum(math.comb(n, k) for k in range(first, last)) / 2**n
  assert (first, last) == (1, n) or 0.945 < coverage < 0.99


def test_one_problem_has_a_band_without_width():
  for band in (mean_band, median_band):
    for statistic in band(np.array([[3.0, 2.0]])):
      np.testing.assert_array_equal(statistic, [3.0, 2.0])


def test_a_row():
  lstm = row("lstm", hand_made())
  assert lstm.learning_rate is None
  assert lstm.final_loss == lstm.median_final_loss == 1.0
  half = 1.96 * np.std([0.5, 1.5], ddof=1) / np.sqrt(2)
  np.testing.assert_allclose([lstm.final_low, lstm.final_high], [1 - half, 1 + half])
  assert lstm.area == (4 + 1.5 + 1) / 3
  assert lstm.steps_to_best == 1
  assert lstm.ratio_to_best == 1 / 1.5
  assert lstm.held_out == {"accuracy": 0.75}


def test_the_best_baseline_and_one_that_never_reaches_it():
  adam, sgd = row("Adam", hand_made()), row("SGD", hand_made())
  assert (adam.learning_rate, adam.ratio_to_best, adam.steps_to_best) == (0.1, 1.0, 2)
  assert (sgd.ratio_to_best, sgd.steps_to_best) == (2.0, None)


def test_a_baseline_without_a_rate_may_be_the_best():
  bfgs = curves([4, 1, 0.25], [4, 1, 0.75], accuracy=[0.5, 0.5])
  given = {**hand_made(), "BFGS": bfgs._replace(without_rate=True)}
  found = row("BFGS", given)
  assert (found.learning_rate, found.ratio_to_best) == (None, 1.0)
  assert row("Adam", given).ratio_to_best == 3.0
  assert row("lstm", {**hand_made(), "other": bfgs}).ratio_to_best == 1 / 1.5
  (line,) = [x for x in table(summarize(given)).splitlines() if x.startswith("BFGS")]
  assert line.split()[:3] == ["BFGS", "-", "0.5"]


def test_the_median_is_not_the_mean():
  given = {"it": curves([1.0], [1.0], [10.0])}
  assert row("it", given).median_final_loss == 1.0
  assert row("it", given).final_loss == 4.0


def test_the_mean_may_reach_the_best_before_any_other_step():
  given = {"a": curves([1.0, 3.0, 1.0]), "b": curves([4.0, 3.0, 2.0], rate=0.1)}
  assert row("a", given).steps_to_best == 0


def test_without_baselines_nothing_is_compared():
  alone = row("lstm", {"lstm": hand_made()["lstm"]})
  assert alone.ratio_to_best is None and alone.steps_to_best is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("first", [True, False])
def test_a_baseline_that_diverged_is_never_the_best(bad, first):
  spoiled = {"RMSprop": curves([4, bad, bad], [4, 1, bad], rate=0.1, accuracy=[0, 0])}
  given = {**spoiled, **hand_made()} if first else {**hand_made(), **spoiled}
  assert row("lstm", given).ratio_to_best == 1 / 1.5
  rmsprop = row("RMSprop", given)
  assert not np.isfinite(rmsprop.final_loss) and rmsprop.steps_to_best is None
  assert not np.isfinite(rmsprop.ratio_to_best)
  assert str(bad) in table(summarize(given)).splitlines()[-1]


def test_when_all_baselines_diverged_nothing_is_compared():
  given = {**hand_made(), "Adam": curves([4, np.nan], rate=0.1)}
  del given["SGD"]
  assert row("lstm", given).ratio_to_best is None


def test_the_table_is_sorted_and_aligned():
  given = hand_made()
  given = {name: given[name] for name in ("SGD", "lstm", "Adam")}
  header, rule, *lines = table(summarize(given)).splitlines()
  assert [line.split()[0] for line in lines] == ["lstm", "Adam", "SGD"]
  cells = [line.split() for line in lines]
  assert cells[0][1:4] == ["-", "1", "0.98"]
  assert cells[1] == ["Adam", "0.1", "1.5", "0.98", "1.5", "2.833", "2", "1", "0.5"]
  assert cells[2][6:] == ["-", "2", "0"]
  assert header.startswith("optimizer") and header.endswith("accuracy")
  assert {len(line) for line in lines} == {len(header)} == {len(rule)}
  ends = [i for i, c in enumerate(rule + " ") if c == " " and rule[i - 1] == "-"]
  for line in lines:
    assert all(line[end - 1] != " " for end in ends[1:])


def test_the_table_character_for_character():
  assert table(summarize(hand_made())).splitlines() == [
    "optimizer  rate  final loss   +/-  median  mean over steps  steps to best"
    "  ratio to best  accuracy",
    "---------  ----  ----------  ----  ------  ---------------  -------------"
    "  -------------  --------",
    "lstm          -           1  0.98       1            2.167              1"
    "         0.6667      0.75",
    "Adam        0.1         1.5  0.98     1.5            2.833              2"
    "              1       0.5",
    "SGD           1           3     0       3            3.667              -"
    "              2         0",
  ]


def test_a_table_without_held_out_scalars():
  given = {"lstm": curves([1.0, 0.5])}
  assert table(summarize(given)).splitlines()[0].endswith("ratio to best")


def read(path):
  with path.open(newline="") as f:
    return [*csv.DictReader(f)]


def test_the_summary_is_read_back(tmp_path):
  given = {"a, quoted": hand_made()["lstm"], "Adam": hand_made()["Adam"]}
  summary, _ = write(given, tmp_path / "new" / "directory")
  assert summary == tmp_path / "new" / "directory" / "summary.csv"
  rows = summarize(given)
  for line, expected in zip(read(summary), rows, strict=True):
    assert line["optimizer"] == expected.optimizer
    values = {**expected._asdict(), **expected.held_out}
    del values["held_out"], values["optimizer"]
    assert set(line) == {"optimizer", *values}
    for name, value in values.items():
      assert line[name] == "" if value is None else float(line[name]) == value


def test_the_curves_are_read_back(tmp_path):
  given = {
    "lstm": Curves(np.exp(normal(9, 4)).astype(np.float32), {}),
    "SGD": curves([4, np.nan, np.nan], [4, np.inf, 1e30], rate=0.1),
  }
  _, points = write(given, tmp_path)
  lines = read(points)
  for name, c in given.items():
    found = [line for line in lines if line["optimizer"] == name]
    assert [int(line["step"]) for line in found] == [*range(c.losses.shape[1])]
    for prefix, band in [("mean", mean_band), ("median", median_band)]:
      for end, expected in zip(("", "_low", "_high"), band(c.losses)):
        column = [float(line[prefix + end]) for line in found]
        np.testing.assert_allclose(column, expected, rtol=1e-8)


def test_the_plot_lies_beside_the_numbers_it_is_drawn_from(tmp_path):
  path = plot(hand_made(), tmp_path / "mine")
  assert path == tmp_path / "mine" / "curves.png"
  assert path.read_bytes().startswith(b"\x89PNG")
  assert {f.name for f in path.parent.iterdir()} == {
    "curves.csv",
    "curves.png",
    "summary.csv",
  }
