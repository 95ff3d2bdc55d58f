"""Contenders that take turns within one process, and what is said of their times."""

import argparse
import importlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

OTHERS = {"jax": "in_jax", "torch": "in_torch"}  # distribution -> module beside this
_PAUSE = 0.05  # seconds in which one contender's threads fall asleep


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds --rounds and --threads."""
  parser.add_argument(
    "--rounds", type=_positive, help="timed turns of each contender; the case's own"
  )
  parser.add_argument(
    "--threads",
    type=_positive,
    default=len(os.sched_getaffinity(0)),
    help="cores that each contender may use; all by default",
  )


def _positive(text: str) -> int:
  if not text.isdecimal() or int(text) == 0:
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
  return int(text)


def limit_threads(count: int) -> None:
  """Gives every contender the same cores, before any of them starts threads."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
  tf.config.threading.set_intra_op_parallelism_threads(count)
  tf.config.threading.set_inter_op_parallelism_threads(count)


def import_other(name: str, module: str) -> Any:
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as e:
    if e.name != name:
      raise
    raise SystemExit(
      f"{name} is not installed, and this benchmark compares with it; install the"
      " extra that brings it: pip install -e '.[bench]'"
    ) from None


def take_turns(contenders: Mapping[str, Callable[[int], Any]], rounds: int):
  """Returns seconds of each contender's first turn, and of its later ones.

  Args:
    contenders: by name; called with the number of the turn.
    rounds: in each of which everyone has one turn, another one first each time.
  """
  first = {name: _seconds(turn, 0) for name, turn in contenders.items()}
  for turn in contenders.values():
    turn(1)  # whatever still happens once
  times = {name: [] for name in contenders}
  names = list(contenders)
  for i in range(rounds):
    for name in names[i % len(names) :] + names[: i % len(names)]:
      times[name].append(_seconds(contenders[name], i + 2))
  return first, {name: np.array(seconds) for name, seconds in times.items()}


def _seconds(turn: Callable[[int], Any], index: int) -> float:
  time.sleep(_PAUSE)
  start = time.perf_counter()
  turn(index)
  return time.perf_counter() - start


def print_header(case: str, rounds: int, threads: int, others: Sequence[Any]) -> None:
  versions = [f"tensorflow {tf.__version__}", *(m.VERSION for m in others)]
  print(f"\n{case}: {rounds} rounds, cores: {threads}")
  print(f"Python {platform.python_version()}, {', '.join(versions)}\n")


def report(turn: str, first: dict[str, float], times: dict[str, np.ndarray]) -> None:
  """Prints the times of a `turn`, such as "epoch", and their ratios to l2l_tf's."""
  width = max(map(len, [turn, *times])) + 2
  print(f"{turn:{width}}{'first':>14}{'median':>14}")
  for name, seconds in times.items():
    median = np.median(seconds) * 1e3
    print(f"{name:{width}}{first[name]:12.2f} s{median:11.1f} ms")
  print(f"\nRatio of {turn}s of the same round; above 1, l2l_tf is faster")
  print(f"{'':{width + 9}}{'min':>8}{'median':>8}{'max':>8}")
  for name in list(times)[1:]:
    ratio = times[name] / times["l2l_tf"]
    low, middle, high = ratio.min(), np.median(ratio), ratio.max()
    print(f"{name:{width}} / l2l_tf{low:8.2f}{middle:8.2f}{high:8.2f}")
