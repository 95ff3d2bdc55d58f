"""Meta-training in l2l_tf, as a contender."""

import itertools
from typing import Any

import memory
import numpy as np
import problems
import reached
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import TruncatedBPTT
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM
from l2l_tf.problems import Quadratic

SEED = 0
PROBLEMS = {
  "quadratic": lambda batch, dims: Quadratic(batch_size=batch, num_dims=dims),
  "mlp": problems.MLP,
  "conv_net": problems.ConvNet,
}


class Epochs:
  """What `MetaTrainer` does by default; a turn is an epoch."""

  version = f"tensorflow {tf.__version__}"

  def __init__(self, case: Any):
    """Takes a `Case` of `meta_train.py`."""
    self._case = case
    self._trainer = self._make_trainer()

  def turn(self, index: int) -> None:
    self._trainer.train_episode(index)

  def weights(self) -> list[np.ndarray]:
    """Returns phi."""
    return [v.numpy() for v in self._trainer.optimizer.trainable_variables]

  def answers(self) -> dict[str, Any]:
    """Returns what a trainer starts from, and what it computes on its first task.

    It needs no more of l2l_tf than a turn does, so that another checkout has it.
    """
    return {
      "weights": self.weights(),
      "meta-losses of an epoch": self._make_trainer().train_episode(0)["meta_loss"],
    }

  def reference(self) -> dict[str, Any]:
    """Returns phi, a task, and the answers that are expected of the others."""
    trainer, length = self._make_trainer(), self._case.unroll_length
    seed = seeds.make(SEED, seeds.TRAINING, 0)  # the trainer's first task
    task, carry = unroll.start(trainer.problem, trainer.optimizer, seed)
    window, _ = TruncatedBPTT()(
      trainer.problem,
      trainer.optimizer,
      task,
      carry,
      length,
      observe=lambda carry, updates: (),
    )
    is_array = len(carry.params) == 1  # the others have one parameter of any shape
    theta = [p.numpy() if is_array else np.ravel(p) for p in carry.params]
    return {
      "weights": self.weights(),
      "theta": np.concatenate(theta),
      "constants": [c.numpy() for c in task.constants],
      "answers": {
        "first window's meta-loss": float(window.meta_loss),
        "first window's meta-gradient": [g.numpy() for g in window.meta_gradient],
        **self.answers(),
      },
    }

  def report_reached(self, seconds: float) -> None:
    """Prints what share of the machine an epoch of so many seconds reaches."""
    case = self._case
    reached.report(seconds, case.num_parameters, case.num_steps, case.layers)

  def memory(self) -> tuple[float, float]:
    """Returns MiB of the first epoch's peak, compilation included, and of the next."""
    self._warm_up()
    before, counter = memory.held(), itertools.count()
    return tuple(
      memory.peak(lambda: self.turn(next(counter))) - before for _ in range(2)
    )

  def _warm_up(self) -> None:
    """Computes one gradient of the problem alone."""
    problem = self._trainer.problem
    compiled = tf.function(
      unroll.second_order, jit_compile=problem.jit_compile, autograph=False
    )
    task, params = unroll.draw(problem, seeds.make(SEED))
    compiled(problem, params, task.constants, task.seed)

  def _make_trainer(self) -> MetaTrainer:
    case = self._case
    return MetaTrainer(
      PROBLEMS[case.problem](*case.sizes),
      CoordinatewiseLSTM(layers=case.layers, seed=SEED),
      meta_optimizer=Adam(case.learning_rate),
      num_steps=case.num_steps,
      unroll_length=case.unroll_length,
      seed=SEED,
    )
