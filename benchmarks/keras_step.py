"""Times a step of `LearnedOptimizer` in Keras: the optimizer alone, and the whole step.

The optimizer alone runs against Keras's Adam, the same cell in JAX and in PyTorch
(eager and compiled), and the floor, its matrix products alone; the whole step, with
the model's own work, against Adam's. Before that, all prove that they compute the
same; after it, the peak of memory of one step is measured for several block sizes.
"""

import argparse
from typing import Any

import contest

_TOLERANCE = 1e-4
_BLOCK_SIZES = [None, 1 << 14, 1 << 12]
_ROUNDS = {"mlp": 30, "conv_net": 10}
_CELLS = ["XLA", "jax", "torch", "torch.compile"]  # the same computation


def main() -> None:
  args = _parse_args()
  rounds = args.rounds or _ROUNDS[args.case]
  with contest.Crew(args.threads) as crew:
    contenders = _start(crew, args)
    contest.print_header(args.case, args, rounds, contenders)
    contest.report("optimizer step", *contest.take_turns(contenders, rounds))
  print()
  with contest.Crew(args.threads) as crew:
    contest.report("whole step", *contest.take_turns(_start_whole(crew, args), rounds))
  if not args.vs:
    _report_memory(args)


def _parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--case", choices=_ROUNDS, default="mlp")
  return contest.parse_args(parser, [*_CELLS, "Adam", "floor"])


def _start(crew: contest.Crew, args: argparse.Namespace) -> dict[str, contest.Worker]:
  """Returns the contenders, which have proved that they compute the same."""
  own = crew.start(contest.OWN, "in_keras:Steps", args.case, contest.OWN)
  reference = own.call("reference")
  print(f"{len(reference['gradients']):,} parameters")
  others = {}
  if args.vs:
    name = contest.vs_name(args.vs)
    others[name] = crew.start(
      name, "in_keras:Steps", args.case, contest.OWN, checkout=args.vs
    )
  for name in args.against:
    others[name] = _start_other(crew, name, args.case, reference)
  for name, worker in others.items():
    if name not in ("Adam", "floor"):
      found = worker.call("answers")
      contest.check_agreement(name, found, reference["answers"], _TOLERANCE)
  return {contest.OWN: own, **others}


def _start_other(
  crew: contest.Crew, name: str, case: str, reference: dict[str, Any]
) -> contest.Worker:
  if name == "floor":
    return crew.start(name, "in_keras:Floor", len(reference["gradients"]))
  if name == "Adam":
    return crew.start(name, "in_keras:Steps", case, name)
  if name == "XLA":
    return crew.start(name, "in_keras:Steps", case, contest.OWN, True)
  distribution, *compiled = name.split(".")
  arguments = reference["weights"], reference["gradients"], *map(bool, compiled)
  return crew.start(name, "others:Steps", contest.OTHERS[distribution], *arguments)


def _start_whole(
  crew: contest.Crew, args: argparse.Namespace
) -> dict[str, contest.Worker]:
  make = "in_keras:WholeSteps", args.case
  contenders = {contest.OWN: crew.start(contest.OWN, *make, contest.OWN)}
  if args.vs:
    name = contest.vs_name(args.vs)
    contenders[name] = crew.start(name, *make, contest.OWN, checkout=args.vs)
  if "Adam" in args.against:
    contenders["Adam"] = crew.start("Adam", *make, "Adam")
  return contenders


def _report_memory(args: argparse.Namespace) -> None:
  """Measures each block size in a process of its own."""
  print("\nMemory of optimizer steps: their state, and the peak of all else that they")
  print("hold, compilation included; seconds of the first step")
  for jit_compile in False, True:
    for size in _BLOCK_SIZES:
      with contest.Crew(args.threads) as crew:
        worker = crew.start(contest.OWN, "in_keras:Memory", args.case)
        state, rest, seconds = worker.call("peak", size, jit_compile)
      print(
        f"block_size={size!s:6}{state:9.0f} MiB{rest:9.0f} MiB{seconds:9.1f} s ",
        *(["--jit_compile"] if jit_compile else []),
        flush=True,
      )


if __name__ == "__main__":
  main()
