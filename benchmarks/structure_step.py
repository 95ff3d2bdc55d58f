"""Times a step of the optimizers whose coordinates are coupled, alone, in Keras.

`structures`: HierarchicalRNN, GlobalAveragingLSTM and NTMBFGS (low-rank memory) against
the LSTM of 2 x 20. `levels`: HierarchicalRNN against its lowest level alone.
`published`: its authors' way to compute it, which proves to be the same, with XLA,
without, and without the checks, against HierarchicalRNN.
"""

import argparse
from typing import NamedTuple

import contest

_HIERARCHY = "HierarchicalRNN"
_TOLERANCE = 1e-4
# XLA adds up a tensor's log rates one by one, in float32: the mean of 98,000 is off by
# some 1e-5, and so is an input. With that sum in float64 they agree as the others do.
_XLA_TOLERANCE = 1e-3


class Part(NamedTuple):
  """Who takes turns with whom."""

  model: str
  rounds: int
  reference: str
  others: list[str]


_PARTS = {
  "structures": Part("mlp", 30, "LSTM", [_HIERARCHY, "GlobalAveragingLSTM", "NTMBFGS"]),
  "levels": Part("conv_net", 20, "lowest level", [_HIERARCHY]),
  "published": Part(
    "mlp", 30, _HIERARCHY, ["published", "published+XLA", "published-checks"]
  ),
}
# Names of `in_keras.Steps`, and whether XLA compiles the whole step.
_ARGUMENTS = {
  "LSTM": (contest.OWN,),
  "published+XLA": ("published", True),
  "published-checks": ("published, unchecked",),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--part", nargs="+", choices=_PARTS, default=[*_PARTS])
  everyone = [name for part in _PARTS.values() for name in part.others]
  args = contest.parse_args(parser, [*dict.fromkeys(everyone)])
  for name in args.part:
    with contest.Crew(args.threads) as crew:
      _run(crew, name, args)


def _run(crew: contest.Crew, name: str, args: argparse.Namespace) -> None:
  """Times one part."""
  part = _PARTS[name]
  rounds = args.rounds or part.rounds
  contenders = {part.reference: _start(crew, part.model, part.reference)}
  if args.vs:
    other = contest.vs_name(args.vs)
    contenders[other] = _start(crew, part.model, _HIERARCHY, args.vs)
  for other in part.others:
    if other in args.against:
      contenders[other] = _start(crew, part.model, other)
  _prove(contenders)
  contest.print_header(f"{name}, {part.model}", args, rounds, contenders)
  first, times = contest.take_turns(contenders, rounds)
  contest.report("optimizer step", first, times, part.reference)
  print(flush=True)


def _start(crew: contest.Crew, model: str, name: str, checkout=None) -> contest.Worker:
  arguments = _ARGUMENTS.get(name, (name,))
  return crew.start(name, "in_keras:Steps", model, *arguments, checkout=checkout)


def _prove(contenders: dict[str, contest.Worker]) -> None:
  """Ends the program unless the published way computes what HierarchicalRNN does."""
  published = [name for name in contenders if name.startswith("published")]
  if not published:
    return
  expected = contenders[_HIERARCHY].call("updates")
  for name in published:
    found = contenders[name].call("updates")
    tolerance = _XLA_TOLERANCE if name == "published+XLA" else _TOLERANCE
    contest.check_agreement(name, found, expected, tolerance)


if __name__ == "__main__":
  main()
