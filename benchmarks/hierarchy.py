"""Trains a HierarchicalRNN by evolution strategies on nets of Wichrowska et al. 2017.

Back-propagation through windows teaches it rates that are good for as many steps, and
ruinous for thousands. Here whole episodes of 300 to 5,000 steps count, and of its 4,000
weights a few train: what decides over the rate, and how gradients are averaged. They
start from a rule for the rate that is written into the GRUs,

    change of the log rate in a step
      = c - (d_1 / T_1) e^(-t / T_1) - (d_2 / T_2) e^(-t / T_2) + k tanh(1.5 A),

for which two units of the lowest GRU forget their start in T_1 = 200 and T_2 = 2,000
steps, and A, in a unit of the tensors' GRU, is the running mean of tanh(S + b). S, the
mean of log l_3 - log l_0 over a tensor, says how gradients agree: it is near 0 where
they do from step to step, about -2 where they are noise, and lower where they
alternate. Started again with the same arguments, a training goes on where it was
stopped.
"""

import argparse
import math
import pathlib

import numpy as np

from l2l_tf.optimizers import HierarchicalRNN
from l2l_tf.optimizers.hierarchical import Constants
from l2l_tf.pretraining.recipes import Suite
from l2l_tf.problems import suites
from l2l_tf.runs import suite_training

_RATE, _CHANGE = 0.005, -0.0005  # at the start; c, by which its log changes in a step
_CLOCKS = {200: 0.5, 2000: 1.0}  # T: d, by which the log rate falls in the end
_GAIN, _OFFSET = 0.001, 1.0  # k and b
_AGREEMENT = len(_CLOCKS)  # the unit of the lowest GRU that repeats the tensor's
_STEPS = 20  # in which a tensor's agreement is averaged
_FIRST, _LAST = 7, 10  # where log l_0 and log l_3 are in x
_CHANGES = 1  # the column of `readouts` that changes the log rate
# How many of a step's changes of the log rate it takes to change its average by one.
_SHARE = 1 + math.exp(Constants().momentum)


def start(seed: int = 0) -> HierarchicalRNN:
  """Returns the optimizer that the training begins with."""
  optimizer = HierarchicalRNN(_RATE, seed)
  readouts = np.zeros(optimizer.readouts.shape)
  below = optimizer.coordinates
  for unit, (steps, fall) in enumerate(_CLOCKS.items()):
    _isolate(below, unit, keep=math.log(steps - 1), start=1.0)
    readouts[unit, _CHANGES] = -fall / steps * _SHARE
  _isolate(below, _AGREEMENT, keep=-4.0)
  _set(below.above, 0, 2 * _units(below) + _AGREEMENT, 1.5)
  readouts[_AGREEMENT, _CHANGES] = _GAIN * _SHARE
  _listen(optimizer.tensors, _units(below))
  optimizer.readouts.assign(readouts)
  optimizer.constants.assign(Constants(change=_CHANGE * _SHARE))
  return optimizer


def _listen(gru, num_below: int) -> None:
  """Makes the first unit of the tensors' GRU average how gradients agree."""
  _isolate(gru, 0, keep=math.log(_STEPS - 1), bias=_OFFSET)
  _set(gru.w_x, num_below + _FIRST, 2 * _units(gru), -1.0)
  _set(gru.w_x, num_below + _LAST, 2 * _units(gru), 1.0)


def _isolate(gru, unit: int, keep: float, bias: float = 0.0, start: float = 0.0):
  """Lets a unit hear nothing, forget at a fixed pace, and begin at `start`."""
  columns = [unit + part * _units(gru) for part in range(3)]
  for weights in (gru.w_x, gru.w_h, gru.above):
    values = weights.numpy()
    values[:, columns] = 0.0
    weights.assign(values)
  biases, starts = gru.b.numpy(), gru.start.numpy()
  biases[columns], starts[unit] = [0.0, keep, bias], start
  gru.b.assign(biases)
  gru.start.assign(starts)


def _units(gru) -> int:
  return gru.start.shape[0]


def _set(variable, row: int, column: int, value: float) -> None:
  values = variable.numpy()
  values[row, column] = value
  variable.assign(values)


def spreads(optimizer: HierarchicalRNN) -> list[np.ndarray]:
  """Returns the standard deviation of every weight's perturbation; most are zero."""
  found = []
  for variable in optimizer.trainable_variables:
    spread = np.zeros(variable.shape)
    if variable is optimizer.constants:
      spread[:] = Constants(0.1, 0.0004 * _SHARE, 0.0, 0.1, 0.1)
    elif variable is optimizer.shortcut:
      spread[:] = 0.05
    elif variable is optimizer.readouts:
      clocks = [fall / 3 / steps for steps, fall in _CLOCKS.items()]
      spread[: _AGREEMENT + 1, _CHANGES] = np.array([*clocks, 0.0006]) * _SHARE
    elif variable is optimizer.tensors.b:
      spread[2 * _units(optimizer.tensors)] = 0.15
    found.append(spread)
  return found


def problems():
  """Returns regressions and nets, without and with noise on their gradients."""
  tasks = suites.wichrowska(["plain", "noisy"])
  return {n: make for n, make in tasks.items() if "regression" in n or "net, " in n}


def options():
  return {
    "horizon": (300, 5000),
    "pairs": 8,
    "tasks": 9,
    "stddev": spreads(start()),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--updates", type=int, default=45, help="of the weights")
  parser.add_argument("--rate", type=float, default=0.06, help="of Adam, at first")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--save_path", type=pathlib.Path, default="runs/hierarchy")
  args = parser.parse_args()
  suite = Suite(lambda: start(args.seed), problems, args.updates, args.rate, options)
  trained = suite_training.train(suite, args.save_path, args.seed, args.updates)
  print(f"{trained.num_updates} updates in {trained.seconds / 60:.0f} minutes.")


if __name__ == "__main__":
  main()
