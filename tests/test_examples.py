import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.data.examples import Examples

X = np.arange(30, dtype=np.float32).reshape(10, 3)
Y = np.arange(10)


def as_arrays(data):
  return tf.nest.map_structure(np.asarray, data)


def batches(size, *data):
  return tf.data.Dataset.from_tensor_slices(data).batch(size)


class Indexed:
  """Batches of `size` examples, by their index."""

  def __init__(self, size, *data):
    self._size, self._data = size, data

  def __len__(self):
    return -(-len(self._data[0]) // self._size)

  def __getitem__(self, index):
    if not 0 <= index < len(self):
      return [x[:1] for x in self._data]  # as one may that wraps around
    return tuple(x[index * self._size :][: self._size] for x in self._data)


class Keras(Indexed, keras.utils.PyDataset):
  def __init__(self, *arguments):
    keras.utils.PyDataset.__init__(self)
    Indexed.__init__(self, *arguments)


class Counted(keras.utils.PyDataset):
  """As Keras documents it, with num_batches in place of a length."""

  def __init__(self, num_batches):
    super().__init__()
    self._num_batches = num_batches

  num_batches = property(lambda self: self._num_batches)

  def __getitem__(self, index):
    half = slice(0, 5) if index % 2 == 0 else slice(5, 10)
    return X[half], Y[half]


class Loader(Indexed):
  """Can be iterated over, but not indexed."""

  __getitem__ = None

  def __iter__(self):
    return (Indexed.__getitem__(self, i) for i in range(len(self)))


SOURCES = [
  *(make(size, X, Y) for make in (batches, Indexed, Keras) for size in (1, 3, 10)),
  Loader(4, X, Y),
  Counted(2),
]


@pytest.mark.parametrize("data", [(X, Y), [X, Y], *SOURCES])
def test_examples_are_all_there_in_order(data):
  examples = Examples(data, max_examples=10)
  assert examples.size == 10
  x, y, sample_weight = examples.first(20)
  np.testing.assert_array_equal(x, X)
  np.testing.assert_array_equal(y, Y)
  assert sample_weight is None
  np.testing.assert_array_equal(examples.first(4)[1], Y[:4])
  np.testing.assert_array_equal(examples.slice(tf.constant(8), 5)[1], Y[8:])


def test_draws_belong_together_and_are_uniform():
  data = {"a": X, "b": -X}, (Y, [Y + 1]), Y * 2.0
  examples = Examples(data, 10)
  x, (y, (z,)), weight = as_arrays(examples.draw(5_000, seeds.make(1)))
  np.testing.assert_array_equal(x["a"], X[y])
  np.testing.assert_array_equal(x["b"], -X[y])
  np.testing.assert_array_equal(z, y + 1)
  np.testing.assert_array_equal(weight, y * 2.0)
  counts = np.bincount(y, minlength=10)
  assert np.abs(counts - 500).max() < 5 * np.sqrt(450)


def test_a_seed_names_a_draw_also_in_a_graph():
  examples = Examples((X, Y), 10)
  draw = tf.function(lambda seed: examples.draw(20, seed)[1], autograph=False)
  first, other, again = (draw(seeds.make(s)).numpy() for s in (1, 2, 1))
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(first, examples.draw(20, seeds.make(1))[1])
  assert np.any(first != other)


def test_a_shuffled_dataset_is_read_once():
  """Draws do not depend on where an iterator stands."""
  shuffled = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(10).batch(2)
  examples = Examples(shuffled, 10)
  a, b = (examples.draw(7, seeds.make(3))[1] for _ in range(2))
  np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(np.sort(examples.first(10)[1]), Y)


def padded(a, b):
  """Batches of unequal lengths."""
  return tf.data.Dataset.from_generator(
    lambda: ((np.ones([2, n]), np.ones([2])) for n in (a, b)),
    output_signature=(tf.TensorSpec([None, None]), tf.TensorSpec([None])),
  )


def endless():
  while True:
    yield X, Y


GENERATOR = tf.data.Dataset.from_generator(
  endless, output_signature=(tf.TensorSpec([10, 3]), tf.TensorSpec([10]))
)


class Uneven(Indexed):
  """Of which some batches have targets."""

  def __init__(self):
    super().__init__(2, X, Y)

  def __getitem__(self, index):
    return super().__getitem__(index)[: 1 + index % 2]


@pytest.mark.parametrize(
  "data, sentence",
  [
    ((X, Y[:9]), r"shapes \(10, 3\), \(9,\); all must be arrays with the same"),
    ((X[:0], Y[:0]), r"shapes \(0, 3\), \(0,\).* at least 1"),
    ((X, [0.0] * 10), r"shapes \(10, 3\), \(\); all .* \(lists are nests, not arrays"),
    ((X, 3.0), r"shapes \(10, 3\), \(\);"),
    ((X, Y, Y, Y), r"in 4 parts; give \(x, y\) or \(x, y, sample_weight\)"),
    (batches(3, X, Y).repeat(), "endless, hence more than max_examples=20.*take"),
    (GENERATOR, r"more than max_examples=20 .* give dataset.take"),
    (batches(3, X, Y).repeat(3), "more than max_examples=20"),
    (batches(3, X, Y).take(0), "is empty; it needs at least one batch"),
    (tf.data.Dataset.from_tensor_slices((X, Y)), "batch a tf.data.Dataset"),
    (Keras(3, X[:0], Y[:0]), "The Keras is empty; it needs at least one batch"),
    (Keras(8, np.tile(X, [3, 1]), np.tile(Y, 3)), "A Keras of more than .*=20 .*fewer"),
    (Counted(None), "a Counted without a length, which may have no end; give arrays"),
    (Counted(10**9), "more than max_examples=20"),
    (keras.utils.PyDataset(), "a PyDataset without a length"),
    (endless(), r"a generator without a length.*from_generator\(...\).take"),
    (iter([(X, Y)]), "a list_iterator without a length"),
    (Uneven(), r"Uneven differ in their arrays, of types .*'int64'\] and .*\]; bring"),
    (Indexed(2, X, Y[:5]), r"shapes \(2, 3\), \(1,\)"),
    (padded(3, 4), r"differ in the shapes of their examples, .*\(3,\), \(4,\); pad"),
  ],
)
def test_wrong_data_are_one_sentence(data, sentence):
  with pytest.raises(ValueError, match=sentence) as e:
    Examples(data, max_examples=20)
  assert "\n" not in str(e.value) and str(e.value).endswith(".")


def test_a_source_that_starts_again_is_read_for_its_length():
  class Endless:
    def __len__(self):
      return 3

    def __iter__(self):
      while True:
        yield np.ones([2, 1]), np.zeros([2])

  assert Examples(Endless(), 100).size == 6


@pytest.mark.parametrize("is_batched", [True, False])
def test_weights_without_targets_are_weights(is_batched):
  data = np.ones([4, 2]), None, np.arange(4.0)
  source = data
  if is_batched:
    source = Sized([(np.ones([2, 2]), None, w) for w in ([0.0, 1.0], [2.0, 3.0])])
  x, y, weights = Examples(source, 100).first(4)
  assert x.shape == (4, 2) and y is None
  np.testing.assert_array_equal(weights, np.arange(4.0))


class Sized:
  """Batches with a length."""

  def __init__(self, batches):
    self._batches = [(x, y, np.array(w)) for x, y, w in batches]

  def __len__(self):
    return len(self._batches)

  def __getitem__(self, i):
    return self._batches[i]
