import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from l2l_tf import dtypes

FLOATS = [tf.float16, tf.bfloat16, tf.float32, tf.float64]


@hypothesis.given(st.lists(st.sampled_from(FLOATS), min_size=1, max_size=6))
def test_a_sum_is_of_the_widest_type_and_float32_at_least(kinds):
  total = dtypes.add([tf.constant(1.0, kind) for kind in kinds])
  assert total.dtype == max([tf.float32, *kinds], key=lambda kind: kind.size)
  assert total == len(kinds)


def test_a_sum_leaves_the_range_of_its_terms():
  half = tf.constant(4e4, tf.float16)
  np.testing.assert_allclose(dtypes.add([half, half]), 8e4, rtol=1e-3)


@pytest.mark.parametrize("kind", [tf.float32, tf.float64])
def test_what_is_of_the_right_type_is_passed_through(kind):
  tensors = [tf.ones([2], kind), tf.zeros([], kind)]
  assert all(a is b for a, b in zip(dtypes.for_sum(tensors), tensors))
