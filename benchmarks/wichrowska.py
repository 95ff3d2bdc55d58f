"""Trains an optimizer by back-propagation on the set of Wichrowska et al. 2017.

The problems of `suites.wichrowska()` take turns, in episodes whose windows, and their
number, are drawn from exponential distributions; the meta-loss is log(f_t / f_0).
Started again with the same arguments, a training goes on where it was stopped. At the
end a table compares the best optimizer with Adam at a rate for each problem, on fresh
tasks of the problems that validated.
"""

import argparse
import logging
import time

import numpy as np

from l2l_tf import ExponentialHorizon, MetaObjective, log_relative_loss, seeds
from l2l_tf.evaluation.log_ratios import LogRatios
from l2l_tf.meta.rotation import RotatingTrainer
from l2l_tf.optimizers import Adam
from l2l_tf.problems import suites
from l2l_tf.runs import vocabulary
from l2l_tf.runs.training_run import TrainingRun, stop_signals
from l2l_tf.storage import export
from l2l_tf.tables import aligned

_ADAM_RATES = (0.001, 0.01, 0.1, 1.0)
_DRAWS = 4  # of every problem, in a validation and in the table


def build(args: argparse.Namespace) -> RotatingTrainer:
  curriculum = ExponentialHorizon(
    args.windows_scale,
    args.length_scale,
    least_length=5,
    num_lengths=args.lengths,
    seed=args.seed,
  )
  return RotatingTrainer(
    suites.wichrowska(args.versions),
    vocabulary.build(args.optimizer, "optimizer", {"seed": args.seed}),
    Adam(args.rate),
    MetaObjective(function=log_relative_loss, clip_norm=1.0),
    repeats=args.repeats,
    most_compiled=args.most_compiled,
    seed=args.seed,
    curriculum=curriculum,
  )


def train(trainer: RotatingTrainer, args: argparse.Namespace) -> TrainingRun:
  """Trains until the last episode or a signal; says what the episodes took."""
  validation = LogRatios(validating(args), trainer.optimizer, args.steps)
  config = {k: v for k, v in vars(args).items() if k not in ("episodes", "save_path")}
  run = TrainingRun(
    trainer, args.save_path, config, args.episodes, args.period, _DRAWS,
    runner=validation,
  )  # fmt: skip
  first, later, seen = [], [], set()
  with stop_signals("\nStopping after this episode.\n") as received:
    for epoch in run.epochs():
      name = epoch.metrics["problem"]
      (later if name in seen else first).append(epoch.seconds)
      seen.add(name)
      if epoch.validation is not None:
        loss = epoch.validation.losses[:, -1].mean()
        print(f"episode {epoch.number}: validation, log ratio {loss:.3f}", flush=True)
      if received:
        run.save()
        break
  for text, seconds in (("first episodes, traced", first), ("later ones", later)):
    if seconds:
      print(f"{len(seconds)} {text}: {np.mean(seconds):.2f} s each")
  return run


def validating(args: argparse.Namespace):
  """Returns some of the plain problems, evenly spaced."""
  plain, count = suites.wichrowska(["plain"]), args.validation_problems
  return dict(list(plain.items())[:: max(1, len(plain) // count)][:count])


def compare(run: TrainingRun, args: argparse.Namespace) -> str:
  """Returns the table; Adam's rates are chosen on other tasks."""
  learned = export.load(run.export_path)
  run_on = lambda optimizer, branch: {
    name: float(curves[:, -1].mean())
    for name, curves in LogRatios(validating(args), optimizer, args.steps)
    .by_problem(args.seed, branch, _DRAWS)
    .items()
  }
  tuned = {rate: run_on(Adam(rate), seeds.TUNING) for rate in _ADAM_RATES}
  found = {rate: run_on(Adam(rate), seeds.EVALUATION) for rate in _ADAM_RATES}
  own, rows = run_on(learned, seeds.EVALUATION), []
  for name, value in own.items():
    rate = min(_ADAM_RATES, key=lambda r: tuned[r][name])
    rows.append([name, f"{value:.2f}", f"{found[rate][name]:.2f}", f"{rate:g}"])
  return aligned([["log(f_T / f_0)", "learned", "Adam", "its rate"], *rows])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--optimizer", default="RNNprop()", help="an expression")
  parser.add_argument("--versions", nargs="+", default=["plain"])
  parser.add_argument("--episodes", type=int, default=400)
  parser.add_argument("--period", type=int, default=50, help="between validations")
  parser.add_argument("--validation_problems", type=int, default=8)
  parser.add_argument("--steps", type=int, default=100, help="of a validation")
  parser.add_argument("--repeats", type=int, default=2, help="episodes in a row")
  parser.add_argument("--most_compiled", type=int, help="graphs kept; by default all")
  parser.add_argument("--windows_scale", type=float, default=4.0)
  parser.add_argument("--length_scale", type=float, default=15.0)
  parser.add_argument("--lengths", type=int, default=4, help="of windows, different")
  parser.add_argument("--rate", type=float, default=0.001, help="of the meta-optimizer")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--save_path", default="tensorboard_logs/wichrowska")
  args = parser.parse_args()
  # TensorFlow would warn of too many functions: there is one for each problem.
  logging.getLogger("tensorflow").setLevel(logging.ERROR)
  start = time.monotonic()
  run = train(build(args), args)
  print(f"{int(run.epoch)} episodes; this part took {time.monotonic() - start:.0f} s.")
  if run.is_finished:
    print(compare(run, args))


if __name__ == "__main__":
  main()
