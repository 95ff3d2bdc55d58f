"""Compares the window that `--unroll_length=auto` chooses with a grid, at equal time.

Each window trains by the problem's recipe. A few episodes of each, in turns, tell how
long an epoch takes; the recipe's window gets the epochs asked for, the others as many
as take the same processor time. Compared is the lowest validation loss of a run, whose
weights l2l-train keeps; what other seeds give by the same window tells how much of a
difference is luck.
"""

import argparse
import dataclasses
import tempfile
import time

import numpy as np
import tqdm

from l2l_tf import tables
from l2l_tf.evaluation import windows
from l2l_tf.runs import training, window_length
from l2l_tf.runs.builders import build_trainer
from l2l_tf.runs.settings import AUTO, TrainingSettings

_TIMED = 4  # epochs of each window, after the first one
_VALIDATIONS = 8


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--problem", default="digits_mlp", help="a preset")
  parser.add_argument("--epochs", type=int, default=240, help="by the recipe's window")
  parser.add_argument("--windows", type=int, nargs="*", help="by default auto's grid")
  parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
  args = parser.parse_args()
  settings = TrainingSettings(args.problem, save_path="unused").resolved()
  lengths = args.windows or windows.default_lengths(settings.num_steps)
  epochs = _epochs(settings, lengths, args.epochs)
  print("epochs at equal time: " + ", ".join(f"{n}: {epochs[n]}" for n in lengths))
  rows = [["seed", *map(str, lengths), "auto", "above the best"]]
  for seed in args.seeds:
    losses = [_lowest(settings, seed, n, epochs[n]) for n in lengths]
    asked = dataclasses.replace(settings, seed=seed, unroll_length=AUTO)
    chosen = window_length.settled(asked)[0].unroll_length
    excess = losses[lengths.index(chosen)] / min(losses) - 1
    shown = [f"{x:.4f}" for x in losses]
    rows.append([str(seed), *shown, str(chosen), f"{excess:.0%}"])
    print(" ".join(rows[-1]), flush=True)
  print(tables.aligned(rows, num_left=0, has_rule=True))


def _epochs(settings, lengths: list[int], count: int) -> dict[int, int]:
  """Returns the epochs of each window that take as long as `count` by the recipe's."""
  trained = {*lengths, settings.unroll_length}
  trainers = {
    n: build_trainer(dataclasses.replace(settings, unroll_length=n)) for n in trained
  }
  seconds = {n: [] for n in trained}
  for episode in range(1 + _TIMED):
    for n, trainer in trainers.items():
      start = time.process_time()
      trainer.train_episode(episode)
      seconds[n].append(time.process_time() - start)
  typical = {n: np.median(times[1:]) for n, times in seconds.items()}
  return {
    n: round(count * typical[settings.unroll_length] / typical[n]) for n in trained
  }


def _lowest(settings, seed: int, length: int, epochs: int) -> float:
  """Returns the lowest validation loss of a run."""
  with tempfile.TemporaryDirectory() as path:
    own = dataclasses.replace(
      settings,
      seed=seed,
      unroll_length=length,
      num_epochs=epochs,
      evaluation_period=max(1, epochs // _VALIDATIONS),
      save_path=path,
    )
    run = training.open_run(own)
    bar = tqdm.tqdm(total=epochs, desc=f"windows of {length}, seed {seed}", leave=False)
    for _ in run.epochs():
      bar.update()
    return float(run.best_loss)


if __name__ == "__main__":
  main()
