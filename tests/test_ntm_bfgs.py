"""NTM-BFGS against NumPy, finite differences, and BFGS itself."""

from typing import NamedTuple

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
from l2l_tf.meta.gradients import PES, RecordedBPTT, ReplayedBPTT, TapedBPTT
from l2l_tf.optimizers import ALL, GRADIENTS, NTMBFGS, Adam
from l2l_tf.optimizers.external_memory import DenseMemory, LowRankMemory
from l2l_tf.optimizers.ntm_bfgs import Heads, initial_state, step
from l2l_tf.problems import Problem, Quadratic
from l2l_tf.runs import vocabulary

SHAPES = [(2, 3), (), (3,)]
DENSE = {"memory": "dense"}
LOW_RANK = {"memory": "low_rank", "history": 4}  # forgets two pairs of six


def make(layers=(4, 3), averaged=2, **kwargs):
  return NTMBFGS(layers, averaged=averaged, **kwargs)


def randomized(optimizer, scale=0.7):
  for i, v in enumerate(optimizer.variables):
    v.assign(seeds.normal(v.shape, seeds.make(3, i), scale, v.dtype))
  return optimizer


def drawn(shapes, step=0, dtype=tf.float64):
  keys = seeds.split(seeds.make(1, step), len(shapes))
  return [seeds.normal(s, key, 1.0, dtype) for s, key in zip(shapes, keys)]


def flat(tensors):
  return np.concatenate([np.ravel(x) for x in tensors])


# The memory.


def test_a_dense_memory_is_read_by_products_and_written_by_outer_products():
  memory, rng = DenseMemory(), np.random.default_rng(0)
  content, expected = memory.initial(5, tf.float64), np.eye(5)
  for _ in range(3):
    left, right, query = (
      rng.normal(size=[2, 5]),
      rng.normal(size=[2, 5]),
      rng.normal(size=5),
    )
    content = memory.write(content, left, right)
    expected = expected + sum(np.outer(a, b) for a, b in zip(left, right))
    np.testing.assert_allclose(content, expected, rtol=1e-14)
    read = memory.read(content, query[np.newaxis])
    np.testing.assert_allclose(read[0], expected @ query, rtol=1e-13)
  distance = np.linalg.norm(expected - np.eye(5)) / np.sqrt(5)
  np.testing.assert_allclose(memory.distance(content), distance, rtol=1e-14)


def test_a_low_rank_memory_is_the_sum_of_the_pairs_written_last():
  memory, rng = LowRankMemory(5), np.random.default_rng(1)
  content, pairs = memory.initial(7, tf.float64), []
  for _ in range(4):
    query = rng.normal(size=7)
    dense = np.eye(7) + sum((np.outer(a, b) for a, b in pairs[-5:]), np.zeros([7, 7]))
    read = memory.read(content, query[np.newaxis])
    np.testing.assert_allclose(read[0], dense @ query, rtol=1e-12)
    distance = np.linalg.norm(dense - np.eye(7)) / np.sqrt(7)
    np.testing.assert_allclose(memory.distance(content), distance, rtol=1e-12)
    left, right = rng.normal(size=[2, 2, 7])
    content = memory.write(content, left, right)
    pairs += zip(left, right)


# BFGS in the controller's place.


class Exact(NamedTuple):
  """State of `ExactController`."""

  moves: tf.Tensor  # [], whether this is the second step of an iteration
  grads: tf.Tensor  # g' of the iteration before, [1, N]
  moved: tf.Tensor  # s, [1, N]
  averages: tf.Tensor  # of s y and s g, from the first step, [2]


class ExactController:
  """Inverse BFGS in functions of coordinates and two averages over them a step."""

  def __init__(self):
    self.num_averages = []

  def initial_state(self, size):
    zeros = tf.zeros([1, size], tf.float64)
    return Exact(tf.constant(False), zeros, zeros, tf.zeros([2], tf.float64))

  def __call__(self, grads, read, state):
    s, y = state.moved, grads - state.grads
    if not state.moves:
      averages = self._averaged(s * y, s * grads)
      stay = tf.zeros_like(tf.concat([s] * 3, axis=0))
      next_state = state._replace(moves=tf.constant(True), averages=averages)
      return Heads(tf.zeros_like(s), grads, stay, stay), next_state
    h_y = read + s
    n = grads.shape[1]
    s_y, s_g = tf.unstack(n * state.averages)
    y_h_y, g_h_y = tf.unstack(n * self._averaged(y * h_y, grads * h_y))
    rho = tf.math.divide_no_nan(tf.ones([], tf.float64), s_y)  # At first s = 0.
    left = [-rho * s, -rho * h_y, (rho + rho**2 * y_h_y) * s]
    direction = read + left[0] * g_h_y + left[1] * s_g + left[2] * s_g
    heads = Heads(
      -direction, grads, tf.concat(left, axis=0), tf.concat([h_y, s, s], axis=0)
    )
    return heads, Exact(tf.constant(False), grads, -direction, state.averages)

  def _averaged(self, *values):
    self.num_averages.append(len(values))
    return tf.stack([tf.reduce_mean(x) for x in values])


def numpy_bfgs(hessian, theta, num_iterations):
  """Nocedal and Wright 2006, algorithm 6.1 with steps of length 1.

  Returns:
    theta and H after each iteration.
  """
  n = len(theta)
  inverse, found = np.eye(n), []
  g = hessian @ theta
  for _ in range(num_iterations):
    s = -inverse @ g
    theta = theta + s
    found.append((theta, inverse))
    y = hessian @ theta - g
    g, rho = g + y, 1.0 / (y @ s)
    turn = np.eye(n) - rho * np.outer(s, y)
    inverse = turn @ inverse @ turn.T + rho * np.outer(s, s)  # equation 6.17
  return found


def ill_conditioned(n, least=0.2, most=1.6):
  rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=[n, n]))
  return rotation @ np.diag(np.linspace(least, most, n)) @ rotation.T


@pytest.mark.parametrize("memory", [DenseMemory(), LowRankMemory(3 * 2 * 20)])
def test_a_controller_of_coordinates_and_two_averages_a_step_is_bfgs(memory):
  n, hessian = 8, ill_conditioned(8)
  theta = np.random.default_rng(3).normal(size=n)
  start, controller = theta, ExactController()
  state = initial_state(controller, memory, n, tf.float64)
  for expected, inverse in numpy_bfgs(hessian, theta, 20):
    for is_second in False, True:
      grads = tf.constant((hessian @ theta)[np.newaxis])
      update, state = step(controller, memory, grads, state)
      assert is_second or not np.any(update)
      theta = theta + update[0].numpy()
    # The digits of float64, in units of where it started and of the matrices.
    np.testing.assert_allclose(theta, expected, rtol=1e-10, atol=1e-14)
    columns = [memory.read(state.memory, e[np.newaxis]) for e in np.eye(n)]
    np.testing.assert_allclose(np.concatenate(columns).T, inverse, rtol=0, atol=1e-12)
  assert set(controller.num_averages) == {2}
  descended = np.linalg.matrix_power(np.eye(n) - hessian, 40) @ start
  assert np.linalg.norm(theta) < 1e-14 and np.linalg.norm(descended) > 1e-5


def test_a_short_history_forgets_what_bfgs_learned():
  hessian, start = ill_conditioned(8), np.random.default_rng(3).normal(size=8)
  ends = []
  for history in 3, 36:
    controller, memory, theta = ExactController(), LowRankMemory(history), start
    state = initial_state(controller, memory, 8, tf.float64)
    for _ in range(12):
      grads = tf.constant((hessian @ theta)[np.newaxis])
      update, state = step(controller, memory, grads, state)
      theta = theta + update[0].numpy()
    ends.append(theta)
  np.testing.assert_allclose(ends[1], numpy_bfgs(hessian, start, 6)[-1][0], atol=1e-13)
  assert np.abs(ends[0] - ends[1]).max() > 1e-4


# The learned one.


def numpy_step(optimizer, averaged, g, state):
  """The equations at the top of ntm_bfgs.py, of the LSTM cell by cell."""
  own, read, pairs = state
  layers, w, b = optimizer._controller.network.weights
  x, next_own = np.stack([g, read], axis=1), []
  for (w_x, w_h, bias), (h, c) in zip(layers, own, strict=True):
    z = x @ w_x.numpy() + h @ w_h.numpy() + bias.numpy()
    i, f, o, new = np.split(z, 4, axis=1)
    c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(new)
    x = sigmoid(o) * np.tanh(c)
    x[:, :averaged] = np.mean(x[:, :averaged], axis=0)
    next_own.append((x, c))
  outputs = (x @ w.numpy() + b.numpy()).T
  matrix = np.eye(len(g)) + sum(np.outer(a, b) for a, b in pairs)
  written = [(a, b / len(g)) for a, b in zip(outputs[2:5], outputs[5:8])]
  return outputs[0], (next_own, matrix @ outputs[1], pairs + written)


@pytest.mark.parametrize("kind", [DENSE, LOW_RANK])
def test_four_steps_are_those_of_the_equations(kind):
  optimizer = randomized(make((4, 3), 2, dtype="float64", output_scale=0.5, **kind))
  state, reads = optimizer.initial_state(drawn(SHAPES)), []
  own = [(np.zeros([10, n]), np.zeros([10, n])) for n in (4, 3)]
  expected_state = own, np.zeros(10), [] if kind is DENSE else [np.zeros([2, 10])] * 4
  for t in range(4):
    grads = drawn(SHAPES, t)
    updates, state = optimizer(grads, state)
    outputs, expected_state = numpy_step(optimizer, 2, flat(grads), expected_state)
    if kind is LOW_RANK:
      expected_state = *expected_state[:2], expected_state[2][-4:]
    np.testing.assert_allclose(flat(updates), 0.5 * outputs, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(state.read[0], expected_state[1], rtol=1e-11)
    reads.append(expected_state[1])
  assert np.abs(reads[-1] - reads[-2]).max() > 0.01
  left, right = map(np.array, zip(*expected_state[2]))
  if kind is DENSE:
    np.testing.assert_allclose(state.memory, np.eye(10) + left.T @ right, rtol=1e-10)
  else:
    np.testing.assert_allclose(state.memory.left, left, rtol=1e-11)
    np.testing.assert_allclose(state.memory.right, right, rtol=1e-11)


def run(optimizer, inputs):
  """The updates of each step on given gradients."""
  state, found = optimizer.initial_state(inputs[0]), []
  for grads in inputs:
    updates, state = optimizer(grads, state)
    found.append(flat(updates))
  return np.stack(found)


def test_a_history_of_all_steps_is_the_dense_memory():
  inputs = [drawn(SHAPES, t) for t in range(5)]
  optimizers = [
    randomized(make(dtype="float64", memory=kind, history=12))
    for kind in ("dense", "low_rank")
  ]
  # What the fifth step writes is not read any more, nor what the fourth step reads.
  dense, low_rank = (run(optimizer, inputs) for optimizer in optimizers)
  np.testing.assert_allclose(low_rank, dense, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("kind", [DENSE, LOW_RANK])
def test_permuted_coordinates_have_permuted_updates(kind):
  optimizer, order = randomized(make(dtype="float64", **kind)), [3, 0, 4, 1, 2]
  inputs = [drawn([(5,)], t) for t in range(4)]
  permuted = [[tf.gather(g, order) for g in grads] for grads in inputs]
  found, expected = run(optimizer, permuted), run(optimizer, inputs)[:, order]
  np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_what_is_read_has_one_size_on_small_and_large_problems():
  sizes, optimizer = [], randomized(make(memory="low_rank"))
  for n in 10, 10_000:
    state = optimizer.initial_state([tf.zeros([n])])
    for t in range(6):
      _, state = optimizer(drawn([(n,)], t, tf.float32), state)
    sizes.append(np.sqrt(np.mean(np.square(state.read))))
  assert 0.3 < sizes[1] / sizes[0] < 3


def test_the_memory_s_kind_follows_the_size_unless_it_is_given():
  sizes = 40, 41
  kinds = lambda **kwargs: [type(make(**kwargs).memory_of(n)) for n in sizes]
  assert kinds(dense_limit=40) == [DenseMemory, LowRankMemory]
  assert kinds(dense_limit=40, memory="dense") == [DenseMemory] * 2
  assert kinds(dense_limit=40, memory="low_rank") == [LowRankMemory] * 2
  assert kinds() == [DenseMemory] * 2


def test_a_dense_memory_of_too_many_coordinates_is_one_sentence():
  theta = [tf.zeros([200, 200])]
  message = r"40,000 coordinates takes 6\.0 GiB; at most 2 .*memory='low_rank'"
  for wrong in {"memory": "dense"}, {"dense_limit": 10**6}:
    with pytest.raises(ValueError, match=message):
      make(**wrong).initial_state(theta)
  assert make(memory="low_rank").initial_state(theta).memory.left.shape == (30, 40000)


def test_the_memory_of_half_precision_is_in_single_precision():
  optimizer, grads = make(dtype="float16"), [tf.ones([3], tf.float16)]
  updates, state = optimizer(grads, optimizer.initial_state(grads))
  updates, state = optimizer(grads, state)
  assert (updates[0].dtype, state.memory.dtype) == (tf.float16, tf.float32)
  assert np.all(np.isfinite(updates[0])) and np.any(updates[0])


@pytest.mark.parametrize("kind", [DENSE, LOW_RANK])
@pytest.mark.parametrize("shapes", [[()], [(0, 2)], [(), (0,), (2,)]])
def test_scalar_and_empty_parameters(kind, shapes):
  optimizer, grads = make(**kind), drawn(shapes, dtype=tf.float32)
  state = optimizer.initial_state(grads)
  for _ in range(3):
    updates, state = optimizer(grads, state)
  assert [u.shape for u in updates] == [g.shape for g in grads]
  assert all(np.all(np.isfinite(u)) for u in updates)


def test_diagnostics_say_how_far_the_memory_is_from_the_identity():
  optimizer, grads = randomized(make()), drawn(SHAPES, dtype=tf.float32)
  state, found = optimizer.initial_state(grads), []
  for _ in range(2):
    found.append(optimizer.diagnostics(grads, state))
    _, state = optimizer(grads, state)
  assert found[0]["memory/distance"] == 0 < found[1]["memory/distance"]
  assert "lstm_2/forget_gate" in found[0]


# Meta-training.


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
  return method(Bowl(), view, task, carry, 5, lambda *_: ())[0]


@pytest.mark.parametrize("kind", [DENSE, LOW_RANK])
def test_the_ways_to_back_propagate_agree(kind):
  optimizer = randomized(make((3,), 1, dtype="float64", output_scale=0.02, **kind))
  methods = TapedBPTT(), RecordedBPTT(), ReplayedBPTT()
  gradients = [window(optimizer, m).meta_gradient for m in methods]
  for taped, *others in zip(*gradients, strict=True):
    assert np.any(taped)
    for other in others:
      np.testing.assert_allclose(other, taped, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", [DENSE, LOW_RANK])
def test_the_meta_gradient_is_that_of_finite_differences(kind):
  optimizer = randomized(make((3,), 1, dtype="float64", output_scale=0.02, **kind))
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
    if g.shape == (3, 8):  # of the heads, each of which has an effect
      assert np.all(np.any(g != 0, axis=0))


def test_an_estimator_with_episodes_of_its_own_takes_it():
  problem, optimizer = Quadratic(batch_size=2, num_dims=3), make((2,), 1)
  trainer = l2l_tf.MetaTrainer(
    problem, optimizer, Adam(0.01), PES(pairs=2), num_steps=4, unroll_length=2
  )
  before = [v.numpy() for v in optimizer.get_phi()]
  (metrics,) = trainer.train(1)
  assert np.all(np.isfinite(metrics["losses"])) and not np.any(metrics["skipped"])
  assert any(np.any(v != w) for v, w in zip(optimizer.get_phi(), before))


def test_meta_training_on_quadratics_lowers_the_loss():
  optimizer = make((8,), 3, preprocess="log_and_sign", output_scale=0.1)
  trainer = l2l_tf.MetaTrainer(
    Quadratic(batch_size=8), optimizer, Adam(0.02), num_steps=20, unroll_length=10
  )
  finals = [m["losses"][-1] for m in trainer.train(25)]
  assert np.median(finals[-6:]) < 0.7 * np.median(finals[:6])


# Keras, the command line, bad input.


@pytest.mark.parametrize("kind", [DENSE, LOW_RANK])
def test_a_keras_model_and_its_state_are_saved_and_restored(kind, tmp_path):
  optimizer = make((3,), 1, preprocess="log_and_sign", output_scale=0.05, **kind)
  model = built(keras_models.sequential(True))
  before = weights(model)
  fit(model, LearnedOptimizer(optimizer), 2)
  assert np.any(weights(model) != before)
  model.save(tmp_path / "model.keras")
  loaded = keras.models.load_model(tmp_path / "model.keras")
  np.testing.assert_array_equal(ten_losses(loaded), ten_losses(model))


def test_the_command_line_knows_it():
  text = "NTMBFGS(layers=(4,), averaged=2, memory='low_rank', history=6)"
  config = vocabulary.build(text, "optimizer").config
  assert (config["layers"], config["memory"], config["history"]) == (
    (4,),
    "low_rank",
    6,
  )


@pytest.mark.parametrize(
  "arguments, complaint",
  [
    ({"averaged": 0}, r"got averaged=0 and layers=\(4, 3\); it averages at least one"),
    ({"averaged": 4}, r"averaged=4 and layers=\(4, 3\); .* and at most all of them"),
    ({"layers": ()}, r"averaged=2 and layers=\(\); it averages at least one cell"),
    ({"layers": (0,)}, r"layers=\(0,\) must be a sequence of positive"),
    ({"output_scale": np.inf}, "output_scale=inf must be a finite number"),
    ({"memory": "sparse"}, "memory='sparse' is unknown; choose one of 'auto', 'dense'"),
    ({"dense_limit": -1}, "dense_limit=-1 must be a number of coordinates, zero or"),
    ({"history": 2}, "history=2 must be an integer of at least 3, what one step wri"),
    ({"history": 3.5}, "history=3.5 must be an integer"),
  ],
)
def test_bad_input_is_one_sentence(arguments, complaint):
  with pytest.raises(ValueError, match=complaint):
    make(**arguments)


def test_traits():
  optimizer = make()
  assert (optimizer.coupling, optimizer.reads) == (ALL, {GRADIENTS})
  assert optimizer.jit_compile
  assert not make(preprocess=lambda grads: grads[:, tf.newaxis]).jit_compile
