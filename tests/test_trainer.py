"""Meta-training: its windows one by one, what it skips, clips and repeats."""

import gc
import itertools
import threading
import time

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from l2l_tf import seeds
from l2l_tf.meta import gradients as meta_gradients
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.gradients import TruncatedBPTT
from l2l_tf.meta.trainer import MetaTrainer, check_lengths
from l2l_tf.optimizers import (
  SGD,
  Adam,
  CoordinatewiseLSTM,
  Optimizer,
  Partition,
  RNNprop,
  Where,
)
from l2l_tf.problems import Problem, Quadratic, ScaledLoss, Simple


class Line(Problem):
  """f(theta) = slope * theta from 0, spoiled by `spoil(f, theta > limit)`."""

  def __init__(self, slope=1.0, limit=np.inf, spoil=lambda f, _: f, dtype=tf.float64):
    self._slope, self._limit, self._spoil = slope, limit, spoil
    self._dtype = dtype

  def init(self, seed):
    return [tf.zeros([], self._dtype)], []

  def __call__(self, params, constants, seed):
    return self._spoil(self._slope * params[0], params[0] > self._limit)


def times(factor):
  return lambda f, is_bad: f * tf.where(is_bad, tf.cast(factor, f.dtype), 1.0)


def replaced_by(value):
  return lambda f, is_bad: tf.where(is_bad, tf.cast(value, f.dtype), f)


class SometimesSpoiled(Problem):
  """f(theta) = sum of theta; multiplied by `factor` in half of the tasks."""

  def __init__(self, factor):
    self._factor = factor

  def init(self, seed):
    is_bad = tf.random.stateless_uniform([], seed) < 0.5
    return [tf.zeros([2])], tf.where(is_bad, self._factor, 1.0)

  def __call__(self, params, constants, seed):
    return constants * tf.reduce_sum(params[0])


class Steady(Optimizer):
  """Every update is phi, for every coordinate."""

  def __init__(self, phi=0.0, dtype=tf.float64):
    super().__init__()
    self.phi = tf.Variable(phi, dtype=dtype)

  config = property(lambda self: {})

  def initial_state(self, params):
    return ()

  def __call__(self, grads, state, params=None, loss=None):
    return [tf.fill(g.shape, tf.cast(self.phi, g.dtype)) for g in grads], ()


def quadratic(dtype=tf.float32):
  return Quadratic(batch_size=2, num_dims=3, dtype=dtype)


def lstm(dtype="float32", seed=0):
  return CoordinatewiseLSTM((3,), output_scale=0.1, dtype=dtype, seed=seed)


def linear(dtype="float32"):
  return CoordinatewiseLSTM((), initializer="zeros", dtype=dtype)


def weights(optimizer):
  return [v.numpy() for v in optimizer.trainable_variables]


def meta_state(trainer):
  return [v.numpy() for v in trainer.meta_state_variables]


def assert_equal(arrays, others):
  for x, y in zip(arrays, others, strict=True):
    np.testing.assert_array_equal(x, y)


def line_gradient(slope, length):
  """Of sum_k slope (theta_0 + k phi), for k from 1 to `length`."""
  return slope * length * (length + 1) / 2


def test_an_episode_equals_its_windows_one_by_one():
  problem, optimizer, twin = quadratic(tf.float64), lstm("float64"), lstm("float64")
  trainer = MetaTrainer(
    problem, optimizer, Adam(0.01), num_steps=6, unroll_length=2, seed=5
  )
  metrics = [trainer.train_episode(e) for e in (0, 1)]

  meta_optimizer, meta_gradient = Adam(0.01), TruncatedBPTT()
  phi = twin.trainable_variables
  state = meta_optimizer.initial_state([v.read_value() for v in phi])
  for episode in (0, 1):
    seed = seeds.make(5, seeds.TRAINING, episode)
    task, carry = unroll_lib.start(problem, twin, seed)
    losses, meta_losses, norms = [carry.loss], [], []
    for _ in range(3):
      window, _ = meta_gradient(problem, twin, task, carry, 2, lambda c, _: c.loss)
      carry = window.carry
      updates, state = meta_optimizer(window.meta_gradient, state)
      for variable, update in zip(phi, updates):
        variable.assign_add(update)
      losses.extend(window.observed)
      meta_losses.append(window.meta_loss)
      norms.append(tf.linalg.global_norm(window.meta_gradient))
    given = metrics[episode]
    np.testing.assert_allclose(given["losses"], losses, rtol=1e-8)
    np.testing.assert_allclose(given["meta_loss"], meta_losses, rtol=1e-8)
    np.testing.assert_allclose(given["meta_gradient_norm"], norms, rtol=1e-6)
    assert not given["skipped"].any()
  for x, y in zip(weights(optimizer), weights(twin), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-10)
  assert given["gradient_size"].shape == given["update_size"].shape == (6,)
  assert set(given["diagnostics"]) == {
    f"lstm_1/{gate}_gate" for gate in ("input", "forget", "output")
  }


def test_sizes_are_root_mean_squares():
  optimizer = Steady(0.25)
  trainer = MetaTrainer(Line(-3.0), optimizer, SGD(1e-9), num_steps=4, unroll_length=4)
  metrics = trainer.train_episode(0)
  np.testing.assert_allclose(metrics["gradient_size"], 3.0)
  np.testing.assert_allclose(metrics["update_size"], 0.25)
  np.testing.assert_allclose(metrics["losses"], -3.0 * 0.25 * np.arange(5))


class Lines(Problem):
  """The sum of 3 theta over parameters of several types, as a loss of another."""

  def __init__(self, dtype, kinds=(tf.float16, tf.bfloat16, tf.float32, tf.float64)):
    self._dtype, self._kinds = dtype, kinds

  def init(self, seed):
    return [tf.zeros([2], kind) for kind in self._kinds], []

  def __call__(self, params, constants, seed):
    return tf.add_n([3.0 * tf.reduce_sum(tf.cast(p, self._dtype)) for p in params])


FLOATS = [tf.float16, tf.bfloat16, tf.float32, tf.float64]


@pytest.mark.parametrize("second_derivatives", [False, True])
@pytest.mark.parametrize("meta_batch_size", [1, 2])
@pytest.mark.parametrize("dtype", FLOATS)
def test_parameters_may_be_of_several_floating_types(
  dtype, meta_batch_size, second_derivatives
):
  problem, optimizer = Lines(dtype), Steady(-0.25, tf.float32)
  trainer = MetaTrainer(
    problem,
    optimizer,
    SGD(1e-9),
    TruncatedBPTT(second_derivatives=second_derivatives),
    num_steps=4,
    unroll_length=2,
    meta_batch_size=meta_batch_size,
    relative_loss=meta_batch_size > 1,
    clip_norm=1.0,
  )
  metrics = trainer.train_episode(0)
  np.testing.assert_allclose(metrics["gradient_size"], 3.0)
  np.testing.assert_allclose(metrics["update_size"], 0.25)
  np.testing.assert_allclose(metrics["losses"], -6.0 * np.arange(5))
  assert metrics["losses"].dtype == (np.float64 if dtype == tf.float64 else np.float32)
  if meta_batch_size == 1:
    np.testing.assert_allclose(metrics["meta_gradient_norm"], 24 * 3)


def test_sums_over_steps_and_coordinates_leave_the_range_of_float16():
  trainer = MetaTrainer(
    Lines(tf.float16, [tf.float16] * 2),
    Steady(1e3, tf.float32),
    num_steps=4,
    unroll_length=4,
  )
  metrics = trainer.train_episode(0)
  assert not metrics["skipped"].any()
  np.testing.assert_allclose(metrics["meta_loss"], 12e3 * 10, rtol=1e-3)
  np.testing.assert_allclose(metrics["update_size"], 1e3)


def test_the_optimizers_weights_may_be_of_several_floating_types():
  problem = Lines(tf.float32)
  kinds = ("float16", "bfloat16", "float32", "float64")
  members = [
    (Where(f"param_{i}"), CoordinatewiseLSTM((), dtype=kind, seed=i))
    for i, kind in enumerate(kinds)
  ]
  optimizer = Partition(members, problem.parameters())
  trainer = MetaTrainer(
    problem, optimizer, SGD(0.01), num_steps=2, unroll_length=2, clip_norm=1.0
  )
  before = weights(optimizer)
  assert not trainer.train_episode(0)["skipped"].any()
  assert all(np.any(a != b) for a, b in zip(weights(optimizer), before))
  moved = [
    np.sum(((a - b) / 0.01) ** 2, dtype=np.float64)
    for a, b in zip(weights(optimizer), before)
  ]
  np.testing.assert_allclose(sum(moved), 1.0, rtol=0.02)  # what it was clipped to


def test_episodes_and_unroll_lengths_do_not_retrace():
  trainer = MetaTrainer(quadratic(), linear(), num_steps=4, unroll_length=2)
  for _ in trainer.train(3):
    pass
  trainer.unroll_length, trainer.num_steps = 3, 6
  assert len(trainer.train_episode(0)["losses"]) == 7
  assert trainer.num_traces == 1


def test_xla_compiles_the_same_numbers_once():
  problem, trained = Quadratic(2, 3), {}
  for jit_compile in (False, True):
    optimizer = lstm()
    trainer = MetaTrainer(
      problem, optimizer, num_steps=4, unroll_length=2, jit_compile=jit_compile
    )
    trained[jit_compile] = [*trainer.train(2)], weights(optimizer)
    assert trainer.num_traces == 1
  for x, y in zip(tf.nest.flatten(trained[True]), tf.nest.flatten(trained[False])):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def graphs():
  gc.collect()
  return sum(isinstance(x, tf.Graph) for x in gc.get_objects())


@pytest.mark.parametrize(
  "estimator",
  [
    TruncatedBPTT(),
    TruncatedBPTT(second_derivatives=True),
    meta_gradients.PES(pairs=2),
  ],
  ids=["first order", "second order", "particles"],
)
def test_a_trainer_s_graphs_are_freed_with_it(estimator):
  """What many trainings in one process, a grid's, would else be killed by."""

  def trained():
    settings = {"num_steps": 4, "unroll_length": 2, "meta_gradient": estimator}
    optimizer = CoordinatewiseLSTM((), output_scale=0.1)  # the quickest to trace
    MetaTrainer(Quadratic(2, 3), optimizer, **settings).train_episode(0)

  trained()
  before = graphs()
  trained()
  assert graphs() <= before


def test_an_episode_can_be_watched_from_another_thread():
  trainer = MetaTrainer(Quadratic(2, 3), lstm(), num_steps=2000, unroll_length=2)
  training = threading.Thread(target=trainer.train_episode, args=[0])
  training.start()
  seen = []
  while training.is_alive():
    seen.append(trainer.share_done)
    time.sleep(0.005)
  within = [share for share in seen if share > 0]
  assert len(set(within)) > 5 and within == sorted(within) and within[-1] <= 1
  assert trainer.share_done == 0


@pytest.mark.parametrize(
  "spoil",
  [times(np.nan), times(np.inf), replaced_by(np.nan), replaced_by(np.inf)],
  ids=["nan", "inf", "nan with gradient zero", "inf with gradient zero"],
)
def test_windows_that_are_not_finite_are_skipped(spoil):
  optimizer = Steady(0.1)
  trainer = MetaTrainer(
    Line(limit=0.6, spoil=spoil), optimizer, Adam(0.01), num_steps=12, unroll_length=4
  )
  expected = Adam(0.01)
  phi = tf.constant(0.1, tf.float64)
  state = expected.initial_state([phi])
  for episode in range(2):
    metrics = trainer.train_episode(episode)
    np.testing.assert_array_equal(metrics["skipped"], [False, True, True])
    assert np.isfinite(metrics["losses"][:5]).all()
    assert not np.isfinite(metrics["losses"][-1])
    gradient = tf.constant(line_gradient(1.0, 4), tf.float64)
    (update,), state = expected([gradient], state)
    phi += update
    np.testing.assert_allclose(optimizer.phi, phi, rtol=1e-12)
    for x, y in zip(meta_state(trainer), tf.nest.flatten(state), strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-12)


@pytest.mark.parametrize("factor", [np.nan, np.inf, -np.inf])
def test_a_spoiled_task_leaves_no_trace(factor):
  optimizer = linear()
  trainer = MetaTrainer(
    SometimesSpoiled(factor), optimizer, Adam(0.01), num_steps=4, unroll_length=2
  )
  spoiled = []
  for episode in range(8):
    before = weights(optimizer), meta_state(trainer)
    metrics = trainer.train_episode(episode)
    after = weights(optimizer), meta_state(trainer)
    spoiled.append(bool(metrics["skipped"].all()))
    assert spoiled[-1] == bool(metrics["skipped"].any())
    assert spoiled[-1] == (not np.isfinite(metrics["meta_loss"]).all())
    for x, y in zip(before, after):
      if spoiled[-1]:
        assert_equal(x, y)
      else:
        assert any(np.any(a != b) for a, b in zip(x, y))
  assert (True, False) in itertools.pairwise(spoiled)  # Good tasks train again.


def test_a_problem_that_is_nan_from_the_start_trains_nothing():
  optimizer = lstm()
  before = weights(optimizer)
  trainer = MetaTrainer(
    Line(limit=-1.0, spoil=times(np.nan), dtype=tf.float32),
    optimizer,
    num_steps=4,
    unroll_length=2,
  )
  metrics = trainer.train_episode(0)
  assert metrics["skipped"].all() and np.isnan(metrics["losses"]).all()
  assert_equal(weights(optimizer), before)


@pytest.mark.parametrize("slope", [1e12, 1.0, 1e-3])
@pytest.mark.parametrize("meta_optimizer", [SGD(0.5), Adam(0.5)])
def test_the_meta_gradient_is_clipped_by_its_global_norm(slope, meta_optimizer):
  problem, optimizer = Quadratic(2, 3, dtype=tf.float64), linear("float64")

  class Steep(Quadratic):
    def __call__(self, params, constants, seed):
      return slope * problem(params, constants, seed)

  steep = Steep(2, 3, dtype=tf.float64)
  trainer = MetaTrainer(
    steep, optimizer, meta_optimizer, num_steps=2, unroll_length=2, clip_norm=0.25
  )
  task, carry = unroll_lib.start(steep, optimizer, seeds.make(0, seeds.TRAINING, 0))
  gradient = TruncatedBPTT()(steep, optimizer, task, carry, 2, lambda *_: ())[
    0
  ].meta_gradient
  norm = np.sqrt(sum(np.sum(g.numpy() ** 2) for g in gradient))
  assert (norm > 0.25) == (slope >= 1.0)
  clipped = [g * (0.25 / max(norm, 0.25)) for g in gradient]
  updates, _ = meta_optimizer(clipped, meta_optimizer.initial_state(clipped))
  metrics = trainer.train_episode(0)
  # The weights start at zero, so that no rounding hides in the difference.
  for phi, update in zip(weights(optimizer), updates, strict=True):
    np.testing.assert_allclose(phi, update, rtol=1e-9)
  np.testing.assert_allclose(metrics["meta_gradient_norm"], [norm], rtol=1e-9)


def test_the_learning_rate_follows_its_schedule_one_step_per_window():
  optimizer = Steady(0.0)
  rate = lambda step: 0.5 / (1.0 + tf.cast(step, tf.float64))
  trainer = MetaTrainer(Line(2.0), optimizer, SGD(rate), num_steps=4, unroll_length=2)
  for episode in range(2):
    trainer.train_episode(episode)
    steps = np.arange(2 * (episode + 1))
    expected = -np.sum(0.5 / (1.0 + steps)) * line_gradient(2.0, 2)
    np.testing.assert_allclose(optimizer.phi, expected, rtol=1e-12)


def test_a_keras_schedule_is_one():
  optimizer = Steady(0.0)
  schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
  trainer = MetaTrainer(Line(), optimizer, SGD(schedule), num_steps=6, unroll_length=2)
  trainer.train_episode(0)
  gradient = line_gradient(1.0, 2)
  np.testing.assert_allclose(optimizer.phi, -gradient * (0.5 + 0.5 + 0.25), rtol=1e-6)


def test_the_seed_names_the_run():
  def trained(seed):
    optimizer = lstm()
    trainer = MetaTrainer(
      quadratic(), optimizer, num_steps=4, unroll_length=2, seed=seed
    )
    return [*trainer.train(2)], weights(optimizer)

  first, again, other = trained(7), trained(7), trained(8)
  assert_equal(tf.nest.flatten(first), tf.nest.flatten(again))
  assert all(np.any(x != y) for x, y in zip(first[1], other[1]))


def test_an_episode_number_names_its_task():
  trainer = MetaTrainer(
    quadratic(), linear(), SGD(1e-12), num_steps=2, unroll_length=2, seed=3
  )
  first = [m["losses"] for m in trainer.train(3)]
  later = [m["losses"] for m in trainer.train(2, first_episode=1)]
  np.testing.assert_allclose(later, first[1:], rtol=1e-6)
  assert len({tuple(losses) for losses in first}) == 3


def test_training_reduces_the_meta_loss():
  trainer = MetaTrainer(Simple(), linear(), Adam(0.01), num_steps=20, unroll_length=10)
  metrics = [*trainer.train(40)]
  np.testing.assert_allclose(metrics[0]["losses"][0], 1.0)
  assert metrics[-1]["meta_loss"].sum() < 0.3 * metrics[0]["meta_loss"].sum()
  assert metrics[-1]["losses"][-1] < 1e-2


def test_the_weights_of_the_losses_are_applied_in_every_window():
  trainer = MetaTrainer(
    Line(1.0),
    Steady(0.5),
    SGD(1e-12),
    TruncatedBPTT(meta_gradients.last_only),
    num_steps=6,
    unroll_length=3,
  )
  metrics = trainer.train_episode(0)
  np.testing.assert_allclose(metrics["meta_loss"], metrics["losses"][3::3], rtol=1e-6)
  np.testing.assert_allclose(metrics["meta_gradient_norm"], [3.0, 3.0])


def test_a_learned_optimizer_can_be_the_meta_optimizer():
  optimizer, meta_optimizer = linear(), lstm(seed=1)
  before = weights(meta_optimizer)
  trainer = MetaTrainer(
    quadratic(), optimizer, meta_optimizer, num_steps=2, unroll_length=2
  )
  gradient = TruncatedBPTT()(
    quadratic(),
    optimizer,
    *unroll_lib.start(quadratic(), optimizer, seeds.make(0, seeds.TRAINING, 0)),
    2,
    lambda *_: (),
  )[0].meta_gradient
  expected, state = meta_optimizer(gradient, meta_optimizer.initial_state(gradient))
  trainer.train_episode(0)
  for x, y in zip(weights(optimizer), expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)
  for x, y in zip(meta_state(trainer), tf.nest.flatten(state), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7)
  assert_equal(weights(meta_optimizer), before)


def test_problem_and_optimizer_may_differ_in_precision():
  for problem_dtype, dtype in [(tf.float64, "float32"), (tf.float32, "float64")]:
    optimizer = linear(dtype)
    trainer = MetaTrainer(
      quadratic(problem_dtype), optimizer, num_steps=2, unroll_length=2
    )
    metrics = trainer.train_episode(0)
    assert metrics["losses"].dtype == problem_dtype
    assert metrics["meta_gradient_norm"] > 0
    assert any(np.any(w != 0) for w in weights(optimizer))


def test_an_episode_compiled_for_a_gpu_reads_no_variable_that_is_not_there():
  trainer = MetaTrainer(
    Simple(), linear(), Adam(0.01), num_steps=2, unroll_length=2, jit_compile=True
  )
  meta_state, _ = states = trainer._states()
  assert tf.int32 in [x.dtype for x in tf.nest.flatten(meta_state)]
  run = trainer._run.get_concrete_function(tf.constant(0), 1, 2, *states)
  # TensorFlow holds a variable of int32 in the CPU's memory.
  assert tf.int32 not in [v.dtype for v in run.variables]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_problem_with_a_wrong_loss_is_refused_in_one_sentence(jit_compile):
  class Vector(Quadratic):
    def __call__(self, params, constants, seed):
      return self.task_losses(params, constants, seed)

  class Unused(Simple):
    def init(self, seed):
      params, constants = super().init(seed)
      return [*params, tf.ones([4])], constants

  for problem, message in [
    (Vector(2, 3), r"^Vector returned a loss of shape \(2,\)[^\n]*scalar[^\n]*$"),
    (Unused(), r"^Unused has no gradient for parameter 1 of shape \(4,\);[^\n]*$"),
  ]:
    trainer = MetaTrainer(
      problem, linear(), num_steps=2, unroll_length=2, jit_compile=jit_compile
    )
    with pytest.raises(ValueError, match=message):
      trainer.train_episode(0)


def test_an_optimizer_without_weights_is_refused():
  with pytest.raises(ValueError, match=r"^SGD has no weights.*CoordinatewiseLSTM"):
    MetaTrainer(Simple(), SGD(0.1))


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, np.nan])
def test_a_clip_norm_that_is_not_positive_is_refused(clip_norm):
  with pytest.raises(ValueError, match=f"clip_norm={clip_norm} must be positive"):
    MetaTrainer(Simple(), linear(), clip_norm=clip_norm)


@hypothesis.given(st.integers(-5, 50), st.integers(-5, 50))
def test_windows_tile_an_episode_or_are_refused(num_steps, unroll_length):
  tiles = num_steps in [unroll_length * n for n in range(1, 51)] and unroll_length > 0
  if tiles:
    check_lengths(num_steps, unroll_length)
  else:
    with pytest.raises(ValueError, match=f"num_steps={num_steps} .*={unroll_length},"):
      check_lengths(num_steps, unroll_length)


def test_the_constructor_checks_the_lengths():
  with pytest.raises(ValueError, match="num_steps=100 must be a positive multiple"):
    MetaTrainer(Simple(), linear(), num_steps=100, unroll_length=30)


@pytest.mark.parametrize("meta_batch_size", [1, 2])
def test_relative_losses_are_those_of_the_window_divided_by_its_first(meta_batch_size):
  trainer = MetaTrainer(
    quadratic(tf.float64),
    lstm("float64"),
    num_steps=6,
    unroll_length=2,
    meta_batch_size=meta_batch_size,
    relative_loss=True,
  )
  metrics = trainer.train_episode(0)
  windows = metrics["losses"][1:].reshape([3, 2]).sum(axis=1)
  expected = windows / metrics["losses"][:-1:2]
  np.testing.assert_allclose(metrics["meta_loss"], expected, rtol=1e-9)


def test_with_relative_losses_the_unit_of_a_task_does_not_matter():
  """Plain SGD would move phi a million times as far in the one as in the other."""
  trained = []
  for scale in (1e-3, 1e3):
    optimizer = RNNprop((3,))
    trainer = MetaTrainer(
      ScaledLoss(quadratic(), scale, scale),
      optimizer,
      SGD(0.1),
      num_steps=4,
      unroll_length=2,
      relative_loss=True,
    )
    list(trainer.train(2))
    trained.append(weights(optimizer))
  start = weights(RNNprop((3,)))
  for x, y, first in zip(*trained, start, strict=True):
    assert np.any(x != first)
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
