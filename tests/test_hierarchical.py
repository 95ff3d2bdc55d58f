"""A hierarchy of GRUs, against loops over tensors and coordinates in NumPy."""

import keras
import keras_models
import numpy as np
import pytest
import tensorflow as tf
from keras_models import X, Y, fit, ten_losses

import l2l_tf
from l2l_tf import seeds
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.meta import unroll
from l2l_tf.meta.gradients import (
  PES,
  ReplayedBPTT,
  StaggeredBPTT,
  TapedBPTT,
  TruncatedBPTT,
)
from l2l_tf.optimizers import HierarchicalRNN
from l2l_tf.problems import Problem, Quadratic

SHAPES = [(2, 3), (3,), ()]


def sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


def randomized(optimizer, scale=0.5):
  """As after training: no weight is what its constructor draws."""
  for i, v in enumerate(optimizer.variables):
    v.assign_add(seeds.normal(v.shape, seeds.make(3, i), scale, v.dtype))
  return optimizer


def numpy_gru(gru, x, h, above=None):
  """The GRU at the top of hierarchical.py; everything is a vector."""
  w_x, w_h, p = (np.split(v.numpy(), 3, -1) for v in (gru.w_x, gru.w_h, gru.b))
  if above is not None:
    p = [b + above @ a for b, a in zip(p, np.split(gru.above.numpy(), 3, -1))]
  r, z = (sigmoid(x @ w_x[i] + h @ w_h[i] + p[i]) for i in range(2))
  n = np.tanh(x @ w_x[2] + (r * h) @ w_h[2] + p[2])
  return z * h + (1 - z) * n


class Coordinate:
  """What the equations at the top of hierarchical.py have for one coordinate."""

  def __init__(self, optimizer, learning_rate):
    self.o, self.h = optimizer, optimizer.coordinates.start.numpy()
    self.a = self.squares = [0.0] * 4
    self.e = np.log(learning_rate) + optimizer.constants[0].numpy()
    self.is_first = True

  def read(self, g, mean_e, s, v):
    o, constants = self.o, self.o.constants.numpy()
    b = sigmoid(self.h @ o.readouts.numpy()[:, 2] + constants[3])
    d = sigmoid(self.h @ o.readouts.numpy()[:, 3] + constants[4])
    b, d = (0.0, 0.0) if self.is_first else (b, d)
    self.is_first = False
    bs = [b ** (1 / 2**k) for k in range(4)]
    self.a = [c * a + (1 - c) * g for c, a in zip(bs, self.a)]
    pairs = zip(self.squares, self.a)
    self.squares = [d * square + (1 - d) * a**2 for square, a in pairs]
    self.m = np.arcsinh(self.a / np.sqrt(self.squares))
    logs = np.log(self.squares)
    products = [self.m[k] * self.m[k + 1] for k in range(3)]
    self.x = np.array([*self.m, *products, *(logs - logs.mean()), self.e - mean_e])
    self.h = numpy_gru(o.coordinates, self.x, self.h, np.concatenate([s, v]))

  def move(self):
    """Returns e^ and q."""
    w, constants = self.o.readouts.numpy(), self.o.constants.numpy()
    log_rate = self.e + self.h @ w[:, 1] + constants[1]
    r = sigmoid(constants[2])
    self.e = r * self.e + (1 - r) * log_rate
    return log_rate, self.h @ w[:, 0] + self.m @ self.o.shortcut.numpy()[:, 0]


class NumPy:
  """The whole hierarchy."""

  def __init__(self, optimizer, shapes, learning_rate):
    self.o = optimizer
    sizes = [int(np.prod(s)) for s in shapes]
    make = lambda: Coordinate(optimizer, learning_rate)
    self.tensors = [[make() for _ in range(n)] for n in sizes]
    self.s = [optimizer.tensors.start.numpy() for _ in shapes]
    self.v = optimizer.whole.start.numpy()

  def step(self, grads):
    mean_e = np.mean([c.e for tensor in self.tensors for c in tensor])
    updates, states = [], []
    for grad, tensor, s in zip(grads, self.tensors, self.s):
      for g, c in zip(np.ravel(grad), tensor):
        c.read(g, mean_e, s, self.v)
      mean = np.mean([np.concatenate([c.h, c.x]) for c in tensor], axis=0)
      states.append(numpy_gru(self.o.tensors, mean, s, self.v))
      log_rates, q = map(np.array, zip(*[c.move() for c in tensor]))
      update = -np.exp(log_rates) * q / np.sqrt(np.mean(q**2))
      updates.append(update.reshape(np.shape(grad)))
    self.s = states
    self.v = numpy_gru(self.o.whole, np.mean(states, axis=0), self.v)
    return updates


def gradients(shapes=SHAPES, t=0, dtype=tf.float64, scale=1.0):
  keys = seeds.split(seeds.make(2, t), len(shapes))
  return [seeds.normal(s, k, scale, dtype) for s, k in zip(shapes, keys)]


@pytest.mark.parametrize(
  "shapes", [SHAPES, [(5, 30), (), (3,)], [(2, 2)]], ids=["rows of 1", "padded", "one"]
)
def test_three_steps_are_those_of_the_equations(shapes):
  optimizer = randomized(HierarchicalRNN(0.02, dtype="float64"))
  state = optimizer.initial_state(gradients(shapes))
  expected = NumPy(optimizer, shapes, 0.02)
  for t in range(3):
    grads = gradients(shapes, t, scale=10.0**-t)
    updates, state = optimizer(grads, state)
    for u, x in zip(updates, expected.step([g.numpy() for g in grads]), strict=True):
      np.testing.assert_allclose(u, x, rtol=1e-9)
    np.testing.assert_allclose(tf.transpose(state.tensors), expected.s, rtol=1e-9)
    np.testing.assert_allclose(state.whole[:, 0], expected.v, rtol=1e-9)


def run(optimizer, grads):
  """Returns the updates of every step."""
  state, found = optimizer.initial_state(grads[0]), []
  for step_grads in grads:
    updates, state = optimizer(step_grads, state)
    found.append([u.numpy() for u in updates])
  return found


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("dtype, rtol", [(tf.float32, 2e-4), (tf.float64, 1e-12)])
def test_updates_do_not_depend_on_the_scale_of_the_gradients(scale, dtype, rtol):
  optimizer = randomized(HierarchicalRNN(dtype=dtype.name), 0.1)
  grads = [gradients(t=t, dtype=dtype) for t in range(4)]
  scaled = [[scale * g for g in step] for step in grads]
  for a, b in zip(run(optimizer, scaled), run(optimizer, grads)):
    for x, y in zip(a, b):
      np.testing.assert_allclose(x, y, rtol, atol=rtol * np.abs(y).max())


def test_tensors_and_coordinates_may_come_in_any_order():
  optimizer = randomized(HierarchicalRNN(dtype="float64"))
  shapes = [(4, 5), (), (6,)]
  grads = [gradients(shapes, t) for t in range(3)]
  expected = run(optimizer, grads)
  turned = run(optimizer, [step[::-1] for step in grads])
  for a, b in zip(turned, expected):
    for x, y in zip(a[::-1], b):
      np.testing.assert_allclose(x, y, rtol=1e-10)
  mixed = lambda g: tf.reshape(tf.reverse(tf.transpose(g), [-1]), [-1])
  shuffled = [[mixed(g) if g.shape.rank else g for g in step] for step in grads]
  for a, b in zip(run(optimizer, shuffled), expected):
    for x, y in zip(a, b):
      y = mixed(y).numpy() if y.ndim else y
      np.testing.assert_allclose(x, y, rtol=1e-10)


def test_a_tensor_knows_of_the_others():
  optimizer = HierarchicalRNN()
  grads = [gradients(t=t, dtype=tf.float32) for t in range(3)]
  others = [[step[0], *(-2.0 * g for g in step[1:])] for step in grads]
  one, other = run(optimizer, grads), run(optimizer, others)
  np.testing.assert_array_equal(one[0][0], other[0][0])  # nothing is known yet
  assert np.any(one[2][0] != other[2][0])


def test_what_has_no_entries_changes_nothing():
  optimizer = randomized(HierarchicalRNN(dtype="float64"))
  grads = [gradients(t=t) for t in range(3)]
  empty = tf.zeros([0, 2], tf.float64)
  found = run(optimizer, [[step[0], empty, *step[1:]] for step in grads])
  for a, b in zip(found, run(optimizer, grads)):
    assert a.pop(1).shape == (0, 2)
    for x, y in zip(a, b, strict=True):
      np.testing.assert_array_equal(x, y)


def test_a_step_has_the_learned_rate_as_its_root_mean_square():
  optimizer = HierarchicalRNN(0.02)
  optimizer.constants.assign([np.log(3.0), *optimizer.constants.numpy()[1:]])
  for updates in run(optimizer, [gradients(t=t, dtype=tf.float32) for t in range(3)]):
    sizes = [np.sqrt(np.mean(u**2)) for u in updates]
    np.testing.assert_allclose(sizes, 0.06, rtol=1e-5)


def test_a_fresh_one_goes_downhill():
  grads = gradients([(20, 50)], dtype=tf.float32)
  ((update,),) = run(HierarchicalRNN(), [grads])
  assert np.mean(np.sign(update) != np.sign(grads[0])) > 0.8


def test_zero_gradients_leave_the_derivatives_finite():
  optimizer, grads = HierarchicalRNN(), [tf.zeros(s) for s in SHAPES]
  phi = optimizer.get_phi()
  with tf.GradientTape() as tape:
    tape.watch(grads)
    state = optimizer.initial_state(grads)
    for _ in range(3):
      updates, state = optimizer(grads, state)
    total = tf.add_n([tf.reduce_sum(u * u) for u in updates])
  for d in tf.nest.flatten(tape.gradient(total, [grads, list(phi)])):
    assert np.all(np.isfinite(d))


def test_the_log_rate_is_bounded_but_its_derivative_is_not():
  optimizer = HierarchicalRNN()
  grads = gradients(dtype=tf.float32)
  state = optimizer.initial_state(grads)
  for sign in (-1.0, 1.0):
    far = state._replace(log_rates=state.log_rates + 100.0 * sign)
    with tf.GradientTape() as tape:
      updates, next_state = optimizer(grads, far)
      total = tf.reduce_sum(next_state.log_rates)
    size = np.sqrt(np.mean(updates[0] ** 2))
    np.testing.assert_allclose(size, np.exp(33.0 * sign), rtol=1e-5)
    assert tape.gradient(total, optimizer.constants)[1] > 0


class Bowl(Problem):
  """A quartic, so that second derivatives are not constant."""

  def init(self, seed):
    target = seeds.normal([3], seed, 1.0, tf.float64)
    return [tf.zeros([3], tf.float64), tf.zeros([], tf.float64)], target

  def __call__(self, params, constants, seed):
    return tf.reduce_sum((params[0] - constants) ** 4) + (params[1] - 0.5) ** 4


def window(method, optimizer, num_steps=3):
  evaluate = unroll.first_order
  if method == TapedBPTT(second_derivatives=True):
    evaluate = unroll.second_order
  problem, observe = Bowl(), lambda *_: ()
  task, carry = unroll.start(problem, optimizer, seeds.make(5), evaluate)
  found, _ = method(problem, optimizer, task, carry, num_steps, observe)
  return found.meta_loss, found.meta_gradient


def test_the_meta_gradient_is_that_of_finite_differences_and_reaches_all_of_phi():
  optimizer = randomized(HierarchicalRNN(0.05, dtype="float64"), 0.2)
  method = TapedBPTT(second_derivatives=True)
  taken = tf.function(
    lambda phi: window(method, optimizer.with_phi(phi)), autograph=False
  )
  phi = [v.numpy() for v in optimizer.get_phi()]
  _, gradient = taken(phi)
  for k, g in enumerate(gradient):
    assert np.all(g != 0)
    direction = np.cos(np.arange(g.numpy().size)).reshape(g.shape)
    losses = []
    for step in (1e-5, -1e-5):
      moved = [w + step * direction if i == k else w for i, w in enumerate(phi)]
      losses.append(taken(moved)[0].numpy())
    slope = (losses[0] - losses[1]) / 2e-5
    np.testing.assert_allclose(np.sum(g * direction), slope, rtol=1e-5, atol=1e-8)


def test_truncated_back_propagation_takes_steps_again_as_a_tape_would():
  optimizer = randomized(HierarchicalRNN(0.05, dtype="float64"), 0.2)
  assert isinstance(TruncatedBPTT().method(Bowl(), optimizer), ReplayedBPTT)
  (loss, found), (same, expected) = (
    tf.function(lambda m=method: window(m, optimizer), autograph=False)()
    for method in (ReplayedBPTT(), TapedBPTT())
  )
  np.testing.assert_allclose(loss, same, rtol=1e-12)
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10 * np.abs(y).max())


def test_meta_training_on_quadratics_lowers_the_loss():
  trainer = l2l_tf.MetaTrainer(
    Quadratic(batch_size=8),
    HierarchicalRNN(0.01),
    l2l_tf.optimizers.Adam(0.02),
    num_steps=20,
    unroll_length=10,
    clip_norm=1.0,
  )
  finals = [m["losses"][-1] for m in trainer.train(25)]
  assert np.median(finals[-8:]) < 0.6 * np.median(finals[:8])


@pytest.mark.parametrize(
  "method",
  [PES(pairs=1, stddev=0.01), StaggeredBPTT(2)],
  ids=["PES", "StaggeredBPTT"],
)
def test_it_is_trained_by_every_estimator(method):
  optimizer = HierarchicalRNN(0.01)
  before = [v.numpy() for v in optimizer.get_phi()]
  trainer = l2l_tf.MetaTrainer(
    Quadratic(batch_size=2, num_dims=3),
    optimizer,
    l2l_tf.optimizers.Adam(0.01),
    num_steps=4,
    unroll_length=2,
    meta_gradient=method,
  )
  losses = [np.mean(m["losses"]) for m in trainer.train(3)]
  assert np.all(np.isfinite(losses))
  moved = [np.any(v.numpy() != x) for v, x in zip(optimizer.get_phi(), before)]
  assert all(moved)


def test_training_in_keras_goes_on_exactly_after_saving(tmp_path):
  optimizer = LearnedOptimizer(randomized(HierarchicalRNN(0.01), 0.1))
  model = keras_models.sequential(has_input=True)
  losses = fit(model, optimizer, 3)
  assert losses[-1] < losses[0]
  model.save(tmp_path / "m.keras")
  loaded = keras.saving.load_model(tmp_path / "m.keras")
  state = [v.numpy() for v in optimizer.variables]
  for v, x in zip(loaded.optimizer.variables, state, strict=True):
    np.testing.assert_array_equal(v, x)
  shapes = {tuple(v.shape) for v in loaded.optimizer.variables}
  assert {(20, 4), (20, 1)} <= shapes  # of four tensors, and of the whole
  assert ten_losses(loaded) == ten_losses(model)


def test_after_a_layer_was_frozen_the_state_starts_afresh_with_a_warning(tmp_path):
  model = keras_models.sequential(has_input=True)
  fit(model, LearnedOptimizer(HierarchicalRNN()), 1)
  model.save_weights(tmp_path / "m.weights.h5")
  other = keras_models.sequential(has_input=True)
  other.layers[0].trainable = False
  other.compile(optimizer := LearnedOptimizer(HierarchicalRNN()), "mse")
  optimizer.build(other.trainable_variables)
  fresh = [v.numpy() for v in optimizer.variables]
  with pytest.warns(UserWarning, match="does not fit.*nothing was restored"):
    other.load_weights(tmp_path / "m.weights.h5")
  for v, x in zip(optimizer.variables, fresh, strict=True):
    np.testing.assert_array_equal(v, x)
  losses = [other.train_on_batch(X[:16], Y[:16]) for _ in range(3)]
  assert np.all(np.isfinite(losses))


def test_a_sparse_gradient_is_a_dense_one():
  def embedded():
    keras.utils.set_random_seed(0)
    layers = [
      keras.layers.Embedding(9, 4),
      keras.layers.Flatten(),
      keras.layers.Dense(1),
    ]
    return keras.Sequential([keras.Input([3]), *layers])

  x, y = np.arange(24).reshape(8, 3) % 7, np.ones([8, 1])
  one, other = embedded(), embedded()
  one.compile(LearnedOptimizer(HierarchicalRNN(0.01)), "mse")
  one.train_on_batch(x, y)
  optimizer, variables = (
    LearnedOptimizer(HierarchicalRNN(0.01)),
    other.trainable_variables,
  )
  with tf.GradientTape() as tape:
    loss = tf.reduce_mean((other(x) - y) ** 2)
  grads = tape.gradient(loss, variables)
  assert isinstance(grads[0], tf.IndexedSlices)
  optimizer.apply([tf.convert_to_tensor(g) for g in grads], variables)
  for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_diagnostics_are_of_the_rate_the_decays_and_the_direction():
  optimizer, grads = HierarchicalRNN(0.01), gradients(dtype=tf.float32)
  found = optimizer.diagnostics(grads, optimizer.initial_state(grads))
  np.testing.assert_allclose(found.pop("log10_rate"), -2.0, rtol=1e-6)
  assert found.pop("direction") > 0.0
  assert set(found) == {"average_decay", "square_decay"}
  assert all(0.5 < decay < 1.0 for decay in found.values())


@pytest.mark.parametrize(
  "make, complaint",
  [
    (lambda: HierarchicalRNN(0.0), "learning_rate=0.0; it must be a positive, finite"),
    (lambda: HierarchicalRNN(np.inf), "learning_rate=inf; it must be a positive"),
    (lambda: HierarchicalRNN(dtype="float16"), "dtype='float16'; choose 'float32' or"),
    (lambda: HierarchicalRNN().initial_state([]), "HierarchicalRNN got an empty list"),
  ],
)
def test_bad_input_is_one_sentence(make, complaint):
  with pytest.raises(ValueError, match=complaint):
    make()
