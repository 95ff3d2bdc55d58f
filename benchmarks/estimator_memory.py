"""Measures memory of meta-gradients against the length of the window.

The optimizee is a net of four layers of 32 ReLU on scikit-learn's digits. Each number
is of a process of its own: what an episode of two windows needs at its worst moment,
beyond what the process held before.
"""

import argparse
import subprocess
import sys

_WINDOWS = [20, 200, 2000]
_METHODS = {
  "PES, 8 pairs": "PES(pairs=8)",
  "TruncatedBPTT": "TruncatedBPTT()",
  "TruncatedBPTT, second derivatives": "TruncatedBPTT(second_derivatives=True)",
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # method, window
  args = parser.parse_args()
  if args.one:
    print(_measured(args.one[0], int(args.one[1])))
    return
  print("| MiB | " + " | ".join(f"window of {w}" for w in _WINDOWS) + " |")
  print("|---" * (len(_WINDOWS) + 1) + "|")
  for name, method in _METHODS.items():
    cells = [_in_a_process(method, window) for window in _WINDOWS]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _in_a_process(method: str, window: int) -> str:
  command = [sys.executable, __file__, "--one", method, str(window)]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  return done.stdout.strip()


def _measured(method: str, window: int) -> str:
  import memory

  from l2l_tf import MetaTrainer
  from l2l_tf.optimizers import RNNprop
  from l2l_tf.problems import digits_mlp
  from l2l_tf.runs import vocabulary

  trainer = MetaTrainer(
    digits_mlp((32,) * 4, "relu", 32),
    RNNprop((4,)),
    meta_gradient=vocabulary.build(method, "meta_gradient"),
    num_steps=2 * window,
    unroll_length=window,
  )
  trainer.train_episode(0)  # traces and compiles
  before = memory.held()
  return f"{memory.peak(lambda: trainer.train_episode(1)) - before:.0f}"


if __name__ == "__main__":
  main()
