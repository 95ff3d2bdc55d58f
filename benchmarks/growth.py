"""Time and memory of one window against parameters N and steps T: table and plot.

Every size runs in a process of its own, so that no peak hides another.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import memory
import numpy as np

_PARAMETERS = [1_000, 10_000, 100_000, 1_000_000]
_STEPS = [10, 30, 100, 300, 1_000]
_FIXED_STEPS, _FIXED_PARAMETERS = 20, 15_910
_PLOT = pathlib.Path(__file__).parent / "growth.png"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.one:
    print(json.dumps(_measure(*args.one)))
    return
  by_parameters = [_run(n, _FIXED_STEPS) for n in _PARAMETERS]
  by_steps = [_run(_FIXED_PARAMETERS, t) for t in _STEPS]
  _plot(by_parameters, by_steps)
  print(f"\nPlot: {_PLOT}")


def _run(num_parameters: int, num_steps: int) -> dict[str, float]:
  command = [sys.executable, __file__, "--one", str(num_parameters), str(num_steps)]
  output = subprocess.run(command, capture_output=True, check=True).stdout
  row = json.loads(output.splitlines()[-1])
  per_step = row["seconds"] / (num_parameters * num_steps) * 1e9
  print(
    f"| {num_parameters:,} | {num_steps:,} | {row['seconds']:.3f} s | {per_step:.0f} ns"
    f" | {row['peak']:.0f} MiB | {row['recorded']:.0f} MiB |",
    flush=True,
  )
  return row


def _measure(num_parameters: int, num_steps: int) -> dict[str, float]:
  # Here, as the parent needs no TensorFlow.
  import problems

  from l2l_tf.meta.trainer import MetaTrainer
  from l2l_tf.optimizers import CoordinatewiseLSTM

  trainer = MetaTrainer(
    problems.Separable(num_parameters),
    CoordinatewiseLSTM((20, 20), "log_and_sign", 0.1),
    num_steps=num_steps,
    unroll_length=num_steps,
  )
  before = memory.held()
  trainer.train_episode(0)
  seconds, peaks = [], []
  for episode in range(1, 4):
    start = time.perf_counter()
    peaks.append(memory.peak(lambda i=episode: trainer.train_episode(i)))
    seconds.append(time.perf_counter() - start)
  return {
    "parameters": num_parameters,
    "steps": num_steps,
    "seconds": float(np.median(seconds)),
    "peak": max(peaks) - before,
    "recorded": 4 * num_parameters * (num_steps + 1) / 2**20,
  }


def _plot(by_parameters, by_steps) -> None:
  figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex="col", layout="constrained")
  columns = [
    (by_parameters, "parameters", f"parameters N, {_FIXED_STEPS} steps"),
    (by_steps, "steps", f"steps T, {_FIXED_PARAMETERS:,} parameters"),
  ]
  for column, (rows, key, label) in zip(axes.T, columns):
    x = np.array([row[key] for row in rows])
    seconds = np.array([row["seconds"] for row in rows])
    column[0].loglog(x, seconds, "o-", label="one window")
    column[0].loglog(x, seconds[-1] * x / x[-1], "k:", label="linear")
    column[1].loglog(x, [row["peak"] for row in rows], "o-", label="peak, above start")
    column[1].loglog(
      x, [row["recorded"] for row in rows], "s--", label="recorded gradients"
    )
    column[1].set_xlabel(label)
    for axis in column:
      axis.grid(alpha=0.3)
      axis.legend(frameon=False)
  axes[0, 0].set_ylabel("seconds")
  axes[1, 0].set_ylabel("MiB")
  figure.savefig(_PLOT, dpi=120)


if __name__ == "__main__":
  main()
