"""A learned optimizer in Keras on two replicas ends as on one, and resumes exactly.

On one replica with the joint batch, on two devices of one process, on two processes.
"""

import json

import numpy as np
import pytest

from l2l_tf.runs import local_cluster
from l2l_tf.runs.settings import LaunchSettings

_FIT = """
import json, os, signal, sys
kind, number = sys.argv[1], 0
if kind == "workers":
  os.environ["TF_CONFIG"] = sys.argv[2]  # before TensorFlow is asked for anything
  number = json.loads(sys.argv[2])["task"]["index"]
import keras, numpy as np, tensorflow as tf
if kind == "workers":
  strategy = tf.distribute.MultiWorkerMirroredStrategy()
elif kind == "devices":
  cpu = tf.config.list_physical_devices("CPU")[0]
  two_devices = [tf.config.LogicalDeviceConfiguration()] * 2
  tf.config.set_logical_device_configuration(cpu, two_devices)
  strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
else:
  strategy = tf.distribute.get_strategy()
from l2l_tf.keras import LearnedOptimizer, for_workers
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM, SGD
x = np.random.RandomState(0).normal(size=(80, 4)).astype(np.float32)
y = x @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)

def fit(wrapped, epochs, callbacks=(), validation_data=None, **options):
  draw = keras.initializers.GlorotUniform
  with strategy.scope():
    layer = lambda n, f: keras.layers.Dense(n, f, kernel_initializer=draw(n))
    model = keras.Sequential([keras.Input([4]), layer(6, "tanh"), layer(1, None)])
    for_workers(model).compile(LearnedOptimizer(wrapped, **options), "mse")
  history = model.fit(
    x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0,
    validation_data=validation_data, validation_freq=epochs, callbacks=callbacks,
  ).history
  for variable in model.optimizer.variables:
    copies = strategy.experimental_local_results(variable.value)
    assert all(np.array_equal(copy, copies[0]) for copy in copies), variable.path
  return history | {"weights": np.concatenate([w.ravel() for w in model.get_weights()])}
"""
_CASES = (
  _FIT
  + """
lstm = CoordinatewiseLSTM((5, 4), "log_and_sign", 0.05)
averages = {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3}
found = {
  "clipvalue": fit(SGD(0.1), 2, clipvalue=0.1),
  "averages": fit(SGD(0.1), 2, clipnorm=0.3, **averages),
  "accumulation": fit(
    Adam(0.05), 2, gradient_accumulation_steps=2, global_clipnorm=0.3, **averages
  ),
}
if kind != "devices":
  found["LSTM"] = fit(lstm, 10, validation_data=(x, y))
np.savez(f"{kind}-{number}.npz", **{
  f"{case}/{name}": value for case, of in found.items() for name, value in of.items()
})
"""
)
_OPTIONS = "clipvalue", "averages", "accumulation"
_PLACES = [
  *((name, "devices-0") for name in _OPTIONS),
  *((name, f"workers-{i}") for name in ("LSTM", *_OPTIONS) for i in range(2)),
]


def _start_workers(forks, path, code, *args):
  """Starts two workers, that find each other on free ports."""
  ports = local_cluster.ports(LaunchSettings(workers=2))
  configs = [local_cluster.environment(ports, i)["TF_CONFIG"] for i in range(2)]
  return [
    forks.start("", "workers", config, *args, cwd=path, code=code) for config in configs
  ]


@pytest.fixture(scope="module")
def found(library_forks, tmp_path_factory):
  """How every case ended, by where it ran."""
  path = tmp_path_factory.mktemp("workers")
  for kind in ("one", "devices"):
    ended = library_forks.run("", kind, cwd=path, code=_CASES)
    assert ended.code == 0, ended.err
  for ended in [w.wait() for w in _start_workers(library_forks, path, _CASES)]:
    assert ended.code == 0, ended.err
  return {file.stem: dict(np.load(file)) for file in path.glob("*.npz")}


@pytest.mark.parametrize(("name", "place"), _PLACES)
def test_two_replicas_end_as_one_with_the_joint_batch(found, name, place):
  ends, of_one = (
    {k: v for k, v in found[p].items() if k.startswith(name)} for p in (place, "one-0")
  )
  assert ends.keys() == of_one.keys()
  w, v = ends.pop(f"{name}/weights"), of_one[f"{name}/weights"]
  assert np.linalg.norm(w - v) < 1e-6 * np.linalg.norm(v)
  for metric, value in ends.items():
    np.testing.assert_allclose(value, of_one[metric], rtol=1e-5)


_RESUMED = (
  _FIT
  + """
class Killed(keras.callbacks.Callback):
  def on_train_batch_end(self, batch, logs=None):
    if number == 1 and self.model.optimizer.iterations.numpy() == 18:
      os.kill(os.getpid(), signal.SIGKILL)

# The first worker writes for all.
often = {} if number == 0 else {"save_freq": 10**9, "delete_checkpoint": False}
backup = keras.callbacks.BackupAndRestore("backup", **often)
disturbed = [Killed()] if sys.argv[3] == "killed" else []
ends = fit(CoordinatewiseLSTM((5, 4), "log_and_sign", 0.05), 10, [backup, *disturbed])
assert len(ends["loss"]) == 7, ends
np.save(f"{number}.npy", ends["weights"])
"""
)


def test_backup_and_restore_resumes_after_a_worker_was_killed(
  found, library_forks, tmp_path
):
  start = lambda how: _start_workers(library_forks, tmp_path, _RESUMED, how)
  first, second = start("killed")
  assert second.wait().code == -9
  first.kill()
  metadata = json.loads((tmp_path / "backup" / "training_metadata.json").read_text())
  assert metadata["epoch"] == 3
  for ended in [w.wait() for w in start("resumed")]:
    assert ended.code == 0, ended.err
  for i in range(2):
    weights = np.load(tmp_path / f"{i}.npy")
    np.testing.assert_array_equal(weights, found["workers-0"]["LSTM/weights"])
  assert not (tmp_path / "backup").exists()
