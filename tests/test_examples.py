import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.examples import Examples

X = np.arange(30, dtype=np.float32).reshape(10, 3)
Y = np.arange(10)


def as_arrays(data):
  return tf.nest.map_structure(np.asarray, data)


def batches(size, *data):
  return tf.data.Dataset.from_tensor_slices(data).batch(size)


@pytest.mark.parametrize(
  "data", [(X, Y), [X, Y], batches(3, X, Y), batches(10, X, Y), batches(1, X, Y)]
)
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
    (padded(3, 4), r"differ in the shapes of their examples, .*\(3,\), \(4,\); pad"),
  ],
)
def test_wrong_data_are_one_sentence(data, sentence):
  with pytest.raises(ValueError, match=sentence) as e:
    Examples(data, max_examples=20)
  assert "\n" not in str(e.value) and str(e.value).endswith(".")
