"""Meta-gradients measured by the length of the window and its place in the episode.

A short window does not see what an update does later, so its meta-gradient is biased
towards quick gains. Through a long window meta-gradients explode, and their direction
changes from task to task. Metz et al. 2019, sections 2 and 3.
https://arxiv.org/abs/1810.10180
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from l2l_tf import dtypes, seeds, tables
from l2l_tf.meta import unroll
from l2l_tf.meta.curriculum import check_lengths
from l2l_tf.meta.gradients import MetaGradient, TruncatedBPTT
from l2l_tf.meta.imitation import imitating
from l2l_tf.meta.objective import MetaObjective, all_ones
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem
from l2l_tf.storage import files

_SHORTEST = 5  # steps of a window; in shorter ones meta-steps take most of the time
_LONGEST = 1000  # by default; a tape holds all its steps
_SPACING = 1.6  # least ratio of two lengths
_MOMENTUM = 10  # meta-gradients that Adam averages, with beta_1 = 0.9
_RESOLVED = 4.0  # squared norm of a mean, in units of its squared standard error


class Place(NamedTuple):
  """The meta-gradients of one window, over episodes."""

  length: int  # steps of the window
  step: int  # steps of the episode before it
  norm: float  # root mean square of the global norm, before clipping
  agreement: float  # mean cosine between the meta-gradients of two episodes
  snr: float  # signal-to-noise ratio: squared norm of the mean, over the variance


class Length(NamedTuple):
  """The meta-gradients of a whole episode in windows of one length."""

  length: int
  snr: float  # of their sum, as above
  alignment: float  # cosine of its mean with that of the reference; NaN without one
  score: float  # how far an episode's meta-steps go in the direction of the reference


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What `measure` found.

  Attributes:
    num_steps: of an episode.
    places: every window that was measured.
    lengths: every length, the shortest first.
    reference: the longest length whose mean meta-gradient stands out from the noise;
      None if there is none.
  """

  num_steps: int
  places: list[Place]
  lengths: list[Length]
  reference: int | None

  @property
  def best(self) -> int:
    """The length with the highest score."""
    return max(self.lengths, key=lambda found: found.score).length

  @property
  def reason(self) -> str:
    """Says in a sentence what is best, and why."""
    if self.reference is None:
      return (
        f"Windows of {self.best} steps, the shortest: no length has a meta-gradient"
        " that stands out from the differences between the episodes."
      )
    at = [found.length for found in self.lengths].index(self.best)
    text = (
      f"Windows of {self.best} steps, {self._merits(at)}: cosine to the meta-gradient"
      f" of {self.reference} steps, and signal-to-noise ratio of an episode"
    )
    others = [n for n in (at - 1, at + 1) if 0 <= n < len(self.lengths)]
    parts = [f"of {self.lengths[n].length} steps ({self._merits(n)})" for n in others]
    return f"{text}; better than those {' and '.join(parts)}." if parts else f"{text}."

  def _merits(self, index: int) -> str:
    found = self.lengths[index]
    count = self.num_steps // found.length
    steps = "1 meta-step" if count == 1 else f"{count} meta-steps"
    return f"{found.alignment:.2f} and {found.snr:.2g}, {steps} an episode"

  def write(self, path: str | os.PathLike[str]) -> None:
    """Writes all places as CSV, for `plots.windows`.

    Raises:
      WriteError: if it cannot be written.
    """
    rows = [[*p[:2], *(tables.number(x, 6) for x in p[2:])] for p in self.places]
    files.write_csv(path, [Place._fields, *rows])

  def table(self) -> str:
    """Returns a line for each length: its windows at three places, and its episodes."""
    rows = [
      ["window", "norm: first", "middle", "last", "agreement: first", "middle", "last",
       "snr of an episode", "alignment", "score"]
    ]  # fmt: skip
    for found in self.lengths:
      places = [p for p in self.places if p.length == found.length]
      shown = places[0], places[len(places) // 2], places[-1]
      values = [
        *(p.norm for p in shown), *(p.agreement for p in shown), *found[1:]
      ]  # fmt: skip
      mark = "*" if found.length == self.best else ""
      cells = ("-" if np.isnan(value) else f"{value:.2g}" for value in values)
      rows.append([f"{found.length}{mark}", *cells])
    return tables.aligned(rows, num_left=0, has_rule=True)


def measure(
  problem: Problem,
  optimizer: Optimizer,
  num_steps: int = 100,
  lengths: Sequence[int] | None = None,
  meta_gradient: MetaGradient = TruncatedBPTT(),  # noqa: B008
  objective: MetaObjective | None = None,
  num_episodes: int = 16,
  seed: int = 0,
  meta_batch_size: int = 1,
) -> Measurement:
  """Measures meta-gradients by window, and says which length of window to take.

  phi stays as it is. The meta-gradients are those that the meta-optimizer would get:
  in the objective's units, and clipped. For each length the means over windows of the
  same place, and over whole episodes, are compared with the differences from episode to
  episode. An optimizer whose weights are fresh should be trained for a few episodes
  first.

  A length's score is n * a * sqrt(M s / (1 + M s)), the distance that an episode's
  meta-steps go in the right direction. Of these, n is the number of windows, each of
  which gives a meta-step of about the same size; a is the cosine of their mean
  meta-gradient with that of the longest window which stands out from the noise, and
  tells their bias; and s is the signal-to-noise ratio of one window, of which Adam's
  momentum averages M = 10.

  >>> from l2l_tf.evaluation import windows
  >>> problem, optimizer = Simple(), CoordinatewiseLSTM(())
  >>> found = windows.measure(problem, optimizer, num_steps=20, num_episodes=2)
  >>> [row.length for row in found.lengths]
  [5, 10, 20]
  >>> trainer = MetaTrainer(
  ...   problem, optimizer, num_steps=20, unroll_length=found.best)

  Args:
    problem: the distribution of tasks.
    optimizer: with the weights at which to measure.
    num_steps: of an episode.
    lengths: of windows, divisors of `num_steps`; by default some that are about a
      factor of two apart, from 5 to 1,000 steps.
    meta_gradient: by back-propagation; the other estimators are not biased by windows.
    objective: the meta-loss and its clipping; by default as the meta-gradient says. An
      imitation counts as in the first episode.
    num_episodes: tasks, the same for each length.
    seed: names the tasks, which are not those of a training.
    meta_batch_size: tasks of which a training's meta-gradient is the mean; what is
      measured, and clipped, is that of single tasks, but the score counts with s times
      as many.

  Raises:
    ValueError: if `meta_gradient` estimates from particles, the objective's weights
      are for windows of one length, a length does not divide `num_steps`, or there are
      fewer than two episodes.
  """
  if objective is None:
    objective = MetaObjective(getattr(meta_gradient, "weights", all_ones))
  check(meta_gradient, objective)
  if num_episodes < 2:
    raise ValueError(f"num_episodes={num_episodes} must be at least 2.")
  lengths = default_lengths(num_steps) if lengths is None else sorted(set(lengths))
  for length in lengths:
    check_lengths(num_steps, length)
  learner = imitating(optimizer, objective.imitation)
  run = _runner(problem, learner, meta_gradient, objective.at(tf.constant(0)))
  keys = [seeds.make(seed, seeds.TUNING, i) for i in range(num_episodes)]
  places, sums = [], {}
  with tqdm.tqdm(total=len(lengths) * num_episodes, desc="Measuring windows") as bar:
    for length in lengths:
      found, sizes = [], (num_steps, length)
      for key in keys:
        state = meta_gradient.init(problem, learner, key, *sizes)
        found.append(run(key, num_steps // length, length, state))
        bar.update()
      gradients, norms = (np.stack(x, axis=1) for x in zip(*found))
      places += [
        Place(length, k * length, _root_mean_square(norms[k]), *_statistics(g))
        for k, g in enumerate(gradients)  # [windows, episodes, phi]
      ]
      sums[length] = gradients.sum(axis=0)
  return _judged(num_steps, places, sums, meta_batch_size)


def check(meta_gradient: MetaGradient, objective: MetaObjective) -> None:
  """Raises ValueError unless windows of several lengths can be compared."""
  if not callable(objective.weights):
    raise ValueError(
      f"The meta-objective has {len(objective.weights)} weights, for windows of that"
      " many steps; give that as unroll_length, or weights that are a function of the"
      " length, such as last_only."
    )
  if meta_gradient.draws_tasks:
    raise ValueError(
      f"{type(meta_gradient).__name__} has particles and episodes of its own, so there"
      " is no window to measure; give a number as unroll_length, or TruncatedBPTT."
    )


def default_lengths(num_steps: int) -> list[int]:
  """Returns divisors of `num_steps`, about a factor of two apart.

  >>> from l2l_tf.evaluation import windows
  >>> windows.default_lengths(100)
  [5, 10, 20, 50, 100]
  """
  lengths = []
  for length in range(min(_SHORTEST, num_steps), min(_LONGEST, num_steps) + 1):
    if num_steps % length == 0 and (not lengths or length >= _SPACING * lengths[-1]):
      lengths.append(length)
  return lengths or [max(n for n in range(1, _LONGEST) if num_steps % n == 0)]


def _runner(problem, optimizer, meta_gradient, objective) -> Callable:
  """Returns what gives an episode's meta-gradients and their norms before clipping.

  They are of shape [windows, weights of phi] and [windows].
  """
  size = sum(w.shape.num_elements() for w in optimizer.get_phi())

  @tf.function(autograph=False)
  def run(seed, num_windows, length, state):
    task, carry = unroll.start(problem, optimizer, seed, meta_gradient.evaluate)

    def take(now):
      carry, state = now
      window_seed = unroll.step_seed(task, carry.step)
      window, state = meta_gradient(
        problem, optimizer, task, carry, length, lambda *_: (), objective, state,
        window_seed,
      )  # fmt: skip
      _, gradient = objective.in_units(
        window.meta_loss, window.meta_gradient, carry.loss
      )
      norm = tf.linalg.global_norm(dtypes.for_sum(gradient))
      most = min(objective.clip_norm, objective.task_clip_norm)
      gradient = dataclasses.replace(objective, clip_norm=most).clipped(gradient, norm)
      flat = [tf.reshape(tf.cast(g, tf.float32), [-1]) for g in gradient]
      flat = tf.concat(flat, axis=0), tf.cast(norm, tf.float32)
      return (window.carry, state), flat

    like = tf.TensorSpec([size], tf.float32), tf.TensorSpec([], tf.float32)
    return unroll.repeat(take, (carry, state), num_windows, like)[1]

  return lambda seed, count, length, state: run(
    seed, tf.constant(count), tf.constant(length), state
  )


def _judged(
  num_steps: int,
  places: list[Place],
  sums: dict[int, np.ndarray],
  meta_batch_size: int = 1,
) -> Measurement:
  """Compares the lengths by the sums of their meta-gradients, [episodes, phi]."""
  ratios = {length: _statistics(x)[-1] for length, x in sums.items()}
  episodes = len(next(iter(sums.values())))
  resolved = [n for n, ratio in ratios.items() if ratio * episodes >= _RESOLVED]
  if not resolved:
    lengths = [Length(n, ratio, np.nan, 1 / n) for n, ratio in ratios.items()]
    return Measurement(num_steps, places, lengths, None)
  reference = max(resolved)
  lengths = []
  for length, ratio in ratios.items():
    count = num_steps / length
    alignment = _alignment(sums[length], sums[reference]) if ratio > 0 else 0.0
    of_a_step = _MOMENTUM * meta_batch_size * max(ratio, 0.0) / count
    share = 1 / np.sqrt(1 + 1 / of_a_step) if of_a_step > 0 else 0.0
    lengths.append(Length(length, ratio, alignment, float(count * alignment * share)))
  return Measurement(num_steps, places, lengths, reference)


def _root_mean_square(norms: np.ndarray) -> float:
  return (
    float(np.sqrt(np.mean(np.square(norms)))) if np.isfinite(norms).all() else np.inf
  )


def _statistics(gradients: np.ndarray) -> tuple[float, float]:
  """Returns agreement and signal-to-noise ratio of gradients [episodes, phi].

  Both are zero if one of them is not finite.
  """
  if not np.isfinite(gradients).all():
    return 0.0, 0.0
  gradients = gradients.astype(np.float64)
  products = gradients @ gradients.T
  power = float(np.mean(np.diag(products)))
  sizes = np.sqrt(np.diag(products))
  cosines = products / np.maximum(np.outer(sizes, sizes), np.finfo(np.float64).tiny)
  signal = _between(products)
  noise = power - signal
  snr = signal / noise if noise > 0 else np.inf if signal > 0 else 0.0
  return _between(cosines), snr


def _alignment(one: np.ndarray, other: np.ndarray) -> float:
  """Returns the cosine between the means of two sets of gradients [episodes, phi].

  Only products of different episodes count, so that what an episode has in common with
  itself makes nothing look alike.
  """
  one, other = (x.astype(np.float64) for x in (one, other))
  products = [_between(x @ y.T) for x, y in ((one, other), (one, one), (other, other))]
  if min(products[1:]) <= 0:
    return 0.0
  return float(np.clip(products[0] / np.sqrt(products[1] * products[2]), -1, 1))


def _between(products: np.ndarray) -> float:
  """Returns the mean of the entries off the diagonal, [episodes, episodes]."""
  count = len(products)
  return float((products.sum() - np.trace(products)) / (count * (count - 1)))
