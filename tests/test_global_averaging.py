"""Global averaging cells, against NumPy, one coordinate and permutations."""

import keras
import keras_models
import numpy as np
import pytest
import tensorflow as tf
from keras_models import built, fit, ten_losses, weights
from numpy_lstm import sigmoid

import l2l_tf
from l2l_tf import seeds
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import (
  PES,
  RecordedBPTT,
  ReplayedBPTT,
  StaggeredBPTT,
  TapedBPTT,
)
from l2l_tf.optimizers import ALL, Adam, CoordinatewiseLSTM, GlobalAveragingLSTM
from l2l_tf.optimizers.coordinatewise import to_coordinates
from l2l_tf.problems import Problem, Quadratic

SHAPES = [(2, 3), (), (3,)]


def make(layers=(4, 3), averaged=2, **kwargs):
  return GlobalAveragingLSTM(layers, averaged=averaged, **kwargs)


def randomized(optimizer, scale=0.7):
  for i, v in enumerate(optimizer.variables):
    v.assign(seeds.normal(v.shape, seeds.make(3, i), scale, v.dtype))
  return optimizer


def drawn(shapes, step=0, dtype=tf.float64):
  keys = seeds.split(seeds.make(1, step), len(shapes))
  return [seeds.normal(s, key, 1.0, dtype) for s, key in zip(shapes, keys)]


def flat(tensors):
  return np.concatenate([np.ravel(x) for x in tensors])


def numpy_step(optimizer, averaged, g, state):
  """The cells one by one; state holds (h, c), each [N, units], of every layer."""
  layers, w, b = optimizer._network.weights
  x, next_state = g[:, np.newaxis], []
  for (w_x, w_h, bias), (h, c) in zip(layers, state, strict=True):
    z = x @ w_x.numpy() + h @ w_h.numpy() + bias.numpy()
    i, f, o, new = np.split(z, 4, axis=1)
    c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(new)
    h = sigmoid(o) * np.tanh(c)
    for k in range(averaged):
      h[:, k] = sum(h[n, k] for n in range(len(h))) / len(h)
    next_state.append((h, c))
    x = h
  return (x @ w.numpy() + b.numpy())[:, 0], next_state


@pytest.mark.parametrize("averaged", [1, 3])
def test_five_steps_are_those_of_the_equations(averaged):
  optimizer = randomized(make((4, 3), averaged, dtype="float64", output_scale=0.5))
  state = optimizer.initial_state(drawn(SHAPES))
  expected_state = [(np.zeros([10, n]), np.zeros([10, n])) for n in (4, 3)]
  for t in range(5):
    grads = drawn(SHAPES, t)
    updates, state = optimizer(grads, state)
    outputs, expected_state = numpy_step(
      optimizer, averaged, flat(grads), expected_state
    )
    np.testing.assert_allclose(flat(updates), 0.5 * outputs, rtol=1e-12, atol=1e-14)
  for (signal, c), (h, expected_c) in zip(state, expected_state):
    np.testing.assert_allclose(signal.averages[:, 0], h[0, :averaged], rtol=1e-12)
    np.testing.assert_allclose(signal.own, h[:, averaged:].T, rtol=1e-12)
    np.testing.assert_allclose(c, expected_c.T, rtol=1e-12)


def run(optimizer, inputs):
  """The updates of each step on given gradients."""
  state, found = optimizer.initial_state(inputs[0]), []
  for grads in inputs:
    updates, state = optimizer(grads, state)
    found.append(flat(updates))
  return np.stack(found)


def test_one_coordinate_alone_is_the_coordinatewise_lstm():
  inputs = [drawn([()], t) for t in range(4)]
  averaging = randomized(make(dtype="float64"))
  coordinatewise = randomized(CoordinatewiseLSTM((4, 3), dtype="float64"))
  found, expected = run(averaging, inputs), run(coordinatewise, inputs)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  assert np.ptp(expected) > 0.01


def test_permuted_coordinates_have_permuted_updates():
  optimizer, order = randomized(make(dtype="float64")), np.array([3, 0, 4, 1, 2])
  inputs = [drawn([(5,)], t) for t in range(4)]
  permuted = [[tf.gather(g, order) for g in grads] for grads in inputs]
  found, expected = run(optimizer, permuted), run(optimizer, inputs)[:, order]
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("shapes", [SHAPES, [(10,)]])
def test_it_makes_no_difference_how_coordinates_are_cut_into_tensors(shapes):
  optimizer = randomized(make(dtype="float64"))
  whole = [[to_coordinates(drawn(SHAPES, t))[0]] for t in range(3)]
  cut = lambda x: [
    tf.reshape(p, s)
    for p, s in zip(tf.split(x, [int(np.prod(s)) for s in shapes]), shapes)
  ]
  found = run(optimizer, [cut(x) for (x,) in whole])
  np.testing.assert_array_equal(found, run(optimizer, whole))


def test_an_update_depends_on_the_gradients_of_others():
  grads = drawn([(3,), (2,)])
  for make_one, is_coupled in (make, True), (CoordinatewiseLSTM, False):
    optimizer = randomized(make_one((4, 3), dtype="float64"))
    with tf.GradientTape() as tape:
      tape.watch(grads)
      updates, _ = optimizer(grads, optimizer.initial_state(grads))
      first = updates[0][0]
    of_others = tape.gradient(first, grads[1])
    assert np.all(of_others != 0) if is_coupled else not np.any(of_others)


def test_a_cell_that_is_not_averaged_keeps_its_own_output():
  """With the averaged cells' weights at zero the coordinates are independent."""
  optimizer = randomized(make((4,), 2, dtype="float64"))
  (layer,), w, _ = optimizer._network.weights
  keep = np.array([[0.0], [0.0], [1.0], [1.0]])
  layer[1].assign(keep * layer[1])
  w.assign(keep * w)
  whole = run(optimizer, [drawn([(5,)], t) for t in range(3)])
  single = run(optimizer, [[drawn([(5,)], t)[0][2:3]] for t in range(3)])
  np.testing.assert_allclose(whole[:, 2:3], single, rtol=1e-12)


def test_it_can_clip_by_the_norm():
  """A cell that sees the square of a gradient averages it to the squared norm."""

  def square(grads):
    return tf.square(grads)[:, tf.newaxis]

  square.is_elementwise = True
  optimizer = GlobalAveragingLSTM((1,), square, dtype="float64", averaged=1)
  (layer,), _, _ = optimizer._network.weights
  layer[0].assign([[0.0, 0.0, 0.0, 1e-4]])
  layer[2].assign([40.0, -40.0, 40.0, 0.0])  # i = o = 1, f = 0
  grads = drawn([(50,)])
  _, state = optimizer(grads, optimizer.initial_state(grads))
  mean = np.mean(np.square(grads[0]))
  np.testing.assert_allclose(state[0].hidden.averages[0, 0], 1e-4 * mean, rtol=1e-6)


def test_averages_over_many_coordinates_do_not_overflow():
  optimizer, size = make((2,), 2, dtype="float16"), 200_000  # beyond float16's range
  updates = []
  for n in size, 1:
    grads = [tf.ones([n], tf.float16)]
    (update,), _ = optimizer(grads, optimizer.initial_state(grads))
    updates.append(update[0])
  assert updates[1] != 0
  np.testing.assert_allclose(*updates, rtol=0.01)


class Bowl(Problem):
  """A quartic in several tensors, so that gradients are not linear."""

  def init(self, seed):
    keys = seeds.split(seed, len(SHAPES))
    targets = [seeds.normal(s, k, 1.0, tf.float64) for s, k in zip(SHAPES, keys)]
    return [tf.zeros(s, tf.float64) for s in SHAPES], targets

  def __call__(self, params, constants, seed):
    return tf.add_n([tf.reduce_sum((p - c) ** 4) for p, c in zip(params, constants)])


def window(optimizer, method, phi=None):
  view = optimizer if phi is None else optimizer.with_phi(phi)
  task, carry = unroll.start(Bowl(), view, seeds.make(5), unroll.second_order)
  return method(Bowl(), view, task, carry, 4, lambda *_: ())[0]


def test_the_ways_to_back_propagate_agree():
  optimizer = randomized(make(dtype="float64", output_scale=0.02))
  methods = TapedBPTT(), RecordedBPTT(), ReplayedBPTT()
  gradients = [window(optimizer, m).meta_gradient for m in methods]
  for taped, *others in zip(*gradients, strict=True):
    assert np.any(taped)
    for other in others:
      np.testing.assert_allclose(other, taped, rtol=1e-7, atol=1e-10)


def test_the_meta_gradient_is_that_of_finite_differences():
  optimizer = randomized(make(dtype="float64", output_scale=0.02))
  method = TapedBPTT(second_derivatives=True)
  run = tf.function(lambda phi: window(optimizer, method, phi), autograph=False)
  phi = [v.numpy() for v in optimizer.get_phi()]
  for k, g in enumerate(run(phi).meta_gradient):
    direction = np.cos(np.arange(g.numpy().size)).reshape(g.shape)
    moved = lambda step, k=k, d=direction: [
      w + step * d if i == k else w for i, w in enumerate(phi)
    ]
    above, below = (run(moved(step)).meta_loss.numpy() for step in (1e-5, -1e-5))
    slope = (above - below) / 2e-5
    np.testing.assert_allclose(np.sum(g * direction), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("meta_gradient", [StaggeredBPTT(2), PES(pairs=2)])
def test_estimators_with_episodes_of_their_own_take_it(meta_gradient):
  problem, optimizer = Quadratic(batch_size=2, num_dims=3), make((2,), 1)
  trainer = l2l_tf.MetaTrainer(
    problem, optimizer, Adam(0.01), meta_gradient, num_steps=4, unroll_length=2
  )
  before = [v.numpy() for v in optimizer.get_phi()]
  (metrics,) = trainer.train(1)
  assert np.all(np.isfinite(metrics["losses"])) and not np.any(metrics["skipped"])
  assert any(np.any(v != w) for v, w in zip(optimizer.get_phi(), before))


def test_meta_training_on_quadratics_lowers_the_loss():
  problem = Quadratic(batch_size=8)
  optimizer = make((8,), 3, preprocess="log_and_sign", output_scale=0.1)
  trainer = l2l_tf.MetaTrainer(
    problem, optimizer, Adam(0.02), num_steps=20, unroll_length=10
  )
  finals = [m["losses"][-1] for m in trainer.train(25)]
  assert np.median(finals[-6:]) < 0.7 * np.median(finals[:6])


def test_a_keras_model_and_its_state_are_saved_and_restored(tmp_path):
  optimizer = make((3,), 1, preprocess="log_and_sign", output_scale=0.05)
  model = built(keras_models.sequential(True))
  before = weights(model)
  fit(model, LearnedOptimizer(optimizer), 2)
  assert np.any(weights(model) != before)
  model.save(tmp_path / "model.keras")
  loaded = keras.models.load_model(tmp_path / "model.keras")
  np.testing.assert_array_equal(ten_losses(loaded), ten_losses(model))


def test_sparse_gradients_in_keras_are_dense_ones():
  ids = np.array([[0, 2], [2, 5]])
  losses = []
  for is_one_hot in False, True:
    embedding = keras.layers.Embedding(6, 3)
    layers = [keras.Input([2], dtype="int32"), embedding, keras.layers.Flatten()]
    layers += [keras.layers.Dense(1, kernel_initializer="ones")]
    model = keras.Sequential(layers)
    embedding.embeddings.assign(np.linspace(-1, 1, 18).reshape(6, 3))
    optimizer = LearnedOptimizer(make((3,), 1, output_scale=0.1))
    optimizer.build(model.trainable_variables)
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(model(ids) ** 2)
    grads = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert isinstance(grads[0], tf.IndexedSlices)
    grads = [tf.convert_to_tensor(g) for g in grads] if is_one_hot else grads
    optimizer.apply(grads, model.trainable_variables)
    losses.append(float(tf.reduce_sum(model(ids) ** 2)))
  assert losses[0] == losses[1]


@pytest.mark.parametrize(
  "arguments, complaint",
  [
    ({"averaged": 0}, r"got averaged=0 and layers=\(4, 3\); it averages at least one"),
    ({"averaged": 4}, r"averaged=4 and layers=\(4, 3\); .* and at most all of them"),
    ({"averaged": 1.0}, r"averaged=1.0 and layers"),
    ({"layers": ()}, r"averaged=2 and layers=\(\); it averages at least one cell"),
    ({"layers": (0,)}, r"layers=\(0,\) must be a sequence of positive"),
  ],
)
def test_bad_input_is_one_sentence(arguments, complaint):
  with pytest.raises(ValueError, match=complaint):
    make(**arguments)


def test_traits():
  assert (make().coupling, make().jit_compile) == (ALL, True)
  anything = lambda grads: grads[:, tf.newaxis]
  assert not GlobalAveragingLSTM(preprocess=anything).jit_compile
