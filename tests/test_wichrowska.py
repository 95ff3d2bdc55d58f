"""The training set of Wichrowska et al. 2017: all of its problems can be trained on."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.optimizers import Adam
from l2l_tf.problems import (
  LogLoss,
  NoisyGradients,
  ScaledParameters,
  SparseGradients,
  suites,
)

TASKS = suites.wichrowska()
PLAIN = suites.wichrowska(["plain"])
RATE, NUM_STEPS = 0.01, 20
BATCHES = range(1000, 1003)  # on which losses are compared


def losses(problem, params, constants):
  """Returns the mean loss over the tasks of a few mini-batches."""
  each = [problem.task_losses(params, constants, seeds.make(0, i)) for i in BATCHES]
  return float(np.mean(each))


@pytest.mark.parametrize("name", TASKS)
def test_a_problem_starts_finite_and_adam_does_not_raise_it(name):
  problem, optimizer = TASKS[name](), Adam(RATE)
  params, constants = problem.init(seeds.make(1))
  assert [p.shape for p in params] == [p.shape for p in problem.parameters()]
  state, first = optimizer.initial_state(params), losses(problem, params, constants)
  norms = []
  for step in range(NUM_STEPS):
    with tf.GradientTape() as tape:
      tape.watch(params)
      loss = problem(params, constants, seeds.make(2, step))
    grads = tape.gradient(loss, params)
    norms.append(float(tf.linalg.global_norm(grads)))
    updates, state = optimizer(grads, state, params=params, loss=loss)
    params = [p + u for p, u in zip(params, updates)]
    assert np.isfinite(loss) and loss >= 0
  assert np.all(np.isfinite(norms))
  # A coordinate of a sparse gradient is zero in 99 steps of 100.
  assert max(norms) > 0 or name.endswith("sparse")
  last = losses(problem, params, constants)
  noise = 0.02 * abs(first) if name.endswith("noisy") else 1e-5 * abs(first)
  assert last <= first + noise


def test_every_problem_comes_in_every_version_under_its_name():
  assert len(TASKS) == 5 * len(PLAIN) and {*PLAIN} <= {*TASKS}
  kinds = {
    "log": LogLoss,
    "rescaled": ScaledParameters,
    "noisy": NoisyGradients,
    "sparse": SparseGradients,
  }
  for version, kind in kinds.items():
    assert isinstance(TASKS[f"matyas, {version}"](), kind)
    assert len(suites.wichrowska([version])) == len(PLAIN)


def test_rescaled_parameters_start_at_the_scale_and_lose_as_before():
  plain, rescaled = PLAIN["bowl, 5"](), TASKS["bowl, 5, rescaled"]()
  (theta,), constants = rescaled.init(seeds.make(3))
  point = [theta / 10.0]
  np.testing.assert_allclose(
    rescaled([theta], constants, seeds.make(0)),
    plain(point, constants[0], seeds.make(0)),
    rtol=1e-5,
  )
  starts = [rescaled.init(seeds.make(0, i))[0][0] for i in range(100)]
  np.testing.assert_allclose(np.std(starts), 10.0, rtol=4 / 400**0.5)


def test_an_unknown_version_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match=r"versions=\['loud'\]; choose one or"):
    suites.wichrowska(["loud"])
  with pytest.raises(ValueError, match=r"versions=\[\]; choose"):
    suites.wichrowska([])
