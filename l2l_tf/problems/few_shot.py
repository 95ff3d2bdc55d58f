"""Few-shot tasks: learn some classes from a few images of each.

Vinyals et al. 2016, section 4, https://arxiv.org/abs/1606.04080; Ravi and Larochelle
2017, section 2, https://openreview.net/forum?id=rJY0-Kcll. An episode draws classes, a
support set of a few images of each, on which a learner is trained, and a query set of
other images of the same classes, on which it is judged.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems import few_shot_learners
from l2l_tf.problems.base import Parameter, Problem
from l2l_tf.problems.data import class_splits
from l2l_tf.problems.data.class_splits import Classes, ClassSplits
from l2l_tf.problems.data.labelled_images import described
from l2l_tf.problems.few_shot_learners import Learner

SPLITS = ClassSplits._fields
STATISTICS = ("paper", "batch", "support")


class Episode(NamedTuple):
  """The images of one episode; those of a class stand together, in the classes' order.

  Floats in [0, 1].
  """

  support: tf.Tensor  # [ways * shots, height, width, channels]
  query: tf.Tensor  # [ways * queries, height, width, channels]


class FewShot(Problem):
  """Mean cross-entropy of a learner on an episode's support set.

  The meta-loss is that of the query set. A seed names the classes, their order, and
  which images of them are support and query.

  >>> problem = few_shot("digits", ways=3, shots=2, queries=4, learner="dense")
  >>> params, episode = problem.init(tf.constant([0, 1]))
  >>> episode.support.shape, episode.query.shape
  (TensorShape([6, 8, 8, 1]), TensorShape([12, 8, 8, 1]))
  """

  def __init__(
    self,
    classes: Classes,
    learner: str | Learner,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    batch_size: int | None = None,
    statistics: str = "paper",
    dtype: tf.DType = tf.float32,
  ):
    """Initializes the problem; arguments are as for `few_shot`.

    Args:
      classes: those that episodes draw from.
      learner: what is trained.
      ways: as in `few_shot`, and so are the arguments below.
      shots: images of a class in the support set.
      queries: images of a class in the query set.
      batch_size: of the support set, in a step.
      statistics: of batch normalisation.
      dtype: floating type of the parameters and the loss.

    Raises:
      ValueError: as in `few_shot`.
    """
    _check_sizes(classes, ways, shots, queries)
    count = ways * shots
    batch_size = count if batch_size is None else batch_size
    if not 1 <= batch_size <= count:
      raise ValueError(
        f"few_shot got batch_size={batch_size} for {count} support images; it must be 1"
        f" to {count}."
      )
    if statistics not in STATISTICS:
      raise ValueError(
        f"few_shot got statistics={statistics!r}; choose one of"
        f" {', '.join(STATISTICS)}."
      )
    learner = few_shot_learners.get(learner)
    self.classes, self.learner, self.ways = classes, learner, ways
    self.shots, self.queries, self._num_support = shots, queries, count
    self.jit_compile = learner.jit_compile
    self.jit_compile_steps = learner.jit_compiles_steps(batch_size)
    self._batch_size, self._statistics, self._dtype = batch_size, statistics, dtype

  @property
  def shape(self) -> tuple[int, ...]:
    """Height, width and channels of an image."""
    return tuple(self.classes.images.shape[1:])

  def init(self, seed):
    learner_key, class_key, image_key = seeds.split(seed, 3)
    params = self.learner.init(learner_key, self.shape, self.ways, self._dtype)
    return params, self._draw(class_key, image_key)

  def _draw(self, class_key, image_key) -> Episode:
    chosen = distinct([], class_key, self.classes.num_classes, self.ways)
    count = self.shots + self.queries
    places = distinct([self.ways], image_key, self.classes.num_images, count)
    rows = tf.gather(tf.gather(self.classes.rows, chosen), places, batch_dims=1)
    cut = lambda part: self.floats(
      tf.gather(self.classes.images, tf.reshape(part, [-1]))
    )
    return Episode(cut(rows[:, : self.shots]), cut(rows[:, self.shots :]))

  def __call__(self, params, constants, seed):
    images, labels = constants.support, self.labels(self.shots)
    if self._batch_size < self._num_support:
      batch = distinct([], seed, self._num_support, self._batch_size)
      images, labels = tf.gather(images, batch), tf.gather(labels, batch)
    return cross_entropy(self.learner.logits(params, images), labels)

  def meta_loss(self, params, constants, seed):
    """Returns the loss on the query set; in the paper's way by its own statistics."""
    logits = self.query_logits(params, constants, self._statistics == "support")
    return cross_entropy(logits, self.labels(self.queries))

  def held_out(self, params, constants):
    """Evaluates an episode.

    Args:
      params: of the learner, after the steps on the support set.
      constants: the `Episode`.

    Returns:
      `train_loss`, of the support set, and `held_out_loss` and `held_out_accuracy`, of
      the query set; in the paper's way normalised by the support set's statistics.
    """
    support = self.learner.logits(params, constants.support)
    query = self.query_logits(params, constants, self._statistics != "batch")
    labels = self.labels(self.queries)
    predicted = tf.argmax(query, axis=1, output_type=labels.dtype)
    return {
      "train_loss": cross_entropy(support, self.labels(self.shots)),
      "held_out_loss": cross_entropy(query, labels),
      "held_out_accuracy": tf.reduce_mean(tf.cast(predicted == labels, self._dtype)),
    }

  def query_logits(self, params, episode: Episode, by_support: bool) -> tf.Tensor:
    """Maps the query images to logits.

    Args:
      params: of the learner.
      episode: whose query images.
      by_support: whether they are normalised by the support set's mean and variance,
        not by their own.

    Returns:
      [ways * queries, ways].
    """
    if not by_support:
      return self.learner.logits(params, episode.query)
    both, count = tf.concat(episode, axis=0), self._num_support
    return self.learner.logits(params, both, count)[count:]

  def query_features(self, params, episode: Episode) -> tuple[tf.Tensor, tf.Tensor]:
    """Embeds support and query images, with the statistics of `held_out`."""
    if self._statistics == "batch":
      return tuple(self.learner.features(params, images) for images in episode)
    both, count = tf.concat(episode, axis=0), self._num_support
    features = self.learner.features(params, both, count)
    return features[:count], features[count:]

  def labels(self, count: int) -> tf.Tensor:
    """Returns the labels of `count` images of each class; [ways * count]."""
    return tf.repeat(tf.range(self.ways), count)

  def floats(self, images: tf.Tensor) -> tf.Tensor:
    """Converts images of the data set to floats in [0, 1]."""
    scaled = tf.cast(images, self._dtype)
    return scaled / 255.0 if images.dtype.is_integer else scaled

  def data_sources(self):
    return [("few-shot", (self.classes.images, self.classes.rows))]

  def parameters(self) -> list[Parameter]:
    return self.learner.parameters(self.shape, self.ways)


def few_shot(
  dataset: str | tuple[Any, Any] | ClassSplits = "omniglot",
  ways: int = 5,
  shots: int = 1,
  queries: int = 15,
  split: str = "train",
  learner: str | Learner = "conv",
  batch_size: int | None = None,
  statistics: str = "paper",
) -> FewShot:
  """Returns few-shot tasks on a data set's classes.

  >>> problem = few_shot("digits", ways=3, split="test", learner="dense")
  >>> problem.classes.num_classes
  3

  Args:
    dataset: "omniglot", "digits", or what else `class_splits.of` takes: images and
      labels, of at least four classes. All classes of a split are cut to as many
      images as the smallest of them has.
    ways: classes of an episode.
    shots: images of each class in the support set.
    queries: images of each class in the query set (the paper's 15).
    split: "train", "validation" or "test"; no class is in two of them.
    learner: "conv", four blocks of 32 filters; "dense", 64 hidden units; or a
      `Learner`.
    batch_size: support images of a step, drawn without repetition; all by default, so
      that each step is a pass over the support set.
    statistics: whose mean and variance batch normalisation uses for query images.
      "paper": in the meta-loss their own, and in an evaluation the support set's, in
      place of running averages over it. "batch": always their own, so that the query
      images of an episode help each other, as in MAML. "support": always the support
      set's. Support images always have their own.

  Raises:
    ValueError: for fewer classes than ways, fewer images of a class than shots and
      queries, a split that the data set does not have, an unknown name, a learner that
      is none, or images and labels that `class_splits.of` refuses.
    DatasetUnavailableError: if the data set cannot be read.
  """
  if split not in SPLITS:
    raise ValueError(f"few_shot got split={split!r}; choose one of {', '.join(SPLITS)}")
  learner = few_shot_learners.get(learner)
  classes = getattr(class_splits.of(dataset), split)
  if classes is None:
    raise ValueError(
      f"The few-shot data set, {described(dataset)}, has too few classes for a {split}"
      " split; give split='train' or 'test', or labelled images of at least"
      f" {class_splits.RICH} classes."
    )
  return FewShot(classes, learner, ways, shots, queries, batch_size, statistics)


def distinct(outer: list[int], seed: tf.Tensor, limit: int, count: int) -> tf.Tensor:
  """Draws `count` different numbers below `limit`, in random order.

  Returns:
    int32, [*outer, count].
  """
  keys = seeds.uniform([*outer, limit], seed)
  return tf.math.top_k(keys, count).indices


def _check_sizes(classes: Classes, ways: int, shots: int, queries: int) -> None:
  if ways < 2 or shots < 1 or queries < 1:
    raise ValueError(
      f"few_shot got ways={ways}, shots={shots} and queries={queries}; it needs at"
      " least two ways, one shot and one query."
    )
  if classes.num_classes < ways:
    raise ValueError(
      f"few_shot got ways={ways}, but there {_too_few_classes(classes.num_classes)}."
    )
  if classes.num_images < shots + queries:
    raise ValueError(
      f"few_shot got shots={shots} and queries={queries}, together"
      f" {shots + queries} images of a class, but {_too_few_images(classes)}."
    )


def _too_few_classes(count: int) -> str:
  if count < 2:
    return "is only one class to draw from; give data of more, as an episode needs two"
  ways = f"ways of 2 to {count}" if count > 2 else "ways=2"
  return f"are only {count} classes to draw from; give {ways}"


def _too_few_images(classes: Classes) -> str:
  count = classes.num_images  # of which an episode needs two
  fewer = "give fewer shots or queries" if count > 1 else ""
  if not classes.smallest:
    return f"a class has only {count}; {fewer or 'give more images of each class'}"
  return (
    f"class {classes.smallest}, the smallest, to which all are cut, has only {count};"
    f" {fewer and fewer + ', '}leave that class out or give it more images"
  )


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
  """Returns the mean over images, given logits [B, classes] and labels [B]."""
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
  return tf.reduce_mean(losses)
