"""Times meta-training in l2l_tf, JAX and PyTorch, alternated, and measures memory.

An epoch draws a fresh task, unrolls it, and updates the optimizer's weights
after every window. Before anything is timed, the contenders prove on one task,
from one set of weights, that they compute the same thing.
"""

import argparse
from typing import Any, NamedTuple

import contest
import numpy as np

_TOLERANCE = 1e-4  # relative, in float32
_MLP = (784, 20, 10)
# 99,550 parameters: two convolutions of stride 2, then two dense layers.
_CONV_NET = (
  (3, 3, 1, 16), (16,), (3, 3, 16, 32), (32,), (1568, 60), (60,), (60, 10), (10,),
)  # fmt: skip


class Case(NamedTuple):
  """What is timed."""

  problem: str  # name of it in each contender's module
  sizes: tuple[Any, ...]  # arguments of the problem
  num_parameters: int
  num_steps: int
  unroll_length: int
  rounds: int
  layers: tuple[int, ...] = (20, 20)
  learning_rate: float = 1e-3


_CASES = {
  "quadratic": Case("quadratic", (128, 10), 1280, 100, 20, rounds=40),
  "mlp": Case("mlp", (_MLP,), 15_910, 20, 20, rounds=15),
  "mlp_long": Case("mlp", (_MLP,), 15_910, 100, 100, rounds=5),
  "conv_net": Case("conv_net", (_CONV_NET,), 99_550, 20, 20, rounds=5),
}


def main() -> None:
  args = _parse_args()
  case = _CASES[args.case]
  with contest.Crew(args.threads) as crew:
    contenders = _start(crew, case, args)
    rounds = args.rounds or case.rounds
    contest.print_header(args.case, args, rounds, contenders)
    first, times = contest.take_turns(contenders, rounds)
    contest.report("epoch", first, times)
    if not args.vs:
      contenders[contest.OWN].call("report_reached", float(np.median(times["l2l_tf"])))
  if args.memory:
    _report_memory(case, args)


def _parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--case", choices=_CASES, default="quadratic")
  parser.add_argument(
    "--memory", action="store_true", help="measure peak memory too, a process for each"
  )
  return contest.parse_args(parser, [*contest.OTHERS, "floor"])


def _start(
  crew: contest.Crew, case: Case, args: argparse.Namespace
) -> dict[str, contest.Worker]:
  """Returns the contenders, which have proved that they compute the same."""
  own = crew.start(contest.OWN, "in_l2l_tf:Epochs", case)
  reference = own.call("reference")
  others = {}
  if args.vs:
    name = contest.vs_name(args.vs)
    others[name] = crew.start(name, "in_l2l_tf:Epochs", case, checkout=args.vs)
  for name in args.against:
    others[name] = _start_other(crew, name, case, reference["weights"])
  for name, worker in others.items():
    if name in contest.OTHERS:
      found = worker.call("answers", reference["theta"], reference["constants"])
    else:
      found = worker.call("answers") if name != "floor" else {}
    contest.check_agreement(name, found, reference["answers"], _TOLERANCE)
  return {contest.OWN: own, **others}


def _start_other(
  crew: contest.Crew, name: str, case: Case, weights: list[np.ndarray]
) -> contest.Worker:
  if name == "floor":
    return crew.start(name, "floor:Epochs", case)
  return crew.start(name, "others:Epochs", contest.OTHERS[name], case, weights)


def _report_memory(case: Case, args: argparse.Namespace) -> None:
  """Measures every contender in a process of its own, one after the other."""
  print("\nPeak memory above that after imports, data and one gradient of the problem")
  print(f"{'':8}{'first epoch':>14}{'later epochs':>14}")
  with contest.Crew(args.threads) as crew:
    own = crew.start(contest.OWN, "in_l2l_tf:Epochs", case)
    weights = own.call("weights")
    _print_memory(contest.OWN, own)
  for name in args.against:
    if name in contest.OTHERS:
      with contest.Crew(args.threads) as crew:
        _print_memory(name, _start_other(crew, name, case, weights))


def _print_memory(name: str, worker: contest.Worker) -> None:
  first, later = worker.call("memory")
  print(f"{name:8}{first:11.0f} MiB{later:11.0f} MiB", flush=True)


if __name__ == "__main__":
  main()
