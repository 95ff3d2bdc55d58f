"""A learned optimizer in Keras on several replicas."""

_TWO_REPLICAS = """
import keras, numpy as np, tensorflow as tf
from l2l_tf.keras import Diagnostics, LearnedOptimizer
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM, GeneralRule
cpu = tf.config.list_physical_devices("CPU")[0]
two_devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two_devices)
x = np.random.RandomState(0).normal(size=(64, 4)).astype(np.float32)
y = x @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)

def fit(make, strategy, has_input, **options):
  draw = keras.initializers.GlorotUniform
  with strategy.scope():
    layers = [keras.layers.Dense(n, kernel_initializer=draw(n)) for n in (6, 1)]
    model = keras.Sequential([keras.Input([4])] * has_input + layers)
    model.compile(LearnedOptimizer(make(), block_size=16, **options), loss="mse")
  watch = Diagnostics(period=1, verbose=False)
  kwargs = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
  losses = model.fit(x, y, callbacks=[watch], **kwargs).history
  assert len(watch.records) == 12
  return losses["loss"], [w for w in model.get_weights()], model.optimizer

one = tf.distribute.OneDeviceStrategy("CPU:0")
lstm = lambda: CoordinatewiseLSTM((5, 4), "log_and_sign", 0.05)
for make, has_input, options in [
  (lstm, False, {"weight_decay": 0.1, "use_ema": True}),
  (lambda: Adam(0.05), False, {"nonfinite_gradients": "skip"}),
  (GeneralRule, True, {"total_steps": 12}),
]:
  two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  assert two.num_replicas_in_sync == 2
  losses, weights, optimizer = fit(make, two, has_input, **options)
  alone, others, _ = fit(make, one, has_input, **options)
  np.testing.assert_allclose(losses, alone, rtol=1e-3)
  for w, v in zip(weights, others):
    np.testing.assert_allclose(w, v, rtol=1e-2, atol=1e-4)
  for state in optimizer.variables:
    copies = two.experimental_local_results(state.value)
    np.testing.assert_array_equal(copies[0], copies[1])
print("equal")
"""


def test_two_replicas_equal_one_with_the_joint_batch(library_forks):
  ended = library_forks.run("", code=_TWO_REPLICAS)  # whose CPU is not in use yet
  assert ended.out.strip().endswith("equal"), ended.err


_WEIGHTS_ON_ONE_DEVICE = """
import keras, tensorflow as tf
from l2l_tf.keras import LearnedOptimizer
from l2l_tf.optimizers import CoordinatewiseLSTM
cpu = tf.config.list_physical_devices("CPU")[0]
two_devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two_devices)
lstm = CoordinatewiseLSTM((5,), "log_and_sign", 0.1)
own = CoordinatewiseLSTM((5,), lambda g: tf.stack([g, tf.tanh(g)], axis=-1), 0.1)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
  found = LearnedOptimizer(lstm).optimizer.variables
  for variable, weight in zip(found, lstm.variables, strict=True):
    assert isinstance(variable, tf.distribute.DistributedValues)
    tf.debugging.assert_equal(variable, weight)
  try:
    LearnedOptimizer(own)
  except ValueError as error:
    print(error)
"""


def test_weights_on_one_device_are_mirrored_or_refused(library_forks):
  ended = library_forks.run("", code=_WEIGHTS_ON_ONE_DEVICE)
  assert "make it in the strategy's scope too" in ended.out, ended.err
