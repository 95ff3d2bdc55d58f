"""Held to Keras itself: the same weights and batch, the same loss and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from l2l_tf import CoordinatewiseLSTM, MetaTrainer, TruncatedBPTT, seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import SGD, Adam, Partition, Where
from l2l_tf.problems import Parameter, TaskBatch, keras_model

BATCH = 8
RNG = np.random.default_rng(0)
X = RNG.normal(size=[40, 6]).astype(np.float32)
Y = RNG.normal(size=[40, 1]).astype(np.float32)
CLASSES = RNG.integers(0, 3, 40)
WORDS = RNG.integers(0, 9, [40, 5])
IMAGES = RNG.normal(size=[40, 6, 6, 2]).astype(np.float32)


def stack(*members, **kwargs):
  return keras.Sequential(list(members), **kwargs)


def sequential(*inner, units=1):
  return stack(layers.Dense(4, "tanh"), *inner, layers.Dense(units))


def functional():
  a, b = keras.Input([6], name="a"), keras.Input([5], name="b", dtype="int32")
  words = layers.GlobalAveragePooling1D()(layers.Embedding(9, 3)(b))
  joint = layers.Concatenate()([layers.Dense(3, "relu")(a), words])
  outputs = {"value": layers.Dense(1)(joint), "kind": layers.Dense(3)(joint)}
  return keras.Model({"a": a, "b": b}, outputs)


class Subclassed(keras.Model):
  """Makes its weights as a user may: without attributes for their initializers."""

  def __init__(self):
    super().__init__()
    self.hidden = layers.Dense(4, "tanh")

  def build(self, input_shape):
    self.mix = self.add_weight(shape=(4, 1), initializer="random_normal", name="mix")

  def call(self, x):  # without `training`
    return keras.ops.matmul(self.hidden(x), self.mix)


class Own(Subclassed):
  def call(self, x, training=False):
    y = super().call(x)
    self.add_loss(keras.ops.mean(keras.ops.square(y)))
    return y

  def compute_loss(self, x, y, y_pred, sample_weight, training=True):
    extra = 0.5 * keras.ops.mean(keras.ops.abs(x)) * keras.ops.mean(y_pred)
    return super().compute_loss(x, y, y_pred, sample_weight) + extra


def regularized():
  inner = layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l1")
  return sequential(inner)


def convolutional():
  inner = layers.BatchNormalization(), layers.Flatten()
  return stack(layers.Conv2D(3, 3), *inner, layers.Dense(3))


def recurrent():
  return stack(layers.Embedding(9, 3), layers.LSTM(4), layers.Dense(3))


CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
MODELS = {
  "sequential": (sequential, "mse", (X, Y)),
  "functional": (
    functional,
    {"value": "mse", "kind": CROSS_ENTROPY},
    ({"a": X, "b": WORDS}, {"value": Y, "kind": CLASSES}),
  ),
  "subclassed": (Subclassed, keras.losses.Huber(), (X, Y)),
  "own compute_loss and add_loss": (Own, keras.losses.mean_absolute_error, (X, Y)),
  "regularized": (regularized, "mse", (X, Y)),
  "sample weights": (sequential, "mse", (X, Y, np.linspace(0, 2, 40))),
  "convolutional": (convolutional, CROSS_ENTROPY, (IMAGES, CLASSES)),
  "recurrent": (recurrent, CROSS_ENTROPY, (WORDS, CLASSES)),
}


def drawn(num, seed, data):
  """The examples that a problem's mini-batch holds."""
  batch_seed = seeds.split(seed, 2)[0]
  indices = tf.random.stateless_uniform([num], batch_seed, 0, len(X), tf.int32).numpy()
  return tf.nest.map_structure(lambda a: tf.constant(a[indices]), data)


def loss_and_gradients(problem, params, seed):
  with tf.GradientTape() as tape:
    tape.watch(params)
    loss = problem(params, [], seed)
  return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, params)]


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_equal_those_of_keras(name):
  build_model, loss, data = MODELS[name]
  problem = keras_model(build_model, loss, data, batch_size=BATCH)
  params, constants = problem.init(seeds.make(3))
  value, grads = loss_and_gradients(problem, params, seeds.make(4))

  x, y, *weights = drawn(BATCH, seeds.make(4), data)
  model = build_model()
  model(x)
  model.compile(loss=loss)
  for variable, param in zip(model.trainable_variables, params, strict=True):
    variable.assign(param)
  with tf.GradientTape() as tape:
    outputs = model(x, training=True)
    expected = model.compute_loss(x, y, outputs, *weights or [None])
  expected_grads = tape.gradient(expected, [v.value for v in model.trainable_variables])
  assert constants == []
  assert value.shape == []
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for grad, expected_grad in zip(grads, map(tf.convert_to_tensor, expected_grads)):
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-6)


def test_a_dataset_is_as_good_as_its_arrays():
  batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(7)
  a, b = (keras_model(sequential, "mse", data) for data in ((X, Y), batches))
  params, _ = a.init(seeds.make(0))
  seed = seeds.make(1)
  np.testing.assert_array_equal(a(params, [], seed), b(params, [], seed))


def test_a_loss_that_the_model_brings_is_kept():
  def compiled():
    model = sequential()
    model.compile(optimizer="adam", loss="mae")
    return model

  own, given = keras_model(compiled, None, (X, Y)), keras_model(compiled, "mae", (X, Y))
  params, _ = own.init(seeds.make(0))
  np.testing.assert_array_equal(*(p(params, [], seeds.make(1)) for p in (own, given)))


def test_parameters_are_described_in_the_order_of_init():
  problem = keras_model(
    lambda: stack(
      layers.Embedding(9, 3, name="words"),
      layers.LSTM(4, name="rnn"),
      layers.BatchNormalization(name="norm"),
      layers.Dense(3, name="out"),
      name="net",
    ),
    CROSS_ENTROPY,
    (WORDS, CLASSES),
  )
  assert problem.parameters() == [
    Parameter("net/words/embeddings", (9, 3), "variable"),
    Parameter("net/rnn/lstm_cell/kernel", (3, 16), "kernel"),
    Parameter("net/rnn/lstm_cell/recurrent_kernel", (4, 16), "kernel"),
    Parameter("net/rnn/lstm_cell/bias", (16,), "bias"),
    Parameter("net/norm/gamma", (4,), "variable"),
    Parameter("net/norm/beta", (4,), "variable"),
    Parameter("net/out/kernel", (4, 3), "kernel"),
    Parameter("net/out/bias", (3,), "bias"),
  ]
  params, _ = problem.init(seeds.make(0))
  assert [tuple(p.shape) for p in params] == [p.shape for p in problem.parameters()]


def test_repeated_names_get_their_position():
  class Twins(keras.Model):
    def __init__(self):
      super().__init__()
      self.pair = [self.add_weight(shape=(6, 1), name="w") for _ in range(2)]

    def call(self, x):
      return keras.ops.matmul(x, self.pair[0] * self.pair[1])

  paths = [p.path for p in keras_model(Twins, "mse", (X, Y)).parameters()]
  assert len(set(paths)) == 2


def test_a_partition_routes_by_role():
  problem = keras_model(sequential, "mse", (X, Y))
  optimizer = Partition(
    [(Where(role="kernel"), SGD(0.1)), (Where(role="bias"), SGD(1e-30))],
    problem.parameters(),
  )
  task, carry = unroll.start(problem, optimizer, seeds.make(0))
  end, _ = unroll.unroll(problem, optimizer, task, carry, 3)
  moved = [np.abs(a - b).max() > 1e-6 for a, b in zip(carry.params, end.params)]
  assert moved == [True, False, True, False]


def dropping():
  return sequential(layers.Dropout(0.5))


def test_dropout_follows_the_steps_seed():
  """All examples are the same, so that nothing but dropout can differ."""
  data = np.repeat(X[:1], 40, axis=0), np.repeat(Y[:1], 40, axis=0)
  problem = keras_model(dropping, "mse", data)
  params, _ = problem.init(seeds.make(0))
  compiled = tf.function(problem.__call__, autograph=False)
  losses = [float(problem(params, [], seeds.make(0, i))) for i in [*range(9), 0]]
  again = [float(compiled(params, [], seeds.make(0, i))) for i in [*range(9), 0]]
  np.testing.assert_allclose(losses, again, rtol=1e-5)
  assert losses[0] == losses[9] and len(set(losses)) == 9


def test_dropouts_of_one_step_are_independent():
  inner = layers.Dropout(0.5), layers.Dropout(0.5)
  data = np.ones([4, 200]), np.zeros([4, 1])
  problem = keras_model(
    lambda: stack(*inner, layers.Dense(1)), "mse", data, batch_size=1
  )
  params = [tf.ones([200, 1]), tf.zeros([1])]
  kept = [np.sqrt(problem(params, [], seeds.make(i))) / 4 for i in range(20)]
  # Both keep a quarter of 200; one mask used twice would keep half of them.
  assert abs(np.mean(kept) - 50) < 4 * np.sqrt(200 * 3 / 16 / 20)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_held_out_data_meet_the_mean_statistics_of_training(momentum):
  def build():
    norm = layers.BatchNormalization(momentum=momentum, epsilon=0.1)
    return stack(norm, layers.Dense(1))

  x = 3.0 * X + 7.0
  problem = keras_model(build, "mse", (x, Y), held_out=(X, Y), batch_size=BATCH)
  params, _ = problem.init(seeds.make(0))

  batches = [drawn(BATCH, seeds.make(0, k), x).numpy() for k in range(32)]
  weights = momentum ** np.arange(31, -1, -1.0)
  weights /= weights.sum()
  mean = sum(w * b.mean(axis=0) for w, b in zip(weights, batches))
  variance = sum(w * b.var(axis=0) for w, b in zip(weights, batches))
  gamma, beta, kernel, bias = (p.numpy() for p in params)
  outputs = (gamma * (X - mean) / np.sqrt(variance + 0.1) + beta) @ kernel + bias
  (loss,) = problem.held_out(params, []).values()
  np.testing.assert_allclose(loss, np.mean((outputs - Y) ** 2), rtol=1e-3)


def test_the_state_of_frozen_layers_is_the_models():
  def build():
    frozen = layers.BatchNormalization(trainable=False)
    model = stack(keras.Input([6]), frozen, layers.Dense(1))
    frozen.moving_mean.assign(X.mean(axis=0))
    return model

  problem = keras_model(build, "mse", (X, Y), held_out=(X, Y))
  params, _ = problem.init(seeds.make(0))
  scale = 1 / np.sqrt(1 + 1e-3)
  expected = np.mean((scale * (X - X.mean(axis=0)) @ params[0] + params[1] - Y) ** 2)
  loss = problem.held_out(params, [])["held_out_loss"]
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


ONE_HOT = keras.utils.to_categorical(CLASSES, 3)
BINARY = (CLASSES > 0).astype(np.float32)[:, np.newaxis]
CLASSIFICATIONS = [
  (CROSS_ENTROPY, CLASSES, 3, "sparse_categorical_accuracy"),
  ("categorical_crossentropy", ONE_HOT, 3, "categorical_accuracy"),
  ("BinaryCrossentropy", BINARY, 1, "binary_accuracy"),
  (
    keras.losses.BinaryCrossentropy(from_logits=True),
    BINARY,
    1,
    keras.metrics.BinaryAccuracy(threshold=0.0),
  ),
]


@pytest.mark.parametrize("loss, y, units, metric", CLASSIFICATIONS)
def test_held_out_results_equal_those_of_evaluate(loss, y, units, metric):
  """Also for more examples than are evaluated at once."""
  x, y = np.tile(X, [27, 1])[:1_050], np.concatenate([y] * 27)[:1_050]
  build = lambda: sequential(layers.Dropout(0.5), units=units)
  problem = keras_model(build, loss, (X, y[:40]), held_out=(x, y))
  params, _ = problem.init(seeds.make(5))
  model = build()
  model(x[:1])
  model.set_weights(params)
  model.compile(loss=loss, metrics=[metric])
  loss, accuracy = model.evaluate(x, y, verbose=0)
  results = tf.function(problem.held_out, autograph=False)(params, [])
  assert list(results) == ["held_out_loss", "held_out_accuracy"]
  np.testing.assert_allclose(results["held_out_loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(results["held_out_accuracy"], accuracy, rtol=1e-5)


def test_without_held_out_data_there_are_no_results():
  problem = keras_model(sequential, "mse", (X, Y))
  assert problem.held_out(problem.init(seeds.make(0))[0], []) == {}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_float32_parameters(policy):
  build = lambda: stack(
    layers.Dense(4, "tanh", dtype=policy), layers.Dense(1, dtype=policy)
  )
  mixed, exact = (keras_model(b, "mse", (X, Y)) for b in (build, sequential))
  params, _ = mixed.init(seeds.make(0))
  loss, grads = loss_and_gradients(mixed, params, seeds.make(1))
  expected, expected_grads = loss_and_gradients(exact, params, seeds.make(1))
  assert {p.dtype for p in params} == {g.dtype for g in grads} == {tf.float32}
  assert loss.dtype == tf.float32 and 0 < abs(loss - expected) < 0.05 * expected
  for a, b in zip(grads, expected_grads):
    np.testing.assert_allclose(a, b, atol=0.05)


def test_tasks_in_a_batch_are_those_that_they_would_be_alone():
  problem = keras_model(dropping, "mse", (X, Y))
  batch = TaskBatch(problem, 2)
  params, constants = batch.init(seeds.make(0))
  seed = seeds.make(1)
  losses = batch.task_losses(params, constants, seed)
  for i in range(2):
    own = seeds.split(seed, 2)[i]
    alone = problem([p[i] for p in params], [], own)
    np.testing.assert_allclose(losses[i], alone, rtol=1e-5)


def window(problem, meta_gradient):
  """The meta-gradient of one window."""
  optimizer = CoordinatewiseLSTM((3,), seed=1)
  task, carry = unroll.start(problem, optimizer, seeds.make(0), meta_gradient.evaluate)
  run = lambda: meta_gradient(
    problem, optimizer, task, carry, 3, lambda carry, updates: carry.loss
  )
  found, _ = tf.function(run, autograph=False)()
  return [*found.meta_gradient, found.observed]


def test_meta_gradients_are_the_same_on_every_path():
  build = lambda: stack(layers.BatchNormalization(), layers.Dense(1))
  problem, compiled = (
    keras_model(build, "mse", (X, Y), jit_compile=jit_compile)
    for jit_compile in (False, True)
  )
  assert not problem.jit_compile and compiled.jit_compile
  recorded = window(problem, TruncatedBPTT())
  for same in [
    window(problem, TruncatedBPTT(unroll=unroll.static_unroll)),  # through the tape
    window(compiled, TruncatedBPTT()),
  ]:
    for a, b in zip(same, recorded, strict=True):
      np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)
  true = window(problem, TruncatedBPTT(second_derivatives=True))
  np.testing.assert_allclose(true[-1], recorded[-1], rtol=1e-4)  # the losses
  assert max(np.abs(a - b).max() for a, b in zip(true[:-1], recorded[:-1])) > 1e-4


def test_meta_training_improves_the_optimizer():
  problem = keras_model(dropping, "mse", (X, X[:, :1]), batch_size=16)
  trainer = MetaTrainer(
    problem, CoordinatewiseLSTM((8,)), Adam(0.01), num_steps=20, unroll_length=10
  )
  final = [m["losses"][-1] for m in trainer.train(40)]
  assert np.mean(final[-10:]) < 0.7 * np.mean(final[:10])
  assert trainer.num_traces == 1


def fitted(build, params, task, num_steps, rate):
  """Weights after `fit` with SGD from the same start, on the same mini-batches."""
  batches = [drawn(BATCH, unroll.step_seed(task, t), (X, Y)) for t in range(num_steps)]
  x, y = (np.concatenate(arrays) for arrays in zip(*batches))
  model = build()
  model(X[:1])
  for variable, param in zip(model.trainable_variables, params, strict=True):
    variable.assign(param)
  model.compile(keras.optimizers.SGD(rate), "mse")
  model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
  return model.get_weights()


class Shrink(keras.constraints.Constraint):
  """One of a user's own, which asks for more than the value."""

  def __call__(self, w):
    return 0.9 * w if w.path.endswith("kernel") else w


CONSTRAINTS = {
  "NonNeg": keras.constraints.NonNeg(),
  "MaxNorm": keras.constraints.MaxNorm(0.5),
  "UnitNorm": keras.constraints.UnitNorm(axis=1),
  "MinMaxNorm": keras.constraints.MinMaxNorm(0.3, 0.6, rate=0.5),
  "of one's own": Shrink(),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_are_applied_as_fit_applies_them(name):
  constraint = CONSTRAINTS[name]
  bias_constraint = keras.constraints.MaxNorm(0.05)
  build = lambda: sequential(
    layers.Dense(3, kernel_constraint=constraint, bias_constraint=bias_constraint)
  )
  problem = keras_model(build, "mse", (X, Y), batch_size=BATCH)
  assert problem.is_constrained
  optimizer = SGD(0.25)
  task, carry = unroll.start(problem, optimizer, seeds.make(2))
  end, _ = unroll.unroll(problem, optimizer, task, carry, 5)
  expected = fitted(build, carry.params, task, 5, 0.25)
  for a, b in zip(end.params, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  free, _ = unroll.unroll(
    keras_model(lambda: sequential(layers.Dense(3)), "mse", (X, Y), batch_size=BATCH),
    *(optimizer, task, carry, 5),
  )
  assert max(np.abs(a - b).max() for a, b in zip(free.params, expected)) > 1e-2


def test_without_constraints_nothing_is_projected():
  assert not keras_model(sequential, "mse", (X, Y)).is_constrained


class DoublePrecision(keras.Sequential):
  """Keras's own losses come in float32."""

  def __init__(self):
    norm, dtype = keras.constraints.UnitNorm(), "float64"
    hidden = layers.Dense(3, "tanh", kernel_constraint=norm, dtype=dtype)
    super().__init__([hidden, layers.Dense(1, dtype=dtype)])

  def compute_loss(self, x, y, y_pred, sample_weight, training=True):
    return tf.reduce_mean(tf.square(y_pred - tf.cast(y, y_pred.dtype)))


def test_meta_gradients_go_through_constraints():
  problem = keras_model(DoublePrecision, "mse", (X, Y), batch_size=BATCH)
  optimizer = CoordinatewiseLSTM((), output_scale=0.3, dtype="float64")
  second = TruncatedBPTT(second_derivatives=True)

  @tf.function(autograph=False)
  def run():
    task, carry = unroll.start(problem, optimizer, seeds.make(0), second.evaluate)
    found, _ = second(problem, optimizer, task, carry, 3, lambda *_: ())
    return found.meta_loss, found.meta_gradient

  gradient, expected, size = run()[1], [], 1e-5
  for variable in optimizer.trainable_variables:
    value, sides = variable.numpy(), []
    for sign in (1, -1):
      variable.assign(value + sign * size)
      sides.append(run()[0].numpy())
    variable.assign(value)
    expected.append((sides[0] - sides[1]) / (2 * size))
  assert np.abs(expected).min() > 1e-4
  np.testing.assert_allclose([g.numpy().sum() for g in gradient], expected, rtol=1e-5)


@pytest.mark.parametrize("second_derivatives", [False, True])
@pytest.mark.parametrize("meta_batch_size", [1, 2])
def test_the_norm_of_zeros_does_not_spoil_the_meta_gradient(
  meta_batch_size, second_derivatives
):
  """An optimizer that starts with updates of zero leaves the bias at zero."""
  norm = keras.constraints.MaxNorm(1.0)
  build = lambda: sequential(layers.Dense(3, bias_constraint=norm))
  problem = keras_model(build, "mse", (X, Y))
  optimizer = CoordinatewiseLSTM((), initializer="zeros")
  trainer = MetaTrainer(
    problem,
    optimizer,
    meta_gradient=TruncatedBPTT(second_derivatives=second_derivatives),
    num_steps=4,
    unroll_length=2,
    meta_batch_size=meta_batch_size,
  )
  assert not trainer.train_episode(0)["skipped"].any()


class WithPooler(keras.Model):
  """Has layers that the loss reaches not at all, or reads without a gradient."""

  def __init__(self):
    super().__init__(name="pooled")
    self.pooler = layers.Dense(2, kernel_constraint="non_neg", name="pooler")
    self.body = layers.Dense(5, "tanh", name="body")
    self.teacher = layers.Dense(1, use_bias=False, name="teacher")
    self.head = layers.Dense(1, name="head")

  def call(self, x):
    hidden = self.body(x)
    self.pooler(hidden)
    return self.head(hidden) + keras.ops.stop_gradient(self.teacher(x))


def with_pooler(**settings):
  with pytest.warns(UserWarning, match="does not reach") as found:
    problem = keras_model(
      WithPooler, "mse", (X, Y), held_out=(X, Y), batch_size=BATCH, **settings
    )
  assert len(found) == 1 and found[0].filename == __file__
  return problem, str(found[0].message)


def test_variables_that_the_loss_does_not_reach_are_named_once():
  problem, message = with_pooler()
  fixed = "pooled/pooler/kernel, pooled/pooler/bias, pooled/teacher/kernel"
  assert f"pooled does not reach {fixed}; they stay" in message
  paths = ["body/kernel", "body/bias", "head/kernel", "head/bias"]
  assert [p.path for p in problem.parameters()] == [f"pooled/{p}" for p in paths]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # as fit says it
def test_they_start_anew_in_every_task_and_stay_where_they_are():
  problem, _ = with_pooler()
  assert not problem.is_constrained  # The pooler is, but fit does not move it.
  task, carry = unroll.start(problem, SGD(0.1), seeds.make(0))
  other, _ = unroll.start(problem, SGD(0.1), seeds.make(1))
  assert [c.shape for c in task.constants] == [(5, 2), (2,), (6, 1)]
  assert np.all(task.constants[2] != other.constants[2])
  end, _ = unroll.unroll(problem, SGD(0.1), task, carry, 5)
  model = WithPooler()
  model(X[:1])
  names = [v.path for v in model.trainable_variables]
  reached = [p.path for p in problem.parameters()]

  def in_order(params):
    moving, fixed = iter(params), iter(task.constants)
    return [next(moving if name in reached else fixed) for name in names]

  expected = fitted(WithPooler, in_order(carry.params), task, 5, 0.1)
  for a, b in zip(in_order(end.params), expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  model.set_weights(in_order(end.params))
  held_out = problem.held_out(end.params, task.constants)["held_out_loss"]
  np.testing.assert_allclose(held_out, np.mean((model(X) - Y) ** 2), rtol=1e-5)


@pytest.mark.parametrize("meta_batch_size", [1, 2])
def test_meta_training_runs_beside_them(meta_batch_size):
  problem, _ = with_pooler()
  optimizer = Partition(
    [(Where(role=role), CoordinatewiseLSTM(())) for role in ("kernel", "bias")],
    problem.parameters(),
  )
  for chosen in (optimizer, CoordinatewiseLSTM(())):
    trainer = MetaTrainer(
      problem, chosen, num_steps=4, unroll_length=2, meta_batch_size=meta_batch_size
    )
    assert not trainer.train_episode(0)["skipped"].any()
  batch = TaskBatch(problem, 2)
  assert np.isfinite(batch.held_out(*batch.init(seeds.make(0)))["held_out_loss"])


class Switched(keras.Model):
  """Reaches one layer in training only, and another one by a condition."""

  def __init__(self):
    super().__init__()
    self.always, self.trained = layers.Dense(1), layers.Dense(1)
    self.sometimes = layers.Dense(1)
    self.sometimes.build([None, 6])

  def call(self, x, training=False):
    y = self.always(x)
    if not self.trained.built or training:
      y += self.trained(x)
    is_large = keras.ops.sum(x) > 1e9  # never true
    return keras.ops.cond(is_large, lambda: y + self.sometimes(x), lambda: y)


def test_what_training_or_a_condition_can_reach_is_reached(recwarn):
  problem = keras_model(Switched, "mse", (X, Y))
  assert len(problem.parameters()) == 6
  assert not [w for w in recwarn if "does not reach" in str(w.message)]


class Unseeded(keras.layers.Layer):
  def call(self, x):
    return keras.random.dropout(x, 0.5)


class Counting(keras.layers.Layer):
  def build(self, input_shape):
    self.count = tf.Variable(0.0)

  def call(self, x):
    return x + 0.0 * self.count.assign_add(1.0)


class Still(keras.layers.Layer):
  def call(self, x):
    return keras.ops.stop_gradient(x)


def failing(w):
  return w / (1 // 0)


def unrepeatable(shape, dtype=None):
  return keras.random.normal(shape, dtype=dtype)


def carelessly_started():
  return sequential(layers.Dense(2, kernel_initializer=unrepeatable))


WRONG = [
  (dict(build_model=lambda: 3), "build_model that returned 3; it must return"),
  (dict(build_model=lambda: layers.Dense(1)), "must return a keras.Model"),
  (dict(build_model=lambda: stack(layers.Flatten())), "no trainable var"),
  (
    dict(build_model=lambda: stack(layers.Dense(1), Still())),
    "whose loss reaches none of its trainable variables",
  ),
  (
    dict(build_model=lambda: sequential(layers.Dense(2, kernel_constraint=failing))),
    "apply the constraints of the variables: ZeroDivisionError",
  ),
  (dict(loss="nonsense"), "find loss='nonsense': ValueError, .*interpret loss"),
  (dict(loss=None), "compute the loss .*: ValueError, 'No loss to compute"),
  (dict(loss=keras.losses.MeanSquaredError(reduction="none")), "must be a scalar"),
  (dict(data=(X, Y[:39])), r"shapes \(40, 6\), \(39, 1\); all must be arrays"),
  (dict(data=(X, np.ones([40, 3, 2]))), "compute the loss of the data's first"),
  (dict(data=(IMAGES[:, 0], Y), build_model=recurrent), "call sequential.* on the"),
  (
    dict(data=(X, CLASSES), loss="sparse_categorical_crossentropy"),
    "compute the loss of the data's first examples: InvalidArgument",
  ),
  (dict(held_out=(X[:, :5], Y)), "compute the loss of the data's first examples"),
  (dict(batch_size=0), "batch_size=0 and max_examples=100000; both must be at least"),
  (dict(max_examples=0), "max_examples=0; both"),
  (dict(build_model=lambda: sequential(Unseeded())), "seed_generator_state.*its own"),
  (dict(build_model=lambda: sequential(Counting())), "AssignAddVariableOp.*state in"),
  (
    dict(build_model=carelessly_started),
    "initializer of .*kernel draws something else each time",
  ),
]


@pytest.mark.parametrize("wrong, sentence", WRONG)
def test_a_mistake_is_one_sentence(wrong, sentence):
  arguments = {"build_model": sequential, "loss": "mse", "data": (X, Y), **wrong}
  data = arguments.pop("data")
  with pytest.raises(ValueError, match=sentence) as e:
    keras_model(**arguments, dataset=data)
  assert "\n" not in str(e.value) and str(e.value).endswith(".")


def test_what_build_model_raises_is_left_as_it_is():
  with pytest.raises(ZeroDivisionError):
    keras_model(lambda: 1 / 0, "mse", (X, Y))
