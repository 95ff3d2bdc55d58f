"""The commands as a user meets them: real processes, really killed.

Starting Python with TensorFlow takes seconds. Most processes are therefore forked from
one that has imported it, and nothing else, beforehand.
"""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = "from l2l_tf.scripts.{} import run; run()"

# What a process may have imported before it is forked.
LIBRARIES = f"""
import keras, matplotlib.backends.backend_agg, matplotlib.pyplot, sonnet, tensorflow
import tensorboard.summary
sys.path.insert(0, {str(ROOT / "tests")!r})
import quick_graphs
del sys.path[0]
quick_graphs.make()
assert "l2l_tf" not in sys.modules
"""
ALL = """
from l2l_tf.evaluation import findings, plots, report
from l2l_tf.meta import trace_graph
from l2l_tf.runs import diagnosis, evaluation, training
from l2l_tf.storage import summaries
"""
SCRIPTS = """
from l2l_tf.scripts import launch
assert "tensorflow" not in sys.modules
"""

FORKS = """
import gc, json, os, resource, signal, sys, time
gc.disable()  # It would walk over all of TensorFlow while that is imported.
exec(sys.argv[1])

def become(job):
  os.chdir(job["cwd"])
  for fd, name in enumerate(["/dev/null", job["out"], job["err"]]):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), fd)
  if job["limit"] is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], resource.RLIM_INFINITY))
  if job["fatal"]:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
  sys.argv = job["argv"]

def wait(pid, deadline):
  while time.monotonic() < deadline:
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.002)
  os.kill(pid, signal.SIGKILL)
  os.waitpid(pid, 0)
  return "hangs"

def serve():
  gc.enable()
  gc.freeze()  # Else each process walks over all of TensorFlow when it ends.
  for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
      print(json.dumps(wait(job["wait"], time.monotonic() + 120)), flush=True)
    elif pid := os.fork():
      print(pid, flush=True)
    elif "imports" in job:  # a server of its own
      for fd, flags in enumerate([os.O_RDONLY, os.O_WRONLY]):
        os.dup2(os.open(job["pipes"][fd], flags), fd)
      sys.stdin = open(0)
      exec(job["imports"], globals())
      return serve()
    else:
      become(job)
      return exec(job["code"], globals())

serve()
"""


class Ended:
  """How a process ended."""

  def __init__(self, code, out, err):
    self.code, self.out = code, out
    lines = err.replace("\r", "\n").splitlines()
    bars = "Meta-training:", "Evaluating:", "Painting"
    self.bar = [line for line in lines if line.startswith(bars)]
    self.err = [line for line in lines if line.strip() and not line.startswith(bars)]

  def assert_mistake(self, *words):
    """One sentence on stderr, with these words."""
    assert self.code == 2, (self.code, self.err)
    (sentence,) = self.err
    assert sentence.startswith("Error: ") and sentence.endswith(".")
    for word in words:
      assert word in sentence


class Process:
  def __init__(self, forks, directory, code, argv, limit, fatal):
    self._forks = forks
    self._files = [directory / f"{name}-{time.monotonic_ns()}" for name in ("o", "e")]
    job = {"out": str(self._files[0]), "err": str(self._files[1]), "argv": argv}
    self.pid = forks.ask({**job, **code, "limit": limit, "fatal": fatal})

  def wait(self) -> Ended:
    code = self._forks.ask({"wait": self.pid})
    return Ended(code, *(f.read_text() for f in self._files))

  def wait_until(self, condition, every=0.005):
    """Asks `every` seconds whether it holds; fails if the process ends before."""
    deadline = time.monotonic() + 120
    while not condition():
      state = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")")[-1].split()
      assert state[0] != "Z" and time.monotonic() < deadline, self.wait().err
      time.sleep(every)

  def kill(self, number=signal.SIGKILL) -> Ended:
    os.kill(self.pid, number)
    return self.wait()


class Forks:
  """Starts processes that have imported something already, in no time."""

  def __init__(self, directory, imports, parent=None):
    """Starts a server, which is forked itself if there is a `parent`."""
    self._directory = directory
    if parent is not None:
      pipes = [directory / name for name in ("requests", "answers")]
      for pipe in pipes:
        os.mkfifo(pipe)
      parent.ask({"imports": imports, "pipes": [str(pipe) for pipe in pipes]})
      self._requests, self._answers = pipes[0].open("w"), pipes[1].open()
      self._server = None
      return
    self._server = subprocess.Popen(
      [sys.executable, "-c", FORKS, imports],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    self._requests, self._answers = self._server.stdin, self._server.stdout

  def ask(self, job):
    print(json.dumps(job), file=self._requests, flush=True)
    return json.loads(self._answers.readline())

  def start(self, script, *args, cwd=None, code=None, limit=None, fatal=False):
    code = {"code": code or COMMAND.format(script), "cwd": str(cwd or self._directory)}
    argv = [f"l2l-{script}", *map(str, args)]
    return Process(self, self._directory, code, argv, limit, fatal)

  def run(self, script, *args, **kwargs) -> Ended:
    return self.start(script, *args, **kwargs).wait()

  def close(self):
    self._requests.close()
    self._answers.read()  # until it has ended
    if self._server is not None:
      self._server.wait()


def cold(code, *args, cwd=None, path=()):
  """Runs Python from its start, with an environment as users have it."""
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
  env.pop("TF_CPP_MIN_LOG_LEVEL", None)
  done = subprocess.run(
    [sys.executable, "-c", code, *map(str, args)],
    cwd=cwd, env=env, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  return Ended(done.returncode, done.stdout, done.stderr)


def rows(file):
  """The rows of a CSV file, by column."""
  with file.open(newline="") as f:
    return list(csv.DictReader(f))
