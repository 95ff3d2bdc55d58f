"""Training, tests and figures of few-shot methods."""

import csv
import dataclasses
import os
import re
import signal

import numpy as np
import pytest

from l2l_tf import seeds
from l2l_tf.evaluation import few_shot as protocol
from l2l_tf.evaluation import gates
from l2l_tf.meta import unroll
from l2l_tf.optimizers import SGD, Adam, ConstantGates, GateLSTM, LearnedStart
from l2l_tf.problems import AllClasses, ConvBlocks, Dense, few_shot
from l2l_tf.runs import few_shot as command
from l2l_tf.runs import few_shot_net, few_shot_training
from l2l_tf.runs.settings import FEW_SHOT_METHODS, FewShotSettings
from l2l_tf.runs.training_run import OPTIMIZER, ConfigurationError
from l2l_tf.storage import export

TINY = FewShotSettings(
  dataset="digits", ways=3, queries=2, learner="dense", num_steps=2, num_updates=4,
  evaluation_period=2, validation_episodes=2, test_episodes=3, gate_tasks=2,
)  # fmt: skip


def started(problem, optimizer, seed=9):
  shapes = [p.shape for p in problem.parameters()]
  return LearnedStart(optimizer, shapes).begin_at(problem.init(seeds.make(seed))[0])


@pytest.fixture(scope="module")
def conv():
  problem = few_shot("digits", 3, 1, 2, "test", ConvBlocks(filters=2, blocks=2))
  return problem, started(problem, ConstantGates(0.1))


def test_the_order_of_test_episodes_changes_nothing(conv):
  runner = protocol.EpisodeRunner(*conv, 2)
  keys = [seeds.make(0, i) for i in range(4)]
  one, other = runner.on(keys), runner.on(keys[::-1])
  np.testing.assert_array_equal(one.losses, other.losses[::-1])
  np.testing.assert_array_equal(*(x.held_out["accuracy"][::d]
                                  for x, d in ((one, 1), (other, -1))))  # fmt: skip
  assert len({tuple(x) for x in one.losses}) == 4


def test_scores_are_those_of_the_episodes_after_the_last_step(conv):
  problem, optimizer = conv
  found = protocol.scores(problem, optimizer, 2, 3, seed=1)
  for i, accuracy in enumerate(found.accuracies):
    key = seeds.make(1, seeds.EVALUATION, i)
    task, carry = unroll.start(problem, optimizer, key)
    end, _ = unroll.unroll(problem, optimizer, task, carry, 2)
    expected = problem.held_out(end.params, task.constants)["held_out_accuracy"]
    np.testing.assert_allclose(accuracy, expected)
  scores = protocol.Scores(np.array([0.5, 0.7, 0.9]))
  difference = scores.minus(protocol.Scores(np.array([0.4, 0.6, 0.8])))
  np.testing.assert_allclose(
    [difference.mean, difference.half_width], [0.1, 0], 0, 1e-9
  )
  np.testing.assert_allclose(scores.half_width, 1.96 * 0.2 / np.sqrt(3))
  assert np.isnan(protocol.Scores(np.array([0.5])).half_width)


def test_a_baseline_gets_the_rate_that_is_best_on_other_classes():
  train, test = (few_shot("digits", 3, 2, 4, s, Dense(8)) for s in ("train", "test"))
  start = test.init(seeds.make(0))[0]
  found = protocol.tuned_scores(test, train, start, 4, 3, 6, 0, (1e-6, 0.1))
  assert found.learning_rate == 0.1
  same = started(test, SGD(0.1)).begin_at(start)
  expected = protocol.scores(test, same, 4, 3, 0).accuracies
  np.testing.assert_array_equal(found.accuracies, expected)
  adam = protocol.tuned_scores(test, train, start, 4, 3, 1, 0, (1e-6,), Adam)
  same = started(test, Adam(1e-6)).begin_at(start)
  np.testing.assert_allclose(adam.losses, protocol.scores(test, same, 4, 3, 0).losses)


def test_a_neighbour_is_the_most_similar_support_image():
  problem = few_shot("digits", 3, 2, 4, "test", Dense(8))
  params = problem.init(seeds.make(0))[0]
  found = protocol.neighbour_scores(problem, params, 2, 0)
  for i, accuracy in enumerate(found.accuracies):
    task, _ = unroll.draw(problem, seeds.make(0, seeds.EVALUATION, i))
    support, query = (
      np.maximum(x.numpy().reshape(len(x), -1) @ params[0] + params[1], 0)
      for x in task.constants
    )
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    nearest = (unit(query) @ unit(support).T).argmax(axis=1)
    expected = np.mean(nearest // 2 == np.arange(12) // 4)
    np.testing.assert_allclose(accuracy, expected, rtol=1e-6)


def test_gates_are_recorded_summarized_and_drawn():
  problem = few_shot("digits", 3, 1, 2, "test", Dense(4))
  cell = GateLSTM()
  optimizer, key = started(problem, cell), seeds.make(0)
  (one,) = gates.trace(problem, optimizer, 2, [key])
  task, carry = unroll.start(problem, optimizer, key, unroll.second_order)
  for step in range(2):
    carry, _ = unroll.step(problem, optimizer, task, carry, unroll.second_order)
    for name, found in zip(gates.GATES, cell.gates(carry.state, carry.params)):
      values = getattr(one, name)[step]
      for gate, (mean, low, high) in zip(found, values, strict=True):
        np.testing.assert_allclose(mean, np.mean(gate), rtol=1e-5)
        assert np.min(gate) <= low <= high <= np.max(gate)
  flat = lambda x: np.full([2, 4, 3], x, np.float32)
  two = [gates.Trace(flat(0.9), flat(0.1)), gates.Trace(flat(0.8), flat(0.3))]
  found = gates.summarize(two, np.array([True, False, True, False]))
  np.testing.assert_allclose(found, [0.85, 0.8, 0.2, 0.0, 0.5], rtol=1e-6)
  names = [p.path for p in problem.parameters()]
  assert len(gates.rows(two, names)) == 1 + 2 * 2 * 2 * 4
  figure = gates.draw(two, names, "gates")
  assert len(figure.axes) == 4 and len(figure.axes[0].lines) == 2
  with pytest.raises(ValueError, match="LearnedStart has no gates to show; give a Ga"):
    gates.trace(problem, started(problem, SGD(0.1)), 2, [key])


def trained(settings, path, method="maml"):
  splits = (few_shot("digits", 3, 1, 2, "train", "dense") for _ in range(2))
  settings = settings.resolved()
  return few_shot_training.train(method, *splits, 2, settings, path / method)


def test_a_training_goes_on_as_if_it_had_not_stopped(tmp_path, capsys):
  shorter = dataclasses.replace(TINY, num_updates=2)
  assert trained(TINY, tmp_path / "whole") == 0
  assert trained(shorter, tmp_path / "parts") == 0
  assert trained(TINY, tmp_path / "parts") == 0
  whole, parts = (tmp_path / p / "maml" / OPTIMIZER for p in ("whole", "parts"))
  assert whole.read_bytes() == parts.read_bytes()
  assert trained(TINY, tmp_path / "parts") == 0
  assert "4 updates, trained already" in capsys.readouterr().out
  with pytest.raises(ConfigurationError, match=r"learning_rate=0\.001, now"):
    trained(dataclasses.replace(TINY, learning_rate=0.1), tmp_path / "parts")


def test_a_training_that_a_signal_ended_is_validated_when_its_time_is_over(
  tmp_path, monkeypatch
):
  def interrupted(run):
    os.kill(os.getpid(), signal.SIGINT)
    return "interrupted"

  monkeypatch.setattr(few_shot_training, "_standing", interrupted)
  assert trained(TINY, tmp_path) == 128 + signal.SIGINT
  exported = tmp_path / "maml" / OPTIMIZER
  assert not exported.exists()
  for _ in range(2):
    assert trained(dataclasses.replace(TINY, minutes=1e-9), tmp_path) == 0
    assert exported.exists()


def test_the_time_ends_a_training_and_more_of_it_goes_on(tmp_path):
  problem = few_shot("digits", 3, 1, 2, "train", "dense")
  short = dataclasses.replace(TINY, minutes=1e-6, num_updates=1000).resolved()
  assert few_shot_net.train(problem, short, tmp_path) == 0
  spent = float((tmp_path / "seconds.txt").read_text())
  first = export.load(tmp_path / OPTIMIZER)
  assert few_shot_net.train(problem, short, tmp_path) == 0
  assert float((tmp_path / "seconds.txt").read_text()) == spent
  longer = dataclasses.replace(short, minutes=(spent + 0.001) / 60)
  assert few_shot_net.train(problem, longer, tmp_path) == 0
  second = export.load(tmp_path / OPTIMIZER)
  assert np.any(first.start[0] != second.start[0])
  *_, kernel, bias = few_shot_net.start(tmp_path, problem)
  assert kernel.shape == (64, 3) and not np.any(kernel) and not np.any(bias)


def test_the_net_learns_all_training_classes():
  problem = AllClasses(few_shot("digits", 3, learner="dense"), 32)
  optimizer = SGD(0.3)
  task, carry = unroll.start(problem, optimizer, seeds.make(0))
  _, losses = unroll.unroll(problem, optimizer, task, carry, 150)
  assert np.log(7) * 0.7 < carry.loss and np.mean(losses[-20:]) < 0.2


def test_reptile_trains_on_batches_of_all_images():
  problem = few_shot_training.with_all_images(few_shot("digits", 3, 1, 15))
  assert (problem.shots, problem.queries, problem._batch_size) == (10, 1, 6)
  narrow = few_shot_training.with_all_images(few_shot("digits", 3, 5, 2))
  assert (narrow.shots, narrow._batch_size) == (6, 18)


def test_the_command_leaves_tables_scores_and_gates(tmp_path, capsys):
  methods = ("gate_lstm", "maml", "fine_tuning", "neighbours")
  settings = dataclasses.replace(
    TINY, methods=methods, save_path=str(tmp_path), num_updates=1, num_steps=1,
    test_seeds=2,
  )  # fmt: skip
  assert command.few_shot(settings) == 0
  out = capsys.readouterr().out
  assert re.search(
    r"GateLSTM: forget gates 0\.99\d+ on average, no layer's below 0\.99", out
  )
  table = (tmp_path / "table.md").read_text()
  for method in methods:
    assert FEW_SHOT_METHODS[method] in table
  with (tmp_path / "scores.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 24 and all(0 <= float(row["accuracy"]) <= 1 for row in rows)
  gated = [row for row in rows if row["method"] == "gate_lstm"]
  assert [row["seed"] for row in gated] == ["0"] * 3 + ["1"] * 3
  learned = export.load(tmp_path / "gate_lstm" / OPTIMIZER)
  problem = few_shot("digits", 3, 1, 2, "test", "dense")
  second = protocol.scores(problem, learned, 1, 3, seed=1).accuracies
  np.testing.assert_allclose([float(r["accuracy"]) for r in gated[3:]], second, 1e-5)
  text = (tmp_path / "table.txt").read_text()
  assert "2 x 3 test episodes" in text
  maml = [float(row["accuracy"]) for row in rows if row["method"] == "maml"]
  difference = np.mean([float(row["accuracy"]) for row in gated]) - np.mean(maml)
  assert re.search(rf"GateLSTM .*{100 * difference:+.2f}%".replace("+", r"\+"), text)
  for name in ("gates.png", "gates.csv", OPTIMIZER, "checkpoints"):
    assert (tmp_path / "gate_lstm" / name).exists()
  assert list(tmp_path.glob("events*")) and list(tmp_path.glob("gate_lstm/events*"))


def test_too_many_ways_are_one_sentence_before_anything_is_trained(tmp_path):
  settings = dataclasses.replace(TINY, ways=5, save_path=str(tmp_path / "none"))
  with pytest.raises(ValueError, match="ways=5, but there are only 3 classes to draw"):
    command.few_shot(settings)
  assert not (tmp_path / "none").exists()


def test_defaults_are_those_of_the_paper():
  assert FewShotSettings().resolved().num_steps == 12
  five = FewShotSettings(shots=5).resolved()
  assert five.num_steps == 8
  assert five.save_path == "tensorboard_logs/fewshot_omniglot_5way_5shot"
  trainer = few_shot_training.make_trainer(
    "gate_lstm_memory", few_shot("digits", 3, learner="dense"), five
  )
  assert trainer.objective.clip_norm == 0.25 and trainer.unroll_length == 8
  assert len(trainer.optimizer.get_phi()) == 4 + 3 + 4
  assert isinstance(trainer.optimizer.inner, GateLSTM)
