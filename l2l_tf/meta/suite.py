"""Meta-training on many problems at once, by evolution strategies over whole episodes.

Each problem is compiled by itself, and its episodes run one by one on every core. That
suits optimizers with few weights, whose perturbations need no derivative and little
noise is left of. Metz et al. 2019, section 3, https://arxiv.org/abs/1810.10180.
"""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from l2l_tf import cores, seeds
from l2l_tf.meta import execution, unroll
from l2l_tf.optimizers import Adam, Optimizer
from l2l_tf.problems import Problem


class Ended(NamedTuple):
  """What one episode reached, all scalars."""

  first: Any  # loss at the start
  mean: Any  # of all steps' losses
  last: Any  # mean loss of the last tenth of the steps
  held_out: Any  # loss on held-out data at the end; `last` if there are none


class Draw(NamedTuple):
  """One task of an update, on which all particles run."""

  problem: str
  num_steps: int
  total_steps: int  # what the optimizer is told; 0: nothing
  seed: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Fitness:
  """What an episode is worth; lower is better.

  With l(x) = log(x / first + floor) it is l(last) + mean_weight l(mean) +
  held_out_weight max(0, l(held out) - l(last)). The floor keeps memorised tasks from
  deciding everything. A loss that is not finite, or above `most` times the first,
  counts as that.
  """

  mean_weight: float = 0.2
  held_out_weight: float = 0.5
  floor: float = 0.01
  most: float = 10.0

  def __call__(self, ended: Ended) -> float:
    def log(value):
      ratio = float(value) / max(float(ended.first), 1e-30)
      ratio = ratio if 0 <= ratio < self.most else self.most
      return float(np.log(ratio + self.floor))

    held_out = log(ended.held_out) - log(ended.last)
    extra = self.mean_weight * log(ended.mean) + self.held_out_weight * max(held_out, 0)
    return log(ended.last) + extra


class SuiteTrainer(tf.Module):
  """Trains an optimizer's weights on tasks of several problems.

  An update draws some of the problems, a horizon for each, log-uniformly, and pairs of
  opposite perturbations of phi. Both particles of a pair train the same task on the
  same mini-batches, for the whole horizon; the difference of their fitness is clipped
  to `clip`. The meta-optimizer follows the mean of all.

  >>> problems = {"x^2": Simple(), "x^2 + y^2": SimpleMulti()}
  >>> optimizer = GeneralRule()
  >>> trainer = SuiteTrainer(problems, optimizer, horizon=(5, 20), pairs=1)
  >>> sorted(trainer.update(0))
  ['diverged', 'fitness', 'meta_gradient_norm', 'problems']
  """

  def __init__(
    self,
    problems: Mapping[str, Problem],
    optimizer: Optimizer,
    meta_optimizer: Optimizer | None = None,
    horizon: tuple[int, int] = (50, 2000),
    pairs: int = 8,
    tasks: int = 4,
    stddev: float | Sequence[Any] = 0.1,
    untold: float = 0.0,
    fitness: Fitness = Fitness(),
    clip: float = 1.0,
    seed: int = 0,
  ):
    """Initializes the meta-optimizer's state; nothing is compiled yet.

    Args:
      problems: by name; each update draws some.
      optimizer: its variables are updated in place.
      meta_optimizer: trains phi; Adam at 0.01 by default.
      horizon: the least and the most steps of an episode.
      pairs: pairs of particles for each task.
      tasks: of an update.
      stddev: of the perturbation of every weight; or an array for each entry of phi,
        in which a zero leaves a weight as it is. A weight's meta-step is multiplied
        by its spread over the largest one.
      untold: share of tasks whose number of steps the optimizer is not told.
      fitness: what an episode is worth.
      clip: the most that a pair's difference of fitness counts.
      seed: names all draws.
    """
    super().__init__()
    phi = [tf.convert_to_tensor(v) for v in optimizer.trainable_variables]
    spread = [stddev] * len(phi) if np.isscalar(stddev) else stddev
    like = lambda s, w: np.broadcast_to(s, w.shape).astype(w.dtype.as_numpy_dtype)
    spread = [like(s, w) for s, w in zip(spread, phi, strict=True)]
    is_spread = all(np.min(s) >= 0 for s in spread) and any(np.any(s) for s in spread)
    if not (1 <= horizon[0] <= horizon[1] and min(pairs, tasks) >= 1 and is_spread):
      raise ValueError(
        f"SuiteTrainer got horizon={horizon}, pairs={pairs}, tasks={tasks} and"
        f" stddev={stddev}; they must be positive, the lower horizon first."
      )
    self.optimizer = optimizer
    self.meta_optimizer = Adam(0.01) if meta_optimizer is None else meta_optimizer
    self._problems, self._names = dict(problems), sorted(problems)
    self._horizon, self._pairs, self._tasks = horizon, pairs, min(tasks, len(problems))
    self._stddev, self._untold, self._clip = spread, untold, clip
    most = max(np.max(s) for s in spread)
    self._scale = [s / most for s in spread]
    self._fitness, self._seed = fitness, seed
    self._episodes: dict[str, Any] = {}
    self._lock = threading.Lock()
    self._meta_state = self.meta_optimizer.initial_state(phi)
    self.meta_state_variables = [
      tf.Variable(x, trainable=False) for x in tf.nest.flatten(self._meta_state)
    ]

  def update(self, index: int) -> dict[str, Any]:
    """Takes the meta-step that `index` names; the same index always draws the same.

    Returns:
      A dict: "fitness", the mean over all episodes; "diverged", how many of them;
      "meta_gradient_norm"; "problems", the names of those drawn.
    """
    draws = self._draw(index)
    keys = seeds.split(seeds.make(self._seed, seeds.ESTIMATION, index), len(draws))
    phi = [v.numpy() for v in self.optimizer.trainable_variables]
    noise = [self._noise(phi, key) for key in keys]  # [task][pair], like phi
    moved = lambda z, sign: [
      w + sign * s * x for w, s, x in zip(phi, self._stddev, z, strict=True)
    ]
    particles = [
      (draw, moved(z, sign))
      for draw, pairs in zip(draws, noise)
      for z in pairs
      for sign in (1, -1)
    ]
    with futures.ThreadPoolExecutor(cores.num_shards()) as pool:
      ended = list(pool.map(lambda particle: self.run(*particle), particles))
    values = np.reshape([self._fitness(e) for e in ended], [-1, 2])
    differences = np.clip(values[:, 0] - values[:, 1], -self._clip, self._clip)
    gradient = self._gradient(differences, [z for pairs in noise for z in pairs])
    self._step(gradient)
    return {
      "fitness": float(values.mean()),
      "diverged": sum(not float(e.last) < self._fitness.most * e.first for e in ended),
      "meta_gradient_norm": float(np.sqrt(sum(np.sum(g**2) for g in gradient))),
      "problems": [draw.problem for draw in draws],
    }

  def run(self, draw: Draw, phi: list[Any]) -> Ended:
    """Runs one episode with the weights phi."""
    numbers = tf.constant(draw.num_steps), tf.constant(draw.total_steps)
    run, evaluate = self._compiled(draw.problem)
    params, constants, *losses = run(list(map(tf.constant, phi)), draw.seed, *numbers)
    held_out = evaluate(params, constants).get("held_out_loss", losses[-1])
    return Ended(*(float(x) for x in (*losses, held_out)))

  def _draw(self, index: int) -> list[Draw]:
    seed = seeds.make(self._seed, seeds.TRAINING, index)
    rng = np.random.RandomState(seed.numpy().view(np.uint32))
    chosen = rng.choice(len(self._names), self._tasks, replace=False)
    low, high = self._horizon
    lengths = (low * (high / low) ** rng.rand(self._tasks)).round().astype(int)
    told = np.where(rng.rand(self._tasks) < self._untold, 0, lengths)
    keys = seeds.split(seed, self._tasks)
    names = [self._names[i] for i in chosen]
    return [Draw(*one) for one in zip(names, map(int, lengths), map(int, told), keys)]

  def _noise(self, phi, key) -> list[list[np.ndarray]]:
    """Draws z for each pair, whose particles are phi + stddev z and phi - stddev z."""
    draw = lambda w, k: seeds.normal([self._pairs, *w.shape], k, 1.0).numpy()
    drawn = [draw(w, k) for w, k in zip(phi, seeds.split(key, len(phi)))]
    return [list(z) for z in zip(*drawn)]

  def _gradient(self, differences, noise) -> list[np.ndarray]:
    """Returns the mean over the pairs of (F(+) - F(-)) z / (2 stddev)."""
    mean = lambda k: np.mean([d * z[k] for d, z in zip(differences, noise)], axis=0)
    inverse = lambda s: np.divide(0.5, s, out=np.zeros(s.shape), where=s > 0)
    return [inverse(s) * mean(k) for k, s in enumerate(self._stddev)]

  def _compiled(self, name: str):
    """Returns a problem's episode and its evaluation, each traced once."""
    with self._lock:  # Threads share them.
      if name not in self._episodes:
        problem = self._problems[name]
        optimizer = execution.prepared(problem, self.optimizer)
        run = lambda *arguments: _run_episode(problem, optimizer, *arguments)
        self._episodes[name] = (
          tf.function(run, jit_compile=problem.jit_compile, autograph=False),
          tf.function(problem.held_out, autograph=False),
        )
      return self._episodes[name]

  def _step(self, gradient) -> None:
    phi = self.optimizer.trainable_variables
    state = tf.nest.pack_sequence_as(
      self._meta_state, [tf.convert_to_tensor(v) for v in self.meta_state_variables]
    )
    # Of weights in units of their scale; their values are taken as they are.
    scaled = zip(gradient, self._scale, phi)
    gradient = [tf.constant(g * s, v.dtype) for g, s, v in scaled]
    values = [tf.convert_to_tensor(v) for v in phi]
    updates, state = self.meta_optimizer(gradient, state, params=values)
    for variable, update, scale in zip(phi, updates, self._scale):
      variable.assign_add(scale * update)
    flat = tf.nest.flatten(state)
    for variable, value in zip(self.meta_state_variables, flat, strict=True):
      variable.assign(value)


def _run_episode(problem, optimizer, phi, seed, num_steps, total_steps):
  """Trains one task; returns where it ended, its constants, and three losses."""
  running = optimizer.with_phi(phi)
  task, carry = unroll.start(problem, running, seed, total_steps=total_steps)
  first, tail = carry.loss, tf.maximum(1, num_steps // 10)

  def body(carry, total, last):
    # There is no tape to stop gradients for.
    carry, _ = unroll.step(problem, running, task, carry, unroll.second_order)
    ends = tf.cast(carry.step > num_steps - tail, first.dtype)
    return carry, total + carry.loss, last + ends * carry.loss

  zero = tf.zeros_like(first)
  carry, total, last = tf.while_loop(
    lambda carry, *_: carry.step < num_steps, body, (carry, zero, zero)
  )
  mean = lambda x, count: x / tf.cast(count, x.dtype)
  ended = first, mean(total, num_steps), mean(last, tail)
  return carry.params, task.constants, *ended
