"""What the Keras callback records, and what it says about it."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_models import X, Y, built, fit, lstm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from l2l_tf.keras import Diagnostics, LearnedOptimizer
from l2l_tf.optimizers import SGD, HierarchicalRNN

LAYERS = ["hidden", "out"]


@pytest.fixture
def record(sequential):
  """Returns what fits a model and records its steps."""

  def fitted(optimizer, period=1, epochs=1, model=None, **kwargs):
    diagnostics = Diagnostics(period=period, verbose=False)
    fit(model or sequential(), optimizer, epochs, callbacks=[diagnostics], **kwargs)
    return diagnostics

  return fitted


def test_gradient_descent_is_recognised(record):
  for _, values in record(LearnedOptimizer(SGD(0.5), 0.1)).records:
    for layer in LAYERS:
      assert values[f"cosine/net/{layer}"] == pytest.approx(1.0, abs=1e-5)
      rate = values[f"effective_learning_rate/net/{layer}"]
      assert rate == pytest.approx(0.05, rel=1e-4)
      size = values[f"gradient_size/net/{layer}"]
      assert values[f"update_size/net/{layer}"] == pytest.approx(0.05 * size, rel=1e-4)


@pytest.mark.parametrize("block_size", [None, 7])
def test_records_equal_a_derivation_in_numpy(record, sequential, block_size):
  recorded = record(LearnedOptimizer(lstm(), 0.5, block_size=block_size)).records
  assert [step for step, _ in recorded] == [0, 1, 2, 3]
  other, optimizer = built(sequential()), lstm()
  params = other.trainable_variables
  state = optimizer.initial_state([tf.convert_to_tensor(p) for p in params])
  for step, values in recorded:
    with tf.GradientTape() as tape:
      batch = slice(16 * step, 16 * step + 16)
      loss = tf.reduce_mean(tf.square(other(X[batch]) - Y[batch]))
    grads = tape.gradient(loss, params)
    for layer, variables, begin, end in [("hidden", 0, 0, 30), ("out", 2, 30, 37)]:
      own = tf.nest.map_structure(lambda x, b=begin, e=end: x[:, b:e], state)
      gates = optimizer.diagnostics(grads[variables : variables + 2], own)
      for gate, value in gates.items():
        found = values[f"saturation/net/{layer}/{gate}"]
        assert found == pytest.approx(float(value), abs=1e-5)
    updates, state = optimizer(grads, state)
    flat = lambda x: [
      np.concatenate([np.ravel(t) for t in x[i : i + 2]]) for i in (0, 2)
    ]
    updates = [0.5 * u for u in updates]
    for layer, p, g, u in zip(LAYERS, flat(params), flat(grads), flat(updates)):
      expected = {
        "gradient_size": np.sqrt(np.mean(g**2)),
        "update_size": np.sqrt(np.mean(u**2)),
        "relative_update": np.sqrt(np.sum(u**2) / np.sum(p**2)),
        "cosine": -u @ g / np.sqrt((u @ u) * (g @ g)),
        "effective_learning_rate": -u @ g / (g @ g),
      }
      for kind, value in expected.items():
        found = values[f"{kind}/net/{layer}"]
        assert found == pytest.approx(value, rel=2e-3, abs=1e-5), (kind, step)
    for p, u in zip(params, updates):
      p.assign_add(u)


@pytest.fixture(scope="module")
def every_step(sequential):
  """The records of all steps of two epochs."""
  diagnostics = Diagnostics(period=1, verbose=False)
  fit(sequential(), LearnedOptimizer(lstm()), 2, callbacks=[diagnostics])
  return dict(diagnostics.records)


@pytest.mark.parametrize(
  ("options", "steps"),
  [
    ({"jit_compile": True}, [0, 3, 6]),
    ({"run_eagerly": True}, [0, 3, 6]),
    ({"steps_per_execution": 4}, [3, 6]),  # The last one of each execution.
  ],
  ids=str,
)
def test_every_third_step_however_fit_runs(record, every_step, options, steps):
  found = record(LearnedOptimizer(lstm()), 3, 2, compile_options=options)
  assert [step for step, _ in found.records] == steps
  for step, values in found.records:
    assert values == pytest.approx(every_step[step], rel=1e-2, abs=1e-4)


def test_training_is_the_same_with_it_and_goes_on_without_it(sequential):
  watched, alone = sequential(), sequential()
  losses = fit(
    watched, LearnedOptimizer(lstm()), callbacks=[Diagnostics(verbose=False)]
  )
  np.testing.assert_allclose(losses, fit(alone, LearnedOptimizer(lstm())), rtol=1e-5)
  again = [
    m.fit(X, Y, shuffle=False, verbose=0).history["loss"] for m in (watched, alone)
  ]
  np.testing.assert_allclose(*again, rtol=1e-4)
  late = Diagnostics(period=1, verbose=False)  # on what was traced without it
  alone.fit(X, Y, batch_size=16, verbose=0, callbacks=[late])
  assert len(late.records) == 4


def test_several_at_once_and_one_that_was_interrupted(sequential):
  pair = [Diagnostics(period=n, verbose=False) for n in (1, 2)]
  network = built(sequential())
  fit(network, LearnedOptimizer(lstm()), 1, callbacks=pair)
  assert [len(d.records) for d in pair] == [4, 2]

  class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    network.fit(X, Y, verbose=0, callbacks=[Diagnostics(verbose=False), Stop()])
  late = Diagnostics(period=1, verbose=False)
  network.fit(X, Y, batch_size=16, verbose=0, callbacks=[late])
  assert len(late.records) == 4


def test_tensorboard_shows_all(sequential, tmp_path):
  diagnostics = Diagnostics(tmp_path, period=2, verbose=False)
  fit(sequential(), LearnedOptimizer(lstm()), 2, callbacks=[diagnostics])
  events = EventAccumulator(str(tmp_path / "optimizer")).Reload()
  tags = events.Tags()["tensors"]
  assert set(tags) == {*diagnostics.records[0][1], "skipped_steps", "findings"}
  shown = events.Tensors("cosine/net/hidden")
  assert [event.step for event in shown] == [0, 2, 4, 6]
  for event, (_, values) in zip(shown, diagnostics.records):
    value = tf.make_ndarray(event.tensor_proto)
    assert value == pytest.approx(values["cosine/net/hidden"])


def test_skipped_steps_are_in_the_logs_and_in_the_findings(findings, sequential):
  y = np.where(np.arange(64)[:, None] == 20, np.nan, Y)
  diagnostics = Diagnostics(verbose=False)
  network = built(sequential())
  network.compile(LearnedOptimizer(lstm(), nonfinite_gradients="skip"), "mse")
  history = network.fit(
    X, y, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[diagnostics]
  )
  assert history.history["skipped_steps"] == [1, 2, 3]
  assert any(s.startswith("3 steps were skipped") for s in diagnostics.findings())


def test_a_skipped_step_that_xla_could_not_raise_is_raised_after_its_batch(sequential):
  y = np.where(np.arange(64)[:, None] == 20, np.nan, Y)
  network = built(sequential())
  network.compile(LearnedOptimizer(lstm()), "mse", jit_compile=True)
  with pytest.raises(tf.errors.InvalidArgumentError, match="Skipped 1 of the steps"):
    network.fit(X, y, 16, 3, shuffle=False, verbose=0, callbacks=[Diagnostics()])
  assert network.optimizer.iterations == 2


def test_findings_where_no_gradient_was_ever_finite(findings, sequential):
  optimizer = LearnedOptimizer(lstm(), nonfinite_gradients="skip")
  found = findings(optimizer, y=np.full_like(Y, np.nan))
  assert found.startswith("No record of the last half was finite")
  assert "4 steps were skipped, as a gradient was not finite" in found


@pytest.fixture
def findings(record):
  """Returns what says what a fit of one epoch showed."""
  return lambda *args, **kwargs: "\n".join(record(*args, **kwargs).findings())


def test_findings_say_what_is_wrong_and_nothing_else(findings, sequential, capsys):
  fine = findings(LearnedOptimizer(SGD(0.01)))
  assert fine == "Nothing stands out: every layer moves, and downhill."
  uphill = findings(LearnedOptimizer(SGD(0.01), -1.0))
  assert "net/hidden: its updates go uphill (cosine -1)" in uphill
  assert "net/out: it hardly moves" in findings(LearnedOptimizer(SGD(1e-9)))
  wildly = findings(LearnedOptimizer(SGD(2.0), clipvalue=1.0))
  assert "of its size in a step; a lower learning_rate" in wildly
  dead = built(sequential())
  dead.layers[1].set_weights([np.zeros([6, 1]), np.zeros([1])])
  dead.layers[1].trainable = False
  assert "net/hidden: no gradient reaches it" in findings(
    LearnedOptimizer(SGD(0.01)), model=dead
  )
  saturating = lstm()
  biases = next(v for v in saturating.variables if v.shape == [20])  # of layer 1
  biases.assign(30.0 * tf.ones_like(biases))
  assert "lstm_1/input_gate: 100% saturated" in findings(LearnedOptimizer(saturating))
  decays = findings(LearnedOptimizer(HierarchicalRNN(0.01)))  # near 1, and no gates
  assert "saturated" not in decays
  assert not capsys.readouterr().out


def test_findings_are_printed_at_the_end(sequential, capsys):
  fit(sequential(), LearnedOptimizer(SGD(0.01)), 1, callbacks=[Diagnostics()])
  assert "Diagnostics:\n  Nothing stands out" in capsys.readouterr().out


def test_it_needs_a_learned_optimizer_and_steps_to_record(sequential):
  with pytest.raises(TypeError, match="but the model was compiled with Adam"):
    fit(sequential(), keras.optimizers.Adam(), 1, callbacks=[Diagnostics()])
  with pytest.raises(ValueError, match="period=0; it must be at least 1"):
    Diagnostics(period=0)


def test_nothing_is_written_without_a_directory(record, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  record(LearnedOptimizer(lstm()))
  assert not list(pathlib.Path(tmp_path).iterdir())
