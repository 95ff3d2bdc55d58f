"""Starts the workers of a cluster on this machine, and ends them together.

A worker is any program that reads TF_CONFIG. Nothing here imports TensorFlow.
"""

import contextlib
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, TextIO

from l2l_tf.runs import local_cluster
from l2l_tf.runs.settings import LaunchSettings
from l2l_tf.runs.worker_output import ERASE, NumberedLines

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def launch(command: Sequence[str], settings: LaunchSettings) -> int:
  """Runs a command in several processes, and waits until all have ended.

  Args:
    command: the program and its arguments.
    settings: how many processes, where they listen, and how they are ended.

  Returns:
    0 if all ended with 0; else the exit code of the one that failed first, 128 + n if
    signal n ended it.

  Raises:
    ValueError: if the command or a setting cannot be used; then nothing was started.
  """
  local_cluster.check(command)
  shares, ports = local_cluster.shares(settings), local_cluster.ports(settings)
  with _arriving_signals() as arrived, contextlib.closing(_Guard()) as guard:
    workers = _Workers(guard, arrived, settings.grace)
    try:
      for index in range(settings.workers):
        environment = local_cluster.environment(ports, index)
        workers.start(command, environment, shares[index])
      return workers.wait()
    finally:
      workers.kill()


@contextlib.contextmanager
def _arriving_signals() -> Iterator[int]:
  """Yields a descriptor to read the numbers of arriving signals from, as bytes."""
  reader, writer = os.pipe()
  for end in reader, writer:
    os.set_blocking(end, False)
  awaited = [signal.SIGCHLD, *_FORWARDED]
  if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
    awaited.remove(signal.SIGHUP)
  former_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  former = {s: signal.signal(s, lambda *_: None) for s in awaited}
  try:
    yield reader
  finally:
    for number, handler in former.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(former_writer)
    os.close(reader)
    os.close(writer)


class _Guard:
  """Ends the workers if this process is killed and cannot do so itself.

  A shell reads which workers run. When the pipe ends, however that came about, it kills
  those it has read of last. Its own session and name keep it out of reach of what kills
  this process.
  """

  _SCRIPT = """
    trap '' HUP INT TERM
    while read -r line; do groups=$line; done
    for group in $groups; do kill -s KILL -- "-$group"; done
  """

  def __init__(self):
    self._shell = subprocess.Popen(
      ["/bin/sh", "-c", self._SCRIPT],
      bufsize=0,
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      start_new_session=True,
    )

  def tell(self, groups: Sequence[int]) -> None:
    """Says which process groups there are now."""
    with contextlib.suppress(BrokenPipeError):  # Somebody ended the shell.
      self._shell.stdin.write(b"%s\n" % " ".join(map(str, groups)).encode())

  def close(self) -> None:
    self._shell.stdin.close()
    self._shell.wait()


class _Workers:
  """The processes, each the leader of a process group with all that it starts.

  The groups keep signals of the terminal away, so that workers get each just once.
  """

  def __init__(self, guard: _Guard, arrived: int, grace: float):
    self._guard = guard
    self._grace = grace
    self._running: dict[int, subprocess.Popen] = {}  # by the worker's number
    self._outputs: list[NumberedLines] = []
    self._selector = selectors.DefaultSelector()
    self._selector.register(arrived, selectors.EVENT_READ, self._receive)
    self._arrived = arrived
    self._forwarded: signal.Signals | None = None
    self._deadline = math.inf
    self._code = 0

  def start(
    self, command: Sequence[str], environment: dict[str, str], cores: set[int] | None
  ) -> None:
    """Starts one more worker."""
    number, others = len(self._running), self._groups()

    def prepare():
      # Told from the new process, as this one may be killed before it learns the id.
      self._guard.tell([*others, os.getpid()])
      if cores is not None:
        os.sched_setaffinity(0, cores)

    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    keeps = {k for k, stream in streams.items() if number == 0 and stream.isatty()}
    try:
      process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=prepare,
        **{k: None if k in keeps else subprocess.PIPE for k in streams},
      )
    except OSError as e:
      raise ValueError(f"{command[0]!r} cannot be started ({e.strerror}).") from e
    self._running[number] = process
    for k in streams.keys() - keeps:
      self._copy_lines(getattr(process, k), streams[k], number)

  def wait(self) -> int:
    """Waits until all have ended; returns the exit code for all of them."""
    while self._running:
      left = self._deadline - time.monotonic()
      ready = self._selector.select(None if left == math.inf else max(0.0, left))
      for key, _ in ready:
        key.data()
      self._bury()
      if self._running and time.monotonic() >= self._deadline:
        self._kill_late()
    return self._code

  def kill(self) -> None:
    """Kills those that still run, and shows what workers wrote last."""
    self._send(signal.SIGKILL)
    for process in self._running.values():
      process.wait()
    self._running.clear()
    self._guard.tell([])
    for lines in self._outputs:
      lines.finish()
    self._selector.close()

  def _copy_lines(self, source: IO[bytes], target: TextIO, number: int) -> None:
    lines = NumberedLines(source, target, number)

    def copy():
      if not lines.copy():
        self._selector.unregister(source)

    self._outputs.append(lines)
    self._selector.register(source, selectors.EVENT_READ, copy)

  def _receive(self) -> None:
    """Acts on the signals that have arrived; SIGCHLD only wakes this process."""
    for number in os.read(self._arrived, 1024):
      if number not in _FORWARDED:
        continue
      self._send(signal.SIGKILL if self._forwarded else number)
      self._forwarded = self._forwarded or signal.Signals(number)

  def _bury(self) -> None:
    """Takes note of workers that have ended."""
    how = os.WEXITED | os.WNOHANG | os.WNOWAIT
    for number, process in [*self._running.items()]:
      if os.waitid(os.P_PID, process.pid, how) is None:
        continue
      # What it has left running; its id names the group until it is waited for.
      _signal_group(process.pid, signal.SIGKILL)
      code = process.wait()
      del self._running[number]
      self._guard.tell(self._groups())
      if code and not self._code:
        self._fail(number, code)

  def _fail(self, number: int, code: int) -> None:
    """Says which worker failed first, and has the others end."""
    self._code = code if code > 0 else 128 - code
    self._deadline = time.monotonic() + self._grace
    ended = f"Worker {number} {_how(code)}"
    if self._forwarded:  # They have been told to end.
      _say(f"{ended} after {self._forwarded.name}.")
    else:
      _say(f"Error: {ended}{', so all have to end' if self._running else ''}.")
      self._send(signal.SIGTERM)

  def _kill_late(self) -> None:
    late = " and ".join(map(str, self._running))
    _say(f"Still running after {self._grace:g} s, so killed: worker {late}.")
    self._send(signal.SIGKILL)
    self._deadline = math.inf

  def _send(self, number: int) -> None:
    for group in self._groups():
      _signal_group(group, number)

  def _groups(self) -> list[int]:
    return [process.pid for process in self._running.values()]


def _signal_group(leader: int, number: int) -> None:
  try:
    os.killpg(leader, number)
  except ProcessLookupError:  # It has moved to another group.
    os.kill(leader, number)


def _how(code: int) -> str:
  """Returns how a process has ended."""
  if code >= 0:
    return f"ended with exit code {code}"
  names = {number.value: number.name for number in signal.Signals}
  return f"was ended by {names.get(-code, f'signal {-code}')}"


def _say(sentence: str) -> None:
  erase = ERASE if sys.stderr.isatty() else ""
  print(erase + sentence, file=sys.stderr, flush=True)
