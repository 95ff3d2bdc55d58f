"""Panels: what they report, and that nothing which was run is run again."""

import numpy as np
import pytest
import tensorflow as tf
from disk import unchanged

from l2l_tf import seeds
from l2l_tf.evaluation import baselines, panel, quasi_newton, tuning
from l2l_tf.evaluation.panel import OtherDataError, Panel
from l2l_tf.evaluation.runner import Runner
from l2l_tf.optimizers import SGD, CoordinatewiseLSTM
from l2l_tf.problems import MLP, Problem, Quadratic, ScaledLoss, as_dataset

COUNTS = {"num_steps": 8, "num_draws": 2, "num_tuning_draws": 1, "rates_per_decade": 1}


def problem():
  return Quadratic(batch_size=2, num_dims=3)


@pytest.fixture
def opened(tmp_path):
  return Panel("small", problem(), tmp_path / "small", **COUNTS)


def test_a_learned_optimizer_runs_on_the_draws_that_are_reported(opened, tmp_path):
  optimizer = CoordinatewiseLSTM((3,), output_scale=0.1)
  curves = opened.learned("LSTM (3)", optimizer)
  plainly = Runner(problem(), optimizer, 8)(0, seeds.EVALUATION, 2)
  np.testing.assert_allclose(curves.losses, plainly.losses, rtol=1e-5)
  assert curves.learning_rate is None
  assert (tmp_path / "small" / "LSTM_3.npz").exists()


def test_what_was_run_is_read_unless_something_changed(opened, tmp_path, monkeypatch):
  optimizer = CoordinatewiseLSTM((3,), output_scale=0.1)
  found = opened.learned("LSTM", optimizer), opened.baseline("SGD")
  runs = []
  monkeypatch.setattr(panel.Panel, "_run", lambda *_: runs.append("LSTM") or found[0])
  monkeypatch.setattr(panel.Panel, "_tuned", lambda *_: runs.append("SGD") or found[1])
  again = opened.learned("LSTM", optimizer), opened.baseline("SGD")
  assert not runs
  for curves, before in zip(again, found, strict=True):
    np.testing.assert_array_equal(curves.losses, before.losses)
    assert curves.learning_rate == before.learning_rate
  opened.learned("LSTM", CoordinatewiseLSTM((3,), seed=1))
  for change in ({"num_steps": 9}, {"num_draws": 3}, {"seed": 1}, {"name": "other"}):
    arguments = {"name": "small", "directory": tmp_path / "small", **COUNTS, **change}
    Panel(problem=problem(), **arguments).baseline("SGD")
  assert runs == ["LSTM", "SGD", "SGD", "SGD", "SGD"]


def test_results_on_other_data_are_neither_read_nor_replaced(tmp_path):
  def on(x):
    data = as_dataset(np.eye(4) + x, np.arange(4) % 2, np.eye(4), np.arange(4) % 2)
    return Panel("net", MLP(data, (2,)), tmp_path, 2, 1, 1)

  optimizer = SGD(0.1)
  losses = on(0.0).learned("SGD", optimizer).losses
  np.testing.assert_array_equal(on(0.0).learned("SGD", optimizer).losses, losses)
  message = r"SGD.npz' holds results on other data, 4 train \(.*; set TFDS_DATA_DIR and"
  with unchanged(tmp_path), pytest.raises(OtherDataError, match=message):
    on(0.5).learned("SGD", optimizer)


def test_a_baseline_runs_at_the_best_of_a_widening_grid(tmp_path):
  flat = ScaledLoss(
    problem(), 1e-4, 1e-4
  )  # Its best rate is ten thousand times as large.
  curves = Panel("flat", flat, tmp_path, **COUNTS).baseline("SGD")
  assert curves.learning_rate > 100 * max(baselines.start_of_search("SGD", 1))
  assert curves.losses[:, -1].mean() < 0.5 * curves.losses[:, 0].mean()


def test_steps_are_counted_as_they_were_planned(tmp_path, monkeypatch):
  monkeypatch.setattr(panel, "_MOST_FURTHER", 0)
  opened = Panel("small", problem(), tmp_path, **COUNTS)
  steps = []
  opened.learned("LSTM", SGD(0.1), steps.append)
  assert steps == [8, 8] and opened.num_planned() == 16
  for name, runs in (("Adam", 3 + 2), ("BFGS", 2), ("L-BFGS", 2)):
    steps.clear()
    opened.baseline(name, steps.append)
    assert steps == [8] * runs and opened.num_planned(name) == sum(steps)
    opened.baseline(name, steps.append)  # Reading takes none.
    assert len(steps) == runs


@pytest.mark.parametrize(
  "best, further, selected", [(0.3, [1.0], 0.1), (1e-5, [1e-3, 1e-4], 1e-4)]
)
def test_a_search_goes_on_while_the_best_rate_lies_at_an_end(
  best, further, selected, monkeypatch
):
  tried = []

  class Runner:
    """Loses more the further the rate is from the best one."""

    def __init__(self, unused_problem, schedule, *_):
      self.schedule = schedule

    def __call__(self, seed, branch, num_draws):
      tried.append(float(self.schedule(0)))
      return tuning.Curves(np.array([[1.0, abs(np.log(tried[-1] / best))]]), {})

  monkeypatch.setattr(tuning, "Runner", Runner)
  counts = [1], tuning.last_step_loss, 1, 1, 0
  same = lambda schedule: schedule
  curves = tuning.tune(problem(), same, (0.01, 0.1), *counts, most_further=2)
  assert tried == pytest.approx([0.01, 0.1, *further, selected])
  assert curves[1].learning_rate == pytest.approx(selected)


def test_sizes_of_gradients_leave_out_zeros_and_are_read_again(tmp_path, monkeypatch):
  class Bowl(Problem):
    """(a^2 + 4 b^2 + 0 c) / 2 from (1, 1, 1)."""

    def init(self, seed):
      return [tf.ones([2]), tf.ones([1])], ()

    def __call__(self, params, constants, seed):
      (a, b), c = tf.unstack(params[0]), params[1]
      return (a**2 + 4.0 * b**2) / 2 + tf.reduce_sum(0.0 * c)

  opened = Panel("bowl", Bowl(), tmp_path, 3, 2, 1)
  sizes = opened.gradient_sizes("LSTM", SGD(0.125))
  a, b = 0.875 ** np.arange(3), 4 * 0.5 ** np.arange(3)  # gradients
  assert sizes.shape == (3, 5)
  np.testing.assert_allclose(sizes[:, 0], np.minimum(a, b), rtol=1e-6)
  np.testing.assert_allclose(sizes[:, -1], np.maximum(a, b), rtol=1e-6)
  monkeypatch.setattr("l2l_tf.evaluation.gradient_sizes.measure", None)
  np.testing.assert_array_equal(opened.gradient_sizes("LSTM", SGD(0.125)), sizes)


@pytest.mark.parametrize("name", quasi_newton.METHODS)
def test_a_quasi_newton_method_runs_once_and_has_no_rate(opened, name, monkeypatch):
  curves = opened.baseline(name)
  method = quasi_newton.METHODS[name]
  alone = quasi_newton.run(problem(), 8, 2, 0, seeds.EVALUATION, method=method)
  np.testing.assert_array_equal(curves.losses, alone.losses)
  monkeypatch.setattr(quasi_newton, "run", None)
  for found in (curves, opened.baseline(name)):
    np.testing.assert_array_equal(found.losses, curves.losses)
    assert found.is_baseline and found.learning_rate is None
