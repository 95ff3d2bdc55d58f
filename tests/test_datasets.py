import collections
import os
import pathlib
import shutil
import socket
import time

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from l2l_tf.problems import benchmark_tasks
from l2l_tf.problems.data import datasets

FIRST_TEST_LABELS = [7, 9, 4, 7, 0, 2, 6, 1, 3, 1, 3, 7]
FIRST_TRAIN_LABELS = [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]
UNAVAILABLE = (
  r"^Could not download MNIST in .+ \(\w+: .+\); set TFDS_DATA_DIR to a folder in"
  r" which tensorflow-datasets has prepared mnist, or get it once where there is a"
  r" network and a writable folder: python -c \"import tensorflow_datasets as tfds;"
  r" tfds\.load\('mnist'\)\"\.$"
)


def loaded(load):
  try:
    return load()
  except datasets.DatasetUnavailableError as error:
    pytest.skip(str(error))


@pytest.fixture(scope="module")
def mnist():
  return loaded(datasets.mnist)


def use_proxy(monkeypatch, address):
  """Sends what leaves this machine to `address`, as a user's variables would."""
  for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("https_proxy", f"http://{address}")


@pytest.fixture
def offline(monkeypatch):
  with socket.socket() as closed:
    closed.bind(("127.0.0.1", 0))
    use_proxy(monkeypatch, f"127.0.0.1:{closed.getsockname()[1]}")
    yield


def load_uncached():
  return datasets.mnist.__wrapped__()


def pairs(images, labels):
  return [(x.tobytes(), int(y)) for x, y in zip(np.asarray(images), np.asarray(labels))]


def test_digits_are_small_compact_images_between_zero_and_one():
  data = datasets.digits()
  assert data.train_images.shape == (1437, 8, 8, 1)
  assert data.test_images.shape == (360, 8, 8, 1)
  assert data.train_labels.shape == 1437
  assert data.test_labels.shape == 360
  assert data.train_images.dtype == data.test_images.dtype == tf.float32
  assert data.train_labels.dtype == data.test_labels.dtype == tf.int32
  assert data.num_classes == 10
  for images in (data.train_images, data.test_images):
    assert (tf.reduce_min(images), tf.reduce_max(images)) == (0.0, 1.0)


def test_digits_splits_are_a_partition_of_the_source_with_its_labels():
  data = datasets.digits()
  source = sklearn.datasets.load_digits()
  expected = pairs((source.images / 16.0).astype(np.float32), source.target)
  found = pairs(data.train_images, data.train_labels)
  found += pairs(data.test_images, data.test_labels)
  assert collections.Counter(found) == collections.Counter(expected)


def test_digits_splits_hold_a_fair_share_of_each_class():
  data = datasets.digits()
  share = np.bincount(data.test_labels) / np.bincount(
    tf.concat([data.train_labels, data.test_labels], axis=0)
  )
  assert np.all(np.abs(share - 0.2) < 0.1)


def test_digits_split_never_changes():
  data = datasets.digits()
  assert data.test_labels[:12].numpy().tolist() == FIRST_TEST_LABELS
  assert data.train_labels[:12].numpy().tolist() == FIRST_TRAIN_LABELS


def test_a_load_while_a_graph_is_traced_gives_eager_tensors():
  loaded = []

  @tf.function
  def trace():
    loaded.append(datasets.digits.__wrapped__())
    return tf.zeros([])

  trace()
  assert all(tensor.numpy() is not None for tensor in loaded[0])
  assert loaded[0].num_classes == 10


def test_digits_are_loaded_once():
  assert datasets.digits() is datasets.digits()


def test_arrays_become_a_data_set():
  data = datasets.as_dataset(
    np.zeros([3, 2, 2], np.uint8), [0, 1, 0], np.zeros([2, 2, 2], np.uint8), [4, 1]
  )
  assert data.train_images.dtype == tf.uint8
  assert data.test_labels.dtype == tf.int32
  assert data.num_classes == 5


@pytest.mark.parametrize(
  "train, train_labels, test, test_labels, message",
  [
    ([0, 4], 0, [1, 4], 1, r"train images of shape \(0, 4\).+at least one of each"),
    ([2, 4], 2, [0, 4], 0, r"test images of shape \(0, 4\).+at least one of each"),
    ([2, 4], 2, [2, 3], 2, r"\(2, 4\) and test images of shape \(2, 3\).+alike"),
    ([2, 4], 3, [2, 4], 2, r"got 2 train and 2 test.+\(3,\) and \(2,\).+one label for"),
    ([2, 4], 2, [1, 4], 2, r"got 2 train and 1 test.+\(2,\) and \(2,\).+one label for"),
  ],
)
def test_splits_that_do_not_fit_are_refused(
  train, train_labels, test, test_labels, message
):
  with pytest.raises(ValueError, match=message):
    datasets.as_dataset(
      np.zeros(train),
      np.zeros(train_labels, int),
      np.zeros(test),
      np.zeros(test_labels, int),
    )


def test_mnist_is_the_real_one(mnist):
  assert mnist.train_images.shape == (60_000, 28, 28, 1)
  assert mnist.test_images.shape == (10_000, 28, 28, 1)
  assert mnist.train_images.dtype == tf.uint8
  assert mnist.train_labels.dtype == tf.int32
  assert mnist.num_classes == 10
  ones = np.bincount(mnist.train_labels)[1], np.bincount(mnist.test_labels)[1]
  assert ones == (6742, 1135)
  assert tf.reduce_max(mnist.train_images) == 255
  mean = tf.reduce_mean(tf.cast(mnist.train_images, tf.float32)) / 255.0
  np.testing.assert_allclose(mean, 0.1307, atol=1e-4)


def test_cifar10_has_the_same_number_of_every_class_nearly():
  data = loaded(datasets.cifar10)
  assert data.train_images.shape[1:] == data.test_images.shape[1:] == (32, 32, 3)
  assert data.train_images.dtype == tf.uint8 and data.num_classes == 10
  counts = np.bincount(data.train_labels) / len(data.train_labels)
  assert np.all(np.abs(counts - 0.1) < 0.0075)
  assert len(set(map(bytes, data.train_images[:1000].numpy()))) == 1000


def test_the_benchmark_takes_the_first_20_000_of_cifar10():
  data = loaded(datasets.cifar10)
  (x, y), (x_test, y_test) = benchmark_tasks._cifar()
  assert x.shape == (20_000, 16, 16, 3) and x_test.shape == (1000, 16, 16, 3)
  np.testing.assert_array_equal(y, data.train_labels[:20_000])
  np.testing.assert_array_equal(y_test, data.test_labels[:1000])


def test_some_labels_keep_their_examples_and_are_numbered_in_the_order_given():
  rng = np.random.default_rng(0)
  images, labels = rng.random([40, 3]).astype(np.float32), np.arange(40) * 7 % 5
  whole = datasets.as_dataset(images[:30], labels[:30], images[30:], labels[30:])
  chosen = [4, 0, 2]
  data = datasets.with_labels(whole, chosen)
  assert data.num_classes == 3
  for found, number, given, old in [
    (data.train_images, data.train_labels, images[:30], labels[:30]),
    (data.test_images, data.test_labels, images[30:], labels[30:]),
  ]:
    expected = [
      (x.tobytes(), chosen.index(y)) for x, y in zip(given, old) if y in chosen
    ]
    assert pairs(found, number) == expected


@pytest.mark.parametrize(
  "labels, message",
  [
    ([], r"got labels=\[\]; give at least two different ones\."),
    ([3], r"got labels=\[3\]; give at least two different ones\."),
    ([1, 2, 1], r"got labels=\[1, 2, 1\]; give at least two different ones\."),
    ([0, 10, -1], r"no examples of -1, 10; there are some of 0, 1, .*, 9\."),
    ([0, 1.5], r"got labels=\[0, 1\.5\]; they must be class numbers\."),
    ("cats", r"got labels='cats'; they must be class numbers\."),
    (7, r"got labels=7; they must be class numbers\."),
  ],
)
def test_labels_that_cannot_be_kept_are_refused_in_one_sentence(labels, message):
  with pytest.raises(ValueError, match=message):
    datasets.with_labels(datasets.digits(), labels)


def test_omniglot_s_alphabets_are_white_strokes_on_black():
  data = loaded(datasets.omniglot_alphabets)
  assert data.train_images.shape == (18_280, 28, 28, 1)
  assert data.test_images.shape[0] == 1000 and data.num_classes == 30
  assert set(np.unique(data.test_labels)) == set(range(30))
  images = data.train_images.numpy() / 255.0
  assert 0.02 < images.mean() < 0.2 and images.max() == 1.0
  assert np.all(images.max(axis=(1, 2, 3)) > 0.3)  # Every image shows something.


def test_text_and_photograph_are_the_same_in_every_process():
  text = datasets.manual()
  assert text.min() == 0 and len(np.unique(text)) == text.max() + 1 < 128
  image = datasets.photograph()
  assert image.dtype == np.float32 and 0 <= image.min() < 0.1 < 0.9 < image.max() <= 1
  x, y = datasets.friedman(500)
  expected = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
  expected += 10 * x[:, 3] + 5 * x[:, 4]
  assert np.corrcoef(expected, y[:, 0])[0, 1] > 0.97
  assert abs(y.mean()) < 1e-5 and y.std() == pytest.approx(1.0, rel=1e-4)


def test_mnist_is_loaded_once(mnist):
  assert datasets.mnist() is mnist


def test_without_data_and_network_mnist_fails_at_once_in_one_sentence(
  monkeypatch, tmp_path, offline, capfd, caplog
):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  began = time.monotonic()
  with pytest.raises(datasets.DatasetUnavailableError, match=UNAVAILABLE) as caught:
    load_uncached()
  assert time.monotonic() - began < 30
  assert str(tmp_path) in str(caught.value)
  assert caught.value.__suppress_context__
  assert caught.value.__cause__ is None
  assert capfd.readouterr() == ("", "")
  assert not caplog.records
  assert not list(tmp_path.iterdir())


def test_without_the_variable_the_default_folder_counts(monkeypatch, tmp_path, offline):
  import tensorflow_datasets as tfds

  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
  with pytest.raises(datasets.DatasetUnavailableError, match=UNAVAILABLE) as caught:
    load_uncached()
  assert str(tmp_path) in str(caught.value)


def test_a_silent_network_does_not_hang(monkeypatch, tmp_path):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  monkeypatch.setattr(datasets, "_PROBE_SECONDS", 0.2)
  with socket.create_server(("127.0.0.1", 0)) as silent:
    use_proxy(monkeypatch, f"127.0.0.1:{silent.getsockname()[1]}")
    with pytest.raises(datasets.DatasetUnavailableError, match="timed out"):
      load_uncached()


def test_a_file_where_the_folder_should_be_is_reported(monkeypatch, tmp_path, offline):
  path = tmp_path / "file"
  path.write_text("not a folder")
  monkeypatch.setenv("TFDS_DATA_DIR", str(path))
  with pytest.raises(datasets.DatasetUnavailableError, match="TFDS_DATA_DIR"):
    load_uncached()


def test_damaged_data_are_reported_as_unreadable(mnist, monkeypatch, tmp_path, offline):
  import tensorflow_datasets as tfds

  prepared = pathlib.Path(
    tfds.builder("mnist", data_dir=os.environ.get("TFDS_DATA_DIR")).data_dir
  )
  damaged = tmp_path / prepared.parent.name / prepared.name
  damaged.mkdir(parents=True)
  for path in prepared.iterdir():
    if path.suffix == ".json":
      shutil.copy(path, damaged)
    else:
      with path.open("rb") as file:
        (damaged / path.name).write_bytes(file.read(1000))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with pytest.raises(datasets.DatasetUnavailableError, match=r"^Could not read MNIST"):
    load_uncached()


@pytest.mark.parametrize(
  "name, rows, columns, classes",
  [("iris", 150, 4, 3), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2)],
)
def test_a_table_is_standardised_and_split_once_for_all(name, rows, columns, classes):
  data = datasets.table(name)
  num_test = rows // 5
  assert data.train_images.shape == (rows - num_test, columns)
  assert data.test_images.shape == (num_test, columns)
  assert data.train_images.dtype == tf.float32
  assert data.num_classes == classes
  assert set(data.test_labels.numpy()) == set(range(classes))
  np.testing.assert_allclose(np.mean(data.train_images, 0), 0, atol=1e-5)
  np.testing.assert_allclose(np.std(data.train_images, 0), 1, rtol=1e-4)
  again = datasets.table.__wrapped__(name)
  np.testing.assert_array_equal(data.train_images, again.train_images)

  bunch = getattr(sklearn.datasets, f"load_{name}")()
  images = np.concatenate([data.train_images, data.test_images])
  labels = np.concatenate([data.train_labels, data.test_labels])
  order = np.random.RandomState(0).permutation(rows)
  np.testing.assert_array_equal(labels, bunch.target[order])
  correlation = [
    np.corrcoef(images[:, i], bunch.data[order, i])[0, 1] for i in range(columns)
  ]
  np.testing.assert_allclose(correlation, 1, rtol=1e-6)


def test_an_unknown_table_lists_the_valid_ones():
  with pytest.raises(ValueError, match="Unknown table 'boston'; choose one of iris,"):
    datasets.table("boston")
