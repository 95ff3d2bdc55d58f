"""Persistent evolution strategies in l2l_tf, and their unrolls alone, as contenders."""

from typing import Any

import numpy as np
import tensorflow as tf
from in_l2l_tf import PROBLEMS, SEED

from l2l_tf import seeds
from l2l_tf.meta import execution
from l2l_tf.meta.gradients import PES, lanes
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM


class Estimator:
  """`MetaTrainer` with `PES`; a turn is an epoch."""

  version = f"tensorflow {tf.__version__}"

  def __init__(self, case: Any):
    """Takes a `Case` of `estimators.py`."""
    self._case = case
    self._estimator = PES(case.pairs, case.stddev, case.num_steps, 1e9)
    self._problem = PROBLEMS[case.problem](*case.sizes)
    self._optimizer = CoordinatewiseLSTM(layers=case.layers, seed=SEED)
    self._trainer = MetaTrainer(
      self._problem,
      self._optimizer,
      Adam(case.learning_rate),
      self._estimator,
      case.num_steps,
      case.unroll_length,
      seed=SEED,
    )

  def turn(self, index: int) -> None:
    self._trainer.train_episode(index)

  def reference(self) -> dict[str, Any]:
    """Returns phi, the particles' tasks and noise, and what is expected of them."""
    case, seed = self._case, seeds.make(SEED)
    arguments = self._problem, self._optimizer, seed, case.num_steps, case.unroll_length
    state = self._estimator.init(*arguments)
    window, _ = self._estimator(
      self._problem,
      self._optimizer,
      None,
      None,
      case.unroll_length,
      lambda *_: (),
      state=state,
      seed=seed,
    )
    noise = self._estimator._noise(self._optimizer, seed)
    params = [np.reshape(p, [case.pairs, -1]) for p in state.carries[0].params]
    is_array = len(params) == 1
    theta = state.carries[0].params[0].numpy() if is_array else np.hstack(params)
    return {
      "weights": [v.numpy() for v in self._optimizer.trainable_variables],
      "theta": theta,
      "constants": [c.numpy() for c in state.task.constants],
      "noise": [e.numpy() for e in noise],
      "answers": {"estimate": [g.numpy() for g in window.meta_gradient]},
    }


class Unrolls(Estimator):
  """The forward unrolls of the same particles and nothing else."""

  def __init__(self, case: Any):
    super().__init__(case)
    problem, optimizer = self._problem, self._optimizer
    arguments = problem, optimizer, seeds.make(SEED), case.num_steps, 1
    state = self._estimator.init(*arguments)
    noise = self._estimator._noise(optimizer, seeds.make(SEED))
    objective, ignore = self._trainer.objective, lambda *_: ()
    length = case.num_steps

    def run(state, noise):
      runner = lanes.Runner(
        problem, optimizer, objective, state.task, length, ignore, 1e9
      )
      weights = [w + e for w, e in zip(optimizer.get_phi(), noise)]
      opposite = [w - e for w, e in zip(optimizer.get_phi(), noise)]
      return runner([weights, opposite], state.carries).meta_losses

    run = execution.compiled_loop(problem, optimizer, run)
    size = 2 * sum(p.shape.num_elements() for p in state.carries[0].params)
    parts = execution.lane_parts(problem, optimizer, case.pairs, size // case.pairs)
    calls = [lanes.part((state, noise), *part) for part in parts]
    self._run = tf.function(lambda: execution.side_by_side(run, calls), autograph=False)

  def turn(self, index: int) -> None:
    for losses in tf.nest.flatten(self._run()):
      losses.numpy()
