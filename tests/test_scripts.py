"""The commands as a user meets them: real processes, really killed.

Starting Python with TensorFlow takes seconds. Most processes here are therefore
forked from one that has imported it, and nothing else, beforehand.
"""

import csv
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from disk import unchanged
from tensorboard.backend.event_processing import event_accumulator

from l2l_tf.optimizers import SGD, Adam, Partition, Where
from l2l_tf.storage import export

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = "from l2l_tf.scripts.{} import run; run()"
NUM_EPOCHS, PERIOD = 90, 3
TINY = [
  "--problem=quadratic", f"--num_epochs={NUM_EPOCHS}", f"--evaluation_period={PERIOD}",
  "--evaluation_epochs=1", "--num_steps=4", "--unroll_length=2", "--layers=24",
]  # fmt: skip
# What the run above writes: up to its first checkpoint, logs of about 6 kB, an
# export of 12 kB and the checkpoint of 34 kB; to its end, logs of 100 kB.
IN_EXPORT, IN_CHECKPOINT, IN_LOGS = 9_500, 22_000, 45_000

FORKS = """
import gc, json, os, resource, signal, sys, time
import keras, tensorflow
from l2l_tf.evaluation import findings, plots, report
from l2l_tf.runs import presets
from l2l_tf.storage import summaries
from l2l_tf.meta import trace_graph
from l2l_tf.runs import training_run

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

gc.freeze()  # Else each process walks over all of TensorFlow when it ends.
for line in sys.stdin:
  job = json.loads(line)
  if "wait" in job:
    print(json.dumps(wait(job["wait"], time.monotonic() + 120)), flush=True)
  elif pid := os.fork():
    print(pid, flush=True)
  else:
    become(job)
    exec(job["code"])
    break
"""


class Ended:
  """How a process ended."""

  def __init__(self, code, out, err):
    self.code, self.out = code, out
    lines = err.replace("\r", "\n").splitlines()
    bars = "Meta-training:", "Evaluating:"
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

  def wait_until(self, condition):
    """Returns as soon as it holds; fails if the process ends before."""
    deadline = time.monotonic() + 120
    while not condition():
      state = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")")[-1].split()
      assert state[0] != "Z" and time.monotonic() < deadline, self.wait().err
      time.sleep(0.0002)

  def kill(self, number=signal.SIGKILL) -> Ended:
    os.kill(self.pid, number)
    return self.wait()


class Forks:
  """Starts processes that have TensorFlow imported already."""

  def __init__(self, directory):
    self._directory = directory
    self._server = subprocess.Popen(
      [sys.executable, "-c", FORKS],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )

  def ask(self, job):
    print(json.dumps(job), file=self._server.stdin, flush=True)
    return json.loads(self._server.stdout.readline())

  def start(self, script, *args, cwd=None, code=None, limit=None, fatal=False):
    code = {"code": code or COMMAND.format(script), "cwd": str(cwd or self._directory)}
    argv = [f"l2l-{script}", *map(str, args)]
    return Process(self, self._directory, code, argv, limit, fatal)

  def run(self, script, *args, **kwargs) -> Ended:
    return self.start(script, *args, **kwargs).wait()

  def close(self):
    self._server.stdin.close()
    self._server.wait()


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
  forks = Forks(tmp_path_factory.mktemp("forks"))
  yield forks
  forks.close()


def cold(code, *args, cwd=None, path=()):
  """Runs Python from its start, with an environment as users have it."""
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
  env.pop("TF_CPP_MIN_LOG_LEVEL", None)
  done = subprocess.run(
    [sys.executable, "-c", code, *map(str, args)],
    cwd=cwd, env=env, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  """A run that nothing disturbed: how it ended, and its directory."""
  path = tmp_path_factory.mktemp("reference") / "run"
  return cold(COMMAND.format("train"), *TINY, f"--save_path={path}"), path


def result(path, num_epochs=NUM_EPOCHS):
  """The exported file and the last checkpoint, bit for bit."""
  with np.load(path / "optimizer.l2l.npz") as arrays:
    exported = {k: (v.dtype, v.shape, v.tobytes()) for k, v in arrays.items()}
  reader = tf.train.load_checkpoint(str(path / "checkpoints" / f"ckpt-{num_epochs}"))
  names = set(reader.get_variable_to_shape_map())
  counter = {n for n in names if n.startswith("save_counter")}  # of saves, not epochs
  assert len(names) > 10 and len(counter) == 1
  last = {n: reader.get_tensor(n) for n in names - counter}
  return exported, {k: getattr(v, "tobytes", lambda v=v: v)() for k, v in last.items()}


def latest(path):
  """Number of the last checkpoint."""
  found = (path / "checkpoints").glob("ckpt-*.index")
  return max((int(p.stem.split("-")[1]) for p in found), default=0)


def test_a_run_shows_its_progress_and_nothing_else(reference):
  ended, path = reference
  assert ended.code == 0
  assert not ended.err
  assert f"| {NUM_EPOCHS}/{NUM_EPOCHS} [" in ended.bar[-1]
  assert "best validation" in ended.bar[-1]
  first, last = ended.out.splitlines()
  assert first.startswith("Training on quadratic (")
  assert first.endswith(f"): {NUM_EPOCHS} epochs, saved in {path}.")
  assert last.startswith("Best validation loss ")
  assert last.endswith(f": {path / 'optimizer.l2l.npz'}")


def test_killed_at_any_moment_a_run_ends_with_the_same_bits(forks, reference, tmp_path):
  path, draw = tmp_path / "run", random.Random(0)

  def start(**kwargs):
    return forks.start("train", *TINY, f"--save_path={path}", **kwargs)

  # The kernel kills in the middle of writing the export, then of a checkpoint.
  assert start(limit=IN_EXPORT, fatal=True).wait().code == -signal.SIGXFSZ
  assert list(path.glob(".optimizer.l2l.npz.*")) and not latest(path)
  assert start(limit=IN_CHECKPOINT, fatal=True).wait().code == -signal.SIGXFSZ
  assert list(path.glob("checkpoints/*_temp")) and not latest(path)

  process = start()
  time.sleep(draw.uniform(0, 1))
  assert process.kill().code == -signal.SIGKILL
  process = start()
  process.wait_until(lambda: latest(path))
  process.wait_until(lambda: list(path.glob("checkpoints/*_temp")))
  assert process.kill().code == -signal.SIGKILL
  for kills in range(3):
    process, before = start(), latest(path)
    process.wait_until(lambda before=before: latest(path) > before)
    time.sleep(draw.uniform(0, 0.05))
    ended = process.kill()
    assert ended.code == -signal.SIGKILL
    if kills:  # The first may have nothing but a first checkpoint, half-written.
      assert "Going on after epoch " in ended.out

  assert start().wait().code == 0
  assert result(path) == result(reference[1])


def test_interrupted_and_terminated_a_run_ends_with_a_checkpoint(
  forks, reference, tmp_path
):
  path = tmp_path / "run"
  for number in signal.SIGINT, signal.SIGTERM:
    process, before = forks.start("train", *TINY, f"--save_path={path}"), latest(path)
    process.wait_until(lambda before=before: latest(path) > before)
    ended = process.kill(number)
    assert ended.code == 128 + number
    (notice,) = ended.err
    assert "Stopping after this epoch" in notice
    stopped = f"Stopped after epoch {latest(path)}; the same command goes on from there"
    assert stopped in ended.out
  ended = forks.run("train", *TINY, f"--save_path={path}")
  assert ended.code == 0
  assert f"Going on after epoch {latest(path)}" not in ended.out
  assert result(path) == result(reference[1])


def test_a_full_disk_costs_no_checkpoint(forks, reference, tmp_path):
  path = tmp_path / "run"
  run = ["train", *TINY, f"--save_path={path}"]
  forks.run(*run, limit=400).assert_mistake("config.json' could not be written")
  assert not list(path.iterdir())

  # TensorBoard's logs grow beyond what fits.
  forks.run(*run, limit=IN_LOGS).assert_mistake(f"{str(path)!r} could not be written")
  assert 10 < (before := latest(path)) < NUM_EPOCHS - 20

  # From one moment on, no file fits.
  process = forks.start(*run)
  process.wait_until(lambda: latest(path) > before)
  limits = IN_CHECKPOINT, resource.RLIM_INFINITY
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
  process.wait().assert_mistake(str(path), "could not be written")

  before = latest(path)
  ended = forks.run(*run)
  assert ended.code == 0 and f"Going on after epoch {before} of" in ended.out
  assert result(path) == result(reference[1])


def test_a_training_is_one_run_in_tensorboard_wherever_it_was_stopped(
  forks, reference, tmp_path
):
  path = tmp_path / "run"
  process = forks.start("train", *TINY, f"--save_path={path}")
  process.wait_until(lambda: latest(path) > PERIOD)
  process.kill()
  assert forks.run("train", *TINY, f"--save_path={path}").code == 0
  points = [event_points(p) for p in (path, reference[1])]
  assert points[0] == points[1]
  epochs = [*range(PERIOD, NUM_EPOCHS + 1, PERIOD)]
  assert points[0]["2_validation/final_loss"] == epochs
  assert points[0]["3_epoch/final_loss"] == [*range(1, NUM_EPOCHS + 1)]
  tables = [rows(p / "validation.csv") for p in (path, reference[1])]
  assert tables[0] == tables[1]
  assert [int(row["epoch"]) for row in tables[0]] == [
    n for n in epochs for _ in range(5)
  ]


def event_points(path):
  """Steps of each tag of the one run in that directory; of pictures, the last."""
  files = [*path.rglob("*tfevents*")]
  assert {f.parent for f in files} == {path}
  everything = {"tensors": 0}
  events = event_accumulator.EventAccumulator(str(path), everything).Reload()
  points = {
    tag: [e.step for e in events.Tensors(tag)] for tag in events.Tags()["tensors"]
  }
  points["2_validation/trajectories"] = points["2_validation/trajectories"][-1:]
  return points


def test_a_finished_run_does_nothing(forks, reference):
  path = reference[1]
  with unchanged(path):
    ended = forks.run("train", *TINY, f"--save_path={path}", "--log_period=7")
  assert ended.code == 0 and not ended.err and not ended.bar
  first, last = ended.out.splitlines()
  assert first.startswith(f"Already finished: {NUM_EPOCHS} epochs, saved in {path};")
  assert last == reference[0].out.splitlines()[-1]


def test_another_configuration_is_refused(forks, reference):
  path = reference[1]
  with unchanged(path):
    ended = forks.run("train", *TINY, f"--save_path={path}", "--seed=1", "--layers=8,8")
  ended.assert_mistake("layers=[24], now [8, 8], seed=0, now 1;")


CONSTANT = [
  "--problem=simple", "--evaluation_period=2", "--num_steps=4", "--unroll_length=2",
  "--layers=2", "--schedule=constant",
]  # fmt: skip


def test_a_finished_run_goes_on_for_more_epochs(forks, tmp_path):
  def train(path, num_epochs, *flags):
    run = *CONSTANT, f"--save_path={tmp_path / path}", f"--num_epochs={num_epochs}"
    return forks.run("train", *run, *flags)

  assert train("run", 4).code == 0
  path = tmp_path / "run"
  with unchanged(path):
    train("run", 2).assert_mistake("num_epochs=2", "has taken 4 epochs already")
    train("run", 8, "--seed=1").assert_mistake("seed=0, now 1;")
    assert "; go on with a higher --num_epochs, or give" in train("run", 4).out
  more = train("run", 8)
  assert more.code == 0 and not more.err
  first, _ = more.out.splitlines()
  assert first == f"Going on after epoch 4 of 8 (num_epochs=8, was 4), saved in {path}."
  assert "| 8/8 [" in more.bar[-1]
  assert train("whole", 8).code == 0
  whole = tmp_path / "whole"
  assert (path / "config.json").read_text() == (whole / "config.json").read_text()
  flagfiles = [(p / "flags.txt").read_text() for p in (path, whole)]
  assert flagfiles[0].replace(str(path), str(whole)) == flagfiles[1]
  assert result(path, 8) == result(whole, 8)


def test_a_cosine_names_the_way_on(forks, reference):
  path = reference[1]
  flags = [*TINY, f"--save_path={path}", f"--num_epochs={2 * NUM_EPOCHS}"]
  with unchanged(path):
    ended = forks.run("train", *flags)
    forks.run("train", *flags, "--seed=1").assert_mistake("num_epochs=", "seed=0, now")
  ended.assert_mistake(
    f"cosine of the run in {str(path)!r} was laid out for {NUM_EPOCHS} epochs",
    f"--initial_path={path / 'optimizer.l2l.npz'} and another --save_path",
  )


def test_the_saved_flags_repeat_a_run(forks, reference, tmp_path):
  flagfile = f"--flagfile={reference[1] / 'flags.txt'}"
  given = [f"--save_path={tmp_path / 'run'}", "--log_period=30", "--trace_graph"]
  ended = forks.run("train", flagfile, *given)
  assert ended.code == 0 and not ended.err
  lines = [line for line in ended.out.splitlines() if line.startswith("epoch ")]
  assert [line.split()[1] for line in lines] == ["30", "60", "90"]
  assert all("final loss" in x and "best validation" in x for x in lines)
  config = [p / "config.json" for p in (tmp_path / "run", reference[1])]
  assert config[0].read_text() == config[1].read_text()
  assert result(tmp_path / "run") == result(reference[1])


def test_early_stopping_is_said(forks, tmp_path):
  ended = forks.run(
    "train", "--problem=simple", "--num_epochs=50", "--evaluation_period=1",
    "--num_steps=2", "--unroll_length=2", "--layers=2", "--output_scale=0",
    "--patience=3", cwd=tmp_path,
  )  # fmt: skip
  assert ended.code == 0
  _, early, best = ended.out.splitlines()
  assert early == "Ended early: 3 validations in a row without improvement."
  assert best == "Best validation loss 1: tensorboard_logs/simple/optimizer.l2l.npz"
  again = forks.run("train", f"--flagfile={tmp_path}/tensorboard_logs/simple/flags.txt",
                    cwd=tmp_path)  # fmt: skip
  assert again.out.startswith("Already finished: 4 epochs, saved in tensorboard_logs/")
  assert "; go on with a higher --patience, or give another --save_path" in again.out
  more = forks.run("train", f"--flagfile={tmp_path}/tensorboard_logs/simple/flags.txt",
                   "--patience=5", cwd=tmp_path)  # fmt: skip
  first, early, _ = more.out.splitlines()
  assert first.startswith("Going on after epoch 4 of 50 (patience=5, was 3), saved in ")
  assert early == "Ended early: 5 validations in a row without improvement."


def test_a_run_that_always_diverges_says_so(forks, tmp_path):
  ended = forks.run(
    "train", "--problem=simple", "--num_epochs=2", "--num_steps=4", "--unroll_length=2",
    "--preprocess=identity(scale=1e38)", "--initializer=truncated_normal",
    "--output_scale=1e38", f"--save_path={tmp_path / 'run'}",
  )  # fmt: skip
  ended.assert_mistake("All windows of 2 epochs were skipped", "finite", "output_scale")


MINE = """
import keras
import numpy as np
from l2l_tf import problems

def build_model():
  layers = keras.layers
  return keras.Sequential([layers.Dense(4), layers.Dropout(0.1), layers.Dense(1)])

def make_problem():
  x = np.random.default_rng(0).normal(size=[40, 3])
  return problems.keras_model(build_model, "mse", (x, x[:, :1]), held_out=(x, x[:, :1]))

def wrong_data():
  return problems.keras_model(build_model, "mse", (np.ones(1), np.ones(2)))

def wrong_type():
  return build_model
"""


@pytest.fixture
def mine(tmp_path):
  """A user's own problem: a file, and the flags of a short run on it."""
  (tmp_path / "mine.py").write_text(MINE)
  # fmt: off
  return [
    "--problem=mine.py:make_problem", "--num_epochs=40", "--evaluation_period=2",
    "--evaluation_epochs=1", "--num_steps=4", "--unroll_length=2", "--layers=",
  ]
  # fmt: on


def test_a_problem_of_ones_own_is_trained_on_resumed_and_evaluated(
  forks, mine, tmp_path
):
  path = tmp_path / "tensorboard_logs" / "mine_make_problem"
  whole = forks.start("train", *mine, "--save_path=whole", cwd=tmp_path)
  process = forks.start("train", *mine, cwd=tmp_path)
  process.wait_until(lambda: latest(path))
  assert process.kill(signal.SIGTERM).code == 128 + signal.SIGTERM
  ended = forks.run("train", *mine, cwd=tmp_path)
  assert ended.code == 0 and not ended.err
  assert "Going on after epoch" in ended.out
  opening = "Training on mine.py:make_problem (your own): 40 epochs,"
  assert whole.wait().out.startswith(opening)
  files = path / "optimizer.l2l.npz", tmp_path / "whole" / "optimizer.l2l.npz"
  for a, b in zip(*(export.load(file).variables for file in files), strict=True):
    np.testing.assert_array_equal(a, b)

  ended = forks.run(
    "evaluate", mine[0], "--optimizer=SGD", "--learning_rate=0.1", "--num_steps=4",
    "--num_epochs=2", cwd=tmp_path,
  )  # fmt: skip
  assert ended.code == 0 and not ended.err
  (row,) = rows(path / "evaluation" / "summary.csv")
  assert float(row["held_out_loss"]) > 0


@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_a_mistake_in_ones_own_file_costs_nothing(forks, mine, tmp_path, script):
  def run(name):
    return forks.run(script, f"--problem=mine.py:{name}", cwd=tmp_path)

  run("missing").assert_mistake("mine.py has no function 'missing'", "define it there")
  run("wrong_type").assert_mistake("wrong_type() of mine.py returned", "a problem")
  ended = run("wrong_data")
  assert ended.code == 1 and "Traceback" in ended.err[0]
  shown = "\n".join(ended.err)
  assert 'mine.py", line ' in shown
  assert "in wrong_data" in shown
  assert "ValueError: The data have shapes (1,), (2,); all must be arrays" in shown
  assert ended.err[-1] == "RuntimeError: wrong_data() of mine.py failed, see above."
  assert [p.name for p in tmp_path.iterdir()] == ["mine.py"]


COUNTS = [
  ("train", ["num_epochs", "log_period", "evaluation_period", "evaluation_epochs"]),
  ("train", ["patience", "num_steps", "unroll_length"]),
  ("evaluate", ["num_epochs", "num_tuning_epochs", "num_steps"]),
]
WRONG_FLAGS = [
  *(
    (s, [f"--{n}={x}"], [f"--{n}={x}"]) for s, ns in COUNTS for n in ns for x in (0, -1)
  ),
  ("train", ["--num_epochs=many"], ["--num_epochs=many"]),
  ("train", ["--num_epochs=1.5"], ["--num_epochs=1.5"]),
  ("train", ["--problem=cifar"], ["--problem=cifar", "simple_multi", "mnist_mlp"]),
  ("train", ["--problem=mine.py:f"], ["no file 'mine.py'", "check the path; see"]),
  ("train", ["--problem=mine.py"], ["path/to/file.py:function", "simple_multi"]),
  ("train", ["--learning_rate=nan"], ["--learning_rate=nan", "positive, finite"]),
  ("train", ["--learning_rate=inf"], ["--learning_rate=inf", "positive, finite"]),
  ("train", ["--learning_rate=-0.1"], ["--learning_rate=-0.1", "positive, finite"]),
  ("train", ["--learning_rate=0"], ["positive, finite number"]),
  ("train", ["--learning_rate=fast"], ["--learning_rate=fast"]),
  ("train", ["--clip_norm=0"], ["--clip_norm=0", "positive; inf turns it off"]),
  ("train", ["--clip_norm=nan"], ["positive; inf turns it off"]),
  ("train", ["--output_scale=nan"], ["--output_scale=nan", "a finite number"]),
  ("train", ["--output_scale=inf"], ["a finite number"]),
  ("train", ["--layers=20,x"], ["--layers=", "'x'", "positive integers"]),
  ("train", ["--layers=20,0"], ["positive integers"]),
  ("train", ["--layers=20,,20"], ["positive integers"]),
  ("train", ["--layers=-20"], ["positive integers"]),
  ("train", ["--schedule=linear"], ["cosine", "constant"]),
  ("train", ["--seed=one"], ["--seed=one"]),
  ("train", ["--plot=false"], ["'plot'"]),
  ("train", ["--num_epoch=3"], ["'num_epoch'", "num_epochs"]),
  ("train", ["quadratic"], ["'quadratic' is no flag", "--name=value"]),
  ("train", ["--flagfile=missing.txt"], ["missing.txt"]),
  ("evaluate", ["--problem=cifar"], ["--problem=cifar", "simple_multi", "mnist_mlp"]),
  ("evaluate", ["--problem=mine.py:f"], ["no file 'mine.py'", "check the path; see"]),
  ("evaluate", ["--optimizer=Adam,Lion"], ["'Lion'", "Nesterov", "--path"]),
  ("evaluate", ["--optimizer="], ["nothing to evaluate", "--path"]),
  ("evaluate", ["--learning_rate=nan"], ["positive, finite number"]),
  ("evaluate", ["--learning_rate=0"], ["positive, finite number"]),
  ("evaluate", ["--plot=perhaps"], ["--plot=perhaps"]),
  ("evaluate", ["some.npz"], ["'some.npz' is no flag"]),
  ("diagnose", [], ["nothing to diagnose: give --path"]),
  ("diagnose", ["--path=some.npz", "--warmup=0"], ["--warmup=0"]),
  ("diagnose", ["--path=some.npz", "--num_steps=0"], ["--num_steps=0"]),
]
WRONG_VALUES = [
  ("train", ["--preprocess=log"], ["preprocess='log'", "log_and_sign"]),
  ("train", ["--preprocess=clamp(scale=x)"], ["clamp(scale=x)"]),
  ("train", ["--preprocess=log_and_sign(p=0)"], ["p=0"]),
  ("train", ["--num_steps=10", "--unroll_length=3"], ["num_steps=10", "length=3"]),
  ("train", ["--save_path=file"], ["save_path='file' is a file; give a directory"]),
  ("train", ["--save_path=file/below"], ["'file/below'", "Not a directory"]),
  ("evaluate", ["--path=missing.npz"], ["'missing.npz'"]),
  ("evaluate", ["--path=."], ["'.'"]),
  ("evaluate", ["--path=file"], ["'file'"]),
  ("evaluate", ["--path=file,"], ["'file'"]),
  ("evaluate", ["--save_path=file/below"], ["'file/below'", "Not a directory"]),
  ("diagnose", ["--path=missing.npz"], ["'missing.npz'"]),
  ("diagnose", ["--path=file"], ["'file'"]),
]


@pytest.mark.parametrize(
  "script, args, words", [pytest.param(*m, id=" ".join(m[1])) for m in WRONG_FLAGS]
)
def test_a_wrong_flag_is_one_sentence_at_once(tmp_path, script, args, words):
  ended = cold(COMMAND.format(script), *args, cwd=tmp_path)
  ended.assert_mistake(*words)
  assert not ended.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "script, args, words", [pytest.param(*m, id=" ".join(m[1])) for m in WRONG_VALUES]
)
def test_a_wrong_value_is_one_sentence_and_costs_nothing(
  forks, tmp_path, script, args, words
):
  file = tmp_path / "file"
  file.write_text("mine")
  ended = forks.run(script, *args, cwd=tmp_path)
  ended.assert_mistake(*words)
  assert not ended.out
  assert list(tmp_path.iterdir()) == [file] and file.read_text() == "mine"


GUARDED = """
from l2l_tf.problems.data.datasets import DatasetUnavailableError
from l2l_tf.scripts import launch, evaluate
def main():
  raise {}
launch.run(main, "l2l_tf.scripts.evaluate")
"""


def test_what_is_no_mistake_keeps_its_traceback(forks):
  def run(error, *args):
    return forks.run("evaluate", *args, code=GUARDED.format(error))

  run("DatasetUnavailableError('Set TFDS_DATA_DIR.')").assert_mistake("TFDS_DATA_DIR")
  run("OSError(28, 'No space left on device')").assert_mistake("No space left")
  run("PermissionError(13, 'No', 'a.npz')").assert_mistake("'a.npz'", "permissions")
  for fault in "KeyError('x')", "ValueError('in user code:\\n  File')":
    ended = run(fault)
    assert ended.code == 1 and "Traceback" in ended.err[0]
  ended = run("ValueError('What came.')", "--verbosity=1")
  assert ended.code == 2 and any("Traceback" in line for line in ended.err)
  assert ended.err[-1] == "Error: What came."
  ended = run("KeyboardInterrupt()")
  assert (ended.code, ended.err) == (130, ["Interrupted."])


HELP = """
import sys, time
sys.argv = ["l2l-{0}", *sys.argv[1:]]
from l2l_tf.scripts.{0} import run
try:
  run()
finally:
  from absl import flags
  assert "tensorflow" not in sys.modules
  for f in flags.FLAGS.flags_by_module_dict()["l2l_tf.scripts.{0}"]:
    told = "by default" in f.help or f.default is not None
    text = f.help.split(">: ")[-1]
    print("FLAG", f.name, told and text[0].isupper() and text[-1] == ".")
"""


@pytest.mark.parametrize(
  "script, flags",
  [
    ("train", "problem num_epochs log_period evaluation_period evaluation_epochs"
     " num_steps unroll_length learning_rate second_derivatives save_path seed"),
    ("evaluate", "problem optimizer path num_epochs num_steps learning_rate seed plot"),
    ("diagnose", "path save_path warmup num_steps seed plot"),
  ],
)  # fmt: skip
def test_help_explains_each_flag_at_once(script, flags):
  ended = cold(HELP.format(script), "--help")
  assert (ended.code, ended.err) == (0, [])
  shown, *told = ended.out.split("FLAG ")
  told = dict(line.split() for line in told)
  assert set(flags.split()) <= set(told) and set(told.values()) == {"True"}
  for name in told:
    assert f"  --{name}: " in shown or f"  --[no]{name}: " in shown
  example = "--path=" if script == "diagnose" else "--problem=quadratic"
  assert f"  l2l-{script} {example}" in shown


def test_the_flags_know_the_names_that_there_are(forks):
  code = """
from l2l_tf.evaluation import protocol as library
from l2l_tf.scripts import evaluate
assert list(evaluate.BASELINES) == list(library.BASELINES), evaluate.BASELINES
"""
  ended = forks.run("evaluate", code=code)
  assert ended.code == 0, ended.err


NOTICES = """
import os
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\\n"
  b"I0000 port.cc:153] oneDNN custom operations are on.\\n"
  b"E0000 cuda_platform.cc:52] failed call to cuInit: INTERNAL\\n"
  b"a real problem\\n")
"""


@pytest.mark.parametrize(
  "end, code", [("raise ImportError('no')", 1), ("os.abort()", -6)]
)
def test_only_notices_of_the_import_are_held_back(tmp_path, end, code):
  (tmp_path / "tensorflow.py").write_text(NOTICES + end)
  ended = cold("import l2l_tf.runs.quiet", path=[tmp_path])
  assert ended.code == code
  assert ended.err[0] == "a real problem"
  assert (ended.err[-1] == "ImportError: no") == (code == 1)


@pytest.fixture
def exported(reference, tmp_path):
  """Two exports, in directories of the same name."""
  for parent in "one", "two":
    (tmp_path / parent / "run").mkdir(parents=True)
    shutil.copy(reference[1] / "optimizer.l2l.npz", tmp_path / parent / "run")
  return [f"{parent}/run/optimizer.l2l.npz" for parent in ("one", "two")]


def rows(file):
  with file.open(newline="") as f:
    return list(csv.DictReader(f))


def test_a_run_goes_on_from_an_export_with_its_architecture(forks, exported, tmp_path):
  path = tmp_path / exported[0]
  # fmt: off
  flags = [
    "train", "--problem=simple", "--num_epochs=1", "--num_steps=2", "--unroll_length=2",
    f"--initial_path={path}", f"--save_path={tmp_path / 'on'}",
  ]
  # fmt: on
  forks.run(*flags, "--layers=4").assert_mistake("--layers", "--initial_path")
  ended = forks.run(*flags)
  assert ended.code == 0, ended.err
  first, then = export.load(path), export.load(tmp_path / "on/optimizer.l2l.npz")
  assert then.config == first.config
  moved = [np.abs(a - b).max() for a, b in zip(first.variables, then.variables)]
  assert 0 < max(moved) < 0.02  # one step of Adam at 0.01, not other weights


def test_an_evaluation_prints_and_writes_its_results(forks, exported, tmp_path):
  ended = forks.run(
    "evaluate", "--problem=simple", f"--path={','.join(exported)}",
    "--optimizer=adam,SGD", "--num_steps=5", "--num_epochs=1",
    "--save_path=new/results", cwd=tmp_path,
  )  # fmt: skip
  assert ended.code == 0 and not ended.err and ended.bar
  learned = [f"LSTM ({path})" for path in exported]
  names = {*learned, "SGD", "Adam"}
  header, rule, *table, empty, last = ended.out.splitlines()
  assert header.startswith("optimizer ") and "final loss" in header
  assert set(rule) == {"-", " "} and not empty
  assert {line.split("  ")[0] for line in table} == names
  assert last == "All ran on the same problems, 1; written to new/results/"

  path = tmp_path / "new" / "results"
  summary, curves = rows(path / "summary.csv"), rows(path / "curves.csv")
  assert {row["optimizer"] for row in summary} == names
  assert len(curves) == 4 * 6
  assert summary[0]["final_loss"] == summary[1]["final_loss"]  # the same weights
  assert (path / "curves.png").read_bytes().startswith(b"\x89PNG")
  runs = [p.parent.name for p in path.rglob("events.out.tfevents.*")]
  expected = ["results", "SGD", "Adam", *(x.replace("/", "_") for x in learned)]
  assert sorted(runs) == sorted(expected)


def test_an_evaluation_of_one_export_alone_without_a_picture(forks, exported, tmp_path):
  ended = forks.run(
    "evaluate", "--problem=simple", f"--path={exported[0]}", "--optimizer=",
    "--num_steps=5", "--num_epochs=1", "--plot=false", cwd=tmp_path,
  )  # fmt: skip
  assert ended.code == 0 and not ended.err
  path = tmp_path / "one" / "run" / "evaluation"
  assert [row["optimizer"] for row in rows(path / "summary.csv")] == ["LSTM (run)"]
  assert not list(path.glob("*.png"))


def test_an_evaluation_with_a_given_rate_and_a_full_disk(forks, tmp_path):
  ended = forks.run(
    "evaluate", "--problem=simple", "--optimizer=SGD", "--learning_rate=0.1",
    "--num_steps=50", "--num_epochs=1", cwd=tmp_path, limit=2_000,
  )  # fmt: skip
  ended.assert_mistake("tensorboard_logs/simple/evaluation", "could not be written")
  assert "SGD         0.1" in ended.out  # The table is not lost.


def test_a_diagnosis_prints_and_writes_its_results(forks, exported, tmp_path):
  ended = forks.run("diagnose", f"--path={exported[0]}", cwd=tmp_path)
  assert ended.code == 0 and not ended.err
  title, empty, header, rule, *lines = ended.out.splitlines()
  assert title == f"CoordinatewiseLSTM of {exported[0]}" and not empty
  assert header.split()[:3] == ["gradient", "first", "update"]
  assert set(rule) == {"-", " "}
  first = [line.split()[0] for line in lines[:8]]
  assert first == ["0", "1e-08", "-1e-08", "0.01", "-0.01", "1e+06", "-1e+06", "noise"]
  assert lines[-1] == "Written to one/run/diagnosis/"
  path = tmp_path / "one" / "run" / "diagnosis"
  found = (path / "findings.txt").read_text()
  assert found and found in ended.out
  response = rows(path / "response.csv")
  assert len(response) == 163 and float(response[0]["gradient"]) == -1e10
  assert {row["run"] for row in rows(path / "trajectories.csv")} >= {"zero", "huge"}
  assert (path / "diagnosis.png").read_bytes().startswith(b"\x89PNG")


def test_a_diagnosis_of_a_partition_is_one_of_each_member(forks, tmp_path):
  routes = [(Where("w"), SGD(0.1)), (Where("b"), Adam(0.1))]
  shapes = [("w", (2, 3), "kernel"), ("b", (3,), "bias")]
  export.save(Partition(routes, shapes), tmp_path / "both.l2l.npz")
  ended = forks.run("diagnose", "--path=both.l2l.npz", "--plot=false", cwd=tmp_path)
  assert ended.code == 0 and not ended.err
  titles = [line for line in ended.out.splitlines() if line.startswith("route_")]
  assert titles == ["route_0 SGD of both.l2l.npz", "route_1 Adam of both.l2l.npz"]
  for i, update in enumerate([1e9, 0.1]):
    found = rows(tmp_path / "diagnosis" / f"route_{i}" / "response.csv")
    assert float(found[0]["first"]) == pytest.approx(update, rel=1e-4)


def test_a_diagnosis_without_a_picture_and_on_a_full_disk(forks, exported, tmp_path):
  flags = ["diagnose", f"--path={exported[0]}", "--save_path=new/results"]
  flags += ["--warmup=1", "--num_steps=2"]
  ended = forks.run(*flags, cwd=tmp_path, limit=2_000)
  ended.assert_mistake("new/results/response.csv", "could not be written")
  assert "noise" in ended.out  # The table is not lost.
  assert forks.run(*flags, "--plot=false", cwd=tmp_path).code == 0
  names = {p.name for p in (tmp_path / "new" / "results").iterdir()}
  assert names == {"response.csv", "trajectories.csv", "findings.txt"}
