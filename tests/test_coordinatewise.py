import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_tf.optimizers import CoordinatewiseLSTM, KernelwiseLSTM
from l2l_tf.optimizers.lstm.network import LSTMState

TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}
# In float64, so that sums in another order cannot hide a mistake in the layout.
COORDINATEWISE = CoordinatewiseLSTM((3, 2), "log_and_sign", seed=1, dtype="float64")
KERNELWISE = KernelwiseLSTM((3, 2), (4,), "log_and_sign", seed=2, dtype="float64")


def normal(shape, seed=0):
  return tf.random.stateless_normal(shape, [seed, 1], dtype=tf.float64)


def run(optimizer, gradients):
  """Updates of every step, for a list of whole gradients per step."""
  state = optimizer.initial_state(gradients[0])
  updates = []
  for grads in gradients:
    step_updates, state = optimizer(grads, state)
    updates.append(step_updates)
  return updates


@settings(max_examples=15, deadline=None)
@given(
  shape=st.lists(st.integers(1, 3), max_size=3),
  seed=st.integers(0, 9),
  data=st.data(),
)
def test_coordinates_are_permutation_equivariant(shape, seed, data):
  grads = [normal(shape, seed + t) for t in range(2)]
  order = data.draw(st.permutations(range(grads[0].shape.num_elements())))
  permuted = [tf.gather(tf.reshape(g, [-1]), order) for g in grads]
  updates = run(COORDINATEWISE, [[g] for g in grads])
  permuted_updates = run(COORDINATEWISE, [[g] for g in permuted])
  for (u,), (v,) in zip(updates, permuted_updates):
    np.testing.assert_allclose(np.ravel(u)[list(order)], v, **TOLERANCE)


def test_a_coordinate_does_not_feel_the_others():
  gradients = [[normal([5], t)] for t in range(3)]
  changed = [[g + tf.one_hot(2, 5, dtype=g.dtype)] for (g,) in gradients]
  for (u,), (v,) in zip(run(COORDINATEWISE, gradients), run(COORDINATEWISE, changed)):
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(u.numpy()[others], v.numpy()[others], **TOLERANCE)
    assert u[2] != v[2]


def test_a_nan_stays_in_its_coordinate():
  (updates,) = run(COORDINATEWISE, [[tf.constant([1.0, np.nan, 2.0], tf.float64)]])
  np.testing.assert_array_equal(np.isnan(updates[0]), [False, True, False])


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(0, 4), cut=st.integers(0, 4), seed=st.integers(0, 9))
def test_splitting_a_parameter_changes_no_update(rows, cut, seed):
  cut = min(rows, cut)
  whole = [[normal([rows, 2], seed + t)] for t in range(2)]
  split = [[g[:cut], g[cut:]] for (g,) in whole]
  for (u,), parts in zip(run(COORDINATEWISE, whole), run(COORDINATEWISE, split)):
    assert [p.shape[0] for p in parts] == [cut, rows - cut]
    np.testing.assert_allclose(u, tf.concat(parts, axis=0), **TOLERANCE)


def test_equal_gradients_move_differently_after_different_histories():
  updates = run(COORDINATEWISE, [[normal([2])], [tf.ones([2], tf.float64)]])
  assert updates[1][0][0] != updates[1][0][1]


@pytest.mark.parametrize(
  "preprocess", ["identity", "log_and_sign", "log_and_sign+clamp(scale=20)"]
)
def test_without_layers_it_is_a_linear_map_of_the_features(preprocess):
  optimizer = CoordinatewiseLSTM((), preprocess, dtype="float64", output_scale=0.5)
  b, w = optimizer.trainable_variables
  b.assign([0.25])
  grads = [normal([2, 3]), normal([], 1)]
  updates, state = optimizer(grads, optimizer.initial_state(grads))
  assert state == []
  for g, u in zip(grads, updates):
    features = optimizer.config["preprocess"](tf.reshape(g, [-1])).numpy()
    expected = 0.5 * (features @ w.numpy() + 0.25)
    np.testing.assert_allclose(u, expected.reshape(g.shape), **TOLERANCE)


def test_a_zero_initialized_linear_map_does_not_move_but_has_a_gradient():
  optimizer = CoordinatewiseLSTM((), initializer="zeros")
  grads = [tf.constant([2.0, -1.0])]
  with tf.GradientTape() as tape:
    updates, _ = optimizer(grads, optimizer.initial_state(grads))
  np.testing.assert_array_equal(updates[0], [0.0, 0.0])
  b, w = tape.gradient(updates, optimizer.trainable_variables)
  np.testing.assert_allclose(b, [2.0])
  np.testing.assert_allclose(w, [[1.0]])


@pytest.mark.parametrize(
  "make", [CoordinatewiseLSTM, lambda **k: KernelwiseLSTM((2, 1), **k)]
)
def test_output_scale_scales_the_updates(make):
  grads = [tf.ones([2, 1, 1, 2])]
  (once,), (thrice,) = (
    run(make(layers=(3,), output_scale=scale), [grads])[0] for scale in (1.0, 3.0)
  )
  np.testing.assert_allclose(3.0 * once, thrice, rtol=1e-6)


def test_kernels_are_laid_out_as_an_explicit_loop_says():
  gradients = [[normal([3, 2, 2, 3], t), normal([3, 2, 1, 2], 9 + t)] for t in range(3)]
  updates = run(KERNELWISE, gradients)
  network, features = KERNELWISE._network, KERNELWISE.config["preprocess"]
  for i in range(2):
    for c_in, c_out in itertools.product(*map(range, gradients[0][i].shape[2:])):
      state = network.initial_state(1)
      for grads, update in zip(gradients, updates):
        kernel = grads[i].numpy()[:, :, c_in, c_out]
        entries = [kernel[y, x] for y in range(3) for x in range(2)]
        column = np.concatenate([features(tf.constant([e]))[0] for e in entries])
        output, state = network(tf.constant(column[:, np.newaxis]), state)
        expected = np.reshape(output, [3, 2])
        np.testing.assert_allclose(update[i][:, :, c_in, c_out], expected, **TOLERANCE)


def test_kernels_are_independent_and_the_entries_of_one_are_not():
  gradient = normal([3, 2, 2, 3])
  changed = gradient.numpy()
  changed[0, 1, 1, 2] += 1.0
  ((u,),) = run(KERNELWISE, [[gradient]])
  ((v,),) = run(KERNELWISE, [[tf.constant(changed)]])
  moved = np.abs(u - v) > 1e-9
  assert np.all(moved[:, :, 1, 2])
  assert np.sum(moved) == 6


@pytest.mark.parametrize("shape", [(3, 3, 1, 2), (2, 3, 1, 2), (3, 2), (3, 2, 4), ()])
def test_kernelwise_refuses_what_is_no_kernel_of_its_shape(shape):
  with pytest.raises(
    ValueError, match=r"KernelwiseLSTM got a parameter of shape \(.*Route the others"
  ):
    KERNELWISE.initial_state([tf.zeros(shape)])
  state = KERNELWISE.initial_state([tf.zeros([3, 2, 1, 1])])
  with pytest.raises(ValueError, match=r"filters of shape \(3, 2\) \+ \(in, out\)"):
    KERNELWISE([tf.zeros(shape)], state)


@pytest.mark.parametrize(
  "kernel_shape", [(3,), (3, 3, 3), (0, 3), (3, -1), (3.0, 3), 3, None]
)
def test_a_bad_kernel_shape_is_an_error(kernel_shape):
  with pytest.raises(ValueError, match=r"kernel_shape=.* must be \(height, width\)"):
    KernelwiseLSTM(kernel_shape)


@pytest.mark.parametrize("layers", [(0,), (20, -1), (2.5,), 20, None, ("20",)])
def test_bad_layers_are_an_error(layers):
  with pytest.raises(ValueError, match=r"layers=.* must be a sequence of positive"):
    CoordinatewiseLSTM(layers)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"preprocess": "log"}, "preprocess='log' is unknown; give identity"),
    ({"initializer": "ones"}, "initializer='ones' is unknown; choose"),
    ({"dtype": "int32"}, "dtype='int32' is unknown; choose one of 'float16'"),
    ({"dtype": "f32"}, "dtype='f32' is unknown; choose one of 'float16'"),
    ({"output_scale": float("nan")}, "output_scale=nan must be a finite number"),
    ({"preprocess": tf.identity}, r"features \[2\]; it must map \[N\] to \[N, F\]"),
    ({"preprocess": lambda g: tf.stack([g, g, g])}, r"features \[3, 2\]; it must map"),
  ],
)
def test_bad_arguments_are_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    CoordinatewiseLSTM(**arguments)


def test_a_custom_preprocess_feeds_the_network():
  def powers(g):
    return tf.stack([g, g**2, g**3], axis=-1)

  optimizer = CoordinatewiseLSTM((), powers)
  _, w = optimizer.trainable_variables
  w.assign([[1.0], [10.0], [100.0]])
  ((update,),) = run(optimizer, [[tf.constant([2.0, -1.0])]])
  np.testing.assert_allclose(update, [842.0, -91.0])


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float32, tf.float64])
@pytest.mark.parametrize("weights", ["bfloat16", "float32", "float64"])
def test_updates_have_the_gradient_s_dtype_and_the_state_the_weights(dtype, weights):
  optimizer = CoordinatewiseLSTM((2,), "log_and_sign", dtype=weights)
  grads = [tf.ones([3], dtype)]
  updates, state = optimizer(grads, optimizer.initial_state(grads))
  assert updates[0].dtype == dtype
  assert {x.dtype.name for x in tf.nest.flatten(state)} == {weights}


def test_parameters_of_different_dtypes_share_one_optimizer():
  optimizer = CoordinatewiseLSTM((2,), seed=3)
  grads = [tf.ones([2], tf.bfloat16), tf.ones([2], tf.float32)]
  ((low, high),) = run(optimizer, [grads])
  assert low.dtype == tf.bfloat16 and high.dtype == tf.float32
  np.testing.assert_allclose(tf.cast(low, tf.float32), high, rtol=1e-2)


def test_the_state_has_a_column_per_coordinate_or_kernel():
  columns = [
    s.hidden.shape[1]
    for s in COORDINATEWISE.initial_state([normal([2, 3]), normal([])])
  ]
  assert columns == [7, 7]
  (state,) = KERNELWISE.initial_state([normal([3, 2, 4, 5])])
  assert isinstance(state, LSTMState) and state.cell.shape == [4, 20]


def test_diagnostics_report_the_gates_without_taking_a_step():
  grads = [normal([3])]
  state = COORDINATEWISE.initial_state(grads)
  diagnostics = COORDINATEWISE.diagnostics(grads, state)
  assert set(diagnostics) == {
    f"lstm_{i}/{gate}_gate" for i in (1, 2) for gate in ("input", "forget", "output")
  }
  assert all(0.0 <= value <= 1.0 for value in diagnostics.values())


def test_the_config_rebuilds_the_same_optimizer():
  for optimizer in (COORDINATEWISE, KERNELWISE):
    rebuilt = type(optimizer)(**optimizer.config)
    for v, w in zip(optimizer.variables, rebuilt.variables):
      np.testing.assert_array_equal(v, w)
