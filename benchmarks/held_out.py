"""Runs an optimizer, as it is, on the 11 held-out tasks, beside tuned RMSprop.

The figures of RMSprop, whose rate was tuned for each task and number of steps, are
those on the card of `general_lstm`, which runs on the same draws.
"""

import argparse

from l2l_tf import pretrained
from l2l_tf.evaluation import comparison
from l2l_tf.pretraining import cards
from l2l_tf.problems import HELD_OUT_TASKS
from l2l_tf.runs import vocabulary
from l2l_tf.tables import aligned

_BASELINE = "RMSprop"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--path", help="an exported or a pretrained optimizer")
  parser.add_argument("--optimizer", help="an expression, in place of --path")
  parser.add_argument("--horizons", type=int, nargs="+", default=[1000, 5000])
  parser.add_argument("--draws", type=int, default=3, help="of every task")
  args = parser.parse_args()
  if (args.path is None) == (args.optimizer is None):
    parser.error("give either --path or --optimizer")
  results = _run(_optimizer(args), args)
  tuned = {
    (r.task, r.steps): r.loss
    for r in pretrained()["general_lstm"].results
    if r.optimizer == _BASELINE
  }
  rows = [["task", "steps", "learned", _BASELINE]]
  for r in results:
    losses = r.loss, tuned[r.task, r.steps]
    rows.append([r.task, str(r.steps), *(f"{loss:.4g}" for loss in losses)])
  print(aligned(rows))
  for steps in args.horizons:
    wins = [r.loss <= tuned[r.task, steps] for r in results if r.steps == steps]
    print(f"{steps} steps: no worse on {sum(wins)} of {len(wins)}")


def _optimizer(args: argparse.Namespace):
  if args.path:
    return cards.load(args.path)
  return vocabulary.build(args.optimizer, "optimizer", {"seed": 0})


def _run(optimizer, args: argparse.Namespace) -> list[cards.Result]:
  results = []
  for task, make in HELD_OUT_TASKS.items():
    trial = comparison.Trial(task, make(), args.horizons, args.draws)
    results += trial.learned(optimizer)
    print(".", end="", flush=True)
  print()
  return results


if __name__ == "__main__":
  main()
