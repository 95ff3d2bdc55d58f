"""What estimators from the losses of perturbed optimizers share.

Evolution strategies need no derivative of an episode, only its losses: their variance
grows with the size of phi, but not with the length of the window, and neither does
their memory.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import dtypes, seeds
from l2l_tf.meta import execution, unroll
from l2l_tf.meta.gradients import lanes as lanes_lib
from l2l_tf.meta.gradients.base import MetaGradient, Window
from l2l_tf.meta.gradients.lanes import Lanes, Ran, Weights
from l2l_tf.meta.gradients.taped import TapedBPTT
from l2l_tf.meta.objective import MetaObjective


class Estimate(NamedTuple):
  """What an estimator makes of a window, by lane."""

  samples: Any  # of the meta-gradient, like phi, [P, ...]; or a nest of such lists
  carries: tuple[unroll.Carry, ...]  # for the next window
  memory: Weights
  ran: Ran


@dataclasses.dataclass(frozen=True)
class Particles(MetaGradient, abc.ABC):
  """Estimates the meta-gradient from the losses of perturbed optimizers.

  What is estimated is the gradient of the smoothed meta-loss, E[L(phi + eps)] with eps
  from N(0, stddev^2). A lane is an antithetic pair of particles, with phi + eps and
  phi - eps, on one task. Every lane draws its own tasks, so the trainer's
  `meta_batch_size` stays 1. An episode ends with the first window that reaches its
  horizon. The first episodes are cut short, each at another age, so that the lanes are
  staggered from then on and one update of phi sees all ages.

  Attributes:
    pairs: P, the number of lanes.
    stddev: standard deviation of the perturbation of each weight (sigma).
    horizon: steps of an episode; or two numbers, between which it is drawn
      log-uniformly; by default the trainer's `num_steps`.
    loss_bound: a particle has diverged if its loss (or the problem's own meta-loss) is
      not finite, or above this many times the loss where its episode started (or times
      1, if that loss is lower). Such a loss counts as this bound. The trainer counts
      them in its metric "diverged". If a particle's meta-loss is still not finite, its
      lane estimates nothing in that window.
  """

  pairs: int = 8
  stddev: float = 0.01
  horizon: int | Sequence[int] | None = None
  loss_bound: float = 10.0

  draws_tasks = True
  num_kept = 2  # particles of a lane that go on after a window
  remembers = True  # whether perturbations are remembered from window to window
  # Whether the window is back-propagated too, along the last of the particles kept; a
  # subclass that says so has the attribute `second_derivatives`.
  back_propagates = False

  def __post_init__(self):
    name = type(self).__name__
    is_whole = isinstance(self.pairs, int) and not isinstance(self.pairs, bool)
    if not is_whole or self.pairs < 1:
      raise ValueError(
        f"{name} got pairs={self.pairs}; particles come in antithetic pairs, so their"
        " number is even: give a whole number of pairs, at least 1."
      )
    if not 0 < self.stddev < float("inf"):
      raise ValueError(
        f"{name} got stddev={self.stddev}; without a perturbation there is nothing to"
        " estimate from, so give a positive number such as 0.01."
      )
    if not 0 < self.loss_bound < float("inf"):
      raise ValueError(
        f"{name} got loss_bound={self.loss_bound}; it must be positive and finite."
      )
    self._horizons(num_steps=1)

  @property
  def num_lanes(self):
    return self.pairs

  @property
  def evaluate(self):
    return self._taped.evaluate if self.back_propagates else unroll.first_order

  @property
  def _taped(self) -> TapedBPTT:
    return TapedBPTT(self.second_derivatives)

  @abc.abstractmethod
  def estimate(
    self,
    run: Callable[..., Ran],
    phi: list[tf.Tensor],
    noise: Weights,
    lanes: Lanes,
    analytic: Weights,
  ) -> Estimate:
    """Runs the particles of one window and returns what each lane estimates.

    Args:
      run: a `lanes.Runner`.
      phi: the optimizer's weights.
      noise: eps, a perturbation of each of them for every lane, [P, ...].
      lanes: the episodes.
      analytic: the back-propagated gradient of each lane, [P, ...], if it
        `back_propagates`; the particle along which that is done is run already.
    """

  def combined(self, samples: Any) -> list[tf.Tensor]:
    """Returns one gradient, given the lanes' estimates; their mean by default.

    If it is another, `of_share` and `of_shares` are to be overridden as well.
    """
    return [tf.reduce_mean(x, axis=0) for x in samples]

  def of_share(self, samples: Any, begin: int, end: int) -> Any:
    """Returns what adds up over the shares, given the estimates of one."""
    return [(end - begin) / self.pairs * x for x in self.combined(samples)]

  def init(self, problem, optimizer, seed, num_steps, unroll_length):
    """Begins the first episodes.

    Raises:
      ValueError: if a horizon is shorter than the window, or a loss is not finite.
    """
    horizons = self._horizons(num_steps)
    if horizons[0] < unroll_length:
      raise ValueError(
        f"{type(self).__name__} got a horizon of {horizons[0]} steps, shorter than the"
        f" window of {unroll_length}; give a longer horizon, or a shorter"
        " unroll_length."
      )
    begin = self._all_beginning(problem, optimizer)
    return lanes_lib.staggered(problem, begin, seed, self.pairs, horizons)

  def __call__(
    self,
    problem,
    optimizer,
    task,
    carry,
    length,
    observe,
    objective=MetaObjective(),  # noqa: B008
    state=None,
    seed=None,
  ):
    del task, carry  # The lanes have their own.
    begin = self._beginning(problem, optimizer)
    lanes = lanes_lib.renewed(state, lambda *lane: begin(lane))
    noise = self._noise(optimizer, seed)
    stepped = execution.stepped(problem, optimizer)
    analytic, end = self._back_propagated(problem, optimizer, lanes, length, objective)

    def estimated(lanes, noise, analytic, length):
      run = lanes_lib.Runner(
        problem, stepped, objective, lanes.task, length, observe, self.loss_bound
      )
      phi = [tf.convert_to_tensor(w) for w in optimizer.get_phi()]
      return self.estimate(run, phi, noise, lanes, analytic)

    estimated = execution.compiled_loop(problem, optimizer, estimated)
    count = lanes.horizon.shape[0]
    parts = execution.lane_parts(problem, optimizer, count, _size(lanes))
    cut = lambda part: lanes_lib.part((lanes, noise, analytic), *part)
    calls = [(*cut(part), length) for part in parts]
    found = lanes_lib.joined(execution.side_by_side(estimated, calls))
    found = found._replace(carries=(*found.carries, *end))
    next_lanes = lanes._replace(carries=found.carries, memory=found.memory)
    return self._window(found), next_lanes

  def _back_propagated(self, problem, optimizer, lanes, length, objective):
    """Returns each lane's gradient, and where its unperturbed particle ended."""
    if not self.back_propagates:
      return [], ()

    def one(task, carry, length):
      ignore = lambda carry, updates: ()
      arguments = problem, optimizer, task, carry, length, ignore, objective
      window, _ = self._taped(*arguments)
      _, gradient = objective.in_units(
        window.meta_loss, window.meta_gradient, carry.loss
      )
      return gradient, window.carry

    tasks, carries = map(lanes_lib.unstack, (lanes.task, lanes.carries[-1]))
    calls = [(task, carry, length) for task, carry in zip(tasks, carries)]
    gradient, end = lanes_lib.stack(execution.side_by_side(one, calls))
    return gradient, (end,)

  def _window(self, found: Estimate) -> Window:
    ran = found.ran
    meta_loss = tf.add_n([tf.reduce_mean(x) for x in ran.meta_losses])
    window = Window(
      self.combined(found.samples) if self._share is None else [],
      meta_loss / len(ran.meta_losses),
      tf.nest.map_structure(lambda x: x[0], found.carries[0]),  # of one particle
      tf.nest.map_structure(lambda x: tf.reduce_mean(x, axis=0), ran.observed),
      tf.reduce_sum(ran.diverged),
    )
    if self._share is None:
      return window
    gradient = self.of_share(found.samples, *self._share)
    return lanes_lib.weighted(window, self._share, self.pairs, gradient)

  def _all_beginning(self, problem, optimizer):
    """Returns what begins an episode in every lane, given seeds and horizons."""
    begin = self._beginning(problem, optimizer)

    def begin_all(*lanes):
      if lanes_lib.is_vectorised(problem, optimizer, lanes):
        return lanes_lib.vectorised(begin, lanes)
      return lanes_lib.stack([begin(lane) for lane in lanes_lib.unstack(lanes)])

    return begin_all

  def _beginning(self, problem, optimizer):
    """Returns what begins the episode of a lane, given (seed, horizons)."""

    def begin(lane):
      phi = optimizer.get_phi() if self.remembers else []
      zeros = [tf.zeros(w.shape, w.dtype) for w in phi]
      return lanes_lib.begin(
        problem, optimizer, *lane, self.num_kept, zeros, self.evaluate
      )

    return begin

  def _noise(self, optimizer, seed) -> Weights:
    phi = optimizer.get_phi()
    keys = seeds.split(seed, len(phi))

    def draw(w, key):
      shape, dtype = [self.pairs, *w.shape], dtypes.of_sum([w])
      return tf.cast(seeds.normal(shape, key, self.stddev, dtype), w.dtype)

    noise = [draw(w, key) for w, key in zip(phi, keys)]
    # Every lane's is its own, whoever runs it.
    return noise if self._share is None else lanes_lib.part(noise, *self._share)

  def _horizons(self, num_steps: int) -> tuple[int, int]:
    """Returns the least and the most steps of an episode."""
    given = num_steps if self.horizon is None else self.horizon
    both = tuple(given) if isinstance(given, Sequence) else (given, given)
    if len(both) != 2 or not 1 <= both[0] <= both[1] or any(x != int(x) for x in both):
      raise ValueError(
        f"{type(self).__name__} got horizon={self.horizon}; give the steps of an"
        " episode, or two numbers, the least first, to draw it between."
      )
    return int(both[0]), int(both[1])


def antithetic(phi: Sequence[tf.Tensor], noise: Weights) -> tuple[Weights, Weights]:
  """Returns phi + eps and phi - eps."""
  return [w + e for w, e in zip(phi, noise)], [w - e for w, e in zip(phi, noise)]


def unperturbed(phi: Sequence[tf.Tensor], noise: Weights) -> Weights:
  """Returns phi once for every lane."""
  return [tf.broadcast_to(w, e.shape) for w, e in zip(phi, noise)]


def scaled(factor: tf.Tensor, weights: Weights) -> Weights:
  """Multiplies each lane's tensors by its entry of `factor` [P]."""
  times = lambda x: lanes_lib.expanded(factor, x) * tf.cast(x, factor.dtype)
  return [tf.cast(times(x), x.dtype) for x in weights]


def inner_product(one: Weights, other: Weights) -> tf.Tensor:
  """Returns each lane's sum of products, [P]."""
  product = lambda x, y: tf.reduce_sum(x * y, axis=list(range(1, x.shape.rank)))
  pairs = zip(dtypes.for_sum(one), dtypes.for_sum(other), strict=True)
  return dtypes.add([product(x, y) for x, y in pairs])


def without_explosions(analytic: Weights) -> Weights:
  """Puts zeros in place of the gradients of those lanes that have one not finite."""
  norms = inner_product(analytic, analytic)
  is_finite = lambda x: lanes_lib.expanded(tf.math.is_finite(norms), x)
  return [tf.where(is_finite(x), x, tf.zeros_like(x)) for x in analytic]


def _size(lanes: Lanes) -> int:
  """Returns the coordinates of one lane's particles."""
  params = [p for carry in lanes.carries for p in carry.params]
  return sum(p.shape.num_elements() for p in params) // params[0].shape[0]
