"""Times meta-training over processes: what two gain, what they send, and slow links.

The processes live throughout and take turns; those without a turn sleep. Each has one
core. What is compiled is compiled before anything is timed.
"""

import argparse
import concurrent.futures
import copy
import os
import pathlib
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import contest
import numpy as np
import scaling
from in_worker import Place, Setting
from slow_link import DEVICE, SlowLink

from l2l_tf.runs import local_cluster
from l2l_tf.runs.settings import LaunchSettings

_SETTING = Setting()
_WINDOWS = [10, 100]
_ROUND_TRIPS = [0.0, 0.001, 0.01, 0.05]  # seconds
_LARGE = 500_000  # floats whose sum takes long enough to show the bandwidth
_HEADERS = 20 + 32  # bytes of a packet: IPv4, and TCP with its time stamps
_IDLE = 20.0  # seconds, two heartbeats


class Team:
  """Processes that do the same at the same time."""

  def __init__(self, crew: contest.Crew, name: str, places: Sequence[Place]):
    self.workers = [
      crew.start(f"{name} {i}", "in_worker:Worker", place)
      for i, place in enumerate(places)
    ]
    self._pool = concurrent.futures.ThreadPoolExecutor(len(places))

  def first(self) -> "Team":
    """Returns the first of the processes by itself."""
    alone = copy.copy(self)
    alone.workers = self.workers[:1]
    return alone

  def call(self, method: str, *args: Any) -> list[Any]:
    """Returns what a method returns in each of the processes."""
    return list(self._pool.map(lambda w: w.call(method, *args), self.workers))

  def seconds(self, num_episodes: int) -> float:
    """Returns the time of episodes, that of the slowest process."""
    return max(self.call("train", num_episodes))


def main() -> None:
  args = _parse_args()
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # The link shall be removed.
  print(f"Python {platform.python_version()}, {os.cpu_count()} cores", flush=True)
  with contest.Crew(len(_cores())) as crew:
    {"gain": _gain, "bytes": _bytes, "delay": _delay, "ring": _ring}[args.measure](
      crew, args
    )


def _parse_args() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--measure",
    choices=["gain", "bytes", "delay", "ring"],
    default="gain",
    help="what two processes gain; the bytes that they send; both under delays, with a"
    " model; or the time of one sum over two workers and more",
  )
  parser.add_argument("--rounds", type=int, default=8, help="turns of each setting")
  parser.add_argument(
    "--episodes", type=int, default=3, help="to a turn of --measure=gain"
  )
  parser.add_argument("--picture", type=pathlib.Path, help="plot of --measure=delay")
  args = parser.parse_args()
  if len(_cores()) < 2:
    raise SystemExit("Two processes on a core each need two cores.")
  return args


def _cores() -> list[int]:
  return sorted(os.sched_getaffinity(0))


def _pair(crew: contest.Crew, link: SlowLink | None = None, count: int = 2) -> Team:
  """Starts workers that share out a training; neighbours lie across the link."""
  hosts = link.addresses if link else ("localhost", "localhost")
  ports = local_cluster.ports(LaunchSettings(workers=count))
  addresses = tuple(f"{hosts[i % 2]}:{port}" for i, port in enumerate(ports))
  spaces = link.namespaces if link else (None, None)
  cores = _cores()
  places = [
    Place(cores[i % len(cores)], i, addresses, spaces[i % 2]) for i in range(count)
  ]
  return Team(crew, "worker", places)


def _in_turns(
  contenders: dict[str, Callable[[], float]], rounds: int
) -> dict[str, np.ndarray]:
  """Returns seconds by round; another contender begins in each."""
  names, seconds = list(contenders), {name: [] for name in contenders}
  for i in range(rounds):
    for name in names[i % len(names) :] + names[: i % len(names)]:
      seconds[name].append(contenders[name]())
  return {name: np.array(values) for name, values in seconds.items()}


def _spread(values: np.ndarray, digits: int = 2) -> str:
  low, middle, high = values.min(), np.median(values), values.max()
  return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _gain(crew: contest.Crew, args: argparse.Namespace) -> None:
  """Prints the gain of two processes over one, and what keeps it from two."""
  first, second = _cores()[:2]
  pair = _pair(crew)
  one = Team(crew, "one", [Place(first)])
  apart = Team(crew, "half", [Place(first), Place(second)])
  half = apart.first()
  halved = _SETTING._replace(meta_batch_size=_SETTING.meta_batch_size // 2)
  for team, setting in (pair, _SETTING), (one, _SETTING), (apart, halved):
    team.call("prepare", setting)
  teams = {"one": one, "two": pair, "apart": apart, "half": half}
  seconds = _in_turns(
    {name: lambda t=team: t.seconds(args.episodes) for name, team in teams.items()},
    args.rounds,
  )
  _report_gain({name: values / args.episodes for name, values in seconds.items()})


def _report_gain(seconds: dict[str, np.ndarray]) -> None:
  one, two, apart, half = (seconds[k] for k in ("one", "two", "apart", "half"))
  print(
    f"\n{len(one)} rounds of {_SETTING}\nseconds of an episode: median (min to max)"
  )
  for what, values in {
    "one process, all tasks": one,
    "two processes, half of the tasks each": two,
    "two trainings at once, half of the tasks each, that do not talk": apart,
    "one of these by itself": half,
  }.items():
    print(f"  {what}: {_spread(values, 3)}")
  print("ratios of the same round")
  print(f"  gain of two processes over one: {_spread(one / two)}")
  print(f"  gain if they did not talk: {_spread(one / apart)}")
  print(f"  gain if each also had the machine to itself: {_spread(one / half)}")
  cost = (two - apart) * _SETTING.unroll_length / _SETTING.num_steps
  print(f"  seconds an update that talking and waiting cost: {_spread(cost, 4)}")


def _bytes(crew: contest.Crew, args: argparse.Namespace) -> None:
  """Prints the bytes that both workers send in an update, and what they grow with."""
  with SlowLink() as link:
    pair = _pair(crew, link)
    idle = _sent(pair, lambda: time.sleep(_IDLE)) / _IDLE
    print(f"\nWithout anything to do: {idle[0]:.0f} bytes a second")
    print(
      "| optimizer | weights W | optimizee | in TCP | over 8 W | in all | over 8 W |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    rows = [
      _bytes_of(pair, layers, units, idle)
      for layers in ((20, 20), (40, 40))
      for units in (20, 512)
    ]
    weights, payload, all_bytes = np.array(rows).T
    for what, values in {"payload": payload, "all": all_bytes}.items():
      slope, constant = np.polyfit(weights, values, deg=1)
      print(f"{what} = {slope:.3f} W + {constant:.0f} bytes an update")


def _bytes_of(pair: Team, layers, units: int, idle: np.ndarray) -> tuple[float, ...]:
  """Returns the number of weights, and bytes of an update without and with headers."""
  setting = _SETTING._replace(meta_batch_size=2, layers=layers, units=units)
  weights = pair.call("prepare", setting)[0]
  num_episodes, start = 3, time.perf_counter()
  sent = _sent(pair, lambda: pair.seconds(num_episodes))
  sent -= idle * (time.perf_counter() - start)
  sent /= num_episodes * setting.num_steps / setting.unroll_length
  payload, size = sent[0] - _HEADERS * sent[1], 64 * units + units + units * 10 + 10
  cells = [f"{weights:,}", f"{size:,}"]
  cells += [f"{x:{f}}" for n in (payload, sent[0]) for x, f in _both(n, weights)]
  print(f"| {layers} | {' | '.join(cells)} |", flush=True)
  return weights, payload, sent[0]


def _both(num_bytes: float, weights: int):
  return (num_bytes, ",.0f"), (num_bytes / (8 * weights), ".3f")


def _sent(pair: Team, run: Callable[[], Any]) -> np.ndarray:
  """Returns the bytes and the packets that both ends of the link send meanwhile."""
  count = lambda: np.sum(pair.call("sent", DEVICE), axis=0, dtype=float)
  before = count()
  run()
  return count() - before


def _delay(crew: contest.Crew, args: argparse.Namespace) -> None:
  """Prints the efficiency of two workers on a slow link, and the model of it."""
  with SlowLink() as link:
    pair, one = _pair(crew, link), Team(crew, "one", [Place(_cores()[0])])
    weights = pair.call("prepare", _SETTING)[0]
    one.call("prepare", _SETTING)
    bandwidth = _bandwidth(pair)
    print(f"\nBandwidth of a sum: {bandwidth / 1e6:.0f} MB/s in each direction")
    print("| window | round trip | one, ms an update | two | efficiency |")
    print("|---|---|---|---|---|", flush=True)
    rows = [
      _delayed(pair, one, link, window, trip, args.rounds)
      for window in _WINDOWS
      for trip in _ROUND_TRIPS
    ]
    model = scaling.fit(rows, 4 * weights / bandwidth)
    tasks = _SETTING.meta_batch_size
    scaling.report(model, rows, weights, tasks)
    if args.picture:
      scaling.plot(model, rows, weights, tasks, args.picture)


def _bandwidth(pair: Team) -> float:
  """Returns bytes a second of a large sum, in which each worker sends all of it."""
  small, large = (max(pair.call("reduce", n, 20)) for n in (1, _LARGE))
  return 4 * _LARGE / (large - small)


def _delayed(pair, one, link, window: int, trip: float, rounds: int) -> scaling.Row:
  link.round_trip = 0.0
  for team in pair, one:
    team.call("lengthen", _SETTING.num_steps, window)
  link.round_trip = trip
  pair.seconds(1)  # TCP gets to know the link.
  turns = {"one": lambda: one.seconds(1), "two": lambda: pair.seconds(1)}
  seconds = _in_turns(turns, rounds)
  updates = _SETTING.num_steps // window
  row = scaling.Row(
    window, 1 + 1 / updates, trip, seconds["one"] / updates, seconds["two"] / updates
  )
  times = " | ".join(_spread(1e3 * t, 0) for t in (row.one, row.two))
  efficiency = _spread(row.efficiency)
  print(f"| {window} | {trip * 1e3:g} ms | {times} | {efficiency} |", flush=True)
  return row


def _ring(crew: contest.Crew, args: argparse.Namespace) -> None:
  """Prints the time of one sum, of one float and of as many as weights."""
  weights = 5141  # of the default optimizer
  print("| workers | round trip | 1 float, ms | all weights |\n|---|---|---|---|")
  for count in 2, 4, 8:
    with contest.Crew(len(_cores())) as crew, SlowLink() as link:
      team = _pair(crew, link, count)
      for trip in _ROUND_TRIPS:
        link.round_trip = trip
        sums = [_spread(_sums(team, n, args.rounds), 1) for n in (1, weights)]
        print(f"| {count} | {trip * 1e3:g} ms | {' | '.join(sums)} |", flush=True)
      link.round_trip = 0.0


def _sums(team: Team, size: int, rounds: int) -> np.ndarray:
  times = [max(team.call("reduce", size, 10)) for _ in range(rounds)]
  return 1e3 * np.array(times)


if __name__ == "__main__":
  main()
