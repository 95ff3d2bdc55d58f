"""Times meta-training in l2l_tf, JAX and PyTorch, alternated, and measures memory.

An epoch draws a fresh task, unrolls it, and updates the optimizer's weights
after every window. Before anything is timed, the contenders prove on one task,
from one set of weights, that they compute the same thing.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import contest
import floor
import memory
import numpy as np
import problems
import reached
import tensorflow as tf

from l2l_tf import seeds, unroll
from l2l_tf.meta_gradients import TruncatedBPTT
from l2l_tf.meta_train import MetaTrainer
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM
from l2l_tf.problems import Problem, Quadratic

_SEED = 0
_TOLERANCE = 1e-4  # relative, in float32
_MLP = (784, 20, 10)


class Case(NamedTuple):
  """What is timed."""

  problem: Callable[[], Problem]
  other_problem: Callable[[Any], Any]  # the same, from a contender's module
  num_parameters: int
  num_steps: int
  unroll_length: int
  rounds: int
  layers: tuple[int, ...] = (20, 20)
  learning_rate: float = 1e-3


_CASES = {
  "quadratic": Case(
    problem=lambda: Quadratic(batch_size=128, num_dims=10),
    other_problem=lambda module: module.quadratic(batch_size=128, num_dims=10),
    num_parameters=1280,
    num_steps=100,
    unroll_length=20,
    rounds=40,
  ),
  "mlp": Case(
    problem=lambda: problems.MLP(_MLP),
    other_problem=lambda module: module.mlp(_MLP),
    num_parameters=15_910,
    num_steps=20,
    unroll_length=20,
    rounds=15,
  ),
  "mlp_long": Case(
    problem=lambda: problems.MLP(_MLP),
    other_problem=lambda module: module.mlp(_MLP),
    num_parameters=15_910,
    num_steps=100,
    unroll_length=100,
    rounds=5,
  ),
  "conv_net": Case(
    problem=problems.ConvNet,
    other_problem=lambda module: module.conv_net(problems.CONV_SHAPES),
    num_parameters=99_550,
    num_steps=20,
    unroll_length=20,
    rounds=5,
  ),
}


class Reference(NamedTuple):
  """One task and what l2l_tf computes on it."""

  weights: list[np.ndarray]  # phi at the start
  theta: np.ndarray
  constants: list[np.ndarray]
  meta_loss: float  # of the first window
  meta_gradient: list[np.ndarray]  # of the first window
  meta_losses: np.ndarray  # of every window, phi updated after each


def main() -> None:
  args = _parse_args()
  contest.limit_threads(args.threads)
  case = _CASES[args.case]
  if args.memory_of:
    print(json.dumps(_memory_of(args.memory_of, case)))
    return
  others = {
    name: contest.import_other(name, module) for name, module in contest.OTHERS.items()
  }
  reference = _make_reference(case)
  for name, module in others.items():
    _check_agreement(name, _make_other(module, case, reference), reference)
  contenders = {
    "l2l_tf": _make_trainer(case).train_episode,
    **{n: _make_other(m, case, reference).epoch for n, m in others.items()},
  }
  least = floor.make(case.num_parameters, case.num_steps, case.layers)
  contenders["floor"] = lambda unused_seed: least()
  rounds = args.rounds or case.rounds
  contest.print_header(args.case, rounds, args.threads, list(others.values()))
  first, times = contest.take_turns(contenders, rounds)
  contest.report("epoch", first, times)
  seconds = float(np.median(times["l2l_tf"]))
  reached.report(seconds, case.num_parameters, case.num_steps, case.layers)
  if args.memory:
    _report_memory(args)


def _parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--case", choices=_CASES, default="quadratic")
  contest.add_flags(parser)
  parser.add_argument(
    "--memory", action="store_true", help="measure peak memory too, a process for each"
  )
  parser.add_argument(
    "--memory_of", choices=["l2l_tf", *contest.OTHERS], help=argparse.SUPPRESS
  )
  return parser.parse_args()


def _make_trainer(case: Case) -> MetaTrainer:
  return MetaTrainer(
    case.problem(),
    CoordinatewiseLSTM(layers=case.layers, seed=_SEED),
    meta_optimizer=Adam(case.learning_rate),
    num_steps=case.num_steps,
    unroll_length=case.unroll_length,
    seed=_SEED,
  )


def _weights(optimizer: CoordinatewiseLSTM) -> list[np.ndarray]:
  return [v.numpy() for v in optimizer.trainable_variables]


def _make_other(module: Any, case: Case, reference: Reference) -> Any:
  return module.MetaTraining(
    case.other_problem(module),
    reference.weights,
    case.num_steps,
    case.unroll_length,
    case.learning_rate,
  )


def _make_reference(case: Case) -> Reference:
  trainer = _make_trainer(case)
  weights = _weights(trainer.optimizer)
  seed = seeds.make(_SEED, seeds.TRAINING, 0)  # the trainer's first task
  task, carry = unroll.start(trainer.problem, trainer.optimizer, seed)
  window = TruncatedBPTT()(
    trainer.problem,
    trainer.optimizer,
    task,
    carry,
    case.unroll_length,
    observe=lambda carry, updates: (),
  )
  is_array = len(carry.params) == 1  # the others have one parameter of any shape
  theta = [p.numpy() if is_array else np.ravel(p) for p in carry.params]
  return Reference(
    weights,
    np.concatenate(theta),
    [c.numpy() for c in task.constants],
    float(window.meta_loss),
    [g.numpy() for g in window.meta_gradient],
    trainer.train_episode(0)["meta_loss"],
  )


def _check_agreement(name: str, other: Any, reference: Reference) -> None:
  """Ends the program unless `other` computes what l2l_tf computed."""
  meta_loss, meta_gradient = other.first_window(reference.theta, reference.constants)
  errors = {
    "first window's meta-loss": _relative_error(meta_loss, reference.meta_loss),
    "first window's meta-gradient": max(
      map(_relative_error, meta_gradient, reference.meta_gradient)
    ),
    "meta-losses of an epoch": _relative_error(
      other.train_on(reference.theta, reference.constants), reference.meta_losses
    ),
  }
  for what, error in errors.items():
    print(f"{name} and l2l_tf agree on the {what} to {error:.1e}", flush=True)
    if not error < _TOLERANCE:
      raise SystemExit(
        f"{name} differs from l2l_tf by {error:.1e} in the {what}, more than"
        f" {_TOLERANCE:.0e}: they do not compute the same thing, so their times"
        " would say nothing."
      )


def _relative_error(value: Any, expected: Any) -> float:
  norm = np.linalg.norm(expected)
  return float(np.linalg.norm(value - expected) / (norm or 1.0))


def _report_memory(args: argparse.Namespace) -> None:
  """Runs every contender in a process of its own, which says what it held."""
  print("\nPeak memory above that after imports, data and one gradient of the problem")
  print(f"{'':8}{'first epoch':>14}{'later epochs':>14}")
  command = [sys.executable, __file__, "--case", args.case]
  command += ["--threads", str(args.threads), "--memory_of"]
  for name in ["l2l_tf", *contest.OTHERS]:
    output = subprocess.run([*command, name], capture_output=True, check=True).stdout
    first, later = json.loads(output.splitlines()[-1])
    print(f"{name:8}{first:11.0f} MiB{later:11.0f} MiB", flush=True)


def _memory_of(name: str, case: Case) -> tuple[float, float]:
  """Returns MiB of the first epoch's peak, compilation included, and of later ones."""
  weights = _weights(CoordinatewiseLSTM(layers=case.layers, seed=_SEED))
  if name == "l2l_tf":
    trainer = _make_trainer(case)
    epoch, warm_up = trainer.train_episode, lambda: _warm_up(trainer.problem)
  else:
    module = contest.import_other(name, contest.OTHERS[name])
    arguments = case.num_steps, case.unroll_length, case.learning_rate
    other = module.MetaTraining(case.other_problem(module), weights, *arguments)
    epoch, warm_up = other.epoch, other.warm_up
  warm_up()
  before = memory.held()
  counter = itertools.count()
  return tuple(memory.peak(lambda: epoch(next(counter))) - before for _ in range(2))


def _warm_up(problem: Problem) -> None:
  compiled = tf.function(
    unroll.second_order, jit_compile=problem.jit_compile, autograph=False
  )
  task, params = unroll.draw(problem, seeds.make(_SEED))
  compiled(problem, params, task.constants, task.seed)


if __name__ == "__main__":
  main()
