import json
import os
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
from disk import largest_file, unchanged

from l2l_tf import seeds
from l2l_tf.evaluation import protocol
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import CoordinatewiseLSTM
from l2l_tf.problems import Problem, Simple
from l2l_tf.runs.training_run import ConfigurationError, TrainingRun, stop_signals
from l2l_tf.storage import export
from l2l_tf.storage.checkpoint import CheckpointError, WriteError

CONFIG = {"problem": "simple", "seed": 3, "layers": (), "patience": None}


class Trainer:
  """Stands in for `MetaTrainer`: an episode adds to the weights what it is."""

  problem, num_steps, seed = Simple(), 2, 3

  def __init__(self, layers=(), state_size=1):
    self.optimizer = CoordinatewiseLSTM(layers, seed=7)
    self.meta_state_variables = [tf.Variable(tf.zeros([state_size]))]
    self.estimator_state_variables = []

  def train_episode(self, episode):
    state = self.meta_state_variables[0]
    state.assign(0.9 * state + 0.1 * episode)
    for weight in self.optimizer.trainable_variables:
      weight.assign_add(tf.fill(weight.shape, state[0]))
    return {"skipped": np.array([episode % 3 == 0, False])}


@pytest.fixture
def validate(monkeypatch):
  """Sets the losses of the validations, by the number of finished epochs."""

  def set_losses(losses):
    def make_runner(problem, optimizer, num_steps):
      assert (problem, num_steps) == (Trainer.problem, Trainer.num_steps)

      def run(seed, branch, num_draws):
        assert (seed, branch) == (Trainer.seed, seeds.VALIDATION)
        curves = np.zeros([num_draws, num_steps + 1])
        curves[:, -1] = losses(optimizer) if callable(losses) else losses.pop(0)
        return protocol.Curves(curves, {})

      return run

    monkeypatch.setattr(protocol, "Runner", make_runner)

  set_losses(lambda optimizer: float(abs(optimizer.variables[0].numpy().sum() - 1.0)))
  return set_losses


def start(path, num_epochs=10, trainer=None, config=CONFIG, **kwargs):
  kwargs = {"evaluation_period": 2, "evaluation_epochs": 3, **kwargs}
  return TrainingRun(trainer or Trainer(), path, config, num_epochs, **kwargs)


def finish(run):
  return [e.number for e in run.epochs()]


def weights(optimizer):
  return [v.numpy().tobytes() for v in optimizer.variables]


def ending(run):
  """All that the run's end consists of, bit for bit."""
  progress = run.epoch, run.num_skipped, run.best_loss
  return (
    weights(run.trainer.optimizer),
    [v.numpy().tobytes() for v in [*run.trainer.meta_state_variables, *progress]],
    weights(export.load(run.export_path)),
  )


@pytest.fixture
def unbroken(validate, tmp_path):
  """How a run of ten epochs ends that nothing disturbs."""
  run = start(tmp_path / "unbroken")
  finish(run)
  return ending(run)


def test_every_epoch_is_yielded_and_each_period_validated(validate, tmp_path):
  run = start(tmp_path / "new" / "run", num_epochs=5)
  assert run.resumed_from is None and not run.is_finished
  epochs = list(run.epochs())
  assert [e.number for e in epochs] == [1, 2, 3, 4, 5]
  # The last epoch is validated although the period does not end with it.
  assert [e.validation is not None for e in epochs] == [False, True, False, True, True]
  assert epochs[1].validation.losses.shape == (3, 3)
  assert int(run.num_skipped) == 2
  assert run.is_finished and not finish(run)


def test_the_best_is_exported_not_the_last(validate, tmp_path):
  validate([3.0, 1.0, 2.0, 1.0, 1.5])
  run = start(tmp_path)
  best, held = [], []
  for epoch in run.epochs():
    best.append(epoch.is_best)
    held.append(weights(run.trainer.optimizer))
  assert [i for i, b in enumerate(best, 1) if b] == [2, 4]
  assert weights(export.load(run.export_path)) == held[3] != held[-1]
  assert float(run.best_loss) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_validation_that_is_not_finite_is_never_the_best(validate, tmp_path, bad):
  validate([bad, 2.0, bad, 1.0, bad])
  run = start(tmp_path)
  best = [e.is_best for e in run.epochs() if e.validation]
  assert best == [False, True, False, True, False]
  assert float(run.best_loss) == 1.0


def test_without_a_finite_validation_nothing_is_exported(validate, tmp_path):
  validate([np.nan] * 5)
  run = start(tmp_path)
  finish(run)
  assert not run.export_path.exists() and np.isinf(run.best_loss)
  assert start(tmp_path).is_finished


def test_patience_counts_validations_since_the_best(validate, tmp_path):
  validate([3.0, 3.0, 2.0, 2.5, np.nan, 1.0])
  run = start(tmp_path, num_epochs=100, patience=2)
  assert finish(run)[-1] == 10
  assert run.is_finished and float(run.best_loss) == 2.0


def test_patience_goes_on_where_a_run_was_stopped(validate, tmp_path):
  validate([2.0, 2.5])
  run = start(tmp_path, num_epochs=100, patience=2)
  next(e for e in run.epochs() if e.number == 5)
  run.save()
  validate([2.1, 1.0])
  run = start(tmp_path, num_epochs=100, patience=2)
  assert run.resumed_from == 5 and not run.is_finished
  assert finish(run) == [6]
  assert start(tmp_path, num_epochs=100, patience=2).is_finished


def described(path, num_epochs, **kwargs):
  """A run whose configuration says when it is validated and when it ends."""
  config = {"seed": 3, "num_epochs": num_epochs, **kwargs}
  names = ("num_epochs", "evaluation_period", "patience")
  return start(path, num_epochs, config=config, may_change=names, **kwargs)


@pytest.mark.parametrize("former", [4, 5])  # 5 ends within a period of 2
@pytest.mark.parametrize("stop", [3, 5])  # the latter finishes the run
def test_a_run_that_is_made_longer_ends_as_if_it_had_been_so_from_the_start(
  unbroken, tmp_path, former, stop
):
  next(e for e in described(tmp_path, former).epochs() if e.number == min(stop, former))
  before = described(tmp_path, former)
  assert not before.changes
  run = described(tmp_path, 10)
  assert run.changes == {"num_epochs": (former, 10)} and not run.is_finished
  assert run.resumed_from == before.resumed_from
  assert json.loads((tmp_path / "config.json").read_text())["num_epochs"] == 10
  assert finish(run) == list(range(run.resumed_from + 1, 11))
  assert ending(run) == unbroken
  with unchanged(tmp_path):
    assert described(tmp_path, 10).is_finished


def test_the_validation_at_a_former_end_costs_no_patience(validate, tmp_path):
  validate([1.0, 2.0])
  finish(described(tmp_path, 3, patience=2))
  validate([2.0, 3.0])
  run = described(tmp_path, 10, patience=2)
  # Epochs 2 (the best), 4 and 6 end periods, as in a run of ten from the start.
  assert finish(run) == [4, 5, 6] and run.is_finished


def test_the_best_of_a_former_end_stays_until_it_is_surpassed(validate, tmp_path):
  validate([2.0, 1.0])
  run = described(tmp_path, 3)
  finish(run)
  at_3 = weights(export.load(run.export_path))
  validate([1.5, 0.5])
  run = described(tmp_path, 6)
  best = {}
  for epoch in run.epochs():
    best[epoch.number] = weights(export.load(run.export_path)) == at_3, epoch.is_best
  assert best == {4: (True, False), 5: (True, False), 6: (False, True)}


def test_patience_can_be_raised_after_it_ran_out(validate, tmp_path):
  losses = [2.0, 2.5, 2.5, 1.0, 1.0]
  validate([*losses])
  unbroken = described(tmp_path / "unbroken", 10, patience=3)
  assert finish(unbroken)[-1] == 10
  validate([*losses])
  run = described(tmp_path / "run", 10, patience=2)
  assert finish(run)[-1] == 6
  validate(losses[3:])
  run = described(tmp_path / "run", 10, patience=3)
  assert run.changes == {"patience": (2, 3)}
  assert finish(run) == [7, 8, 9, 10]
  assert ending(run) == ending(unbroken)


def test_the_period_of_validations_can_be_changed(unbroken, tmp_path):
  next(e for e in described(tmp_path, 10, evaluation_period=2).epochs() if e[0] == 4)
  run = described(tmp_path, 10, evaluation_period=3)
  assert [e.number for e in run.epochs() if e.validation] == [6, 9, 10]
  trained, states, _ = ending(run)
  assert (trained, states[:-1]) == (unbroken[0], unbroken[1][:-1])  # but for the best


@pytest.mark.parametrize("num_epochs", [1, 4, 5])
def test_a_run_cannot_end_before_where_it_is(validate, tmp_path, num_epochs):
  run = described(tmp_path, 10)
  next(e for e in run.epochs() if e.number == 5)
  run.save()
  message = f"num_epochs={num_epochs} cannot end .* taken 5 epochs already; give a high"
  with unchanged(tmp_path), pytest.raises(ConfigurationError, match=message):
    described(tmp_path, num_epochs)
  assert finish(described(tmp_path, 6)) == [6]


def test_what_may_change_does_not_excuse_the_rest(validate, tmp_path):
  finish(described(tmp_path, 2))
  config = {"seed": 4, "num_epochs": 4}
  with (
    unchanged(tmp_path),
    pytest.raises(ConfigurationError, match="with seed=3, now 4; repeat") as caught,
  ):
    start(tmp_path, 4, config=config, may_change=["num_epochs"])
  assert caught.value.changes == {"seed": (3, 4)}


def test_a_full_disk_leaves_the_former_configuration(validate, tmp_path):
  finish(described(tmp_path, 2))
  with (
    unchanged(tmp_path),
    largest_file(10),
    pytest.raises(WriteError, match=r"config\.json"),
  ):
    described(tmp_path, 4)
  assert finish(described(tmp_path, 4)) == [3, 4]


@pytest.mark.parametrize("stop", [1, 2, 3, 9])
def test_a_run_that_was_saved_goes_on_to_the_same_end(unbroken, tmp_path, stop):
  run = start(tmp_path / "run")
  next(e for e in run.epochs() if e.number == stop)
  run.save()
  run = start(tmp_path / "run")
  assert run.resumed_from == stop
  assert finish(run) == list(range(stop + 1, 11))
  assert ending(run) == unbroken


@pytest.mark.parametrize("stop", [1, 5])
def test_a_run_that_died_goes_on_from_its_last_validation(unbroken, tmp_path, stop):
  next(e for e in start(tmp_path / "run").epochs() if e.number == stop)
  run = start(tmp_path / "run")
  assert run.resumed_from == (None if stop == 1 else 4)
  finish(run)
  assert ending(run) == unbroken


def test_a_death_between_export_and_checkpoint_costs_nothing(
  unbroken, tmp_path, monkeypatch
):
  run = start(tmp_path / "run")
  next(e for e in run.epochs() if e.number == 2)
  with monkeypatch.context() as m:
    m.setattr(run, "save", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
      finish(run)
  run = start(tmp_path / "run")
  assert run.resumed_from == 2
  finish(run)
  assert ending(run) == unbroken


@pytest.mark.parametrize("died", [4, 5])
def test_no_record_lacks_an_epoch_that_is_not_trained_again(unbroken, tmp_path, died):
  recorded = []

  def record(epoch):
    recorded.append(epoch.number)
    if epoch.number == died:
      raise KeyboardInterrupt  # before a checkpoint of epoch 4, or of none

  with pytest.raises(KeyboardInterrupt):
    for _ in start(tmp_path / "run").epochs(record):
      pass
  run = start(tmp_path / "run")
  assert run.resumed_from == {4: 2, 5: 4}[died] < recorded[-1] == died
  for _ in run.epochs(lambda epoch: recorded.append(epoch.number)):
    pass
  assert recorded[died:] == [*range(run.resumed_from + 1, 11)]
  assert ending(run) == unbroken


def test_a_damaged_checkpoint_costs_only_the_epochs_since_the_one_before(
  unbroken, tmp_path
):
  next(e for e in start(tmp_path / "run").epochs() if e.number == 6)
  (data,) = (tmp_path / "run" / "checkpoints").glob("ckpt-6.data*")
  data.write_bytes(data.read_bytes()[:-20])
  run = start(tmp_path / "run")
  assert run.resumed_from == 4
  finish(run)
  assert ending(run) == unbroken
  assert start(tmp_path / "run").resumed_from == 10


def test_leftovers_of_a_killed_process_are_harmless(unbroken, tmp_path):
  next(e for e in start(tmp_path / "run").epochs() if e.number == 4)
  for name in ".config.json.tmp", ".optimizer.l2l.npz.a1b2", "checkpoints/ckpt-6.index":
    (tmp_path / "run" / name).write_bytes(b"half")
  (tmp_path / "run" / "checkpoints" / "ckpt-6_temp").mkdir()
  run = start(tmp_path / "run")
  assert run.resumed_from == 4
  finish(run)
  assert ending(run) == unbroken


def test_without_a_good_checkpoint_there_is_an_error(validate, tmp_path):
  finish(start(tmp_path))
  for index in (tmp_path / "checkpoints").glob("ckpt-*.index"):
    index.write_bytes(b"")
  with unchanged(tmp_path), pytest.raises(CheckpointError, match="ckpt-10"):
    start(tmp_path)


def test_what_is_saved_is_not_saved_again(validate, tmp_path):
  run = start(tmp_path, num_epochs=2)
  finish(run)
  with unchanged(tmp_path):
    run.save()
    start(tmp_path, num_epochs=2).save()


@pytest.mark.parametrize(
  "name", ["num_epochs", "evaluation_period", "evaluation_epochs", "patience"]
)
@pytest.mark.parametrize("count", [0, -1])
def test_counts_below_one_are_refused(tmp_path, name, count):
  with pytest.raises(ValueError, match=f"{name}={count} must be at least 1"):
    start(tmp_path / "run", **{name: count})
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "change, complaint",
  [
    ({"seed": 4}, "seed=3, now 4;"),
    ({"seed": 4, "layers": [20]}, r"layers=\[\], now \[20\], seed=3, now 4;"),
    ({"patience": 5}, "patience=None, now 5;"),
    ({"new": 1.5}, "new=None, now 1.5;"),
  ],
)
def test_another_configuration_is_refused(validate, tmp_path, change, complaint):
  finish(start(tmp_path, num_epochs=2))
  message = f"belongs to a run of another configuration, with {complaint} repeat"
  with unchanged(tmp_path), pytest.raises(ConfigurationError, match=message):
    start(tmp_path, config={**CONFIG, **change})


@pytest.mark.parametrize(
  "content", [b"", b'{"seed": 3', b"[3]", b"null", b"\xff\xfe\x00"]
)
def test_a_damaged_configuration_is_refused(validate, tmp_path, content):
  finish(start(tmp_path, num_epochs=2))
  (tmp_path / "config.json").write_bytes(content)
  message = r"config\.json' is damaged; give another save_path"
  with unchanged(tmp_path), pytest.raises(ConfigurationError, match=message):
    start(tmp_path)


def test_checkpoints_without_a_configuration_are_refused(validate, tmp_path):
  finish(start(tmp_path, num_epochs=2))
  (tmp_path / "config.json").unlink()
  message = "holds an optimizer or checkpoints but no config.json"
  with unchanged(tmp_path), pytest.raises(ConfigurationError, match=message):
    start(tmp_path)


def test_a_lost_export_is_an_error(validate, tmp_path):
  run = start(tmp_path, num_epochs=2)
  finish(run)
  run.export_path.unlink()
  message = r"optimizer\.l2l\.npz', the best .* is missing; put it back"
  with unchanged(tmp_path), pytest.raises(ConfigurationError, match=message):
    start(tmp_path, num_epochs=2)


def test_a_directory_with_other_files_is_taken(validate, tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  finish(start(tmp_path))
  assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_is_no_save_path(tmp_path):
  file = tmp_path / "file"
  file.write_text("mine")
  with pytest.raises(ConfigurationError, match="file' is a file; give a directory"):
    start(file)
  with pytest.raises(WriteError, match="Not a directory"):
    start(file / "below")
  assert file.read_text() == "mine"


def test_a_directory_without_permission_to_write_is_an_error(tmp_path):
  tmp_path.chmod(0o555)
  user = os.geteuid()
  try:
    if user == 0:
      os.seteuid(65534)  # Root may write anywhere.
    with pytest.raises(OSError, match="Permission denied"):
      start(tmp_path / "run")
  finally:
    os.seteuid(user)
    tmp_path.chmod(0o755)
  assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_half_configuration(unbroken, tmp_path):
  with largest_file(10), pytest.raises(WriteError, match=r"config\.json"):
    start(tmp_path / "run")
  assert not list((tmp_path / "run").iterdir())
  run = start(tmp_path / "run")
  finish(run)
  assert ending(run) == unbroken


@pytest.mark.parametrize(
  "num_bytes, file", [(2_000, "optimizer.l2l.npz"), (50_000, "checkpoints/ckpt-6")]
)
def test_a_full_disk_costs_only_the_epochs_since_the_last_checkpoint(
  validate, tmp_path, num_bytes, file
):
  def start_large(path):
    return start(path, trainer=Trainer(layers=(40,), state_size=20_000))

  validate(lambda optimizer: -float(optimizer.variables[-1].numpy().sum()))
  unbroken = start_large(tmp_path / "unbroken")
  finish(unbroken)

  path = tmp_path / "run"
  run = start_large(path)
  next(e for e in run.epochs() if e.number == 5)
  with largest_file(num_bytes), pytest.raises(WriteError, match=str(path / file)):
    finish(run)
  assert not [p for p in path.iterdir() if p.name.startswith(".")]

  run = start_large(path)
  assert run.resumed_from == 4
  finish(run)
  assert ending(run) == ending(unbroken)


class Recorded(Problem):
  """Quadratics that keep each target they draw."""

  def __init__(self):
    self.drawn = []

  def init(self, seed):
    target = tf.random.stateless_normal([], seed)
    return [tf.zeros([])], [self._record(target)]

  def __call__(self, params, constants, seed):
    return tf.square(params[0] - constants[0])

  def _record(self, target):
    def keep(x):
      self.drawn.append(float(x))
      return x

    return tf.ensure_shape(tf.numpy_function(keep, [target], tf.float32), [])


def test_validation_has_fixed_tasks_that_training_never_draws(tmp_path):
  problem = Recorded()
  trainer = MetaTrainer(problem, CoordinatewiseLSTM(()), num_steps=2, unroll_length=1)
  run = start(tmp_path, trainer=trainer, evaluation_period=5, evaluation_epochs=4)
  training, validations = [], []
  for epoch in run.epochs():
    split = len(problem.drawn) - (4 if epoch.validation else 0)
    training += problem.drawn[:split]
    validations += [problem.drawn[split:]] if epoch.validation else []
    problem.drawn.clear()
  assert len(set(training)) == 10
  assert len(set(validations[0])) == 4 and validations[0] == validations[1]
  assert not set(training) & set(validations[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request_and_a_second_one_acts(number, capfd):
  def usual(*_):
    raise InterruptedError

  former = {s: signal.signal(s, usual) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    with stop_signals("stopping\n") as received:
      assert not received
      os.kill(os.getpid(), number)
      assert received == [number]
      assert capfd.readouterr() == ("", "stopping\n")
      with pytest.raises(InterruptedError):
        os.kill(os.getpid(), number)
    with stop_signals():
      pass
    assert all(signal.getsignal(s) is usual for s in former)
  finally:
    for s, handler in former.items():
      signal.signal(s, handler)


def test_the_configuration_is_kept_as_json(validate, tmp_path):
  start(tmp_path)
  assert json.loads((tmp_path / "config.json").read_text()) == {**CONFIG, "layers": []}
  start(tmp_path, config={**CONFIG, "layers": []})


def test_a_moved_run_goes_on(unbroken, tmp_path):
  next(e for e in start(tmp_path / "old").epochs() if e.number == 6)
  shutil.move(tmp_path / "old", tmp_path / "run")
  run = start(tmp_path / "run")
  assert run.resumed_from == 6
  finish(run)
  assert ending(run) == unbroken
  kept = {p.name.split(".")[0] for p in (tmp_path / "run/checkpoints").glob("ckpt-*")}
  assert kept == {"ckpt-6", "ckpt-8", "ckpt-10"}
