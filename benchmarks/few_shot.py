"""Times a meta-update of `GateLSTM` on few-shot episodes, in l2l_tf and in PyTorch.

A meta-update draws an episode of random images of Omniglot's size, trains four
convolutional blocks on its support set by the gates, back-propagates the query loss
through all steps in first order, and updates phi, the start included, by Adam. Both
prove first that they compute the same meta-loss and meta-gradient over one step.
"""

import argparse

import contest

# Relative, of the entry that differs most: on several cores rounding chooses another
# winner of a max-pooling here and there; all other entries agree to 1e-5.
_TOLERANCE = 0.1
_STEPS = {1: 12, 5: 8}  # of the paper, by shots
_UPDATES = 10  # in a turn, one after the other as in a training


def main() -> None:
  args = _parse_args()
  with contest.Crew(args.threads) as crew:
    lengths = _UPDATES, args.shots, _STEPS[args.shots]
    task = *lengths, args.memory
    own = crew.start(contest.OWN, "few_shot_in_l2l_tf:Updates", *task)
    contenders = {contest.OWN: own}
    reference = own.call("reference")
    if args.vs:
      name = contest.vs_name(args.vs)
      other = crew.start(name, "few_shot_in_l2l_tf:Updates", *task, checkout=args.vs)
      contenders[name] = other
    for name in args.against:
      make = "few_shot_in_torch:Updates", *lengths, reference
      contenders[name] = crew.start(name, *make)
    for name, worker in list(contenders.items())[1:]:
      found = worker.call("answers", *reference["episode"])
      contest.check_agreement(name, found, reference["answers"], _TOLERANCE)
    rounds = args.rounds or 20
    title = f"5-way {args.shots}-shot{' with memory' if args.memory else ''}"
    contest.print_header(title, args, rounds, contenders)
    first, times = contest.take_turns(contenders, rounds)
    contest.report(f"turn of {_UPDATES} meta-update", first, times)


def _parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--shots", type=int, choices=_STEPS, default=1)
  parser.add_argument("--memory", action="store_true", help="GateLSTM(memory=True)")
  return contest.parse_args(parser, ["torch"])


if __name__ == "__main__":
  main()
