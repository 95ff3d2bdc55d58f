"""Responses and runs against closed forms, and every optimizer that can be asked."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.evaluation import diagnose
from l2l_tf.optimizers import (
  SGD,
  Adam,
  CoordinatewiseLSTM,
  KernelwiseLSTM,
  Momentum,
  Optimizer,
  Partition,
  Where,
)
from l2l_tf.runs import diagnosis

G = np.array([-1e3, -1e-2, 0.0, 1e-8, 1e-2, 1e3])
CLOSE = {"rtol": 1e-5, "atol": 1e-12}


class Mixing(Optimizer):
  """Moves every coordinate against the mean gradient."""

  config = {}

  def initial_state(self, params):
    return tf.zeros([])

  def __call__(self, grads, state, params=None, loss=None):
    return [-tf.reduce_mean(g) * tf.ones_like(g) for g in grads], state


class Reading(Mixing):
  """Moves by theta + 2 f(theta) - 1."""

  def __call__(self, grads, state, params=None, loss=None):
    return [params[0] + 2.0 * loss - 1.0], state


def test_sgd_answers_with_minus_the_rate_times_the_gradient():
  response = diagnose.response(SGD(0.1))
  np.testing.assert_array_equal(response.gradients, diagnose.GRADIENTS)
  for curve in response[1:]:
    np.testing.assert_allclose(curve, -0.1 * diagnose.GRADIENTS, rtol=1e-6)


def test_the_default_gradients_have_both_signs_of_each_magnitude():
  g = diagnose.GRADIENTS
  np.testing.assert_array_equal(g, -g[::-1])
  assert (np.diff(g) > 0).all() and 0 in g
  assert g[-1] == 1e10 and np.abs(g[g != 0]).min() == 1e-10
  for value in diagnose.TINY, diagnose.NORMAL, diagnose.HUGE:
    assert np.isclose(g, value, rtol=1e-12, atol=0).any()


def test_adam_at_first_answers_with_the_sign():
  response = diagnose.response(Adam(0.001, epsilon=1e-30), G)
  np.testing.assert_allclose(response.first, -0.001 * np.sign(G), rtol=1e-4)
  np.testing.assert_allclose(response.constant, -0.001 * np.sign(G), rtol=1e-4)


@pytest.mark.parametrize("warmup", [1, 4])
def test_the_histories_are_of_equal_and_of_alternating_gradients(warmup):
  response = diagnose.response(Momentum(0.1, momentum=0.5), G, warmup)
  powers = np.arange(warmup + 1)
  np.testing.assert_allclose(response.first, -0.1 * G, **CLOSE)
  np.testing.assert_allclose(response.constant, -0.1 * G * (0.5**powers).sum(), **CLOSE)
  alternating = -0.1 * G * ((-0.5) ** powers).sum()  # the last one has sign g
  np.testing.assert_allclose(response.alternating, alternating, **CLOSE)


@pytest.mark.parametrize(
  "preprocess", ["log_and_sign", pytest.param(lambda g: g[:, tf.newaxis], id="own")]
)
def test_an_lstm_answers_as_in_a_direct_call(preprocess):
  optimizer = CoordinatewiseLSTM((3, 2), preprocess)
  response = diagnose.response(optimizer, G, warmup=3)
  for sign, curve in (1.0, response.constant), (-1.0, response.alternating):
    for n, g in enumerate(G):
      grads = [tf.constant([g], tf.float32)]
      state, updates = optimizer.initial_state(grads), []
      for t in range(4):
        (update,), state = optimizer([sign ** (3 - t) * grads[0]], state)
        updates.append(update[0])
      np.testing.assert_allclose(curve[n], updates[-1], rtol=1e-4, atol=1e-7)
      if sign > 0:
        np.testing.assert_allclose(response.first[n], updates[0], rtol=1e-4, atol=1e-7)


def test_a_kernelwise_lstm_meets_kernels_full_of_a_gradient():
  optimizer = KernelwiseLSTM((3, 2), layers=(2,))
  response = diagnose.response(optimizer, G, warmup=1)
  for n, g in enumerate(G):
    grads = [tf.fill([3, 2, 1, 1], tf.constant(g, tf.float32))]
    (update,), _ = optimizer(grads, optimizer.initial_state(grads))
    np.testing.assert_allclose(response.first[n], np.mean(update), rtol=1e-4, atol=1e-7)


def test_where_coordinates_mix_each_gradient_has_a_run_of_its_own():
  response = diagnose.response(Mixing(), G, warmup=1)
  np.testing.assert_allclose(response.first, -G, **CLOSE)


def test_the_loss_and_the_parameters_are_those_of_a_linear_problem():
  response = diagnose.response(Reading(), [2.0], warmup=2)
  # With f = 2 theta the update is 5 theta - 1: theta is 0, -1, -7.
  np.testing.assert_allclose(response.constant, [5 * -7 - 1])


def test_runs_sum_up_to_closed_forms():
  runs = diagnose.behaviour(SGD(0.1), num_steps=20)
  assert list(runs) == ["zero", "tiny", "normal", "huge", "noise"]
  steps = np.arange(1, 21)[:, np.newaxis]
  for name, g in ("tiny", 1e-8), ("normal", 1e-2), ("huge", 1e6):
    expected = -0.1 * g * steps * [1, -1]
    np.testing.assert_allclose(runs[name].totals, expected, rtol=1e-6)
  assert runs["zero"].updates.shape == (20, 1) and not runs["zero"].updates.any()
  noise = runs["noise"]
  assert noise.updates.shape == (20, 32)
  np.testing.assert_allclose(noise.updates, -0.1 * noise.gradients, rtol=1e-6)
  assert abs(noise.gradients.std() - diagnose.NORMAL) < 0.1 * diagnose.NORMAL
  assert abs(noise.gradients.mean()) < 4 * diagnose.NORMAL / 640**0.5


def test_the_seed_names_the_noise():
  one, same, other = (
    diagnose.behaviour(SGD(0.1), 2, seed)["noise"].gradients for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(one, same)
  assert (one != other).all()


def test_diagnostics_are_means_over_the_steps():
  optimizer = CoordinatewiseLSTM((3,), "log_and_sign")
  found = diagnose.behaviour(optimizer, num_steps=3)["huge"].diagnostics
  grads = [tf.constant([diagnose.HUGE, -diagnose.HUGE])]
  state, seen = optimizer.initial_state(grads), []
  for _ in range(3):
    seen.append(optimizer.diagnostics(grads, state))
    _, state = optimizer(grads, state)
  assert set(found) == set(seen[0]) == {f"lstm_1/{x}_gate" for x in GATES}
  for name, value in found.items():
    np.testing.assert_allclose(value, np.mean([x[name] for x in seen]), atol=1e-6)


GATES = ["input", "forget", "output"]


def partition():
  parameters = [("w", (2, 3), "kernel"), ("b", (3,), "bias")]
  routes = [(Where(role="kernel"), SGD(0.1)), (Where("b"), Adam(0.2))]
  return Partition(routes, parameters)


def test_the_members_of_a_partition_are_found():
  sgd = SGD(0.1)
  assert diagnose.members(sgd) == {"": sgd}
  found = diagnose.members(partition())
  assert {k: type(v) for k, v in found.items()} == {"route_0": SGD, "route_1": Adam}
  nested = Partition([(Where(), partition())], [("x", (), "variable")])
  assert list(diagnose.members(nested)) == ["route_0/route_0", "route_0/route_1"]


@pytest.mark.parametrize("measure", [diagnose.response, diagnose.behaviour])
def test_a_partition_itself_is_refused(measure):
  with pytest.raises(ValueError, match=r"diagnose those that diagnose\.members"):
    measure(partition())


@pytest.mark.parametrize("gradients", [[], [np.nan], [np.inf], [[1.0]]])
def test_bad_gradients_are_refused(gradients):
  with pytest.raises(ValueError, match="list of finite numbers"):
    diagnose.response(SGD(0.1), gradients)


def test_counts_below_one_are_refused():
  with pytest.raises(ValueError, match="warmup=0 must be at least 1"):
    diagnose.response(SGD(0.1), warmup=0)
  with pytest.raises(ValueError, match="num_steps=0 must be at least 1"):
    diagnose.behaviour(SGD(0.1), num_steps=0)


def test_what_is_written_can_be_read(tmp_path):
  response = diagnose.response(Adam(0.1), G, warmup=1)
  runs = diagnose.behaviour(Adam(0.1), num_steps=2)
  paths = diagnose.write(response, runs, tmp_path / "new")
  assert [p.name for p in paths] == ["response.csv", "trajectories.csv"]
  answers, steps = (list(csv.DictReader(p.open())) for p in paths)
  assert list(answers[0]) == ["gradient", "first", "constant", "alternating"]
  for name, curve in zip(answers[0], response):
    np.testing.assert_allclose([float(row[name]) for row in answers], curve, rtol=1e-8)
  assert len(steps) == 2 * (1 + 2 + 2 + 2 + 32)
  (row,) = (
    r for r in steps if (r["run"], r["parameter"], r["step"]) == ("huge", "1", "2")
  )
  found = [float(row[key]) for key in ("gradient", "update", "total")]
  huge = runs["huge"]
  expected = [-1e6, huge.updates[1, 1], huge.updates[:, 1].sum()]
  np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_the_table_character_for_character():
  g = np.array([-1e-2, 0.0, 1e-2])
  curves = (0.0 - scale * g for scale in (0.1, 0.123456, 1e5))
  constant = np.array([[1e-2, -1e-2]] * 2)
  noise = np.array([[0.5, -1.0, 2.0]])
  runs = {
    "zero": diagnose.Run(np.zeros([2, 1]), np.zeros([2, 1]), {}),
    "normal": diagnose.Run(constant, -0.1 * constant, {}),
    "noise": diagnose.Run(noise, noise, {}),
  }
  table = diagnosis.table(diagnose.Response(g, *curves), runs)
  assert table.splitlines() == [
    "gradient  first update  after equal  after alternating          sum",
    "--------  ------------  -----------  -----------------  -----------",
    "       0             0            0                  0            0",
    "    0.01        -0.001     -0.00123             -1e+03       -0.002",
    "   -0.01         0.001      0.00123              1e+03        0.002",
    "   noise                                                0.5 +/- 1.2",
  ]
