"""The meta-loss as a function of the window's losses."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import MetaObjective, MetaTrainer, TruncatedBPTT, seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import EvolutionStrategies, RecordedBPTT
from l2l_tf.meta.objective import best_loss, log_relative_loss, mean_loss
from l2l_tf.optimizers import SGD, CoordinatewiseLSTM
from l2l_tf.problems import Quadratic


def lstm():
  return CoordinatewiseLSTM((4,), output_scale=0.3)


def episode(function, meta_batch_size=1, **kwargs):
  """Runs an episode of two windows of 3 steps without moving phi."""
  trainer = MetaTrainer(
    Quadratic(2, 3), lstm(), SGD(1e-12), num_steps=6, unroll_length=3,
    objective=MetaObjective(function=function), meta_batch_size=meta_batch_size,
    **kwargs,
  )  # fmt: skip
  return trainer.train_episode(0)


def numpy_value(function, losses, first_loss, least):
  if function is mean_loss:
    return np.mean(losses)
  if function is log_relative_loss:
    return np.mean(np.log(losses / first_loss))
  return np.mean(np.minimum.accumulate([least, *losses])[1:])


@pytest.mark.parametrize("function", [mean_loss, log_relative_loss, best_loss])
@pytest.mark.parametrize("second_derivatives", [False, True])
def test_its_value_is_that_of_each_window_s_losses(function, second_derivatives):
  metrics = episode(function, meta_gradient=TruncatedBPTT(
    second_derivatives=second_derivatives))  # fmt: skip
  first_loss, *losses = metrics["losses"]
  expected = [
    numpy_value(
      function, losses[i : i + 3], first_loss, min(metrics["losses"][: i + 1])
    )
    for i in (0, 3)
  ]
  np.testing.assert_allclose(metrics["meta_loss"], expected, rtol=1e-4, atol=1e-6)


def test_over_several_tasks_it_is_the_mean_of_their_values():
  found = episode(lambda curve: tf.square(curve.losses[-1]), meta_batch_size=3)
  last = []
  for key in seeds.split(seeds.make(0, seeds.TRAINING, 0), 3):
    task, carry = unroll.start(Quadratic(2, 3), lstm(), key)
    _, losses = unroll.unroll(Quadratic(2, 3), lstm(), task, carry, 6)
    last.append([losses[2], losses[5]])
  expected = np.mean(np.square(last), axis=0)
  np.testing.assert_allclose(found["meta_loss"], expected, rtol=1e-5)


def test_a_function_that_is_a_weighted_sum_has_its_gradient():
  weighted = MetaTrainer(
    Quadratic(2, 3), lstm(), SGD(0.1), num_steps=6, unroll_length=3
  )
  function = MetaTrainer(
    Quadratic(2, 3), lstm(), SGD(0.1), num_steps=6, unroll_length=3,
    objective=MetaObjective(function=lambda curve: tf.reduce_sum(curve.losses)),
  )  # fmt: skip
  one, two = weighted.train_episode(0), function.train_episode(0)
  for name in ("meta_loss", "meta_gradient_norm"):
    np.testing.assert_allclose(one[name], two[name], rtol=1e-5)


def test_a_function_that_is_no_scalar_is_refused():
  with pytest.raises(
    ValueError, match=r"function returned shape \(.*\); it must return"
  ):
    episode(lambda curve: curve.losses)


def test_recorded_gradients_serve_weighted_sums_alone():
  with pytest.raises(ValueError, match="and weighted sums of losses; give Truncated"):
    episode(mean_loss, meta_gradient=RecordedBPTT())


def test_evolution_strategies_need_no_derivative():
  count = lambda curve: tf.math.count_nonzero(
    curve.losses > curve.first, dtype="float32"
  )
  found = episode(count, meta_gradient=EvolutionStrategies(pairs=16, stddev=0.3))
  assert np.all(found["meta_gradient_norm"] > 0)
