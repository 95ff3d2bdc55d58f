"""Times one epoch of meta-training in l2l_tf, JAX and PyTorch, alternated.

An epoch draws a fresh task, unrolls it, and updates the optimizer's weights
after every window. Before anything is timed, the contenders prove on one task,
from one set of weights, that they compute the same thing.
"""

import argparse
import importlib
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from l2l_tf import seeds, unroll
from l2l_tf.meta_gradients import TruncatedBPTT
from l2l_tf.meta_train import MetaTrainer
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM
from l2l_tf.problems import Problem, Quadratic

_OTHERS = {"jax": "in_jax", "torch": "in_torch"}  # distribution -> module beside this
_SEED = 0
_TOLERANCE = 1e-4  # relative, in float32
_PAUSE = 0.05  # seconds in which one contender's threads fall asleep


class Case(NamedTuple):
  """What is timed."""

  problem: Callable[[], Problem]
  other_problem: Callable[[Any], Any]  # the same, from a contender's module
  num_steps: int = 100
  unroll_length: int = 20
  layers: tuple[int, ...] = (20, 20)
  learning_rate: float = 1e-3


_CASES = {
  "quadratic": Case(
    problem=lambda: Quadratic(batch_size=128, num_dims=10),
    other_problem=lambda module: module.quadratic(batch_size=128, num_dims=10),
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
  _limit_threads(args.threads)
  others = {name: _import(name, module) for name, module in _OTHERS.items()}
  case = _CASES[args.case]
  reference = _make_reference(case)
  for name, module in others.items():
    _check_agreement(name, _make_other(module, case, reference), reference)
  contenders = {
    "l2l_tf": _make_trainer(case, args.jit_compile).train_episode,
    **{n: _make_other(m, case, reference).epoch for n, m in others.items()},
  }
  _print_header(args, others)
  _report(*_time(contenders, args.rounds))


def _parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--case", choices=_CASES, default="quadratic")
  parser.add_argument(
    "--rounds", type=_positive, default=40, help="timed epochs of each contender"
  )
  parser.add_argument(
    "--threads",
    type=_positive,
    default=len(os.sched_getaffinity(0)),
    help="cores that each contender may use; all by default",
  )
  parser.add_argument(
    "--jit_compile", action="store_true", help="compile l2l_tf's epoch with XLA"
  )
  return parser.parse_args()


def _positive(text: str) -> int:
  if not text.isdecimal() or int(text) == 0:
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
  return int(text)


def _limit_threads(count: int) -> None:
  """Gives every contender the same cores, before any of them starts threads."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
  tf.config.threading.set_intra_op_parallelism_threads(count)
  tf.config.threading.set_inter_op_parallelism_threads(count)


def _import(name: str, module: str) -> Any:
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as e:
    if e.name != name:
      raise
    raise SystemExit(
      f"{name} is not installed, and this benchmark compares with it; install the"
      " extra that brings it: pip install -e '.[bench]'"
    ) from None


def _make_trainer(case: Case, jit_compile: bool) -> MetaTrainer:
  return MetaTrainer(
    case.problem(),
    CoordinatewiseLSTM(layers=case.layers, seed=_SEED),
    meta_optimizer=Adam(case.learning_rate),
    num_steps=case.num_steps,
    unroll_length=case.unroll_length,
    seed=_SEED,
    jit_compile=jit_compile,
  )


def _make_other(module: Any, case: Case, reference: Reference) -> Any:
  return module.MetaTraining(
    case.other_problem(module),
    reference.weights,
    case.num_steps,
    case.unroll_length,
    case.learning_rate,
  )


def _make_reference(case: Case) -> Reference:
  trainer = _make_trainer(case, jit_compile=False)
  weights = [v.numpy() for v in trainer.optimizer.trainable_variables]
  seed = seeds.make(_SEED, seeds.TRAINING, 0)  # the trainer's first task
  task, carry = unroll.start(trainer.problem, trainer.optimizer, seed)
  (theta,) = carry.params
  window = TruncatedBPTT()(
    trainer.problem,
    trainer.optimizer,
    task,
    carry,
    case.unroll_length,
    observe=lambda carry, updates: (),
  )
  return Reference(
    weights,
    theta.numpy(),
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
    print(f"{name} and l2l_tf agree on the {what} to {error:.1e}")
    if not error < _TOLERANCE:
      raise SystemExit(
        f"{name} differs from l2l_tf by {error:.1e} in the {what}, more than"
        f" {_TOLERANCE:.0e}: they do not compute the same thing, so their times"
        " would say nothing."
      )


def _relative_error(value: Any, expected: Any) -> float:
  return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def _time(contenders: dict[str, Callable], rounds: int):
  """Returns seconds of each contender's first epoch, and of its later ones."""
  first = {name: _seconds(epoch, 0) for name, epoch in contenders.items()}
  for epoch in contenders.values():
    epoch(1)  # whatever still happens once
  times = {name: [] for name in contenders}
  names = list(contenders)
  for i in range(rounds):
    for name in names[i % len(names) :] + names[: i % len(names)]:
      times[name].append(_seconds(contenders[name], i + 2))
  return first, {name: np.array(seconds) for name, seconds in times.items()}


def _seconds(epoch: Callable[[int], Any], index: int) -> float:
  time.sleep(_PAUSE)
  start = time.perf_counter()
  epoch(index)
  return time.perf_counter() - start


def _print_header(args: argparse.Namespace, others: dict[str, Any]) -> None:
  versions = [f"tensorflow {tf.__version__}", *(m.VERSION for m in others.values())]
  xla = ", l2l_tf compiled with XLA" if args.jit_compile else ""
  print(f"\n{args.case}: {args.rounds} rounds, cores: {args.threads}{xla}")
  print(f"Python {platform.python_version()}, {', '.join(versions)}\n")


def _report(first: dict[str, float], times: dict[str, np.ndarray]) -> None:
  print(f"{'':8}{'first epoch':>14}{'median epoch':>14}")
  for name, seconds in times.items():
    print(f"{name:8}{first[name]:12.2f} s{np.median(seconds) * 1e3:11.1f} ms")
  print("\nRatio of epochs of the same round; below 1, l2l_tf is faster")
  print(f"{'':16}{'min':>8}{'median':>8}{'max':>8}")
  for name in _OTHERS:
    ratio = times["l2l_tf"] / times[name]
    print(
      f"l2l_tf / {name:7}{ratio.min():8.2f}{np.median(ratio):8.2f}{ratio.max():8.2f}"
    )


if __name__ == "__main__":
  main()
