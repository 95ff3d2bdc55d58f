"""Few-shot episodes: what is drawn, what is learned, and that nothing leaks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import Reptile, TapedBPTT
from l2l_tf.meta.objective import MetaObjective, last_only
from l2l_tf.optimizers import SGD, LearnedStart
from l2l_tf.problems import AllClasses, ConvBlocks, Dense, class_splits, few_shot
from l2l_tf.problems.data.class_splits import Classes
from l2l_tf.problems.few_shot import FewShot
from l2l_tf.problems.few_shot_learners import normalized, pooled_and_normalized
from l2l_tf.problems.fingerprint import fingerprint

CONV = ConvBlocks(filters=3, blocks=2)


def numbered(classes=12, images=6, side=4):
  """Images whose value is their number, in percent, so that they are recognised."""
  values = np.arange(classes * images, dtype=np.float32) / 100
  shape = [classes * images, side, side, 1]
  return np.broadcast_to(values[:, None, None, None], shape), np.repeat(
    np.arange(classes), images
  )


def test_an_episode_holds_different_images_of_different_classes():
  images, labels = numbered()
  problem = few_shot((images, labels), 3, 2, 4, learner=Dense(2))
  numbers = lambda images: np.rint(100 * images[:, 0, 0, 0].numpy())
  rows = numbers(problem.classes.images)
  seen = set()
  for i in range(20):
    _, episode = problem.init(seeds.make(0, i))
    support, query = (numbers(x).reshape(3, -1) for x in episode)
    assert support.shape == (3, 2) and query.shape == (3, 4)
    both = np.concatenate([support, query], axis=1)
    assert len(np.unique(both)) == both.size and set(both.ravel()) <= set(rows)
    kinds = both // 6  # the class
    assert np.all(kinds == kinds[:, :1]) and len(set(kinds[:, 0])) == 3
    seen |= set(kinds[:, 0])
  assert len(seen) == problem.classes.num_classes == 8
  again = problem.init(seeds.make(0, 19))[1]
  np.testing.assert_array_equal(again.support, episode.support)
  np.testing.assert_array_equal(problem.labels(2), [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("name", ["digits", "own"])
def test_no_class_is_in_two_splits(name):
  splits = class_splits.of(numbered() if name == "own" else name)
  parts = [part for part in splits if part is not None]
  pictures = [{x.tobytes() for x in part.images.numpy()} for part in parts]
  for i, some in enumerate(pictures):
    assert all(not some & other for other in pictures[:i])
  sizes = [part.num_classes for part in parts]
  assert sizes == ([7, 3] if name == "digits" else [8, 2, 2])


def test_its_data_can_be_told_from_others():
  made = [few_shot("digits", 3, split=split) for split in ("train", "test")]
  found = {fingerprint(problem) for problem in (*made, AllClasses(made[0]))}
  assert len(found) == 2 and all("few-shot" in text for text in found)


def test_turned_images_are_classes_of_their_own():
  images = tf.constant(np.random.default_rng(0).random([6, 4, 4, 1], np.float32))
  turned = class_splits._turned(Classes(images, tf.reshape(tf.range(6), [3, 2])))
  assert (turned.num_classes, turned.num_images) == (12, 2)
  for k in range(4):
    some = tf.gather(turned.images, turned.rows[3 * k])
    np.testing.assert_array_equal(some, tf.image.rot90(images[:2], k))


def test_batch_normalisation_is_that_of_keras():
  x = np.random.default_rng(0).normal(1, 2, [6, 3, 3, 2]).astype(np.float32)
  mean, variance = x[:4].mean((0, 1, 2)), x[:4].var((0, 1, 2))
  scale, offset = np.array([1.5, 0.5]), np.array([0.1, -0.2])
  expected = scale * (x - mean) / np.sqrt(variance + 1e-3) + offset
  found = normalized(x, tf.cast(scale, tf.float32), tf.cast(offset, tf.float32), 4)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  layer = keras.layers.BatchNormalization()
  layer.build(x.shape)
  ones, zeros, slopes = tf.ones([2]), tf.zeros([2]), {}
  np.testing.assert_allclose(
    normalized(tf.constant(x), ones, zeros), layer(x, training=True), 1e-4, 1e-5
  )
  for dtype in (tf.float32, tf.float64):
    cast = [tf.cast(value, dtype) for value in (x, ones, zeros)]
    with tf.GradientTape() as tape:
      tape.watch(cast)
      loss = tf.reduce_sum(normalized(*cast) ** 3)
    slopes[dtype] = tape.gradient(loss, cast)
  for a, b in zip(*slopes.values()):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("size", [(4, 6), (5, 3)], ids=["even", "odd"])
def test_the_maximum_may_be_taken_before_the_normalisation(size, jit_compile):
  rng = np.random.default_rng(0)
  x, weights = (
    rng.normal(size=[3, *size, 4]),
    rng.normal(size=[3, size[0] // 2, size[1] // 2, 4]),
  )
  scale, offset = np.array([1.5, -0.7, 0.2, -2.0]), np.array([0.1, 0.3, -0.2, 0.0])
  arguments = [tf.constant(a) for a in (x, scale, offset)]

  def in_order(*arguments):
    hidden = tf.nn.relu(normalized(*arguments))
    return tf.nn.max_pool2d(hidden, 2, 2, "VALID")

  def differentiated(pooled):
    with tf.GradientTape() as tape:
      tape.watch(arguments)
      y = pooled(*arguments)
    return y, *tape.gradient(y, arguments, output_gradients=tf.constant(weights))

  run = tf.function(differentiated, jit_compile=jit_compile, autograph=False)
  for found, expected in zip(
    run(pooled_and_normalized), differentiated(in_order), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def conv():
  return {
    s: few_shot("digits", 3, 2, 4, "test", CONV, statistics=s)
    for s in ("paper", "batch", "support")
  }


def test_query_images_see_each_other_only_where_that_is_asked_for(conv):
  params, episode = conv["paper"].init(seeds.make(0))
  one_changed = episode._replace(query=tf.concat([episode.query[:-1] * 0.5,
                                                  episode.query[-1:]], 0))  # fmt: skip
  for by_support in (True, False):
    logits = [
      conv["paper"].query_logits(params, e, by_support)[-1]
      for e in (episode, one_changed)
    ]
    assert np.allclose(*logits) == by_support
  own, support = (
    conv["paper"].query_logits(params, episode, by) for by in (False, True)
  )
  labels = conv["paper"].labels(4)
  loss = lambda logits: tf.reduce_mean(
    tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
  )
  for name, trained, judged in [
    ("paper", own, support),
    ("batch", own, own),
    ("support", support, support),
  ]:
    found = (
      conv[name].meta_loss(params, episode, None),
      conv[name].held_out(params, episode)["held_out_loss"],
    )
    np.testing.assert_allclose(found, [loss(trained), loss(judged)], rtol=1e-5)


def test_the_network_is_that_of_the_paper():
  problem = few_shot("digits", 3)
  shapes = [p.shape for p in ConvBlocks().parameters((28, 28, 1), 5)]
  assert shapes[0] == (3, 3, 1, 32) and shapes[-2:] == [(32, 5), (5,)]
  assert len(shapes) == 14
  params, episode = problem.init(seeds.make(0))
  assert [p.shape for p in params] == [p.shape for p in problem.parameters()]
  assert problem.learner.features(params, episode.query).shape == (45, 32)


def test_batches_of_the_support_set_have_no_image_twice():
  images, labels = numbered()
  problem = few_shot((images, labels), 3, 2, 4, learner=Dense(2), batch_size=4)
  params, episode = problem.init(seeds.make(0))
  losses = [float(problem(params, episode, seeds.make(1, i))) for i in range(5)]
  assert len(set(losses)) > 1
  whole = few_shot((images, labels), 3, 2, 4, learner=Dense(2))
  per_image = tf.nn.sparse_softmax_cross_entropy_with_logits(
    whole.labels(2), whole.learner.logits(params, episode.support)
  )
  np.testing.assert_allclose(whole(params, episode, None), np.mean(per_image), 1e-5)
  sums = {float(np.mean(per_image.numpy()[list(c)])) for c in _combinations(6, 4)}
  assert all(min(abs(loss - s) for s in sums) < 1e-4 * loss for loss in losses)


def _combinations(n, k):
  import itertools

  return itertools.combinations(range(n), k)


class Counted(FewShot):
  """Counts how often its meta-loss is traced inside the loop and out of it."""

  graphs: list = []

  def meta_loss(self, params, constants, seed):
    self.graphs.append(tf.compat.v1.get_default_graph())
    return super().meta_loss(params, constants, seed)


def test_the_query_set_is_evaluated_at_the_end_alone_and_gives_the_same():
  problem = Counted(class_splits.digits().train, Dense(4), 3, 1, 2)
  optimizer = LearnedStart(SGD(0.3), [p.shape for p in problem.parameters()])
  optimizer.begin_at(problem.init(seeds.make(3))[0])
  found = {}
  for name, weights in [("last", last_only), ("weighted", (0.0, 0.0, 1.0))]:

    @tf.function(autograph=False)
    def window(weights=weights):
      task, carry = unroll.start(problem, optimizer, seeds.make(0))
      objective, see = MetaObjective(weights), lambda c, updates: c.loss
      return TapedBPTT()(problem, optimizer, task, carry, 3, see, objective)[0][:2]

    Counted.graphs.clear()
    graph = window.get_concrete_function().graph
    outside = [g for g in Counted.graphs if g is graph]
    assert len(Counted.graphs) == len(outside) or name == "weighted"
    found[name] = window()
  (g, loss), (h, other) = found["last"], found["weighted"]
  np.testing.assert_allclose(loss, other, rtol=1e-6)
  for a, b in zip(g, h):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_reptile_moves_the_start_towards_the_end_of_the_episode():
  problem = few_shot("digits", 3, learner=Dense(4))
  optimizer = LearnedStart(SGD(0.3), [p.shape for p in problem.parameters()])
  start = problem.init(seeds.make(3))[0]
  optimizer.begin_at(start)
  seed = seeds.make(0, seeds.TRAINING, 0)
  task, carry = unroll.start(problem, optimizer, seed)
  end, _ = unroll.unroll(problem, optimizer, task, carry, 4)
  trainer = l2l_tf.MetaTrainer(
    problem, optimizer, SGD(0.25), Reptile(), num_steps=4, unroll_length=4
  )
  next(trainer.train(1))
  for now, before, after in zip(optimizer.start, start, end.params):
    expected = before + 0.25 * (after - before)
    np.testing.assert_allclose(now, expected, rtol=1e-4, atol=1e-6)
  with pytest.raises(ValueError, match=r"Reptile got SGD, num_steps=4 and unroll_len"):
    Reptile().init(problem, SGD(0.1), seed, 4, 4)


TWO = class_splits.of(numbered(4)).train


@pytest.mark.parametrize(
  "make, complaint",
  [
    (lambda: few_shot("digits", split="test"), r"ways=5, but there are only 3 classes"),
    (lambda: few_shot("digits", 3, 100, 99), r"together 199 images of a class, but"),
    (lambda: few_shot("digits", 3, split="validation"), "too few classes for a valid"),
    (lambda: few_shot("digits", 3, split="dev"), "split='dev'; choose one of train, "),
    (lambda: few_shot("digits", 1), "ways=1, shots=1 and queries=15; it needs at le"),
    (lambda: few_shot("cats"), "few-shot data set 'cats' is unknown; give one of om"),
    (lambda: few_shot("digits", 3, learner="x"), "learner='x'; choose one of conv, d"),
    (lambda: few_shot("digits", 3, batch_size=4), "batch_size=4 for 3 support images"),
    (lambda: few_shot("digits", 3, statistics="x"), "statistics='x'; choose one of p"),
    (lambda: few_shot("digits", 3, learner=Dense), r"class Dense as lea.*Dense\(\)"),
    (lambda: few_shot("digits", 3, learner=Dense(4).init), "learner of type method; c"),
    (lambda: few_shot("digits", 3, learner=keras.Model), "class Model as .* Dense"),
    (lambda: FewShot(TWO, Dense, 2, 1, 1), "the class Dense as learner; give an inst"),
    (lambda: ConvBlocks(filters=0), "must have at least one filter and one block"),
    (lambda: Dense(0), "must have at least one unit"),
  ],
)
def test_bad_input_is_one_sentence(make, complaint):
  with pytest.raises(ValueError, match=complaint) as error:
    make()
  assert "\n" not in str(error.value)
