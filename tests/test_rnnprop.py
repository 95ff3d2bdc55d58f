import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import RecordedBPTT, TapedBPTT, TruncatedBPTT
from l2l_tf.optimizers import COORDINATE, TENSOR, RNNprop
from l2l_tf.optimizers.lstm import backprop
from l2l_tf.optimizers.orthogonal import orthogonalized
from l2l_tf.problems import Parameter, Problem, Quadratic

DOUBLE = {"dtype": "float64"}
SEED = seeds.make(0, seeds.TRAINING, 0)


def randomize(optimizer, seed=0):
  rng = np.random.default_rng(seed)
  for v in optimizer.trainable_variables:
    v.assign_add(tf.cast(0.3 * rng.normal(size=v.shape), v.dtype))
  return optimizer


def gradients(num_steps, shape, seed=0, dtype=np.float64):
  return np.random.default_rng(seed).normal(size=[num_steps, *shape]).astype(dtype)


def run(optimizer, grads):
  """Updates [T, ...] on the gradients [T, ...] of one parameter."""
  state = optimizer.initial_state([tf.constant(grads[0])])
  updates = []
  for g in grads:
    (u,), state = optimizer([tf.constant(g)], state)
    updates.append(u.numpy())
  return np.stack(updates)


def sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


def numpy_rnnprop(variables, grads, beta_1, beta_2, epsilon, scale, time_scales):
  """One layer on one coordinate, from the paper's formulas, sum by sum."""
  b, w, w_x, w_h, bias = variables
  units = len(w)
  h = c = np.zeros(units)
  updates = []
  for t in range(1, len(grads) + 1):
    ages = np.arange(t)[::-1]
    mean = lambda x, beta: np.sum(beta**ages * x) / np.sum(beta**ages)  # noqa: B023
    root = np.sqrt(mean(grads[:t] ** 2, beta_2) + epsilon**2)
    time = [np.tanh(t / s - 1.0) for s in time_scales]
    x = np.array([mean(grads[:t], beta_1) / root, grads[t - 1] / root, *time])
    z = x @ w_x + h @ w_h + bias
    i, f, o, g = z.reshape(4, units)
    c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    updates.append(scale * np.tanh(h @ w + b))
  return np.concatenate(updates)


@pytest.mark.parametrize("time_scales", [(), (3, 30)])
def test_equals_a_numpy_rederivation_of_20_steps(time_scales):
  settings = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 0.01}
  optimizer = RNNprop(
    (4,), **settings, output_scale=0.2, time_scales=time_scales, **DOUBLE
  )
  randomize(optimizer)
  network = optimizer._network.weights
  variables = [v.numpy() for v in (network.b, network.w, *network.layers[0])]
  grads = gradients(20, [3, 2])
  updates = run(optimizer, grads)
  for i, j in np.ndindex(3, 2):
    expected = numpy_rnnprop(
      variables, grads[:, i, j], **settings, scale=0.2, time_scales=time_scales
    )
    np.testing.assert_allclose(updates[:, i, j], expected, rtol=1e-10)


def test_with_blocks_it_also_reads_the_orthogonalised_momenta_of_kernels():
  shapes = [(3, 3, 2, 4), (6,), (5, 4)]
  optimizer = RNNprop((), output_scale=2.0, block=3, **DOUBLE)
  _, w = optimizer.trainable_variables
  assert w.shape == (4, 1)
  w.assign([[0.0], [0.0], [0.1], [0.3]])  # The outputs are 0.1 x, plus 0.3 for kernels.
  state = optimizer.initial_state([tf.zeros(s, tf.float64) for s in shapes])
  momenta, squares = ([np.zeros(s) for s in shapes] for _ in range(2))
  for t in range(1, 4):
    grads = [gradients(1, s, seed=t)[0] for s in shapes]
    updates, state = optimizer([tf.constant(g) for g in grads], state)
    momenta = [0.95 * m + 0.05 * g for m, g in zip(momenta, grads)]
    squares = [0.95 * v + 0.05 * g**2 for v, g in zip(squares, grads)]
    hats = [m / (1 - 0.95**t) for m in momenta]
    matrix = lambda x: tf.reshape(x, [-1, x.shape[-1]])
    expected = [
      np.reshape(orthogonalized(matrix((2 * m + g) / 3), 3), m.shape)
      if m.ndim > 1
      else m / np.sqrt(v / (1 - 0.95**t))
      for m, g, v in zip(hats, grads, squares)
    ]
    for u, x in zip(updates, expected):
      is_kernel = x.ndim > 1
      expected_update = 2.0 * np.tanh(0.1 * x + 0.3 * is_kernel)
      np.testing.assert_allclose(u, expected_update, rtol=1e-6)


def test_with_blocks_a_path_tells_what_a_tensor_is():
  optimizer = RNNprop((2,), block=2)
  told = optimizer.with_parameters([Parameter("embedding/embeddings", (4, 3), "x")])
  plain, grads = RNNprop((2,)), [tf.constant(gradients(1, [4, 3], 1, np.float32)[0])]
  assert optimizer.coupling == TENSOR and plain.coupling == COORDINATE
  inputs = told._read(grads, told.initial_state(grads))[0]
  np.testing.assert_array_equal(inputs[2], inputs[0])
  np.testing.assert_array_equal(inputs[3], np.zeros(12))
  inputs = optimizer._read(grads, optimizer.initial_state(grads))[0]
  assert not np.allclose(inputs[2], inputs[0])
  assert plain.with_parameters([]) is plain


@pytest.mark.parametrize("block", [0, -1, 1.5])
def test_a_block_without_rows_is_refused(block):
  with pytest.raises(ValueError, match=f"block={block}; a block has at least one row"):
    RNNprop(block=block)


def test_the_features_are_bounded_whatever_the_gradients():
  # |m_hat| / sqrt(v_hat) <= 1 for equal decays, |g| / sqrt(v_hat) < (1 - beta)^(-1/2).
  optimizer = RNNprop(layers=())
  moments = optimizer.initial_state([tf.zeros([4])]).moments
  sizes = 10.0 ** np.random.default_rng(0).uniform(-12, 12, size=[50, 1, 4])
  for g in gradients(50, [1, 4]) * sizes:
    features, moments = optimizer._inputs.step(tf.constant(g, tf.float32), moments)
    assert np.all(np.abs(features[0]) <= 1.0 + 1e-5)
    assert np.all(np.abs(features[1]) <= 20**0.5 + 1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_the_loss_s_scale_does_not_change_the_updates(scale):
  grads = gradients(10, [5])
  optimizer = randomize(RNNprop((3,), **DOUBLE))
  np.testing.assert_allclose(
    run(optimizer, scale * grads), run(optimizer, grads), rtol=1e-9
  )
  single = randomize(RNNprop((3,)))
  np.testing.assert_allclose(
    run(single, (scale * grads).astype(np.float32)),
    run(single, grads.astype(np.float32)),
    rtol=1e-4,
    atol=1e-6,
  )


@pytest.mark.parametrize("weights", ["float16", "bfloat16"])
def test_half_precision_weights_do_not_lose_small_gradients(weights):
  grads = gradients(5, [8], dtype=np.float32)
  optimizer = randomize(RNNprop((3,), dtype=weights))
  small = run(optimizer, np.float32(2.0**-30) * grads)
  np.testing.assert_array_equal(small, run(optimizer, grads))
  state = optimizer.initial_state([tf.zeros([8])])
  assert {x.dtype.name for x in tf.nest.flatten(state.lstm)} == {weights}
  assert state.moments.second.dtype == tf.float32


@pytest.mark.parametrize("weights", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float32, tf.float64])
def test_updates_have_the_gradient_s_dtype(weights, dtype):
  optimizer = RNNprop((2,), dtype=weights)
  grads = [tf.ones([3], dtype)]
  state = optimizer.initial_state(grads)
  updates, next_state = optimizer(grads, state)
  assert updates[0].dtype == dtype
  kinds = lambda state: [x.dtype for x in tf.nest.flatten(state)]
  assert kinds(next_state) == kinds(state)


def test_no_update_exceeds_output_scale():
  optimizer = randomize(RNNprop((3,), output_scale=0.02))
  for v in optimizer.trainable_variables:
    v.assign(100.0 * v)
  updates = run(optimizer, 1e6 * gradients(20, [50], dtype=np.float32))
  assert np.max(np.abs(updates)) <= np.float32(0.02)
  assert np.max(np.abs(updates)) > 0.019


def test_gradients_that_vanish_give_finite_updates():
  optimizer = randomize(RNNprop((3,)))
  grads = gradients(3000, [2], dtype=np.float32)
  grads[:, 0] = 0.0
  grads[5:, 1] = 0.0  # After 3000 steps its mean square is zero too.
  step = tf.function(optimizer.__call__, autograph=False)
  state = optimizer.initial_state([tf.zeros([2])])
  for g in grads:
    (update,), state = step([tf.constant(g)], state)
    assert np.all(np.isfinite(update))
  assert np.all(state.moments.second == 0.0)


def test_a_nan_stays_in_its_coordinate():
  optimizer = randomize(RNNprop((3, 2), **DOUBLE))
  grads = gradients(4, [3])
  broken = grads.copy()
  broken[1, 1] = np.nan
  whole, damaged = run(optimizer, grads), run(optimizer, broken)
  np.testing.assert_array_equal(damaged[:, [0, 2]], whole[:, [0, 2]])
  np.testing.assert_array_equal(damaged[0], whole[0])
  assert np.all(np.isnan(damaged[1:, 1]))


class Flat(Problem):
  """Its second parameter moves nothing."""

  def init(self, seed):
    return [seeds.normal([3], seed), tf.zeros([2])], []

  def __call__(self, params, constants, seed):
    return tf.reduce_sum(params[0] ** 2) + tf.reduce_sum(0.0 * params[1])


def test_second_derivatives_are_finite_where_the_gradient_is_zero():
  optimizer = randomize(RNNprop((3,)))
  task, carry = unroll.start(Flat(), optimizer, SEED, unroll.second_order)
  assert not np.any(carry.grads[1])
  window, _ = TruncatedBPTT(second_derivatives=True)(
    Flat(), optimizer, task, carry, 5, lambda *_: ()
  )
  for g in window.meta_gradient:
    assert np.all(np.isfinite(g)) and np.any(g)


def test_second_derivatives_equal_finite_differences():
  problem, optimizer = Quadratic(2, 3, dtype=tf.float64), RNNprop((2,), **DOUBLE)
  randomize(optimizer)
  task, carry = unroll.start(problem, optimizer, SEED)
  meta_gradient = TruncatedBPTT(second_derivatives=True)
  arguments = problem, optimizer, task, carry, 4, lambda *_: ()
  window = lambda: meta_gradient(*arguments)[0]
  for v, g in zip(optimizer.trainable_variables, window().meta_gradient):
    direction = np.random.default_rng(1).normal(size=v.shape)
    value, losses = v.numpy(), []
    for sign in (1.0, -1.0):
      v.assign(value + sign * 1e-6 * direction)
      losses.append(window().meta_loss)
    v.assign(value)
    difference = (losses[0] - losses[1]) / 2e-6
    np.testing.assert_allclose(np.sum(g * direction), difference, rtol=1e-5)


@pytest.mark.parametrize("block, batch", [(7, 12), (4, 12), (128, 1), (1, 3)])
def test_the_pass_in_blocks_equals_the_tape(monkeypatch, block, batch):
  monkeypatch.setattr(backprop, "_CPU_BLOCK", block)
  problem = Quadratic(1, batch, dtype=tf.float64)
  optimizer = randomize(RNNprop((3,), output_scale=0.3, time_scales=(5,), **DOUBLE))
  task, carry = unroll.start(problem, optimizer, SEED)
  carry, _ = unroll.unroll(problem, optimizer, task, carry, 3)
  arguments = problem, optimizer, task, carry, 4, lambda *_: ()
  recorded, taped = (way(*arguments)[0] for way in (RecordedBPTT(), TapedBPTT()))
  for x, y in zip(recorded.meta_gradient, taped.meta_gradient):
    np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10 * np.max(np.abs(y)))


def test_the_meta_gradient_of_half_precision_weights_is_close_to_that_of_whole_ones():
  grads = tf.constant(1e-3 * gradients(6, [1, 5], dtype=np.float32))
  gradient = {}
  for dtype in ("float16", "float32"):
    optimizer = RNNprop((3,), dtype=dtype)
    for v in optimizer.trainable_variables:
      v.assign(tf.fill(v.shape, tf.constant(0.25, v.dtype)))
    state = optimizer.initial_state([tf.zeros([5])])
    gradient[dtype] = optimizer.sequence_gradient(grads, state, tf.ones([5]))
  for half, whole in zip(gradient["float16"], gradient["float32"]):
    assert half.dtype == tf.float16
    scale = np.max(np.abs(whole))
    np.testing.assert_allclose(half, whole, atol=0.02 * scale, rtol=0.02)


def test_equal_optimizers_share_what_is_traced():
  before = backprop.compiled.cache_info().misses
  for seed in range(3):
    optimizer = RNNprop((2,), epsilon=1e-12, seed=seed)
    state = optimizer.initial_state([tf.zeros([4])])
    optimizer.sequence_gradient(tf.ones([4, 1, 4]), state, tf.ones([3]))
  assert backprop.compiled.cache_info().misses == before + 1
  traced = backprop.compiled(optimizer._inputs, optimizer._output_scale, True, 4, 100)
  assert traced.experimental_get_tracing_count() == 1


def test_diagnostics_report_the_gates_without_taking_a_step():
  optimizer = RNNprop((3, 2))
  grads = [tf.ones([3])]
  diagnostics = optimizer.diagnostics(grads, optimizer.initial_state(grads))
  assert set(diagnostics) == {
    f"lstm_{i}/{gate}_gate" for i in (1, 2) for gate in ("input", "forget", "output")
  }


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"layers": (0,)}, r"layers=\(0,\) must be a sequence of positive integers"),
    ({"beta_1": 1.0}, r"beta_1=1.0 and beta_2=0.95; both must lie in \[0, 1\)"),
    ({"beta_2": -0.1}, r"beta_2=-0.1; both must lie"),
    ({"epsilon": 0.0}, "epsilon=0.0 must be at least 1e-18, and finite"),
    ({"output_scale": 0.0}, "output_scale=0.0 must be a positive, finite number"),
    ({"output_scale": float("nan")}, "output_scale=nan must be a positive"),
    ({"time_scales": (10, 0)}, r"time_scales=\(10, 0\) must be positive, finite"),
    ({"dtype": "int32"}, "dtype='int32' is unknown; choose one of"),
    ({"initializer": "ones"}, "initializer='ones' is unknown; choose"),
  ],
)
def test_bad_arguments_are_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    RNNprop(**arguments)
