import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import SGD
from l2l_tf.problems import (
  MLP,
  ConvNet,
  DatasetUnavailableError,
  Parameter,
  as_dataset,
  digits_mlp,
  mnist_mlp,
)
from l2l_tf.problems import classification as classification_lib

ACTIVATIONS = {  # f, and f' as a function of f's value
  "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda f: f * (1 - f)),
  "relu": (lambda x: np.maximum(x, 0), lambda f: (f > 0).astype(f.dtype)),
  "tanh": (np.tanh, lambda f: 1 - f**2),
}


def random_data(num_train=12, num_test=7, shape=(2, 3), num_classes=4, seed=0):
  rng = np.random.default_rng(seed)
  return as_dataset(
    rng.random([num_train, *shape]),
    np.arange(num_train) % num_classes,
    rng.random([num_test, *shape]),
    np.arange(num_test) % num_classes,
  )


def numpy_logits(params, images, activation):
  """Forward pass in float64; also the input of every layer."""
  f, _ = ACTIVATIONS[activation]
  inputs = [np.reshape(images, [len(images), -1]).astype(np.float64)]
  for kernel, bias in zip(params[:-2:2], params[1:-2:2]):
    inputs.append(f(inputs[-1] @ kernel + bias))
  return inputs[-1] @ params[-2] + params[-1], inputs


def numpy_loss_and_gradients(params, images, labels, activation):
  """Mean cross-entropy, and back-propagation by hand."""
  logits, inputs = numpy_logits(params, images, activation)
  shifted = logits - logits.max(axis=1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
  rows = np.arange(len(labels))
  delta = np.exp(log_p)
  delta[rows, labels] -= 1
  delta /= len(labels)
  grads = []
  for kernel, x in zip(params[-2::-2], inputs[::-1]):
    grads = [x.T @ delta, delta.sum(axis=0), *grads]
    delta = (delta @ kernel.T) * ACTIVATIONS[activation][1](x)
  return -log_p[rows, labels].mean(), grads


def loss_and_gradients(problem, params, seed):
  with tf.GradientTape() as tape:
    tape.watch(params)
    loss = problem(params, [], seed)
  return loss, tape.gradient(loss, params)


def one_step(params, grads, rate=0.1):
  return [p - rate * g for p, g in zip(params, grads)]


@settings(max_examples=30, deadline=None)
@given(
  layers=st.lists(st.integers(1, 5), max_size=3),
  activation=st.sampled_from(sorted(ACTIVATIONS)),
  batch_size=st.integers(1, 9),
  num_train=st.integers(1, 9),
  num_classes=st.integers(1, 4),
  shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
  seed=st.integers(0, 1000),
)
def test_loss_and_gradient_equal_back_propagation_by_hand(
  layers, activation, batch_size, num_train, num_classes, shape, seed
):
  data = random_data(num_train, 3, shape, num_classes)
  problem = MLP(data, layers, activation, batch_size, stddev=1.0, dtype=tf.float64)
  params, constants = problem.init(seeds.make(seed, 0))
  batch_seed = seeds.make(seed, 1)
  loss, grads = loss_and_gradients(problem, params, batch_seed)

  drawn = tf.random.stateless_uniform(
    [batch_size], batch_seed, 0, num_train, tf.int32
  ).numpy()
  expected, expected_grads = numpy_loss_and_gradients(
    [p.numpy() for p in params],
    data.train_images.numpy()[drawn],
    data.train_labels.numpy()[drawn],
    activation,
  )
  assert constants == []
  assert loss.dtype == tf.float64
  assert loss.shape == []
  np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=1e-14)
  for grad, expected_grad in zip(grads, expected_grads, strict=True):
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-9, atol=1e-12)


def test_second_derivatives_equal_differences_of_gradients():
  problem = MLP(random_data(), (3,), "tanh", 5, stddev=1.0, dtype=tf.float64)
  params, _ = problem.init(seeds.make(0))
  seed = seeds.make(1)
  directions = [tf.ones_like(p) for p in params]

  def gradients(epsilon):
    moved = [p + epsilon * d for p, d in zip(params, directions)]
    return loss_and_gradients(problem, moved, seed)[1]

  with tf.GradientTape() as tape:
    tape.watch(params)
    _, grads = loss_and_gradients(problem, params, seed)
    along = tf.add_n([tf.reduce_sum(g) for g in grads])
  products = tape.gradient(along, params)
  for product, up, down in zip(products, gradients(1e-5), gradients(-1e-5)):
    np.testing.assert_allclose(product, (up - down) / 2e-5, atol=1e-8)


def test_no_activation_on_the_logits():
  """A rectified logit could not tell class 0 (-5) from class 1 (-9)."""
  data = as_dataset(np.ones([2, 1]), [0, 1], np.ones([2, 1]), [0, 1])
  problem = MLP(data, (), "relu")
  held_out = problem.held_out([tf.zeros([1, 2]), tf.constant([-5.0, -9.0])], [])
  p = 1 / (1 + np.exp(-4))
  expected = -(np.log(p) + np.log(1 - p)) / 2
  np.testing.assert_allclose(held_out["held_out_loss"], expected, rtol=1e-5)


def test_parameters_are_described_in_the_order_of_init():
  problem = MLP(random_data(), (5, 3))
  assert problem.parameters() == [
    Parameter("layer_0/kernel", (6, 5), "kernel"),
    Parameter("layer_0/bias", (5,), "bias"),
    Parameter("layer_1/kernel", (5, 3), "kernel"),
    Parameter("layer_1/bias", (3,), "bias"),
    Parameter("layer_2/kernel", (3, 4), "kernel"),
    Parameter("layer_2/bias", (4,), "bias"),
  ]
  params, constants = problem.init(seeds.make(0))
  assert [tuple(p.shape) for p in params] == [p.shape for p in problem.parameters()]
  assert constants == []


def test_without_hidden_layers_it_is_softmax_regression():
  assert MLP(random_data(), ()).parameters() == [
    Parameter("layer_0/kernel", (6, 4), "kernel"),
    Parameter("layer_0/bias", (4,), "bias"),
  ]


def test_a_net_of_mnists_size_has_15910_parameters():
  images = np.zeros([10, 28, 28, 1], np.uint8)
  problem = MLP(as_dataset(images, np.arange(10), images, np.arange(10)), (20,))
  assert sum(np.prod(p.shape) for p in problem.parameters()) == 15_910


@pytest.mark.parametrize("stddev", [0.01, 0.5])
def test_initial_parameters_are_normal_with_the_given_deviation(stddev):
  problem = MLP(random_data(shape=(10, 10)), (100,), stddev=stddev)
  params, _ = problem.init(seeds.make(3))
  for x in (params[0], params[1]):
    n = x.shape.num_elements()
    z = x.numpy().ravel() / stddev
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
  assert abs(np.corrcoef(params[0][0], params[1])[0, 1]) < 4 / np.sqrt(100)


def test_the_default_deviation_is_the_original_codes():
  params, _ = MLP(random_data(shape=(10, 10)), (100,)).init(seeds.make(3))
  np.testing.assert_allclose(np.std(params[0]), 0.01, rtol=0.05)


def test_the_same_seed_is_the_same_task_and_another_seed_another():
  problem = MLP(random_data())
  first, again, other = (problem.init(seeds.make(s))[0] for s in (1, 1, 2))
  for a, b, c in zip(first, again, other):
    np.testing.assert_array_equal(a, b)
    assert np.all(a != c)


def test_mini_batches_differ_by_seed_alone():
  problem = MLP(random_data(), stddev=1.0, batch_size=5)
  params, _ = problem.init(seeds.make(0))
  losses = [float(problem(params, [], seeds.make(0, i))) for i in [*range(20), 0]]
  assert losses[0] == losses[20]
  assert len(set(losses)) == 20


def test_the_loss_is_an_unbiased_estimate_of_the_train_loss():
  problem = MLP(random_data(), stddev=1.0, batch_size=8)
  params, _ = problem.init(seeds.make(0))
  losses = np.array([problem(params, [], seeds.make(0, i)) for i in range(300)])
  error = losses.std() / np.sqrt(len(losses))
  assert abs(losses.mean() - problem.held_out(params, [])["train_loss"]) < 4 * error


def test_every_train_example_is_drawn():
  images = np.eye(40, dtype=np.float32)
  data = as_dataset(images, np.zeros(40, int), images[:1], [1])
  problem = MLP(data, (), batch_size=400)
  params = [tf.zeros([40, 2]), tf.zeros([2])]
  _, grads = loss_and_gradients(problem, params, seeds.make(0))
  share = -grads[0][:, 0] / 0.5  # dloss/dlogit is p - 1 = -1/2 for each drawn row
  np.testing.assert_allclose(tf.reduce_sum(share), 1.0, rtol=1e-5)
  assert np.all(share > 0)
  assert np.all(share < 1 / 40 + 5 * np.sqrt(1 / 40 / 400))


def test_held_out_examples_never_enter_a_loss_or_a_gradient():
  data = as_dataset(
    np.ones([5, 3], np.float32), np.zeros(5, int), np.full([9, 3], np.nan), np.ones(9)
  )
  problem = MLP(data, (4,), batch_size=50)
  params, _ = problem.init(seeds.make(0))
  for i in range(50):
    loss, grads = loss_and_gradients(problem, params, seeds.make(1, i))
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(g)) for g in grads)
    assert grads[-1][0] < 0 < grads[-1][1]  # every label drawn is 0
    params = one_step(params, grads, rate=0.5)
  held_out = problem.held_out(params, [])
  assert held_out["train_loss"] < 0.1
  assert np.isnan(held_out["held_out_loss"])


def test_train_examples_never_enter_what_is_reported_as_held_out():
  data = as_dataset(
    np.full([9, 3], np.nan), np.zeros(9), np.ones([5, 3]), np.ones(5, int)
  )
  held_out = MLP(data, ()).held_out([tf.zeros([3, 2]), tf.constant([0.0, 1.0])], [])
  assert np.isnan(held_out["train_loss"])
  np.testing.assert_allclose(held_out["held_out_loss"], np.log1p(np.exp(-1)), rtol=1e-6)
  assert held_out["held_out_accuracy"] == 1.0


def test_reported_losses_and_accuracy_are_right_on_a_constructed_case():
  """The logits are the image: class = the brighter pixel; 3 of 4 labels agree."""
  test_images = np.array([[0, 1], [1, 0], [0.25, 0.75], [0.75, 0.25]], np.float32)
  data = as_dataset(np.eye(2, dtype=np.float32), [0, 1], test_images, [1, 0, 1, 1])
  problem = MLP(data, (), batch_size=1)
  held_out = problem.held_out([tf.eye(2), tf.zeros([2])], [])
  margins = np.array([1, 1, 0.5, -0.5])
  assert set(held_out) == {"train_loss", "held_out_loss", "held_out_accuracy"}
  assert all(value.shape == [] for value in held_out.values())
  assert held_out["held_out_accuracy"] == 0.75
  np.testing.assert_allclose(
    held_out["held_out_loss"], np.log1p(np.exp(-margins)).mean(), rtol=1e-6
  )
  np.testing.assert_allclose(held_out["train_loss"], np.log1p(np.exp(-1)), rtol=1e-6)


def test_the_train_loss_is_bounded_in_size(monkeypatch):
  monkeypatch.setattr(classification_lib, "_MAX_TRAIN_EVALUATED", 2)
  images = np.array([[0.0], [0.0], [np.nan]], np.float32)
  problem = MLP(as_dataset(images, [0, 1, 0], images, [0, 1, 0]), ())
  held_out = problem.held_out([tf.zeros([1, 2]), tf.zeros([2])], [])
  np.testing.assert_allclose(held_out["train_loss"], np.log(2), rtol=1e-6)


def test_bytes_are_scaled_and_floats_are_not():
  data = random_data(shape=(6,))
  images = np.random.default_rng(1).integers(0, 256, [12, 6], dtype=np.uint8)
  as_bytes = MLP(data._replace(train_images=images, test_images=images[:7]), stddev=1.0)
  images = (images / 255).astype(np.float32)
  as_floats = MLP(
    data._replace(train_images=images, test_images=images[:7]), stddev=1.0
  )
  params, _ = as_bytes.init(seeds.make(0))
  np.testing.assert_allclose(
    as_bytes(params, [], seeds.make(1)), as_floats(params, [], seeds.make(1)), rtol=1e-6
  )


def test_the_same_seed_is_the_same_mini_batch_compiled_or_not():
  problem = MLP(random_data(), stddev=1.0, batch_size=5)
  params, _ = problem.init(seeds.make(0))
  compiled = tf.function(problem, jit_compile=True)
  for i in range(5):
    seed = tf.constant([i, 2 * i])
    np.testing.assert_allclose(
      compiled(params, [], seed), problem(params, [], seed), rtol=1e-5
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_descent_in_a_loop_equals_gradient_descent_by_hand(jit_compile):
  """On one train example, so that every mini-batch is the same."""
  data = random_data(num_train=1)
  problem = MLP(data, (3,), "tanh", 4, stddev=1.0)
  params, constants = problem.init(seeds.make(0))

  @tf.function(jit_compile=jit_compile)
  def run(params):
    task = unroll.Task(constants, seeds.make(1))
    loss, grads = unroll.first_order(problem, params, constants, task.seed)
    state = SGD(0.1).initial_state(params)
    carry = unroll.Carry(params, state, loss, grads, tf.zeros([], tf.int32))
    carry, losses = unroll.unroll(problem, SGD(0.1), task, carry, num_steps=6)
    return losses, problem.held_out(carry.params, constants)

  losses, held_out = run(params)
  theta = [p.numpy().astype(np.float64) for p in params]
  images, labels = data.train_images.numpy(), data.train_labels.numpy()
  expected = []
  for _ in range(6):
    _, grads = numpy_loss_and_gradients(theta, images, labels, "tanh")
    theta = one_step(theta, grads)
    expected.append(numpy_loss_and_gradients(theta, images, labels, "tanh")[0])
  np.testing.assert_allclose(losses, expected, rtol=1e-4)

  images, labels = data.test_images.numpy(), data.test_labels.numpy()
  logits, _ = numpy_logits(theta, images, "tanh")
  loss, _ = numpy_loss_and_gradients(theta, images, labels, "tanh")
  np.testing.assert_allclose(held_out["train_loss"], expected[-1], rtol=1e-4)
  np.testing.assert_allclose(held_out["held_out_loss"], loss, rtol=1e-4)
  accuracy = np.mean(logits.argmax(axis=1) == labels)
  np.testing.assert_allclose(held_out["held_out_accuracy"], accuracy, rtol=1e-6)


def test_the_images_are_no_constants_of_the_graph():
  problem = digits_mlp()
  params, _ = problem.init(seeds.make(0))
  traced = tf.function(problem).get_concrete_function(params, [], seeds.make(0))
  assert len(traced.graph.as_graph_def().SerializeToString()) < 20_000
  assert any(
    tensor is problem._dataset.train_images for tensor, _ in traced.graph.captures
  )


def test_a_problem_made_while_a_graph_is_traced_is_the_same_problem():
  data = random_data()

  @tf.function
  def loss():
    problem = MLP(data)
    return problem(problem.init(seeds.make(0))[0], [], seeds.make(1))

  problem = MLP(data)
  expected = problem(problem.init(seeds.make(0))[0], [], seeds.make(1))
  np.testing.assert_allclose(loss(), expected, rtol=1e-6)


def test_digits_can_be_learned():
  problem = digits_mlp(layers=(30,), activation="relu")
  params, _ = MLP(problem._dataset, (30,), "relu", stddev=0.1).init(seeds.make(0))

  @tf.function
  def train(params):
    for t in tf.range(300):
      _, grads = loss_and_gradients(problem, params, tf.random.fold_in([0, 0], t))
      params = one_step(params, grads, rate=0.5)
    return problem.held_out(params, [])

  before, after = problem.held_out(params, []), train(params)
  np.testing.assert_allclose(before["held_out_loss"], np.log(10), rtol=0.1)
  assert after["train_loss"] < 0.2
  assert after["held_out_loss"] < 0.4
  assert after["held_out_accuracy"] > 0.9


def test_mnist_works_end_to_end():
  try:
    problem = mnist_mlp()
  except DatasetUnavailableError as error:
    pytest.skip(str(error))
  assert sum(np.prod(p.shape) for p in problem.parameters()) == 15_910
  params, _ = problem.init(seeds.make(0))
  loss, grads = loss_and_gradients(problem, params, seeds.make(1))
  np.testing.assert_allclose(loss, np.log(10), rtol=0.05)
  assert all(np.all(np.isfinite(g)) for g in grads)
  held_out = problem.held_out(params, [])
  np.testing.assert_allclose(held_out["train_loss"], np.log(10), rtol=0.05)
  np.testing.assert_allclose(held_out["held_out_accuracy"], 0.1, atol=0.05)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (
      {"activation": "swish"},
      r"^MLP got activation='swish'; choose one of sigmoid, relu, tanh\.$",
    ),
    (
      {"layers": (20, 0)},
      r"^MLP got layers=\(20, 0\); every size must be at least 1\.$",
    ),
    ({"layers": [-3]}, r"^MLP got layers=\(-3,\); every size must be at least 1\.$"),
    ({"batch_size": 0}, r"^MLP got batch_size=0; it must be at least 1\.$"),
    ({"batch_size": -128}, r"^MLP got batch_size=-128; it must be at least 1\.$"),
  ],
)
def test_bad_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    digits_mlp(**arguments)


def test_a_data_set_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r"labels of shapes .+one label for each image"):
    MLP(random_data()._replace(test_labels=[1]))


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 3, 2)])
def test_a_conv_net_equals_its_twin_in_keras(shape):
  problem = ConvNet(random_data(shape=shape), (3, 4), "tanh", batch_size=6)
  params, constants = problem.init(seeds.make(0))
  params = [p + 0.1 for p in params]  # biases too
  layers = [tf.keras.layers.Conv2D(n, 3, 2, "same", activation="tanh") for n in (3, 4)]
  model = tf.keras.Sequential(
    [
      tf.keras.Input(shape),
      *layers,
      tf.keras.layers.Flatten(),
      tf.keras.layers.Dense(4),
    ]
  )
  model.set_weights(params)
  images, labels = problem._dataset.test_images, problem._dataset.test_labels
  expected = tf.keras.losses.sparse_categorical_crossentropy(
    labels, model(images), from_logits=True
  )
  held_out = problem.held_out(params, constants)
  np.testing.assert_allclose(held_out["held_out_loss"], np.mean(expected), rtol=1e-5)
  assert [tuple(p.shape) for p in params] == [p.shape for p in problem.parameters()]


def test_a_conv_nets_parameters_are_described():
  assert ConvNet(random_data(shape=(8, 8, 1)), (3, 4)).parameters() == [
    Parameter("convolution_0/kernel", (3, 3, 1, 3), "kernel"),
    Parameter("convolution_0/bias", (3,), "bias"),
    Parameter("convolution_1/kernel", (3, 3, 3, 4), "kernel"),
    Parameter("convolution_1/bias", (4,), "bias"),
    Parameter("output_0/kernel", (2 * 2 * 4, 4), "kernel"),
    Parameter("output_0/bias", (4,), "bias"),
  ]


def test_fan_in_keeps_the_size_of_what_a_layer_passes_on():
  params, _ = MLP(random_data(shape=(30, 10)), (200,), stddev="fan_in").init(
    seeds.make(0)
  )
  kernel, bias, last_kernel, last_bias = params
  np.testing.assert_allclose(np.std(kernel), 300**-0.5, rtol=0.02)
  np.testing.assert_allclose(np.std(last_kernel), 200**-0.5, rtol=0.1)
  assert not np.any(bias) and not np.any(last_bias)
  filters, *_ = ConvNet(random_data(shape=(8, 8, 9)), (100,)).init(seeds.make(0))[0]
  np.testing.assert_allclose(np.std(filters), (9 * 9) ** -0.5, rtol=0.05)


def test_a_table_is_no_input_of_a_conv_net():
  with pytest.raises(
    ValueError, match=r"examples of shape \(3,\); they must be images"
  ):
    ConvNet(random_data(shape=(3,)))


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"filters": (4, 0)}, r"ConvNet got filters=\(4, 0\); every size must be at"),
    ({"batch_size": 0}, "ConvNet got batch_size=0; it must be at least 1"),
    ({"stddev": "fan_out"}, "ConvNet got stddev='fan_out'; give a number or 'fan_in'"),
  ],
)
def test_bad_arguments_of_a_conv_net_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    ConvNet(random_data(shape=(8, 8, 1)), **arguments)
