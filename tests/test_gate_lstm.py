"""Gradient descent as the cell of an LSTM, against NumPy and finite differences."""

import pathlib
import re

import keras_models
import numpy as np
import pytest
import tensorflow as tf
from keras_models import built, fit, weights

import l2l_tf
from l2l_tf import seeds
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.meta import execution, unroll
from l2l_tf.meta.gradients import TapedBPTT
from l2l_tf.meta.objective import MetaObjective, last_only
from l2l_tf.optimizers import SGD, ConstantGates, GateLSTM, LearnedStart
from l2l_tf.problems import Problem, Quadratic
from l2l_tf.storage import export

SHAPES = [(2, 3), (3,)]


def sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


def log_and_sign(x, p=10.0):
  is_large = np.abs(x) >= np.exp(-p)
  log = np.where(is_large, np.log(np.maximum(np.abs(x), 1e-300)) / p, -1.0)
  return np.stack([log, np.where(is_large, np.sign(x), np.exp(p) * x)])


def numpy_step(optimizer, g, theta, loss, gates, lstm):
  """The equations at the top of gate_lstm.py, one coordinate at a time."""
  kernel, recurrent, bias = (
    v.numpy() for v in (optimizer.kernel, optimizer.recurrent, optimizer.bias)
  )
  next_theta, next_gates, next_lstm = [], [], []
  for n in range(len(g)):
    x, candidate = np.concatenate([log_and_sign(g[n]), log_and_sign(loss)]), -g[n]
    if lstm is not None:
      memory = optimizer.memory
      h, c = lstm[n]
      z = x @ memory.w_x.numpy() + h @ memory.w_h.numpy() + memory.b.numpy()
      i, f, o, new = np.split(z, 4)
      c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(new)
      x = sigmoid(o) * np.tanh(c)
      next_lstm.append((x, c))
      candidate = candidate + memory.readout.numpy() @ x
    z_i, z_f = np.append(x, theta[n]) @ kernel + recurrent * gates[n] + bias
    next_theta.append(sigmoid(z_f) * theta[n] + sigmoid(z_i) * candidate)
    next_gates.append((z_i, z_f))
  return np.array(next_theta), np.array(next_gates), next_lstm if lstm else None


def randomized(optimizer, scale=0.5):
  for i, v in enumerate(optimizer.variables):
    v.assign(seeds.normal(v.shape, seeds.make(3, i), scale, v.dtype))
  return optimizer


@pytest.mark.parametrize("memory", [False, True])
def test_five_steps_are_those_of_the_equations(memory):
  optimizer = randomized(GateLSTM(memory=memory, units=3, dtype="float64"))
  shapes = [s for s in SHAPES]
  params = [seeds.normal(s, seeds.make(1), 1.0, tf.float64) for s in shapes]
  flat = lambda tensors: np.concatenate([np.ravel(x) for x in tensors])
  state = optimizer.initial_state(params)
  theta, gates = flat(params), np.zeros([9, 2])
  lstm = [(np.zeros(3), np.zeros(3))] * 9 if memory else None
  for t in range(5):
    keys = seeds.split(seeds.make(2, t), 2)
    grads = [seeds.normal(s, k, 10.0**-t, tf.float64) for s, k in zip(shapes, keys)]
    loss = tf.constant(2.0 - 0.5 * t, tf.float64)
    updates, state = optimizer(grads, state, params=params, loss=loss)
    params = [p + u for p, u in zip(params, updates)]
    theta, gates, lstm = numpy_step(
      optimizer, flat(grads), theta, loss.numpy(), gates, lstm
    )
    np.testing.assert_allclose(flat(params), theta, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(state.gates, gates.T, rtol=1e-9, atol=1e-12)


def test_fixed_gates_are_gradient_descent_to_the_last_bit():
  optimizer = GateLSTM()
  zeros = [tf.zeros_like(v) for v in (optimizer.kernel, optimizer.recurrent)]
  bias = tf.constant([-1.7, 200.0])  # sigm(200) is 1, and its distance from 1 is 0
  fixed = optimizer.with_phi(
    [{"k": zeros[0], "r": zeros[1], "b": bias}[k] for k in order(optimizer)]
  )
  # What was used: sigmoids of a vector and of a number may differ in the last bit.
  _, (rates,) = fixed.gates(run(fixed, 1)[1].state, [tf.zeros([4, 10])])
  np.testing.assert_allclose(rates, sigmoid(-1.7), rtol=1e-6)
  assert_same_runs(fixed, SGD(rates))
  constant = ConstantGates(0.1)
  assert_same_runs(constant, SGD(constant.rate))
  started = LearnedStart(constant, [(4, 10)]).begin_at([tf.ones([4, 10])])
  _, carry = run(started, 0)
  np.testing.assert_array_equal(carry.params[0], np.ones([4, 10]))


def test_a_fixed_forget_gate_is_weight_decay_to_the_last_bit():
  optimizer = GateLSTM()
  zeros = [tf.zeros_like(v) for v in (optimizer.kernel, optimizer.recurrent)]
  bias = tf.constant([-1.7, 6.0])
  fixed = optimizer.with_phi(
    [{"k": zeros[0], "r": zeros[1], "b": bias}[k] for k in order(optimizer)]
  )
  theta, g = seeds.normal([50], seeds.make(0)), seeds.normal([50], seeds.make(1))
  state = fixed.initial_state([theta])
  (update,), _ = fixed([g], state, params=[theta], loss=tf.constant(1.0))
  rate, decay = (tf.sigmoid(tf.fill([50], x)) for x in (-1.7, -6.0))  # 1 - f_t
  (sgd,), _ = SGD(rate)([g], SGD(rate).initial_state([g]))
  np.testing.assert_array_equal(update, sgd - decay * theta)


def order(optimizer):
  """Says which weight of a `GateLSTM` stands where in phi."""
  names = {"k": optimizer.kernel, "r": optimizer.recurrent, "b": optimizer.bias}
  return [k for v in optimizer.get_phi() for k, w in names.items() if w is v]


def run(optimizer, num_steps=20):
  problem = Quadratic(batch_size=4)
  task, carry = unroll.start(problem, optimizer, seeds.make(0))
  return task, unroll.unroll(problem, optimizer, task, carry, num_steps)[0]


def assert_same_runs(one, other):
  (_, a), (_, b) = run(one), run(other)
  np.testing.assert_array_equal(a.params[0], b.params[0])
  assert np.any(a.params[0] != 0)


def test_a_constant_forget_gate_is_weight_decay_to_the_last_bit():
  decay, theta = np.float32(0.3), seeds.normal([50], seeds.make(0))
  optimizer = ConstantGates(0.1, decay=0.3)
  rate = optimizer.rate.numpy()
  for t in range(10):
    g = seeds.normal([50], seeds.make(1, t))
    (update,), _ = optimizer([g], (), params=[theta])
    (sgd,), _ = SGD(rate)([g], SGD(rate).initial_state([g]))
    decayed = theta + (sgd - (rate * decay) * theta)
    theta = theta + update
    np.testing.assert_array_equal(theta, decayed)


@pytest.mark.parametrize("memory", [False, True])
def test_a_fresh_one_is_gradient_descent_with_little_decay(memory):
  optimizer = GateLSTM(memory=memory)
  theta, g = [seeds.normal([9], seeds.make(0))], [seeds.normal([9], seeds.make(1))]
  loss = tf.constant(1.0)
  updates, state = optimizer(g, optimizer.initial_state(g), params=theta, loss=loss)
  (forget,), (rate,) = optimizer.gates(state, g)
  assert np.all(forget > 0.98) and np.all((rate > 0.006) & (rate < 0.02))
  expected = forget * theta[0] - rate * g[0]
  np.testing.assert_allclose(theta[0] + updates[0], expected, rtol=1e-4, atol=1e-6)


class Bowl(Problem):
  """A quartic, so that second derivatives are not constant."""

  def init(self, seed):
    return [tf.zeros([3], tf.float64)], seeds.normal([3], seed, 1.0, tf.float64)

  def __call__(self, params, constants, seed):
    return tf.reduce_sum((params[0] - constants) ** 4)

  def meta_loss(self, params, constants, seed):
    return tf.reduce_sum((params[0] - 0.9 * constants) ** 2)


@pytest.mark.parametrize(
  "memory, weights", [(False, (0.5, 1.0, 2.0)), (True, last_only)], ids=["all", "last"]
)
def test_the_gradient_of_phi_and_the_start_is_that_of_finite_differences(
  memory, weights
):
  inner = randomized(GateLSTM(memory, units=2, dtype="float64"), 0.3)
  optimizer = LearnedStart(inner, [(3,)], "float64")
  optimizer.begin_at([tf.constant([0.3, -0.2, 0.5], tf.float64)])
  objective, seed = MetaObjective(weights), seeds.make(5)
  bowl = Bowl()

  @tf.function(autograph=False)
  def window(phi):
    view = optimizer.with_phi(phi)
    task, carry = unroll.start(bowl, view, seed, unroll.second_order)
    method = TapedBPTT(second_derivatives=True)
    found, _ = method(bowl, view, task, carry, 3, lambda *_: (), objective)
    return found.meta_loss, found.meta_gradient

  phi = [v.numpy() for v in optimizer.get_phi()]
  _, gradient = window(phi)
  for k, g in enumerate(gradient):
    direction = np.cos(np.arange(g.numpy().size)).reshape(g.shape)
    losses = []
    for step in (1e-5, -1e-5):
      moved = [w + step * direction if i == k else w for i, w in enumerate(phi)]
      losses.append(window(moved)[0].numpy())
    slope = (losses[0] - losses[1]) / 2e-5
    np.testing.assert_allclose(np.sum(g * direction), slope, rtol=1e-5, atol=1e-8)
    assert np.any(g)


def test_tasks_are_not_stacked_where_their_losses_are_read():
  objective = MetaObjective()
  assert execution.stacks(l2l_tf.CoordinatewiseLSTM((2,)), objective)
  assert not execution.stacks(GateLSTM(), objective)
  assert not execution.stacks(LearnedStart(SGD(0.1), [(3,)]), objective)


def test_meta_training_on_quadratics_lowers_the_loss():
  problem, optimizer = Quadratic(batch_size=8), GateLSTM(memory=True, units=4)
  meta = l2l_tf.optimizers.Adam(0.02)
  trainer = l2l_tf.MetaTrainer(
    problem, optimizer, meta, num_steps=20, unroll_length=10, clip_norm=1.0
  )
  finals = [m["losses"][-1] for m in trainer.train(30)]
  assert np.median(finals[-8:]) < 0.6 * np.median(finals[:8])


def test_it_fits_a_keras_model_and_is_exported(sequential, tmp_path):
  optimizer = GateLSTM(memory=True, units=2)
  optimizer.bias.assign([-2.0, 9.0])
  l2l_tf.save(optimizer, tmp_path / "gates.l2l.npz")
  loaded = l2l_tf.load(tmp_path / "gates.l2l.npz")
  model = built(sequential())
  before = weights(model)
  losses = fit(model, LearnedOptimizer(loaded), 4)
  assert losses[-1] < losses[0] and np.any(weights(model) != before)


def test_a_keras_model_of_its_shapes_begins_at_the_learned_start(sequential):
  shapes = [(4, 6), (6,), (6, 1), (1,)]
  start = [seeds.normal(s, seeds.make(i)) for i, s in enumerate(shapes)]
  learned = LearnedStart(SGD(0.01), shapes).begin_at(start)
  optimizer, model = LearnedOptimizer(learned), built(sequential())
  optimizer.assign_start(model)
  for variable, value in zip(model.trainable_variables, start, strict=True):
    np.testing.assert_array_equal(variable, value)
  losses = fit(model, optimizer, 1)
  other = built(sequential())
  for variable, value in zip(other.trainable_variables, start):
    variable.assign(value)
  assert losses == fit(other, LearnedOptimizer(SGD(0.01)), 1)


def test_what_has_no_start_or_another_one_is_one_sentence(sequential):
  other = LearnedOptimizer(LearnedStart(SGD(0.1), [(7, 7)]))
  mistake = r"start is of shapes \[7, 7\], but the parameters are of shapes \[4, 6\], "
  for act in (other.assign_start, lambda model: fit(model, other)):
    with pytest.raises(ValueError, match=mistake):
      act(built(sequential()))
  with pytest.raises(ValueError, match="SGD learns no start; the model begins at"):
    LearnedOptimizer(SGD(0.1)).assign_start(built(sequential()))
  with pytest.raises(ValueError, match="has no variables yet; build it first"):
    other.assign_start(keras_models.sequential(has_input=False))


def test_open_gates_are_no_finding():
  grads = [tf.ones([3])]
  assert not GateLSTM().diagnostics(grads, GateLSTM().initial_state(grads))


def test_the_code_for_students_runs():
  page = pathlib.Path(__file__).parents[1] / "docs" / "gates.md"
  blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
  assert len(blocks) == 5
  exec("\n".join(blocks), {})


def test_it_runs_in_a_comparison():
  curves = l2l_tf.compare(
    Quadratic(batch_size=2), {"gates": GateLSTM()}, 3, 1, baselines={}
  )
  assert curves["gates"].losses.shape == (2, 4)


@pytest.mark.parametrize(
  "make, complaint",
  [
    (lambda: GateLSTM(units=0), r"layers=\(0,\) must be a sequence of positive"),
    (lambda: GateLSTM(dtype="int8"), "dtype='int8' is unknown"),
    (lambda: ConstantGates(0.0), "learning_rate=0.0 and decay=0.0; the rate must"),
    (lambda: ConstantGates(0.1, -1.0), "decay=-1.0; the rate must be positive, the"),
    (
      lambda: GateLSTM()([tf.ones([2])], GateLSTM().initial_state([tf.ones([2])])),
      "GateLSTM was called without params and loss, which it reads; pass",
    ),
    (
      lambda: LearnedStart(LearnedStart(SGD(0.1), [(2,)]), [(2,)]),
      "got LearnedStart and 1 shapes; it needs an optimizer that learns no start",
    ),
    (lambda: LearnedStart(SGD(0.1), []), "got SGD and 0 shapes; it needs"),
    (
      lambda: LearnedStart(SGD(0.1), [(2,)]).initial_params([tf.ones([3])]),
      r"start is of shapes \[2\], but the parameters are of shapes \[3\]; use it for a",
    ),
  ],
)
def test_bad_input_is_one_sentence(make, complaint):
  with pytest.raises(ValueError, match=complaint):
    make()


def test_a_start_is_saved_and_loaded(tmp_path):
  start = [tf.constant([[1.0, 2.0]]), tf.constant([3.0])]
  optimizer = LearnedStart(GateLSTM(seed=3), [(1, 2), (1,)]).begin_at(start)
  loaded = export.loads(export.dumps(optimizer))
  for a, b in zip(loaded.initial_params([tf.zeros([1, 2]), tf.zeros([1])]), start):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(loaded.get_phi(), optimizer.get_phi(), strict=True):
    np.testing.assert_array_equal(a, b)
