"""Contenders that take turns, each in a process of its own, and their times.

Nothing here imports TensorFlow, JAX or PyTorch, nor does a benchmark's main module:
only a contender's process does, so that builds which cannot live in one process can
be compared. A process without a turn sleeps on its pipe.
"""

import argparse
import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import pathlib
import platform
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OWN = "l2l_tf"
OTHERS = {"jax": "in_jax", "torch": "in_torch"}  # distribution -> module beside this
_CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
_PAUSE = 0.05  # seconds in which one contender's threads fall asleep


def parse_args(
  parser: argparse.ArgumentParser, contenders: Sequence[str]
) -> argparse.Namespace:
  """Adds the flags that all benchmarks share, and parses.

  Args:
    parser: of the benchmark.
    contenders: whom `--against` can name.
  """

  def names(text: str) -> list[str]:
    chosen = [name for name in text.split(",") if name]
    if unknown := set(chosen) - {*contenders}:
      raise argparse.ArgumentTypeError(
        f"{', '.join(sorted(unknown))} is none of {', '.join(contenders)}"
      )
    return chosen

  parser.add_argument(
    "--rounds", type=_positive, help="timed turns of each contender; the case's own"
  )
  parser.add_argument(
    "--threads",
    type=_positive,
    default=len(os.sched_getaffinity(0)),
    help="cores that each contender may use; all by default",
  )
  parser.add_argument(
    "--against",
    type=names,
    help=f"contenders beside {OWN}, separated by commas, of {', '.join(contenders)};"
    " all by default, with --vs none",
  )
  parser.add_argument(
    "--vs", type=_checkout, help=f"another checkout of {OWN}, to take turns with it"
  )
  args = parser.parse_args()
  if args.against is None:
    args.against = [] if args.vs else [*contenders]
  for name in args.against:
    _require(name.split(".")[0])
  return args


def _positive(text: str) -> int:
  if not text.isdecimal() or int(text) == 0:
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
  return int(text)


def _checkout(text: str) -> pathlib.Path:
  path = pathlib.Path(text).expanduser().resolve()
  if not (path / "l2l_tf" / "__init__.py").exists():
    raise argparse.ArgumentTypeError(f"{text!r} holds no package l2l_tf")
  return path


def _require(name: str) -> None:
  """Ends the program if a distribution that `name` needs is missing."""
  if name in OTHERS and importlib.util.find_spec(name) is None:
    raise SystemExit(
      f"{name} is not installed, and this benchmark compares with it; install the"
      " extra that brings it, pip install -e '.[bench]', or leave it out of --against."
    )


class Worker:
  """A contender in a process of its own, which works only when it is told to."""

  def __init__(self, name: str, process: Any, connection: Any):
    self._name, self._process, self._connection = name, process, connection
    self._version = ""

  @property
  def version(self) -> str:
    """Of what it runs on."""
    self._wait_until_made()
    return self._version

  def call(self, method: str, *args: Any) -> Any:
    """Returns what a method of the contender returns."""
    return self._ask(method, *args)[1]

  def turn(self, index: int) -> float:
    """Has the contender take a turn; returns its seconds, measured over there."""
    return self._ask("turn", index)[0]

  def close(self, at_once: bool) -> None:
    """Ends the process."""
    self._connection.close()
    if not at_once:
      self._process.join(5)
    self._process.kill()
    self._process.join()

  def _wait_until_made(self) -> None:
    if not self._version:
      _, self._version = self._receive()

  def _ask(self, *message: Any) -> tuple[float, Any]:
    self._wait_until_made()
    with contextlib.suppress(BrokenPipeError):
      self._connection.send(message)
    return self._receive()

  def _receive(self) -> tuple[float, Any]:
    try:
      return self._connection.recv()
    except (EOFError, ConnectionResetError):
      self._process.join()
      raise SystemExit(self._obituary(self._process.exitcode)) from None

  def _obituary(self, code: int) -> str:
    if code < 0:
      return (
        f"{self._name} crashed with {signal.Signals(-code).name} in its process; mend"
        " its installation, or leave it out with --against."
      )
    return f"{self._name} failed in its process with the error above."


class Crew:
  """Starts workers, and ends them with the `with` block."""

  def __init__(self, threads: int):
    """Takes the number of cores that each of them may use."""
    self._threads = threads
    self._workers: list[Worker] = []

  def start(
    self, name: str, factory: str, *args: Any, checkout: pathlib.Path | None = None
  ) -> Worker:
    """Starts a process that makes a contender, and does not wait for it.

    Args:
      name: for the user.
      factory: "module:callable", imported over there; it returns an object with a
        string `version` and, if it is to be timed, a method `turn`.
      *args: of the callable.
      checkout: directory of the l2l_tf to import; by default this benchmark's.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    path = str(checkout or _CHECKOUT)
    process = context.Process(
      target=_serve, args=(theirs, path, self._threads, factory, args)
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    process.start()
    theirs.close()  # Else a dead process would not end what is received from it.
    self._workers.append(Worker(name, process, ours))
    return self._workers[-1]

  def __enter__(self) -> "Crew":
    return self

  def __exit__(self, kind: Any, *unused: Any) -> None:
    for worker in self._workers:
      worker.close(at_once=kind is not None)


def _serve(connection, path: str, threads: int, factory: str, args: tuple) -> None:
  """Makes a contender and calls its methods as it is told: a worker's main."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
  sys.path.insert(0, path)
  module, name = factory.split(":")
  contender = getattr(importlib.import_module(module), name)(*args)
  connection.send((0.0, contender.version))
  with contextlib.suppress(EOFError, ConnectionResetError):
    while True:
      method, *args = connection.recv()
      start = time.perf_counter()
      value = getattr(contender, method)(*args)
      connection.send((time.perf_counter() - start, value))


def vs_name(checkout: pathlib.Path) -> str:
  return f"vs {checkout.name}"


def check_agreement(
  name: str, found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float
) -> None:
  """Ends the program unless a contender computed what l2l_tf did.

  Args:
    name: of the contender.
    found: its answers, arrays or lists of arrays, by what they are.
    expected: l2l_tf's answers, those and perhaps more.
    tolerance: relative, of each array.
  """
  for what, value in found.items():
    error = _relative_error(value, expected[what])
    print(f"{name} and l2l_tf agree on the {what} to {error:.1e}", flush=True)
    if not error < tolerance:
      raise SystemExit(
        f"{name} differs from l2l_tf by {error:.1e} in the {what}, more than"
        f" {tolerance:.0e}: they do not compute the same thing, so their times"
        " would say nothing."
      )


def _relative_error(value: Any, expected: Any) -> float:
  if isinstance(expected, list):
    return max(map(_relative_error, value, expected))
  norm = np.linalg.norm(expected)
  return float(np.linalg.norm(value - expected) / (norm or 1.0))


def take_turns(contenders: Mapping[str, Worker], rounds: int):
  """Returns seconds of each contender's first turn, and of its later ones.

  Args:
    contenders: by name; each turn has a number of its own.
    rounds: in each of which everyone has one turn, another one first each time.
  """
  first = {name: _turn(worker, 0) for name, worker in contenders.items()}
  for worker in contenders.values():
    worker.turn(1)  # whatever still happens once
  times = {name: [] for name in contenders}
  names = list(contenders)
  for i in range(rounds):
    for name in names[i % len(names) :] + names[: i % len(names)]:
      times[name].append(_turn(contenders[name], i + 2))
  return first, {name: np.array(seconds) for name, seconds in times.items()}


def _turn(worker: Worker, index: int) -> float:
  time.sleep(_PAUSE)
  return worker.turn(index)


def print_header(
  case: str, args: argparse.Namespace, rounds: int, contenders: Mapping[str, Worker]
) -> None:
  """Says what is timed, and with which versions."""
  versions = dict.fromkeys(worker.version for worker in contenders.values())
  print(f"\n{case}: {rounds} rounds, cores: {args.threads}")
  print(f"Python {platform.python_version()}, {', '.join(versions)}")
  if args.vs:
    print(f"{OWN} is that of {_CHECKOUT}, {vs_name(args.vs)} that of {args.vs}")
  print()


def report(
  turn: str,
  first: dict[str, float],
  times: dict[str, np.ndarray],
  reference: str = OWN,
) -> None:
  """Prints the times of a `turn`, such as "epoch", and their ratios to one's.

  Args:
    turn: what is timed.
    first: seconds of each contender's first turn.
    times: seconds of its later ones.
    reference: whom the others are compared with.
  """
  width = max(map(len, [turn, *times])) + 2
  print(f"{turn:{width}}{'first':>14}{'median':>14}")
  for name, seconds in times.items():
    median = np.median(seconds) * 1e3
    print(f"{name:{width}}{first[name]:12.2f} s{median:11.1f} ms")
  if len(times) == 1:
    return
  print(f"\nRatio of {turn}s of the same round; above 1, {reference} is faster")
  print(f"{'':{width + len(reference) + 3}}{'min':>8}{'median':>8}{'max':>8}")
  for name in times:
    if name == reference:
      continue
    ratio = times[name] / times[reference]
    low, middle, high = ratio.min(), np.median(ratio), ratio.max()
    print(f"{name:{width}} / {reference}{low:8.2f}{middle:8.2f}{high:8.2f}")
