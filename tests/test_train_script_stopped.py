"""l2l-train, stopped at any moment, ends with the same bits."""

import random
import resource
import signal
import time

from processes import rows
from short_run import (
  IN_CHECKPOINT,
  IN_EXPORT,
  IN_LOGS,
  NUM_EPOCHS,
  PERIOD,
  TINY,
  latest,
  result,
)
from tensorboard.backend.event_processing import event_accumulator


def test_killed_at_any_moment_a_run_ends_with_the_same_bits(forks, reference, tmp_path):
  path, draw = tmp_path / "run", random.Random(0)

  def start(**kwargs):
    return forks.start("train", *TINY, f"--save_path={path}", **kwargs)

  # The kernel kills in the middle of writing the export, then of a checkpoint.
  assert start(limit=IN_EXPORT, fatal=True).wait().code == -signal.SIGXFSZ
  assert list(path.glob(".*.tmp")) and not latest(path)
  assert start(limit=IN_CHECKPOINT, fatal=True).wait().code == -signal.SIGXFSZ
  assert list(path.glob("checkpoints/*_temp")) and not latest(path)

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
  assert result(path) == result(reference[1])


def test_interrupted_and_terminated_a_run_ends_with_a_checkpoint(
  forks, reference, tmp_path
):
  path = tmp_path / "run"
  for number in signal.SIGINT, signal.SIGTERM:
    process, before = forks.start("train", *TINY, f"--save_path={path}"), latest(path)
    process.wait_until(lambda before=before: latest(path) > before)
    ended = process.kill(number)
    assert ended.code == 128 + number
    (notice,) = ended.err
    assert "Stopping after this epoch" in notice
    stopped = f"Stopped after epoch {latest(path)}; the same command goes on from there"
    assert stopped in ended.out
  ended = forks.run("train", *TINY, f"--save_path={path}")
  assert ended.code == 0
  assert f"Going on after epoch {latest(path)}" not in ended.out
  assert result(path) == result(reference[1])


def test_a_full_disk_costs_no_checkpoint(forks, reference, tmp_path):
  path = tmp_path / "run"
  run = ["train", *TINY, f"--save_path={path}"]
  forks.run(*run, limit=400).assert_mistake("config.json' could not be written")
  assert not list(path.iterdir())

  # TensorBoard's logs grow beyond what fits.
  forks.run(*run, limit=IN_LOGS).assert_mistake(f"{str(path)!r} could not be written")
  assert 10 < (before := latest(path)) < NUM_EPOCHS - 20

  # From one moment on, no file fits.
  process = forks.start(*run)
  process.wait_until(lambda: latest(path) > before)
  limits = IN_CHECKPOINT, resource.RLIM_INFINITY
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
  process.wait().assert_mistake(str(path), "could not be written")

  before = latest(path)
  ended = forks.run(*run)
  assert ended.code == 0 and f"Going on after epoch {before} of" in ended.out
  assert result(path) == result(reference[1])


def test_a_training_is_one_run_in_tensorboard_wherever_it_was_stopped(
  forks, reference, tmp_path
):
  path = tmp_path / "run"
  process = forks.start("train", *TINY, f"--save_path={path}")
  process.wait_until(lambda: latest(path) > PERIOD)
  process.kill()
  assert forks.run("train", *TINY, f"--save_path={path}").code == 0
  points = [event_points(p) for p in (path, reference[1])]
  assert points[0] == points[1]
  epochs = [*range(PERIOD, NUM_EPOCHS + 1, PERIOD)]
  assert points[0]["2_validation/final_loss"] == epochs
  assert points[0]["3_epoch/final_loss"] == [*range(1, NUM_EPOCHS + 1)]
  tables = [rows(p / "validation.csv") for p in (path, reference[1])]
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
