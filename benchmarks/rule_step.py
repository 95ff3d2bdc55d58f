"""Times `train_on_batch` with `GeneralRule`, against Keras's Adam and Muon.

Four models of Keras: dense layers, convolutions, a transformer, and wide dense layers.
The contenders take turns, each in a process of its own.
"""

import argparse

import contest

_CASES = ["mlp", "conv_net", "transformer", "wide"]
_CONTENDERS = ["without_blocks", "Adam", "Muon"]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--case", choices=_CASES, default="mlp")
  args = contest.parse_args(parser, _CONTENDERS)
  rounds = args.rounds or 30
  make = "in_keras:WholeSteps", args.case
  with contest.Crew(args.threads) as crew:
    contenders = {contest.OWN: crew.start(contest.OWN, *make, "GeneralRule")}
    if args.vs:
      name = contest.vs_name(args.vs)
      contenders[name] = crew.start(name, *make, "GeneralRule", checkout=args.vs)
    for name in args.against:
      contenders[name] = crew.start(name, *make, name)
    contest.print_header(args.case, args, rounds, contenders)
    contest.report("whole step", *contest.take_turns(contenders, rounds))


if __name__ == "__main__":
  main()
