"""A meta-update on few-shot episodes in l2l_tf, as l2l-fewshot takes it."""

from typing import Any

import numpy as np
import tensorflow as tf

import l2l_tf
from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import TruncatedBPTT
from l2l_tf.meta.objective import MetaObjective, last_only
from l2l_tf.optimizers import Adam, GateLSTM, LearnedStart
from l2l_tf.problems import few_shot
from l2l_tf.problems.few_shot import Episode

_WAYS, _CLASSES, _IMAGES = 5, 20, 20
# Steps after which the meta-gradient is compared. After more of them rounding may
# choose another winner of a max-pooling.
_COMPARED = 1


class Updates:
  """Meta-training; a turn is some updates."""

  version = f"TensorFlow {tf.__version__}"

  def __init__(self, updates: int, shots: int, num_steps: int, memory: bool):
    self._updates = updates
    rng, count = np.random.default_rng(0), _CLASSES * _IMAGES
    images = rng.random([count, 28, 28, 1], np.float32)
    labels = np.repeat(np.arange(_CLASSES), _IMAGES)
    problem = few_shot((images, labels), _WAYS, shots)
    start, self._episode = problem.init(seeds.make(0))
    optimizer = LearnedStart(GateLSTM(memory), [p.shape for p in start])
    self._problem, self._optimizer = problem, optimizer.begin_at(start)
    self._objective = MetaObjective(last_only, clip_norm=0.25)
    self._trainer = l2l_tf.MetaTrainer(
      problem,
      optimizer,
      Adam(1e-3),
      num_steps=num_steps,
      unroll_length=num_steps,
      objective=self._objective,
    )

  def turn(self, index: int) -> None:
    for _ in self._trainer.train(self._updates, index * self._updates):
      pass

  def reference(self) -> dict[str, Any]:
    """Returns phi, an episode, and what is computed on it."""
    cell = self._optimizer.inner
    names = ["kernel", "recurrent", "bias"]
    phi = {name: getattr(cell, name).numpy() for name in names}
    if (memory := cell.memory) is not None:
      names = ["w_x", "w_h", "b", "readout"]
      phi |= {name: getattr(memory, name).numpy() for name in names}
    phi |= {f"start_{i:02d}": v.numpy() for i, v in enumerate(self._optimizer.start)}
    episode = [x.numpy() for x in self._episode]
    found = {"answers": self.answers(*episode), "compared": _COMPARED}
    return {"phi": phi, "episode": episode, **found}

  def answers(self, support: np.ndarray, query: np.ndarray) -> dict[str, Any]:
    episode = Episode(tf.constant(support), tf.constant(query))
    task = unroll.Task(episode, seeds.make(0))
    params = list(self._optimizer.start)

    @tf.function(autograph=False)
    def window():
      arguments = self._problem, self._optimizer, task
      carry = unroll.begin(*arguments, [tf.identity(p) for p in params])
      see = lambda *_: ()
      return TruncatedBPTT()(*arguments, carry, _COMPARED, see, self._objective)[0][:2]

    gradient, loss = window()
    phi = self._optimizer.get_phi()
    start = [v.ref() for v in self._optimizer.start]
    of_start = [g.numpy() for v, g in zip(phi, gradient) if v.ref() in start]
    bias = next(g for v, g in zip(phi, gradient) if v is self._optimizer.inner.bias)
    return {
      "meta-loss": loss.numpy(),
      "meta-gradient of the start": of_start,
      "meta-gradient of the biases": bias.numpy(),
    }
