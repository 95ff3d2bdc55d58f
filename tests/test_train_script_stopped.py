"""l2l-train, stopped at any moment, ends with the same bits.

So does one that is killed while it writes, in `test_train_script.py`.
"""

import random
import resource
import signal
import time

import pytest
from processes import rows
from short_run import IN_LOGS, LINEAR, NUM_EPOCHS, PERIOD, UNPICTURED, latest, result
from tensorboard.backend.event_processing import event_accumulator


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory):
  """The directory of a training that nothing disturbed."""
  path = tmp_path_factory.mktemp("undisturbed")
  assert forks.run("train", *LINEAR, f"--save_path={path}").code == 0
  return path


def test_killed_at_any_moment_a_run_ends_with_the_same_bits(
  forks, undisturbed, tmp_path
):
  path, draw = tmp_path / "run", random.Random(0)

  def start():
    return forks.start("train", *LINEAR, f"--save_path={path}")

  process = start()
  time.sleep(draw.uniform(0, 1))
  assert process.kill().code == -signal.SIGKILL
  process = start()
  process.wait_until(lambda: latest(path))
  is_writing = lambda: list(path.glob("checkpoints/*_temp"))
  process.wait_until(is_writing, every=0.0002)
  assert process.kill().code == -signal.SIGKILL
  for kills in range(3):
    process, before = start(), latest(path)
    process.wait_until(lambda before=before: latest(path) > before)
    time.sleep(draw.uniform(0, 0.05))
    ended = process.kill()
    assert ended.code == -signal.SIGKILL
    if kills:  # The first may have nothing but a first checkpoint, half-written.
      assert "Going on after epoch " in ended.out

  assert start().wait().code == 0
  assert result(path) == result(undisturbed)


def test_interrupted_and_terminated_a_run_ends_with_a_checkpoint(
  forks, undisturbed, tmp_path
):
  path = tmp_path / "run"
  for number in signal.SIGINT, signal.SIGTERM:
    process, before = forks.start("train", *LINEAR, f"--save_path={path}"), latest(path)
    process.wait_until(lambda before=before: latest(path) > before)
    ended = process.kill(number)
    assert ended.code == 128 + number
    (notice,) = ended.err
    assert "Stopping after this epoch" in notice
    stopped = f"Stopped after epoch {latest(path)}; the same command goes on from there"
    assert stopped in ended.out
  ended = forks.run("train", *LINEAR, f"--save_path={path}")
  assert ended.code == 0
  assert f"Going on after epoch {latest(path)}" not in ended.out
  assert result(path) == result(undisturbed)


def test_a_full_disk_costs_no_checkpoint(forks, undisturbed, tmp_path):
  path = tmp_path / "run"
  run = ["train", *LINEAR, f"--save_path={path}"]
  forks.run(*run, limit=400).assert_mistake("config.json' could not be written")
  assert not list(path.iterdir())

  # TensorBoard's logs grow beyond what fits.
  ended = forks.run(*run, limit=IN_LOGS, code=UNPICTURED)
  ended.assert_mistake(f"{str(path)!r} could not be written")
  assert 10 < (before := latest(path)) < NUM_EPOCHS - 20

  # From one moment on, no file fits.
  process = forks.start(*run)
  process.wait_until(lambda: latest(path) > before)
  limits = 1_000, resource.RLIM_INFINITY
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
  process.wait().assert_mistake(str(path), "could not be written")

  before = latest(path)
  ended = forks.run(*run)
  assert ended.code == 0 and f"Going on after epoch {before} of" in ended.out
  assert result(path) == result(undisturbed)


def test_a_training_is_one_run_in_tensorboard_wherever_it_was_stopped(
  forks, undisturbed, tmp_path
):
  path = tmp_path / "run"
  process = forks.start("train", *LINEAR, f"--save_path={path}")
  process.wait_until(lambda: latest(path) > PERIOD)
  process.kill()
  assert forks.run("train", *LINEAR, f"--save_path={path}").code == 0
  points = [event_points(p) for p in (path, undisturbed)]
  assert points[0] == points[1]
  epochs = [*range(PERIOD, NUM_EPOCHS + 1, PERIOD)]
  assert points[0]["2_validation/final_loss"] == epochs
  assert points[0]["3_epoch/final_loss"] == [*range(1, NUM_EPOCHS + 1)]
  tables = [rows(p / "validation.csv") for p in (path, undisturbed)]
  assert tables[0] == tables[1]
  assert [int(row["epoch"]) for row in tables[0]] == [
    n for n in epochs for _ in range(5)
  ]


def event_points(path):
  """Steps of each tag of the one run in that directory; of pictures, the last."""
  files = [*path.rglob("*tfevents*")]
  assert {f.parent for f in files} == {path}
  everything = {"tensors": 0}
  events = event_accumulator.EventAccumulator(str(path), everything).Reload()
  points = {
    tag: [e.step for e in events.Tensors(tag)] for tag in events.Tags()["tensors"]
  }
  points["2_validation/trajectories"] = points["2_validation/trajectories"][-1:]
  return points
