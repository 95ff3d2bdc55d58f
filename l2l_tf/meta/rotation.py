"""Back-propagation on many problems in turn, whatever shapes they have.

Wichrowska et al. 2017, section 4, https://arxiv.org/abs/1703.04813: an optimizer that
shall generalise is meta-trained on a set of small problems. Each has a graph of its
own, a `MetaTrainer`'s; phi and the state of the meta-optimizer are common to all.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta.objective import MetaObjective, log_relative_loss
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import Adam, Optimizer
from l2l_tf.problems import Problem

_LOG_RELATIVE = MetaObjective(function=log_relative_loss)  # any loss's scale is alike
_ORDER = 1  # below the seed of a round; keeps the order apart from the tasks


class RotatingTrainer:
  """Trains an optimizer's weights on several problems, each of them in its turn.

  A round visits every problem once, in an order that the seed and the round's number
  name. Episodes are numbered through all problems: what one number draws does not
  depend on what ran before, so that a `TrainingRun`, given a `runner` such as
  `LogRatios`, can resume. A problem is made, and its episode traced, when its first
  turn comes, in some 2 s; each window length that XLA has not met takes another.

  >>> problems = {"x^2": Simple, "polynomial": lambda: Polynomial(3)}
  >>> optimizer = CoordinatewiseLSTM((5,), output_scale=0.1)
  >>> trainer = RotatingTrainer(problems, optimizer, num_steps=4, unroll_length=2)
  >>> sorted(metrics["problem"] for metrics in trainer.train(num_episodes=2))
  ['polynomial', 'x^2']
  """

  def __init__(
    self,
    problems: Mapping[str, Callable[[], Problem]],
    optimizer: Optimizer,
    meta_optimizer: Optimizer | None = None,
    objective: MetaObjective = _LOG_RELATIVE,
    repeats: int = 1,
    most_compiled: int | None = None,
    seed: int = 0,
    **options: Any,
  ):
    """Initializes the meta-optimizer's state; no problem is made yet.

    Args:
      problems: what makes a problem, by name.
      optimizer: the learned optimizer; its variables are updated in place.
      meta_optimizer: trains phi; Adam at 0.001 by default.
      objective: the meta-loss; by default log(f_t / f_0), to which problems of all
        units contribute alike, for losses that are not negative.
      repeats: episodes in a row on a problem (the authors' code has 5).
      most_compiled: problems whose graphs are kept, some 30 MB each; the one that was
        not used for longest is traced again at its next turn. None keeps all.
      seed: names the order and all tasks.
      **options: of every `MetaTrainer`, such as `curriculum` or `num_steps`.

    Raises:
      ValueError: without problems, for a count below one, or what `MetaTrainer` raises
        for the options, at the first episode.
    """
    if not problems or repeats < 1 or (most_compiled is not None and most_compiled < 1):
      raise ValueError(
        f"RotatingTrainer got {len(problems)} problems, repeats={repeats} and"
        f" most_compiled={most_compiled}; all must be at least 1."
      )
    self.optimizer = optimizer
    self.meta_optimizer = Adam(1e-3) if meta_optimizer is None else meta_optimizer
    self.seed = seed
    self.curriculum = options.get("curriculum")
    self._make = dict(problems)
    self._names = sorted(problems)
    self._repeats, self._most = repeats, most_compiled or len(problems)
    self._options = {"objective": objective, "seed": seed, **options}
    self._trainers: dict[str, MetaTrainer] = {}  # the one used last comes last
    phi = [tf.convert_to_tensor(v) for v in optimizer.trainable_variables]
    state = self.meta_optimizer.initial_state(phi)
    self.meta_state_variables = [
      tf.Variable(x, trainable=False) for x in tf.nest.flatten(state)
    ]
    self.estimator_state_variables: list[tf.Variable] = []

  @property
  def problem(self) -> Problem | None:
    """The problem of the last episode."""
    return next(reversed(self._trainers.values())).problem if self._trainers else None

  def problem_of(self, episode: int) -> str:
    """Returns the name of the problem whose turn an episode is."""
    turn, place = divmod(episode // self._repeats, len(self._names))
    key = seeds.make(self.seed, seeds.TRAINING, turn, _ORDER).numpy()
    order = np.random.RandomState(key.view(np.uint32)).permutation(len(self._names))
    return self._names[order[place]]

  def train(
    self, num_episodes: int, first_episode: int = 0
  ) -> Iterator[dict[str, Any]]:
    """Yields each episode's metrics, as from `train_episode`, after its meta-steps."""
    for episode in range(first_episode, first_episode + num_episodes):
      yield self.train_episode(episode)

  def train_episode(self, episode: int) -> dict[str, Any]:
    """Trains on the problem and the task that `episode` names.

    Returns:
      What `MetaTrainer.train_episode` does, and "problem", its name.
    """
    name = self.problem_of(episode)
    metrics = self._trainer(name).train_episode(episode)
    return {**metrics, "problem": name}

  def _trainer(self, name: str) -> MetaTrainer:
    """Returns the problem's trainer, made at its first turn or when it was dropped."""
    trainer = self._trainers.pop(name, None) or self._made(name)
    self._trainers[name] = trainer
    while len(self._trainers) > self._most:
      del self._trainers[next(iter(self._trainers))]
    return trainer

  def _made(self, name: str) -> MetaTrainer:
    trainer = MetaTrainer(
      self._make[name](), self.optimizer, self.meta_optimizer, **self._options
    )
    if trainer.estimator_state_variables:
      raise ValueError(
        f"{type(trainer.meta_gradient).__name__} has a state for one problem, which"
        " RotatingTrainer does not keep; give one without, such as TruncatedBPTT()."
      )
    # Before it is traced: its episodes read and update the state of all.
    trainer.meta_state_variables = self.meta_state_variables
    return trainer
