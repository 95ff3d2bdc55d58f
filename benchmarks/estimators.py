"""Times updates by persistent evolution strategies, alternated with two others.

The others are the forward unrolls that an update consists of, run alone, and the same
estimator in JAX, written plainly with `vmap` and `lax.scan`. Before anything is timed,
JAX proves that it computes the same estimate from the same particles.
"""

import argparse
from typing import Any, NamedTuple

import contest

_TOLERANCE = 1e-3  # relative, in float32, of differences between losses
_MLP = (784, 20, 10)


class Case(NamedTuple):
  """What is timed: an epoch of updates, one for each window."""

  problem: str  # name of it in each contender's module
  sizes: tuple[Any, ...]  # arguments of the problem
  pairs: int
  rounds: int
  num_steps: int = 100  # of an epoch, and of each episode
  unroll_length: int = 20
  stddev: float = 0.01
  layers: tuple[int, ...] = (20, 20)
  learning_rate: float = 1e-3


_CASES = {
  "quadratic": Case("quadratic", (16, 10), pairs=16, rounds=30),
  "mlp": Case("mlp", (_MLP,), pairs=8, rounds=6),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--case", choices=_CASES, default="quadratic")
  args = contest.parse_args(parser, ["unrolls", "jax"])
  case = _CASES[args.case]
  with contest.Crew(args.threads) as crew:
    contenders = _start(crew, case, args)
    rounds = args.rounds or case.rounds
    contest.print_header(args.case, args, rounds, contenders)
    first, times = contest.take_turns(contenders, rounds)
    contest.report("epoch", first, times)


def _start(
  crew: contest.Crew, case: Case, args: argparse.Namespace
) -> dict[str, contest.Worker]:
  """Returns the contenders, which have proved that they compute the same."""
  own = crew.start(contest.OWN, "particles:Estimator", case)
  others = {}
  if args.vs:
    name = contest.vs_name(args.vs)
    others[name] = crew.start(name, "particles:Estimator", case, checkout=args.vs)
  if "unrolls" in args.against:
    others["unrolls"] = crew.start("unrolls", "particles:Unrolls", case)
  if "jax" in args.against:
    reference = own.call("reference")
    jax = crew.start("jax", "others:Estimator", "in_jax", case, reference["weights"])
    found = jax.call(
      "answers", *(reference[k] for k in ("theta", "constants", "noise"))
    )
    contest.check_agreement("jax", found, reference["answers"], _TOLERANCE)
    others["jax"] = jax
  return {contest.OWN: own, **others}


if __name__ == "__main__":
  main()
