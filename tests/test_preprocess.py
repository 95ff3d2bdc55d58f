import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from l2l_tf import preprocess
from l2l_tf.preprocess import Clamp, Concat, Identity, LogAndSign

gradients = hnp.arrays(
  np.float32,
  hnp.array_shapes(min_dims=1, max_dims=1, min_side=0, max_side=5),
  elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
EXTREMES = np.array(
  [0.0, -0.0, 1e-45, -1e-40, 1.2e-38, 1e-20, 4.54e-5, -1.0, 3.4e38, -3.4e38], np.float32
)
BOTH = Concat((LogAndSign(5.0), Clamp(scale=20.0)))
# Each with its number of features F.
ALL = {
  Identity(): 1,
  Identity(0.5): 1,
  Clamp(): 1,
  Clamp(-0.1, 2.0, scale=1e3): 1,
  LogAndSign(): 2,
  LogAndSign(4): 2,
  BOTH: 3,
}


def log_and_sign(g, p):
  """Andrychowicz et al. 2016, appendix A, in float64."""
  g = np.asarray(g, np.float64)
  large = np.abs(g) >= np.exp(-p)
  log = np.log(np.where(large, np.abs(g), 1.0)) / p
  return np.stack(
    [np.where(large, log, -1.0), np.where(large, np.sign(g), np.exp(p) * g)], axis=-1
  )


@settings(max_examples=50, deadline=None)
@given(g=gradients, p=st.sampled_from([1.0, 5.0, 10.0, 30.0]))
@example(g=EXTREMES, p=10.0)
def test_log_and_sign_is_the_paper_s_appendix_a(g, p):
  features = LogAndSign(p)(tf.constant(g))
  np.testing.assert_allclose(features, log_and_sign(g, p), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [1.0, 10.0])
def test_log_and_sign_is_continuous_where_its_branches_meet(p):
  g = np.exp(-p) * np.array([1 - 1e-4, 1 + 1e-4, -1 + 1e-4, -1 - 1e-4])
  features = LogAndSign(p)(tf.constant(g, tf.float32))
  np.testing.assert_allclose(features[:, 0], -np.ones(4), atol=1e-3)
  np.testing.assert_allclose(features[:, 1], [1, 1, -1, -1], atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(g=gradients)
@example(g=EXTREMES)
def test_log_and_sign_is_bounded_and_its_sign_is_odd(g):
  features = LogAndSign()(tf.constant(g)).numpy()
  mirrored = LogAndSign()(tf.constant(-g)).numpy()
  np.testing.assert_array_equal(mirrored[:, 0], features[:, 0])
  np.testing.assert_array_equal(mirrored[:, 1], -features[:, 1])
  assert np.all(features[:, 0] >= -1.0 - 1e-6) and np.all(features[:, 0] < 9.0)
  assert np.all(np.abs(features[:, 1]) <= 1.0)


@pytest.mark.parametrize("function", ALL, ids=repr)
@settings(max_examples=20, deadline=None)
@given(g=gradients)
@example(g=EXTREMES)
def test_features_and_their_gradient_are_finite_for_every_float32(function, g):
  g = tf.constant(g)
  with tf.GradientTape() as tape:
    tape.watch(g)
    features = function(g)
  derivative = tape.gradient(features, g)
  assert features.shape[0] == g.shape[0] and features.shape.rank == 2
  assert np.all(np.isfinite(features)) and np.all(np.isfinite(derivative))


@pytest.mark.parametrize("function", ALL, ids=repr)
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float32, tf.float64])
def test_features_keep_the_gradient_s_dtype_and_count(function, dtype):
  features = function(tf.zeros([4], dtype))
  assert features.dtype == dtype
  assert features.shape == [4, ALL[function]]


def test_log_and_sign_s_derivative_is_the_branch_s():
  p, g = 10.0, tf.constant([1e-6, 0.5, -0.5])
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(g)
    features = LogAndSign(p)(g)
    log, sign = features[:, 0], features[:, 1]
  np.testing.assert_allclose(tape.gradient(log, g), [0.0, 0.2, -0.2], rtol=1e-5)
  np.testing.assert_allclose(tape.gradient(sign, g), [np.exp(p), 0, 0], rtol=1e-5)


def test_identity_scales():
  np.testing.assert_allclose(Identity(2.0)(tf.constant([1.0, -3.0])), [[2.0], [-6.0]])


def test_clamp_scales_and_then_clips():
  features = Clamp(-1.0, 0.5, scale=2.0)(tf.constant([-7.0, -0.125, 0.125, 7.0]))
  np.testing.assert_allclose(features, [[-1.0], [-0.25], [0.25], [0.5]])


def test_concat_puts_features_side_by_side():
  g = tf.constant([0.01, -3.0])
  expected = np.concatenate([LogAndSign(5.0)(g), Clamp(scale=20.0)(g)], axis=1)
  np.testing.assert_array_equal(BOTH(g), expected)


@pytest.mark.parametrize(
  "text, function",
  [
    ("identity", Identity()),
    ("clamp", Clamp()),
    ("log_and_sign", LogAndSign(10.0)),
    ("clamp()", Clamp()),
    ("clamp(min_value=-2, max_value=0.5)", Clamp(-2.0, 0.5)),
    ("log_and_sign(p=5)+clamp(scale=20)", BOTH),
    (" log_and_sign( p = 5 ) + clamp( scale = 2e1 ) ", BOTH),
  ],
)
def test_a_text_names_functions_and_their_numbers(text, function):
  assert preprocess.get(text) == function


def test_a_callable_is_returned_as_it_is():
  assert preprocess.get(tf.math.tanh) is tf.math.tanh


@pytest.mark.parametrize(
  "unknown",
  [
    "logandsign",
    "",
    "+",
    "clamp+",
    "clamp(2)",
    "clamp(p=1)",
    "clamp(scale=x)",
    None,
    3,
    "clamp(min_value=3)",
    "log_and_sign(p=-1)",
    "clamp(scale=1)(p=1)",
  ],
)
def test_an_unknown_text_is_an_error_that_lists_the_valid_names(unknown):
  with pytest.raises(
    ValueError,
    match=r"preprocess=.* is unknown; give identity, clamp, log_and_sign, .*callable",
  ):
    preprocess.get(unknown)


@pytest.mark.parametrize("p", [0.0, -10.0, 81.0, float("nan"), float("inf")])
def test_log_and_sign_refuses_a_p_outside_float32_s_range(p):
  with pytest.raises(ValueError, match=r"LogAndSign got p=.*must lie in \(0, 80\]"):
    LogAndSign(p)


@pytest.mark.parametrize("low, high", [(1.0, -1.0), (0.0, 0.0), (float("nan"), 1.0)])
def test_clamp_refuses_an_empty_interval(low, high):
  with pytest.raises(ValueError, match="the minimum must be below the maximum"):
    Clamp(low, high)
