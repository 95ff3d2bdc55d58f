"""l2l-launch: what its workers are told, what it shows of them, and how all end."""

import itertools
import json
import os
import pathlib
import pty
import signal
import socket
import subprocess
import sys
import time

import pytest
from processes import COMMAND, ROOT

from l2l_tf.runs import local_cluster
from l2l_tf.runs.settings import LaunchSettings

PROGRAM = """
import json, os, pathlib, signal, subprocess, sys, time
number = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
def ready():  # for the signals that the test sends
  pathlib.Path(f"{number}.part").write_text(str(os.getpid()))
  os.rename(f"{number}.part", f"{number}.pid")
"""
AT_ONCE = COMMAND.format("launch_workers") + "\n"
SLEEP = "ready(); time.sleep(60)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


@pytest.fixture
def launch(light_forks, tmp_path):
  """Starts l2l-launch with workers that run a Python program."""

  def start(program, *flags, workers=2):
    command = sys.executable, "-S", "-c", PROGRAM + program
    flags = f"--workers={workers}", *flags, "--"
    return light_forks.start("launch_workers", *flags, *command, cwd=tmp_path)

  return start


def pids(path, names=("0", "1")):
  """The ids of workers, once all are ready."""
  files = [path / f"{name}.pid" for name in names]
  return all(f.exists() for f in files) and [int(f.read_text()) for f in files]


def is_running(pid):
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"  # not waited for, but gone


def assert_gone(pids, seconds=5.0):
  deadline = time.monotonic() + seconds
  while any(map(is_running, pids)):
    assert time.monotonic() < deadline
    time.sleep(0.01)


def free_ports(count):
  """The first of that many ports in a row that nobody uses."""
  for first in itertools.count(20000, count):
    try:
      for port in range(first, first + count):
        with socket.socket() as s:
          s.bind(("", port))
      return first
    except OSError:
      continue


def test_each_worker_knows_the_cluster_and_its_place(launch):
  ended = launch("print(os.environ['TF_CONFIG'])", workers=3).wait()
  assert (ended.code, ended.err) == (0, [])
  lines = sorted(ended.out.splitlines())
  configs = [json.loads(line.removeprefix(f"[{i}] ")) for i, line in enumerate(lines)]
  assert [c["task"] for c in configs] == [
    {"type": "worker", "index": i} for i in range(3)
  ]
  (addresses,) = {tuple(c["cluster"]["worker"]) for c in configs}
  assert len(set(addresses)) == 3
  assert all(address.startswith("localhost:") for address in addresses)


def test_ports_can_be_chosen(launch):
  first = free_ports(2)
  ended = launch("print(os.environ['TF_CONFIG'])", f"--port={first}").wait()
  assert f'["localhost:{first}", "localhost:{first + 1}"]' in ended.out


def test_the_command_may_come_without_dashes(light_forks):
  ended = light_forks.run("launch_workers", "--workers=1", "echo", "--workers=7", "--")
  assert (ended.code, ended.out) == (0, "[0] --workers=7 --\n")


@pytest.mark.parametrize(
  "cores, pin, shares",
  [
    ({2, 5, 7, 9, 11}, None, [{2, 5}, {7, 9, 11}]),
    ({3, 4}, None, [{3}, {4}]),
    ({3, 4}, False, [None, None]),
    ({3}, None, [None, None]),
  ],
)
def test_workers_share_the_cores(monkeypatch, cores, pin, shares):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
  assert local_cluster.shares(LaunchSettings(workers=2, pin=pin)) == shares


def test_workers_run_on_their_cores(launch):
  cores = os.sched_getaffinity(0)
  workers = min(2, len(cores))
  program = "print(*os.sched_getaffinity(0))"
  lines = launch(program, "--pin", workers=workers).wait().out.splitlines()
  shares = [{*map(int, line.split()[1:])} for line in lines]
  assert len(shares) == workers and set.union(*shares) == cores
  assert sum(map(len, shares)) == len(cores)
  for line in launch(program, "--nopin", workers=workers).wait().out.splitlines():
    assert {*map(int, line.split()[1:])} == cores


def test_lines_of_both_streams_are_numbered(launch):
  ended = launch("print('a'); print('b', file=sys.stderr)").wait()
  assert sorted(ended.out.splitlines()) == ["[0] a", "[1] a"]
  assert sorted(ended.err) == ["[0] b", "[1] b"]


def test_on_a_terminal_the_first_worker_writes_as_if_it_were_alone(tmp_path):
  terminal, end = pty.openpty()
  program = "sys.stderr.write('\\r50%'); print(sys.stdout.isatty()); time.sleep(0.3)"
  command = [sys.executable, "-S", "-c", PROGRAM + program]
  done = subprocess.run(
    [sys.executable, "-c", AT_ONCE, "--workers=2", "--", *command],
    cwd=tmp_path, stdout=end, stderr=end, env={**os.environ, "PYTHONPATH": str(ROOT)},
  )  # fmt: skip
  os.close(end)
  shown = os.read(terminal, 10_000).decode()
  assert done.returncode == 0
  assert "\r50%True\r\n" in shown  # of worker 0, at once
  assert "\r\x1b[K[1] False\r\n" in shown and "\r\x1b[K[1] 50%\r\n" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_worker(launch, tmp_path, number):
  program = f"""
def end(number, frame):
  print("told", number)
  sys.exit(128 + number)
signal.signal({int(number)}, end)
ready()
time.sleep(60)
"""
  process = launch(program)
  process.wait_until(lambda: pids(tmp_path))
  ended = process.kill(number)
  assert ended.code == 128 + number
  told = [f"[{i}] told {int(number)}" for i in range(2)]
  assert sorted(ended.out.splitlines()) == told
  (sentence,) = ended.err
  assert f"ended with exit code {128 + number} after {number.name}." in sentence


def test_a_second_signal_kills(launch, tmp_path):
  process = launch(DEAF)
  process.wait_until(lambda: pids(tmp_path))
  os.kill(process.pid, signal.SIGTERM)
  time.sleep(0.2)
  assert all(map(is_running, pids(tmp_path)))
  assert process.kill(signal.SIGTERM).code == 128 + signal.SIGKILL
  assert_gone(pids(tmp_path), seconds=0.0)


@pytest.mark.parametrize(
  "end, code, how",
  [
    ("sys.exit(3)", 3, "ended with exit code 3"),
    ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was ended by SIGKILL"),
    ("os.kill(os.getpid(), 35)", 163, "was ended by signal 35"),
  ],
)
def test_if_one_fails_all_end(launch, tmp_path, end, code, how):
  program = f"""
if number == 1:
  while not all(os.path.exists(f"{{i}}.pid") for i in (0, 2)):
    time.sleep(0.01)
  {end}
{SLEEP}
"""
  ended = launch(program, workers=3).wait()
  assert ended.code == code
  assert ended.err == [f"Error: Worker 1 {how}, so all have to end."]
  assert_gone(pids(tmp_path, "02"), seconds=0.0)


def test_what_ignores_sigterm_is_killed_after_a_while(launch, tmp_path):
  program = f"""
if number == 1:
  while not os.path.exists("0.pid"):
    time.sleep(0.01)
  sys.exit(3)
{DEAF}
"""
  ended = launch(program, "--grace=0.3").wait()
  assert ended.code == 3
  assert ended.err == [
    "Error: Worker 1 ended with exit code 3, so all have to end.",
    "Still running after 0.3 s, so killed: worker 0.",
  ]
  assert_gone(pids(tmp_path, "0"), seconds=0.0)


def test_a_worker_that_has_finished_does_not_end_the_others(launch):
  program = "time.sleep(0.3 * (number == 0)); print('finished')"
  ended = launch(program, "--grace=0.1").wait()
  assert (ended.code, ended.err) == (0, [])
  assert ended.out.splitlines() == ["[1] finished", "[0] finished"]


def test_killed_itself_it_leaves_nothing_behind(launch, tmp_path):
  # The workers' own processes too, such as those of a shell script.
  program = f"""
below = subprocess.Popen(["sleep", "60"])
pathlib.Path(f"below{{number}}.pid").write_text(str(below.pid))
{DEAF}
"""
  process = launch(program)
  process.wait_until(lambda: pids(tmp_path))
  assert process.kill().code == -signal.SIGKILL
  assert_gone(pids(tmp_path, ["0", "1", "below0", "below1"]))


def test_a_worker_that_has_ended_leaves_nothing_behind(launch, tmp_path):
  program = """
below = subprocess.Popen(["sleep", "60"])
pathlib.Path(f"below{number}.pid").write_text(str(below.pid))
"""
  assert launch(program).wait().code == 0
  assert_gone(pids(tmp_path, ["below0", "below1"]))


MISTAKES = [
  ([], ["give --workers=...; see --help"]),
  (["--workers=0", "true"], ["--workers=0", "not a positive integer"]),
  (["--workers=two", "true"], ["--workers=two"]),
  (["--workers=2"], ["no command to start; give it after --, as in l2l-launch"]),
  (["--workers=2", "--"], ["no command to start"]),
  (["--workers=2", "--", "l2l-trian"], ["'l2l-trian'", "check its name or path"]),
  (["--workers=2", "--", "./x.txt"], ["'./x.txt'", "that the file is executable"]),
  (["--workers=2", "--", "./x.bin"], ["'./x.bin' cannot be started (Exec format"]),
  (["--workers=2", "--grace=0", "true"], ["--grace=0", "positive, finite number"]),
  (["--workers=2", "--port=0", "true"], ["--port=0", "[1, 65535]"]),
  (["--workers=2", "--port=65535", "true"], ["at most --port=65534"]),
  (["--workers=10000", "--pin", "true"], ["10000 workers", "leave out --pin"]),
  (["--worker=2", "true"], ["'worker'", "workers"]),
]


@pytest.mark.parametrize(
  "args, words", [pytest.param(*m, id=" ".join(m[0])) for m in MISTAKES]
)
def test_a_mistake_is_one_sentence(light_forks, tmp_path, args, words):
  (tmp_path / "x.txt").write_text("no program")
  (tmp_path / "x.bin").write_bytes(b"\0no program")
  (tmp_path / "x.bin").chmod(0o755)
  ended = light_forks.run("launch_workers", *args, cwd=tmp_path)
  ended.assert_mistake(*words)
  assert not ended.out


def test_a_port_in_use_is_a_mistake(launch):
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    ended = launch("", f"--port={port}", workers=1).wait()
  words = f"Port {port} cannot be used (Address already in use)", "another --port"
  ended.assert_mistake(*words)


def test_a_cluster_that_is_set_already_is_a_mistake(light_forks):
  code = "import os; os.environ['TF_CONFIG'] = '{}'\n" + AT_ONCE
  ended = light_forks.run("launch_workers", "--workers=2", "true", code=code)
  ended.assert_mistake("TF_CONFIG is set already, to '{}'", "unset it")


HELP = f"""
try:
  {AT_ONCE}
finally:
  import sys
  assert "tensorflow" not in sys.modules
"""


def test_help_explains_at_once(light_forks):
  ended = light_forks.run("launch_workers", "--help", code=HELP)
  assert (ended.code, ended.err) == (0, [])
  assert "  l2l-launch --workers=2 -- l2l-train --problem=quadratic" in ended.out
  for flag in "--workers", "--port", "--[no]pin", "--grace":
    assert f"  {flag}: " in ended.out
