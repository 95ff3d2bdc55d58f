"""Kills workers of a training at random, starts it again, and compares the end.

A training on two workers is killed again and again: SIGKILL to one of them, at a
random moment after the next checkpoint. Each time the same command starts again. At the
end its weights have to be those of a training that nobody disturbed, bit for bit.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import tqdm

_LAUNCH = "from l2l_tf.scripts.launch_workers import run; run()"
_TRAIN = [
  "l2l-train", "--strategy=multi_worker", "--problem=digits_mlp", "--num_steps=20",
  "--unroll_length=10", "--evaluation_period=2", "--evaluation_epochs=2",
]  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--epochs", type=int, default=60)
  parser.add_argument("--lanes", action="store_true", help="train by PES")
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--path", type=pathlib.Path, default="tensorboard_logs/kills")
  args = parser.parse_args()
  estimator = "--meta_gradient=PES(pairs=4,stddev=0.01)"
  tasks = estimator if args.lanes else "--meta_batch_size=4"
  command = [*_TRAIN, tasks, f"--num_epochs={args.epochs}"]
  assert _start(command, args.path / "undisturbed").wait() == 0
  draw, killed = random.Random(args.seed), args.path / "killed"
  for _ in tqdm.trange(args.kills, desc="Killing"):
    _kill_one(_start(command, killed), killed, draw)
  assert _start(command, killed).wait() == 0
  ends = [_weights(path) for path in (args.path / "undisturbed", killed)]
  assert ends[0] == ends[1], "The weights differ."
  print(f"After {args.kills} kills the weights are the same, bit for bit.")


def _start(command: list[str], path: pathlib.Path) -> subprocess.Popen:
  launch = [sys.executable, "-c", _LAUNCH, "--workers=2", "--"]
  log = (path.parent / f"{path.name}.log").open("a") if path.parent.exists() else None
  return subprocess.Popen(
    [*launch, *command, f"--save_path={path}"], stdout=log, stderr=log
  )


def _kill_one(launcher: subprocess.Popen, path: pathlib.Path, draw) -> None:
  """Waits for a checkpoint, or the start of the first epochs, and kills a worker."""
  before = _checkpoints(path)
  while _checkpoints(path) == before:
    assert launcher.poll() is None, f"The training has ended; see {path}.log."
    time.sleep(0.01)
  time.sleep(draw.uniform(0, 1))
  workers = _workers(launcher.pid)
  if workers:
    os.kill(draw.choice(workers), signal.SIGKILL)
  launcher.wait()


def _workers(launcher: int) -> list[int]:
  """Returns the workers among the children of the launcher."""
  listed = subprocess.run(
    ["pgrep", "-P", str(launcher), "-f", "l2l-train"], capture_output=True, text=True
  )
  return list(map(int, listed.stdout.split()))


def _checkpoints(path: pathlib.Path) -> set[str]:
  return {p.name for p in path.glob("checkpoints/ckpt-*.index")}


def _weights(path: pathlib.Path) -> dict[str, bytes]:
  with np.load(path / "optimizer.l2l.npz") as arrays:
    return {k: v.tobytes() for k, v in arrays.items()}


if __name__ == "__main__":
  main()
