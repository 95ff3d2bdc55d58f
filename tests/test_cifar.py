import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import Adam
from l2l_tf.problems import (
  DatasetUnavailableError,
  as_dataset,
  cifar,
  cifar10_conv,
  datasets,
)


def images(num=24, size=8, num_classes=3, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda n: rng.integers(0, 256, [n, size, size, 3], dtype=np.uint8)
  labels = np.arange(num) % num_classes
  return as_dataset(draw(num), labels, draw(num // 2), labels[: num // 2])


def tiny(**settings):
  given = {"filters": (2, 3), "units": 4, "batch_size": 6, "dataset": images()}
  return cifar10_conv(**{**given, **settings})


def numpy_convolution(x, kernel):
  """Zero-padded to the same size, in float64."""
  reach, height, width = kernel.shape[0] // 2, *x.shape[1:3]
  padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
  return sum(
    padded[:, i : i + height, j : j + width] @ kernel[i, j]
    for i in range(kernel.shape[0])
    for j in range(kernel.shape[1])
  )


def numpy_logits(params, x, statistics):
  """The net by hand; `statistics` returns mean and variance before normalisation i."""
  *layers, kernel, bias = (np.asarray(p, np.float64) for p in params)
  h = x / 255.0
  for i, (weights, offset) in enumerate(zip(layers[::2], layers[1::2])):
    if weights.ndim == 4:
      h = numpy_convolution(h, weights)
    else:
      h = h.reshape(len(h), -1) @ weights
    mean, variance = statistics(i, h)
    h = np.maximum((h - mean) / np.sqrt(variance + 1e-3) + offset, 0)
    if weights.ndim == 4:
      n, height, width, channels = h.shape
      h = h.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
  return h @ kernel + bias


def of_batch(i, h):
  axes = tuple(range(h.ndim - 1))
  return h.mean(axes), h.var(axes)


def cross_entropy(logits, labels):
  shifted = logits - logits.max(axis=1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
  return -log_p[np.arange(len(labels)), labels].mean()


def test_it_is_the_paper_s_net():
  data = images(num=20, size=32, num_classes=10)
  params = cifar10_conv(dataset=data).parameters()
  assert {p.path: p.shape for p in params} == {
    "convolution_0/kernel": (5, 5, 3, 16),
    "convolution_0_norm/offset": (16,),
    "convolution_1/kernel": (5, 5, 16, 16),
    "convolution_1_norm/offset": (16,),
    "convolution_2/kernel": (5, 5, 16, 16),
    "convolution_2_norm/offset": (16,),
    "dense_0/kernel": (4 * 4 * 16, 32),
    "dense_0_norm/offset": (32,),
    "dense_1/kernel": (32, 10),
    "dense_1/bias": (10,),
  }


def test_its_loss_is_that_of_the_net_by_hand_with_the_batch_s_statistics():
  data = images()
  problem = tiny(dataset=data, stddev=0.5)
  params, constants = problem.init(tf.constant([3, 4]))
  assert np.std(params[0]) == pytest.approx(0.5, rel=0.2)
  assert not np.any(params[1]) and not np.any(params[-1])
  params = [p + 0.1 * tf.ones_like(p) for p in params]  # offsets that are not zero
  seed = tf.constant([1, 2])
  chosen = seeds.integers([6], seeds.split(seed, 2)[0], 24).numpy()
  x, y = data.train_images.numpy()[chosen], data.train_labels.numpy()[chosen]
  expected = cross_entropy(numpy_logits(params, x, of_batch), y)
  np.testing.assert_allclose(problem(params, constants, seed), expected, rtol=1e-5)


def test_held_out_data_meet_the_statistics_of_many_train_batches():
  data = images()
  problem = tiny(dataset=data, batch_size=64)
  params = [p + 0.2 for p in problem.init(tf.constant([0, 1]))[0]]
  x, y = data.test_images.numpy(), data.test_labels.numpy()
  found = []  # Batches of 64, drawn from 24: nearly the statistics of all of these.
  numpy_logits(
    params,
    data.train_images.numpy(),
    lambda i, h: found.append(of_batch(i, h)) or found[i],
  )
  logits = numpy_logits(params, x, lambda i, h: found[i])
  metrics = problem.held_out(params, [])
  np.testing.assert_allclose(
    metrics["held_out_loss"], cross_entropy(logits, y), rtol=0.1
  )
  right = np.mean(logits.argmax(axis=1) == y)
  np.testing.assert_allclose(metrics["held_out_accuracy"], right, atol=0.17)


@pytest.mark.parametrize("shape", [(5, 7, 6, 3), (6, 4)])
def test_the_maximum_before_the_normalisation_is_that_after_it(shape):
  pool = 2 if len(shape) == 4 else 1
  ours = cifar.PooledNormalization(pool)
  norm = keras.layers.BatchNormalization(scale=False, momentum=0.9)
  x = tf.random.stateless_normal(shape, [0, 1]) * 3.0 + 1.0

  def theirs(x, training):
    h = tf.nn.relu(norm(x, training=training))
    return tf.nn.max_pool2d(h, 2, 2, "SAME") if pool > 1 else h

  for layer in (ours, norm):
    layer.build(shape)
    layer.trainable_variables[0].assign(np.linspace(-1, 1, shape[-1]))
  for training in (True, True, False):
    results = []
    for call in (ours, theirs):
      with tf.GradientTape() as tape:
        tape.watch(x)
        y = call(x, training=training)
        loss = tf.reduce_sum(
          y * tf.reshape(tf.sin(tf.range(tf.size(y), dtype=y.dtype)), y.shape)
        )
      results.append((y, tape.gradient(loss, x)))
    for a, b in zip(*results):
      np.testing.assert_allclose(a, b, atol=1e-5)
  for a, b in zip(ours.non_trainable_variables, norm.non_trainable_variables):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_images_stay_bytes_in_memory_and_an_optimizer_learns_them():
  problem = tiny(batch_size=24)
  assert problem._train.tensors[0].dtype == tf.uint8

  @tf.function
  def losses():
    task, carry = unroll.start(problem, Adam(0.03), tf.constant([0, 0]))
    return unroll.unroll(problem, Adam(0.03), task, carry, 40)[1]

  found = losses().numpy()
  assert np.mean(found[:3]) > 1.0 and np.mean(found[-5:]) < 0.8


def test_of_some_labels_it_draws_these_alone():
  data = images(num_classes=5, num=40)
  problem = tiny(labels=(4, 1), dataset=data)
  assert problem.parameters()[-1].shape == (2,) and problem.num_held_out == 8
  expected = datasets.with_labels(data, (4, 1))
  np.testing.assert_array_equal(problem._train.tensors[0], expected.train_images)
  np.testing.assert_array_equal(problem._train.tensors[1], expected.train_labels)


def test_floats_are_images_that_are_scaled_already():
  data = images()
  scaled = as_dataset(
    data.train_images.numpy() / np.float32(255),
    data.train_labels,
    data.test_images.numpy() / np.float32(255),
    data.test_labels,
  )
  seed = tf.constant([1, 2])
  losses = [p(*p.init(seed), seed) for p in (tiny(), tiny(dataset=scaled))]
  np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize(
  "settings, message",
  [
    (
      {"labels": (0, 3)},
      r"labels=\[0, 3\], but there are no examples of 3; .* 0, 1, 2",
    ),
    ({"labels": (1,)}, r"labels=\[1\]; give at least two different ones\."),
    ({"filters": (2, 0)}, r"got filters=\(2, 0\), .*; sizes must be at least 1"),
    ({"units": 0}, "units=0, .*; sizes must be at least 1"),
    ({"batch_size": 0}, "batch_size=0 and .*; sizes must be at least 1"),
    ({"stddev": 0.0}, r"stddev=0\.0; sizes must .* and stddev positive\."),
    (
      {"dataset": as_dataset(np.zeros([4, 3]), [0, 1] * 2, np.zeros([1, 3]), [0])},
      r"examples of shape \(3,\); they must be images \[height, width, channels\]\.",
    ),
  ],
)
def test_bad_arguments_are_one_sentence(settings, message):
  with pytest.raises(ValueError, match=message):
    tiny(**settings)


def test_without_data_it_says_how_to_get_them(monkeypatch, tmp_path):
  def unavailable():
    raise DatasetUnavailableError("Could not open cifar10 in here; set TFDS_DATA_DIR.")

  monkeypatch.setattr(datasets, "cifar10", unavailable)
  with pytest.raises(DatasetUnavailableError, match=r"cifar10 .* set TFDS_DATA_DIR"):
    cifar10_conv()
