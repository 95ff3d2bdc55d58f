"""Times steps of the paper's convolutional net on images of CIFAR-10's size.

l2l_tf's unroll runs against the same training written plainly, a Python loop around one
compiled step, and against Keras's `fit`. All use the same batch and Adam. The
contenders take turns, each in a process of its own.
"""

import argparse

import contest

_CONTENDERS = {"loop": "in_cifar:Plain", "fit": "in_cifar:Fit"}
_STEPS = 20  # in a turn


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  args = contest.parse_args(parser, [*_CONTENDERS])
  rounds = args.rounds or 10
  make = "in_cifar:Unroll", _STEPS
  with contest.Crew(args.threads) as crew:
    contenders = {contest.OWN: crew.start(contest.OWN, *make)}
    if args.vs:
      name = contest.vs_name(args.vs)
      contenders[name] = crew.start(name, *make, checkout=args.vs)
    for name in args.against:
      contenders[name] = crew.start(name, _CONTENDERS[name], _STEPS)
    contest.print_header("cifar10_conv", args, rounds, contenders)
    first, times = contest.take_turns(contenders, rounds)
    contest.report(f"run of {_STEPS} step", first, times)


if __name__ == "__main__":
  main()
