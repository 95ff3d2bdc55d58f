"""Several tasks in one batch against the same tasks one by one."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from test_optimizers import TABLE

from l2l_tf import cores, seeds
from l2l_tf.meta import execution, unroll
from l2l_tf.meta.gradients import PES, TruncatedBPTT
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import (
  ALL,
  COORDINATE,
  GRADIENTS,
  SGD,
  CoordinatewiseLSTM,
  Coupling,
  Optimizer,
  Partition,
  Where,
)
from l2l_tf.problems import (
  Ensemble,
  Polynomial,
  Problem,
  Quadratic,
  TaskBatch,
  digits_mlp,
)

SEED = seeds.make(0, seeds.TRAINING, 3)
KEYS = seeds.split(seeds.make(0, seeds.TRAINING, 0), 3)  # of the first meta-batch


class Sorted(Problem):
  """An operation without a vectorised form, for the loop: here a sort in numpy."""

  def init(self, seed):
    return [seeds.normal([3], seed)], {
      "target": seeds.normal([3], seeds.split(seed, 1)[0])
    }

  def __call__(self, params, constants, seed):
    ranks = tf.numpy_function(np.argsort, [params[0]], tf.int64)
    weights = 1.0 + tf.cast(tf.ensure_shape(ranks, [3]), tf.float32)
    return tf.reduce_sum(weights * tf.square(params[0] - constants["target"]))


PROBLEMS = {
  "digits": digits_mlp,
  "polynomial": Polynomial,
  "quadratic": lambda: Quadratic(2, 3),
  "without a vectorised form": Sorted,
  "members of several types": lambda: Ensemble(
    [Quadratic(2, 3, dtype=d) for d in (tf.float64, tf.float32)]
  ),
}


def alone(problem, batch, params, constants, seed, m):
  """Task m's loss and gradient without the batch."""
  pick = lambda nest: tf.nest.map_structure(lambda x: x[m], nest)
  step_seed = seeds.split(seed, batch.num_tasks)[m]
  return unroll.second_order(problem, pick(params), pick(constants), step_seed)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_task_has_the_loss_and_the_gradient_that_it_has_alone(name):
  problem = PROBLEMS[name]()
  batch = TaskBatch(problem, 3)
  params, constants = batch.init(SEED)
  step_seed = seeds.make(7)
  loss, grads = unroll.second_order(batch, params, constants, step_seed)
  expected = [alone(problem, batch, params, constants, step_seed, m) for m in range(3)]
  np.testing.assert_allclose(loss, sum(x for x, _ in expected), rtol=1e-5)
  losses = batch.task_losses(params, constants, step_seed)
  np.testing.assert_allclose(losses, [x for x, _ in expected], rtol=1e-5)
  for i, g in enumerate(grads):
    stacked = tf.stack([own[i] for _, own in expected])
    np.testing.assert_allclose(g, stacked, rtol=1e-4, atol=1e-6)


class Bounded(Polynomial):
  """Coefficients stay below the target's, which differ from task to task."""

  def project(self, params, constants):
    return [tf.minimum(params[0], constants[0])]


def test_every_task_is_projected_as_it_is_alone():
  batch = TaskBatch(Bounded(4), 3)
  assert batch.is_constrained and not TaskBatch(Polynomial(4), 3).is_constrained
  params, constants = batch.init(SEED)
  projected = batch.project([params[0] + 0.5], constants)
  expected = np.minimum(params[0] + 0.5, constants[0])
  np.testing.assert_array_equal(projected[0], expected)
  assert np.any(expected != params[0] + 0.5)


def test_a_meta_batch_of_projected_tasks_is_the_mean_over_the_tasks():
  optimizer = lstm()
  run = trainer(Bounded(4, 8), optimizer, meta_batch_size=3)
  window, singles = together_and_alone(run, optimizer)
  for gradient, *each in zip(window.meta_gradient, *(s.meta_gradient for s in singles)):
    np.testing.assert_allclose(gradient, np.mean(each, axis=0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("relative", [False, True])
def test_the_gradient_of_each_task_is_clipped_before_the_mean(relative):
  optimizer = lstm()
  objective = MetaObjective(relative=relative, task_clip_norm=0.05)
  run = trainer(Polynomial(4, 8), optimizer, meta_batch_size=3, objective=objective)
  window, singles = together_and_alone(run, optimizer)
  clipped = []
  for single, key in zip(singles, KEYS):
    first = unroll.start(run.problem, optimizer, key)[1].loss
    flat = np.concatenate([np.ravel(g) for g in single.meta_gradient])
    flat = flat / abs(first) if relative else flat  # of its own loss
    assert np.linalg.norm(flat) > 0.05
    clipped.append(flat * 0.05 / np.linalg.norm(flat))
  found = np.concatenate([np.ravel(g) for g in window.meta_gradient])
  np.testing.assert_allclose(found, np.mean(clipped, axis=0), rtol=1e-3, atol=1e-7)


def test_particles_clip_no_task_of_their_own():
  objective = MetaObjective(task_clip_norm=1.0)
  with pytest.raises(ValueError, match="leave out task_clip_norm, and give clip_norm"):
    trainer(Polynomial(4, 8), lstm(), meta_gradient=PES(), objective=objective)


def test_tasks_start_differently_and_meet_different_mini_batches():
  batch = TaskBatch(digits_mlp(), 2)
  params, constants = batch.init(SEED)
  assert np.any(params[0][0] != params[0][1])
  same = [tf.repeat(p[:1], 2, axis=0) for p in params]
  first, second = batch.task_losses(same, constants, SEED)
  assert first != second


def test_parameters_have_the_tasks_as_their_first_axis():
  batch = TaskBatch(digits_mlp((5,)), 4)
  assert [p.shape for p in batch.parameters()] == [
    (4, 64, 5),
    (4, 5),
    (4, 5, 10),
    (4, 10),
  ]
  params, _ = batch.init(SEED)
  assert [tuple(p.shape) for p in params] == [p.shape for p in batch.parameters()]


def test_held_out_is_the_mean_over_the_tasks():
  problem = digits_mlp((3,))
  batch = TaskBatch(problem, 2)
  params, constants = batch.init(SEED)
  each = [problem.held_out([p[m] for p in params], []) for m in range(2)]
  for name, value in batch.held_out(params, constants).items():
    np.testing.assert_allclose(value, np.mean([e[name] for e in each]), rtol=1e-5)


@pytest.mark.parametrize("num_tasks", [0, -1])
def test_a_batch_without_tasks_is_an_error(num_tasks):
  with pytest.raises(ValueError, match=f"num_tasks={num_tasks}; it must be at least 1"):
    TaskBatch(Polynomial(), num_tasks)


def lstm(preprocess="log_and_sign"):
  return CoordinatewiseLSTM((3,), preprocess, 0.1)


def linear():
  """What XLA compiles the soonest, for tests to which the optimizer does not matter."""
  return CoordinatewiseLSTM((), "log_and_sign", 0.1)


def normalize(grads):
  return (grads / (1e-3 + tf.norm(grads)))[:, tf.newaxis]


def trainer(problem, optimizer, **flags):
  return MetaTrainer(
    problem, optimizer, SGD(0.1), num_steps=6, unroll_length=3, **flags
  )


def together_and_alone(run, optimizer, method=TruncatedBPTT()):  # noqa: B008
  """The first window of three tasks, and that of each by itself."""
  steps, running = tf.constant(6), execution.prepared(run.problem, optimizer)
  parts, carries, states = run._start(0, total_steps=steps)
  observe = lambda *_: ()
  window, *_ = run._windows(parts, carries, states, SEED, 3, observe, run.objective)

  @tf.function(autograph=False)
  def single(key):
    task, carry = unroll.start(run.problem, running, key, method.evaluate, steps)
    return method(run.problem, running, task, carry, 3, observe)[0]

  return window, [single(key) for key in KEYS]


@pytest.mark.parametrize(
  "preprocess, num_groups", [("log_and_sign", 1), (normalize, 3)]
)
def test_the_meta_gradient_is_the_mean_over_the_tasks(preprocess, num_groups):
  optimizer = lstm(preprocess)
  run = trainer(Polynomial(4, 8), optimizer, meta_batch_size=3)
  # One call for all, or one for each.
  assert len(run._start(0)[0][0].groups) == num_groups
  window, singles = together_and_alone(run, optimizer)
  for i, gradient in enumerate(window.meta_gradient):
    mean = np.mean([s.meta_gradient[i] for s in singles], axis=0)
    np.testing.assert_allclose(gradient, mean, rtol=1e-3, atol=1e-6)
  mean = np.mean([float(s.meta_loss) for s in singles])
  np.testing.assert_allclose(window.meta_loss, mean, rtol=1e-5)


@functools.cache
def in_groups(meta_batch_size, most):
  """The metrics of an episode in so many groups, and the weights after it."""
  optimizer = lstm()
  for v in optimizer.trainable_variables:
    v.assign(10.0 * v)  # so that some units are saturated
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(cores, "num_shards", lambda: most)
    patch.setattr(execution, "_MIN_GROUP", 1)
    run = trainer(Quadratic(5, 3), optimizer, meta_batch_size=meta_batch_size)
    assert len(run._start(0)[0][0].groups) == most
    metrics = run.train_episode(0)
  return metrics, [v.numpy() for v in optimizer.trainable_variables]


@pytest.mark.parametrize("meta_batch_size", [1, 4])
def test_groups_side_by_side_compute_what_one_group_does(meta_batch_size):
  metrics, weights = zip(*(in_groups(meta_batch_size, most) for most in (1, 2)))
  for one, two in zip(tf.nest.flatten(metrics[0]), tf.nest.flatten(metrics[1])):
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
  for one, two in zip(*weights):
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_a_subclass_with_a_loss_of_its_own_is_not_split(monkeypatch):
  class Mean(Quadratic):
    def __call__(self, params, constants, seed):
      return tf.reduce_mean(self.task_losses(params, constants, seed))

  monkeypatch.setattr(cores, "num_shards", lambda: 2)
  runs = [trainer(make(128, 10), linear()) for make in (Quadratic, Mean)]
  assert [len(run._start(0)[0][0].groups) for run in runs] == [2, 1]
  one, two = (run.train_episode(0)["losses"] for run in runs)
  np.testing.assert_allclose(one, two, rtol=1e-4)


def test_a_loss_that_is_no_scalar_is_refused():
  class Vector(Polynomial):
    def __call__(self, params, constants, seed):
      return params[0]

  with pytest.raises(ValueError, match=r"Vector returned a loss of shape \(4,\)"):
    trainer(Vector(4, 8), lstm(), meta_batch_size=2).train_episode(0)


def test_diagnostics_weigh_the_groups_by_their_coordinates():
  saturation = [in_groups(1, most)[0]["diagnostics"] for most in (1, 2)]
  assert any(0.0 < value < 1.0 for value in saturation[0].values())
  for name, value in saturation[0].items():
    np.testing.assert_allclose(saturation[1][name], value, atol=1e-6)


def test_a_meta_batch_is_not_compiled_as_a_whole():
  with pytest.raises(ValueError, match="meta_batch_size=2 would compile anew"):
    trainer(Polynomial(), lstm(), meta_batch_size=2, jit_compile=True)


def test_few_coordinates_stay_in_one_group(monkeypatch):
  monkeypatch.setattr(cores, "num_shards", lambda: 8)
  assert len(trainer(Quadratic(8, 3), lstm())._start(0)[0][0].groups) == 1
  assert len(trainer(Quadratic(128, 10), lstm())._start(0)[0][0].groups) == 5


def test_losses_and_sizes_are_per_task():
  one = trainer(digits_mlp(), lstm()).train_episode(0)
  four = trainer(digits_mlp(), lstm(), meta_batch_size=4).train_episode(0)
  for name in ("losses", "gradient_size", "update_size"):
    np.testing.assert_allclose(four[name], one[name], rtol=0.3)
    assert four[name].shape == one[name].shape


def test_a_meta_batch_without_tasks_is_an_error():
  with pytest.raises(ValueError, match="meta_batch_size=0 must be at least 1"):
    trainer(Polynomial(), lstm(), meta_batch_size=0)


# A task is named by its seed alone


def trained(make, problem, **flags):
  return trainer(problem, make(), **flags).train_episode(0)["losses"]


class Fixed(Optimizer):
  """Gradient descent, with a weight that meta-training cannot move."""

  def __init__(self, coupling):
    super().__init__()
    self.coupling, self.unused = coupling, tf.Variable(0.0)

  @property
  def config(self):
    return {}

  def initial_state(self, params):
    return ()

  def __call__(self, grads, state, params=None, loss=None):
    return [-0.1 * g + 0.0 * self.unused for g in grads], state


class FixedAndStacked(Fixed):
  """The same, for a whole meta-batch at once."""

  jit_compile = True
  reads = {GRADIENTS}

  def __init__(self):
    super().__init__(ALL)


PROBLEMS_OF_TASKS = {
  "quadratics": lambda: Quadratic(2, 3),
  "polynomials": lambda: Polynomial(4, 8),
}


@pytest.mark.parametrize(
  "name, meta_batch_size",
  [("quadratics", 1), ("quadratics", 4), ("polynomials", 4)],
)
def test_the_tasks_do_not_depend_on_how_they_are_run(
  monkeypatch, name, meta_batch_size
):
  problem = PROBLEMS_OF_TASKS[name]()
  partition = lambda: Partition([(Where(), Fixed(COORDINATE))], problem.parameters())
  makers = [lambda c=c: Fixed(c) for c in Coupling] + [partition, FixedAndStacked]
  stacked = lambda: Fixed(COORDINATE)
  curves = []
  monkeypatch.setattr(execution, "_MIN_GROUP", 1)
  # On one core, tasks in one group and tasks in groups of their own.
  for num_shards, ways in (1, [stacked, partition]), (2, makers):
    monkeypatch.setattr(cores, "num_shards", lambda n=num_shards: n)
    curves += [trained(m, problem, meta_batch_size=meta_batch_size) for m in ways]
  for curve in curves[1:]:
    np.testing.assert_allclose(curve, curves[0], rtol=1e-5)


@pytest.mark.parametrize("name", TABLE)
def test_every_optimizer_meets_the_tasks_that_the_keys_name(name):
  make, shapes = TABLE[name]
  problem, optimizer = Recorded(shapes), make()
  keys = seeds.split(SEED, 3)
  groups = execution.groups(problem, optimizer, keys)
  running = execution.stacked(problem, optimizer, groups[0])
  first = sum(float(unroll.begin(p, running, *drawn).loss) for p, *drawn in groups)
  alone = [float(unroll.start(problem, optimizer, key)[1].loss) for key in keys]
  assert first == pytest.approx(sum(alone), rel=1e-5)


class Recorded(Problem):
  """Parameters of given shapes, and a loss that draws at every step."""

  def __init__(self, shapes):
    self._shapes = shapes

  def init(self, seed):
    keys = seeds.split(seed, len(self._shapes))
    return [seeds.normal(shape, key) for shape, key in zip(self._shapes, keys)], []

  def __call__(self, params, constants, seed):
    noise = seeds.normal([], seed)
    return tf.add_n([tf.reduce_sum(tf.square(p - noise)) for p in params])


def test_groups_share_the_cores_that_there_are(monkeypatch):
  monkeypatch.setattr(cores, "available", lambda: 4)
  found = []
  execution.side_by_side(lambda x: found.append(cores.num_shards()) or x, [(1,), (2,)])
  execution.side_by_side(lambda x: found.append(cores.num_shards()) or x, [(1,)])
  assert found == [2, 2, 4] or found == [2, 4]
