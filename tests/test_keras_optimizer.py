"""A learned optimizer in Keras, on really fitted models."""

import functools

import keras
import keras_models
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf
from keras_models import Subclassed, X, Y, built, fit, functional, lstm, weights
from test_optimizers import TABLE

import l2l_tf
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.meta import unroll
from l2l_tf.optimizers import (
  COORDINATE,
  GRADIENTS,
  LOSS,
  PARAMETERS,
  SGD,
  TENSOR,
  Adam,
  CoordinatewiseLSTM,
  Momentum,
  Optimizer,
)
from l2l_tf.problems import Problem


def fitted(model, optimizer, *args, **kwargs):
  """Returns the losses of a fit, and the weights at its end."""
  return fit(model, optimizer, *args, **kwargs), weights(model)


@functools.cache
def fitted_by_adam(rate=0.01, wrap=None, dtype=None, make_callbacks=list, **options):
  """The same by Keras's own Adam, once for the models with and without an `Input`.

  It is a model with one; both begin with the same weights.
  """
  jit_compile = options.pop("jit_compile", False)
  adam = keras.optimizers.Adam(rate, **options)
  return fitted(
    keras_models.sequential(True, dtype=dtype),
    wrap(adam) if wrap else adam,
    epochs=3,
    compile_options={"jit_compile": jit_compile},
    callbacks=make_callbacks(),
  )


def assert_same_fit(model, optimizer, expected, rtol=1e-5, **kwargs):
  """It fits with those losses to those weights, and the weights moved."""
  before = weights(model) if model.built else 0.0
  losses, ends = fitted(model, optimizer, **kwargs)
  np.testing.assert_allclose(losses, expected[0], rtol=rtol)
  np.testing.assert_allclose(ends, expected[1], rtol=1e-3, atol=1e-5)
  assert np.abs(ends - before).max() > 1e-3


class Recorded(Problem):
  """A least-squares problem with parameters of given shapes."""

  def __init__(self, shapes):
    self._shapes = shapes

  def init(self, seed):
    pairs = zip(self._shapes, l2l_tf.seeds.split(seed, len(self._shapes)))
    return [l2l_tf.seeds.normal(shape, s) for shape, s in pairs], []

  def __call__(self, params, constants, seed):
    return tf.add_n([tf.reduce_sum(tf.sin(p) + p**2) for p in params])


# One step


@functools.cache
def unrolled(name):
  """An optimizer, where it starts, and what 100 steps met and led to."""
  make, shapes = TABLE[name]
  optimizer, problem = make(), Recorded(shapes)
  task, carry = unroll.start(problem, optimizer, tf.constant([0, 1]))
  see = lambda carry, _: (carry.loss, carry.grads, carry.params)
  _, met = tf.function(unroll.unroll)(problem, optimizer, task, carry, 100, see)
  return optimizer, carry, *met


@pytest.mark.parametrize(
  "name, block_size",
  # Those that are coupled get whole tensors, whatever the size of a block.
  [(name, None) for name in TABLE]
  + [(name, 4) for name, (make, _) in TABLE.items() if make().coupling == COORDINATE],
)
def test_a_hundred_steps_equal_the_unroll(name, block_size):
  optimizer, carry, losses, grads, params = unrolled(name)
  variables = [keras.Variable(p) for p in carry.params]
  adapter = LearnedOptimizer(optimizer, block_size=block_size)
  step = tf.function(lambda grads, loss: adapter.apply(grads, variables, loss=loss))
  step(carry.grads, carry.loss)
  found = []
  for t in range(99):
    found.append([v.numpy() for v in variables])
    step([g[t] for g in grads], losses[t])
  for values, expected in zip(zip(*found), params, strict=True):
    # Orthogonalisation amplifies how XLA and TensorFlow round.
    atol = 1e-3 if name == "general rule" else 1e-5
    np.testing.assert_allclose(np.stack(values), expected[:99], rtol=1e-4, atol=atol)
  assert int(adapter.iterations) == 100


@pytest.mark.parametrize("name", TABLE)
def test_a_step_compiled_for_a_gpu_finds_its_state_there(name):
  make, shapes = TABLE[name]
  adapter = LearnedOptimizer(make())
  adapter.build([keras.Variable(np.zeros(shape, np.float32)) for shape in shapes])
  # TensorFlow holds a variable of int32 in the CPU's memory.
  assert "int32" not in [
    keras.backend.standardize_dtype(v.dtype) for v in adapter.variables
  ]


def test_one_compiled_call_serves_all_blocks_and_steps(sequential):
  optimizer, model = LearnedOptimizer(lstm(), block_size=5), sequential()
  fit(model, optimizer)
  assert sum(v.shape[-1] for v in optimizer.variables if v.shape[:1] == (5,)) == 2 * 40
  assert optimizer._blocks._advance.experimental_get_tracing_count() == 1


def test_learning_rate_is_a_factor_on_the_updates():
  grads, moved = [tf.constant([0.3, -2.0, 0.0])], []
  for rate in (1.0, 0.25):
    variable = keras.Variable([1.0, 2.0, 3.0])
    LearnedOptimizer(lstm(), rate).apply(grads, [variable])
    moved.append(variable.numpy() - [1.0, 2.0, 3.0])
  np.testing.assert_allclose(0.25 * moved[0], moved[1], rtol=1e-4, atol=1e-7)
  assert np.abs(moved[0]).min() > 1e-5


# What Keras users switch on


@pytest.mark.parametrize(
  "options",
  [
    {"clipnorm": 0.1},
    {"global_clipnorm": 0.1},
    {"clipvalue": 0.01},
    {"weight_decay": 0.1},
    {"use_ema": True, "ema_momentum": 0.8},
    {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3},
    {"gradient_accumulation_steps": 2},
    {"loss_scale_factor": 8.0},
  ],
  ids=lambda options: "-".join(options),
)
def test_options_do_what_they_do_in_keras_adam(sequential, options):
  assert_same_fit(
    sequential(),
    LearnedOptimizer(Adam(1.0), 0.01, **options),
    fitted_by_adam(**options),
    epochs=3,
  )


def test_options_do_so_together_compiled_by_xla(sequential):
  options = {
    "global_clipnorm": 0.1,
    "weight_decay": 0.1,
    "use_ema": True,
    "ema_overwrite_frequency": 3,
    "gradient_accumulation_steps": 2,
  }
  assert_same_fit(
    sequential(),
    LearnedOptimizer(Adam(1.0), 0.01, **options),
    fitted_by_adam(jit_compile=True, **options),
    compile_options={"jit_compile": True},
    epochs=3,
  )


@pytest.fixture(scope="module")
def plain(sequential):
  """A model that is fitted as by default, and its losses and weights."""
  model = sequential()
  return model, fitted(model, LearnedOptimizer(lstm()))


@pytest.mark.parametrize(
  "options",
  [{"jit_compile": True}, {"steps_per_execution": 3}, {"run_eagerly": True}],
  ids=lambda options: "-".join(options),
)
def test_ways_to_run_fit_agree(sequential, plain, options):
  model = sequential()
  losses, ends = fitted(model, LearnedOptimizer(lstm()), compile_options=options)
  expected = plain[1]
  np.testing.assert_allclose(losses, expected[0], rtol=1e-4)
  np.testing.assert_allclose(ends, expected[1], rtol=1e-3, atol=1e-4)


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.5)


def make_callbacks():
  return [
    keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.02 / (1 + epoch)),
    keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=0, min_delta=10.0),
  ]


def test_schedules_and_callbacks_set_the_learning_rate(sequential):
  ours = LearnedOptimizer(Adam(1.0), SCHEDULE)
  assert_same_fit(sequential(), ours, fitted_by_adam(SCHEDULE), epochs=3)
  ours = LearnedOptimizer(Adam(1.0), 0.02)
  expected = fitted_by_adam(0.02, make_callbacks=make_callbacks)
  assert_same_fit(sequential(), ours, expected, epochs=3, callbacks=make_callbacks())
  assert float(ours.learning_rate) < 0.02 / 3


def test_custom_loops_apply_and_apply_gradients(sequential, plain):
  found, optimizer = sequential(), LearnedOptimizer(lstm())

  @tf.function
  def step(x, y, apply):
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(tf.square(found(x) - y))
    grads = tape.gradient(loss, found.trainable_variables)
    if apply:
      optimizer.apply(grads, found.trainable_variables)
    else:
      optimizer.apply_gradients(zip(grads, found.trainable_variables))

  for i in [*range(0, 64, 16)] * 2:
    step(X[i : i + 16], Y[i : i + 16], i % 32 == 0)
  np.testing.assert_allclose(weights(found), plain[1][1], rtol=1e-3, atol=1e-5)


class Converted(SGD):
  """Notes whether AutoGraph translates what calls it."""

  def decay_rate(self, state):
    context = tf.__internal__.autograph.control_status_ctx()
    self.status = context.status.name
    return super().decay_rate(state)


def test_autograph_leaves_it_alone_in_a_loop_of_ones_own():
  """Translated, it would take three times as long to trace."""
  optimizer, theta = Converted(0.5), tf.Variable([1.0])
  adapter = LearnedOptimizer(optimizer)
  adapter.build([theta])

  @tf.function
  def step(grad):
    adapter.apply([grad], [theta])

  step(tf.constant([1.0]))
  assert adapter.optimizer.status == "DISABLED"
  np.testing.assert_allclose(theta, [0.5])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(sequential, policy):
  ours, wrap = LearnedOptimizer(Adam(1.0), 0.01), None
  if policy == "mixed_float16":  # compile() wraps by the global policy alone
    wrap = keras.optimizers.LossScaleOptimizer
    ours = wrap(ours)
  expected = fitted_by_adam(wrap=wrap, dtype=policy)
  assert_same_fit(sequential(dtype=policy), ours, expected, rtol=1e-3, epochs=3)


def test_the_global_policy_wraps_it_in_a_loss_scale(sequential):
  keras.config.set_dtype_policy("mixed_float16")
  try:
    model = sequential()
    losses = fit(model, LearnedOptimizer(lstm(), 0.1), 4)
  finally:
    keras.config.set_dtype_policy("float32")
  assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
  # The first scale, 2^15, overflows float16; those steps are not ours.
  assert np.all(np.isfinite(losses)) and model.optimizer.inner_optimizer.built


def test_half_precision_variables(sequential):
  model = built(sequential(dtype="float16"))
  before = weights(model)
  fit(model, LearnedOptimizer(lstm()), 1)
  assert {v.dtype for v in model.layers[0].variables} == {"float16"}
  assert np.all(np.isfinite(weights(model))) and np.any(weights(model) != before)


def test_embeddings_are_moved_as_their_dense_equals():
  # Not as in Keras's Adam, which squares the gradient of each occurrence of a row.
  def model(rows):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input([3]), rows, *layers])

  one_hot = lambda x: keras.ops.one_hot(keras.ops.cast(x, "int32"), 9)
  table = keras.Sequential(
    [keras.layers.Lambda(one_hot), keras.layers.Dense(4, use_bias=False)]
  )
  sparse, dense = model(keras.layers.Embedding(9, 4)), model(table)
  dense.set_weights(sparse.get_weights())
  x = np.random.RandomState(1).randint(0, 9, size=(64, 3))
  expected = fitted(dense, LearnedOptimizer(lstm()), x=x)
  assert_same_fit(sparse, LearnedOptimizer(lstm()), expected, x=x)


def test_frozen_layers_stay(sequential):
  model = built(sequential())
  model.layers[0].trainable = False
  frozen = model.layers[0].get_weights()
  before = weights(model)
  fit(model, LearnedOptimizer(lstm()), 1)
  for x, y in zip(frozen, model.layers[0].get_weights()):
    np.testing.assert_array_equal(x, y)
  assert np.any(weights(model) != before)


@pytest.mark.parametrize("block_size", [None, 3])
def test_a_variable_without_gradient_stays(block_size):
  used, unused = keras.Variable([1.0, 2.0]), keras.Variable([3.0, 4.0, 5.0])
  optimizer = LearnedOptimizer(SGD(0.5), block_size=block_size)
  with pytest.warns(UserWarning, match="Gradients do not exist"):
    optimizer.apply([None, tf.constant([1.0, 1.0])], [unused, used])
  np.testing.assert_array_equal(unused, [3.0, 4.0, 5.0])
  np.testing.assert_array_equal(used, [0.5, 1.5])
  optimizer.apply([tf.constant([2.0, 2.0, 2.0])], [unused])  # some of them alone
  np.testing.assert_array_equal(unused, [2.0, 3.0, 4.0])
  np.testing.assert_array_equal(used, [0.5, 1.5])


def test_a_fitted_model_with_a_variable_that_the_loss_ignores():
  class Idle(keras.layers.Layer):
    def build(self, shape):
      self.idle = self.add_weight(shape=(3,), initializer="ones", name="idle")

    def call(self, x):
      return x

  keras.utils.set_random_seed(0)
  model = keras.Sequential([keras.Input([4]), Idle(), keras.layers.Dense(1)])
  with pytest.warns(UserWarning, match="Gradients do not exist"):
    losses = fit(model, LearnedOptimizer(Adam(0.05)), 3)
  np.testing.assert_array_equal(model.layers[0].idle, [1.0, 1.0, 1.0])
  assert losses[-1] < losses[0]


@pytest.mark.parametrize("block_size", [None, 2])
def test_alternating_gradients_are_as_in_keras_adam(block_size):
  ends = []
  for make in (
    lambda: LearnedOptimizer(Adam(1.0), 0.01, block_size=block_size),
    lambda: keras.optimizers.Adam(0.01),
  ):
    a, b = keras.Variable([1.0, 2.0, 3.0]), keras.Variable([4.0, 5.0])
    optimizer, g = make(), [tf.constant([0.3, -0.1, 2.0]), tf.constant([1.0, -1.0])]
    optimizer.apply(g, [a, b])
    for _ in range(5):
      optimizer.apply([0.5 * g[1]], [b])
    optimizer.apply(g, [a, b])
    ends.append(np.concatenate([a.numpy(), b.numpy()]))
  np.testing.assert_allclose(*ends, rtol=1e-6)


def test_constraints_hold(sequential):
  model = sequential(kernel_constraint=keras.constraints.NonNeg())
  fit(model, LearnedOptimizer(lstm()), 1)
  assert model.layers[0].kernel.numpy().min() >= 0.0


# Models that are built within their first step


def test_a_clone_is_trained_as_its_original(sequential, plain):
  clone = keras.models.clone_model(sequential())
  assert_same_fit(clone, LearnedOptimizer(lstm()), plain[1])


def test_a_clone_of_a_fitted_model_gets_a_state_of_its_own(plain):
  model, (_, ends) = plain
  clone = keras.models.clone_model(model)
  fit(clone, LearnedOptimizer(lstm()))
  np.testing.assert_array_equal(weights(model), ends)
  assert clone.optimizer.iterations == model.optimizer.iterations == 8


@pytest.fixture(scope="module")
def averaged():
  """The weights after an epoch, averaged; of a model with an `Input`."""
  optimizer = LearnedOptimizer(lstm(), use_ema=True, ema_momentum=0.5)
  return fitted(keras_models.sequential(True), optimizer, 1)[1]


def test_a_loop_of_ones_own_that_builds_the_model_in_its_trace(sequential, averaged):
  model = sequential()
  optimizer = LearnedOptimizer(lstm(), use_ema=True, ema_momentum=0.5)

  @tf.function
  def step(x, y):
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(tf.square(model(x) - y))
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables))

  for i in range(0, 64, 16):
    step(X[i : i + 16], Y[i : i + 16])
  optimizer.finalize_variable_values(model.trainable_variables)
  np.testing.assert_allclose(weights(model), averaged, rtol=1e-3, atol=1e-5)


def test_an_optimizer_that_is_not_coordinatewise_builds_in_the_trace(sequential):
  own = lambda grads: tf.stack([grads, tf.tanh(grads)], axis=-1)
  optimizers = [LearnedOptimizer(CoordinatewiseLSTM((5,), own)) for _ in range(2)]
  model, other = sequential(), built(sequential())
  assert fit(model, optimizers[0]) == pytest.approx(fit(other, optimizers[1]))


# Which gradients and variables can come


@pytest.mark.parametrize("with_clipping", [True, False])
def test_a_variable_listed_twice_moves_by_the_sum(with_clipping):
  options = {"gradient_accumulation_steps": 2} if with_clipping else {}
  shared, own = keras.Variable([1.0, 1.0]), tf.Variable([1.0])
  optimizer = LearnedOptimizer(SGD(0.1), **options)
  rows = tf.IndexedSlices(tf.constant([3.0]), tf.constant([1]))
  listed = [([1.0, 0.0], shared), ([2.0], own), (rows, shared), (None, shared)]
  for _ in range(2 if with_clipping else 1):
    optimizer.apply_gradients(listed)
  np.testing.assert_allclose(own, [0.8], rtol=1e-6)
  np.testing.assert_allclose(shared, [0.9, 0.7], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_gradients_of_another_type_are_taken(dtype):
  for variable in (keras.Variable([1.0, 1.0]), tf.Variable([1.0, 1.0])):
    optimizer, grad = LearnedOptimizer(SGD(0.1)), np.ones(2, dtype)
    optimizer.apply([grad], [variable])
    optimizer.apply_gradients([(grad, variable), (np.ones(2, "float32"), variable)])
    np.testing.assert_allclose(variable, [0.7, 0.7], rtol=1e-3)


def test_a_shared_encoder_in_two_lists_is_as_in_keras_sgd(sequential):
  ends = []
  for optimizer in (LearnedOptimizer(SGD(1.0), 0.1), keras.optimizers.SGD(0.1)):
    model = built(sequential())
    encoder, head = model.layers
    lists = [encoder.trainable_variables, model.trainable_variables]
    for _ in range(3):
      pairs = []
      for variables, weight in zip(lists, (0.3, 1.0)):
        with tf.GradientTape() as tape:
          loss = weight * tf.reduce_mean(tf.square(head(encoder(X)) - Y))
        pairs += zip(tape.gradient(loss, variables), variables)
      optimizer.apply_gradients(pairs)
    ends.append(weights(model))
  np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-6)


def test_sonnet_modules_and_tf_variables_are_moved_as_keras_ones(sequential):
  model = built(sequential())
  tf.random.set_seed(0)
  module = snt.nets.MLP([6, 1], activation=tf.tanh)
  module(X)
  (w, b), (v, c) = ((layer.kernel, layer.bias) for layer in model.layers)
  for variable, value in zip(module.trainable_variables, [b, w, c, v]):
    variable.assign(value)
  for call, variables in [
    (module, module.trainable_variables),
    (model, [b.value, w, c, v]),  # of both kinds
  ]:
    optimizer = LearnedOptimizer(
      lstm(), use_ema=True, weight_decay=0.01, clipnorm=1.0, block_size=16
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "/b:"])

    @tf.function
    def step(x, y):
      with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(call(x) - y))  # noqa: B023
      optimizer.apply(tape.gradient(loss, variables), variables)  # noqa: B023
      return loss

    losses = [float(step(X, Y)) for _ in range(8)]
    assert losses[-1] < losses[0]
  for x, y in zip(module.trainable_variables, [b, w, c, v]):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def token_model(layer):
  keras.utils.set_random_seed(0)
  tokens = keras.Input([None], dtype="int32")
  hidden = keras.layers.Embedding(11, 8)(tokens)
  hidden = layer(hidden)
  return keras.Model(tokens, keras.layers.Dense(11)(hidden))


def attention(x):
  y = keras.layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
  return keras.layers.LayerNormalization()(x + y)


def gru(x):
  return keras.layers.GRU(5, return_sequences=True)(x)


def convolution(x):
  return keras.layers.Conv1D(5, 3, padding="causal")(x)


@pytest.mark.parametrize(
  "layer, source",
  [
    (attention, "gather"),
    (attention, "generator"),
    (gru, "generator"),
    (convolution, "gather"),
  ],
)
def test_inputs_of_unknown_shape(layer, source):
  ids = np.random.RandomState(0).randint(0, 11, (50, 9)).cumsum(1) % 11

  def pairs():
    for begin in range(0, 50, 16):  # The last batch is short, lengths differ.
      rows = ids[begin : begin + 16, : 5 + begin // 16]
      yield rows[:, :-1], rows[:, 1:]

  if source == "gather":
    x, y = ids[:, :-1], ids[:, 1:]
    pipeline = tf.data.Dataset.range(50).batch(16)
    pipeline = pipeline.map(lambda i: (tf.gather(x, i), tf.gather(y, i)))
  else:
    spec = tf.TensorSpec([None, None], tf.int32)
    pipeline = tf.data.Dataset.from_generator(pairs, output_signature=(spec, spec))
  # Adam of Keras squares each occurrence of a row by itself; momentum does not.
  losses = []
  for optimizer in (
    LearnedOptimizer(Momentum(1.0), 0.05, block_size=64, clipnorm=1.0),
    keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=1.0),
    LearnedOptimizer("general"),
  ):
    model = token_model(layer)
    model.compile(
      optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    losses.append(model.fit(pipeline, epochs=3, verbose=0).history["loss"])
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
  assert losses[2][-1] < losses[2][0]


# Optimizers that read parameters and the loss


class Sized(Optimizer):
  """Gradient descent at a rate of the loss, towards 0: -loss (g + 0.1 theta)."""

  coupling = TENSOR
  reads = {GRADIENTS, PARAMETERS, LOSS}
  config = {}

  def initial_state(self, params):
    return [tf.zeros([]) for _ in params]  # a sum of losses for each tensor

  def __call__(self, grads, state, params=None, loss=None):
    updates = [-0.002 * loss * (g + 0.1 * p) for g, p in zip(grads, params)]
    return updates, [s + loss for s in state]


class SizedCoordinates(Sized):
  coupling = COORDINATE

  def initial_state(self, params):
    return tf.zeros([])

  def __call__(self, grads, state, params=None, loss=None):
    updates, (state,) = super().__call__(grads, [state], params, loss)
    return updates, state


def own_loop(model, optimizer, epochs=2):
  """The same batches as `fit`, in a loop that hands on the loss."""
  losses = []
  for i in [*range(0, 64, 16)] * epochs:
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(tf.square(model(X[i : i + 16]) - Y[i : i + 16]))
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(loss, variables), variables, loss=loss)
    losses.append(float(loss))
  return losses


@pytest.fixture(scope="module")
def by_hand():
  """The losses and weights of `Sized`, derived by hand."""
  model, losses = keras_models.sequential(True), []
  for i in [*range(0, 64, 16)] * 2:
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(tf.square(model(X[i : i + 16]) - Y[i : i + 16]))
    for g, v in zip(tape.gradient(loss, model.trainable_variables),
                    model.trainable_variables):  # fmt: skip
      v.assign_sub(0.002 * loss * (g + 0.1 * v))
    losses.append(float(loss))
  return losses, weights(model)


@pytest.mark.parametrize("make", [Sized, SizedCoordinates])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_loss_is_handed_on(sequential, by_hand, make, jit_compile):
  adapter = LearnedOptimizer(make(), block_size=16)
  options = {"jit_compile": jit_compile}
  _, found = fitted(sequential(), adapter, compile_options=options)
  losses, expected = by_hand
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
  state = [v.numpy() for v in adapter.variables if "state" in v.name]
  np.testing.assert_allclose(state, sum(losses), rtol=1e-4)


@pytest.mark.parametrize("make", [Sized, SizedCoordinates])
def test_a_loop_of_ones_own_hands_it_on(sequential, by_hand, make):
  found = own_loop(built(sequential()), LearnedOptimizer(make()))
  assert found == pytest.approx(by_hand[0], rel=1e-4)


def test_a_loss_that_is_not_given_is_one_sentence(sequential):
  model, optimizer = built(sequential()), LearnedOptimizer(Sized())
  grads = [tf.ones(v.shape) for v in model.trainable_variables]
  sentence = r"Sized reads the loss, and was not given it; pass apply\(.*loss=loss\)"
  for _ in range(2):
    with pytest.raises(ValueError, match=sentence):
      optimizer.apply(grads, model.trainable_variables)
    optimizer.apply(grads, model.trainable_variables, loss=tf.constant(1.0))
  fit(model, LearnedOptimizer(Sized()), 1)
  scaled = keras.optimizers.LossScaleOptimizer(LearnedOptimizer(Sized()))
  with pytest.raises(ValueError, match="LossScaleOptimizer does not hand it on in fit"):
    fit(sequential(dtype="mixed_float16"), scaled, 1)


# Models and their optimizers


@pytest.mark.parametrize("make", [functional, Subclassed])
def test_kinds_of_models_and_several_of_them(make):
  optimizers = [LearnedOptimizer(lstm()) for _ in range(2)]
  keras.utils.set_random_seed(0)
  first = fit(make(), optimizers[0])
  keras.utils.set_random_seed(0)
  np.testing.assert_allclose(fit(make(), optimizers[1]), first, rtol=1e-5)


def test_later_training_elsewhere_leaves_it_alone():
  optimizer = lstm()
  adapter = LearnedOptimizer(optimizer)
  before = adapter.optimizer.variables[0].numpy()
  optimizer.variables[0].assign_add(tf.ones_like(optimizer.variables[0]))
  np.testing.assert_array_equal(adapter.optimizer.variables[0], before)
