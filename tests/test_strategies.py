"""l2l-train and l2l-evaluate on several workers: real processes, really killed."""

import csv
import json
import random
import re
import signal
import socket
import time

import numpy as np
import pytest
from short_run import LINEAR, latest, result

_AS = (
  "import os; os.environ['TF_CONFIG'] = {!r};from l2l_tf.scripts.{} import run; run()"
)
_TASKS = [*LINEAR, "--meta_batch_size=3", "--strategy=multi_worker"]
_LANES = [
  *LINEAR,
  "--meta_gradient=PES(pairs=3,stddev=0.01)",
  "--strategy=multi_worker",
]


def addresses(count):
  """Returns addresses on this machine, whose ports are free."""
  sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
  ports = [s.getsockname()[1] for s in sockets]
  for s in sockets:
    s.close()
  return [f"localhost:{port}" for port in ports]


def start(forks, count, *args, script="train", extra=((), ())):
  """Starts the workers of a cluster, the chief first."""
  workers = addresses(count)
  config = lambda i: json.dumps(
    {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}
  )
  return [
    forks.start(script, *args, *extra[i], code=_AS.format(config(i), script))
    for i in range(count)
  ]


def ended(processes):
  return [p.wait() for p in processes]


@pytest.fixture(scope="module", params=[_TASKS, _LANES], ids=["tasks", "lanes"])
def flags(request):
  return request.param


@pytest.fixture(scope="module")
def undisturbed(forks, flags, tmp_path_factory):
  """The directory of a training on two workers that nothing disturbed."""
  path = tmp_path_factory.mktemp("undisturbed")
  chief, other = ended(start(forks, 2, *flags, f"--save_path={path}"))
  assert (chief.code, other.code) == (0, 0), (chief.err, other.err)
  assert "Best validation loss" in chief.out and not other.out and not other.err
  return path


def test_two_workers_learn_what_one_process_does(forks, flags, undisturbed, tmp_path):
  alone = [flag for flag in flags if not flag.startswith("--strategy")]
  assert forks.run("train", *alone, f"--save_path={tmp_path}").code == 0
  read = lambda path: np.array(
    [list(map(float, row)) for row in list(csv.reader(path.open()))[1:]]
  )
  curves, found = (read(p / "validation.csv") for p in (tmp_path, undisturbed))
  np.testing.assert_allclose(found, curves, rtol=1e-4, atol=1e-7)
  assert len(list(undisturbed.glob("events*"))) == 1  # the chief's


def test_a_worker_is_killed_and_the_run_ends_with_the_same_bits(
  forks, flags, undisturbed, tmp_path
):
  killed = int(flags is _TASKS)  # the chief where lanes are trained, else the other
  path, draw = tmp_path / "run", random.Random(killed)
  processes = start(forks, 2, *flags, f"--save_path={path}")
  processes[0].wait_until(lambda: latest(path))
  time.sleep(draw.uniform(0, 0.1))
  assert processes[killed].kill().code == -signal.SIGKILL
  rest = processes[1 - killed].wait()
  assert rest.code == 2
  assert f"Error: Worker {killed} has ended or cannot be reached" in rest.err[-1]

  chief, other = ended(start(forks, 2, *flags, f"--save_path={path}"))
  assert (chief.code, other.code) == (0, 0), (chief.err, other.err)
  assert "Going on after epoch " in chief.out
  assert result(path) == result(undisturbed)


def test_a_run_goes_on_with_another_number_of_workers(forks, tmp_path):
  flags = [*_TASKS, "--schedule=constant", f"--save_path={tmp_path}"]
  assert all(e.code == 0 for e in ended(start(forks, 2, *flags, "--num_epochs=4")))
  alone = [flag for flag in flags if not flag.startswith("--strategy")]
  going_on = forks.run("train", *alone, "--num_epochs=8")
  assert going_on.code == 0, going_on.err
  assert "replicas=1, was 2" in going_on.out


def test_a_signal_stops_all_workers_after_the_same_epoch(forks, tmp_path):
  flags = [*_TASKS, "--num_epochs=100000", f"--save_path={tmp_path}"]
  processes = start(forks, 2, *flags)
  processes[0].wait_until(lambda: latest(tmp_path))
  other = processes[1].kill(signal.SIGTERM)
  chief = processes[0].wait()
  assert (chief.code, other.code) == (128 + signal.SIGTERM,) * 2, (chief.err, other.err)
  assert "Stopped after epoch" in "".join(chief.err) + chief.out


def test_an_evaluation_is_shared_out(forks, tmp_path):
  flags = ["--problem=simple", "--optimizer=SGD", "--num_epochs=3", "--num_steps=5"]
  shared, alone = tmp_path / "shared", tmp_path / "alone"
  chief, other = ended(
    start(
      forks,
      2,
      *flags,
      "--strategy=multi_worker",
      f"--save_path={shared}",
      script="evaluate",
    )
  )
  assert (chief.code, other.code) == (0, 0), (chief.err, other.err)
  assert not other.out and "SGD" in chief.out
  assert forks.run("evaluate", *flags, f"--save_path={alone}").code == 0
  curves = [(path / "curves.csv").read_text() for path in (shared, alone)]
  assert curves[0] == curves[1]


def test_workers_with_different_flags_are_refused(forks, tmp_path):
  extra = ["--seed=1"], ["--seed=2"]
  both = ended(start(forks, 2, *_TASKS, f"--save_path={tmp_path / 'run'}", extra=extra))
  for one in both:
    one.assert_mistake("different settings", "same command")


def test_a_chief_that_cannot_open_the_run_ends_the_others(forks, tmp_path):
  path = f"--save_path={tmp_path}"
  assert forks.run("train", *LINEAR, "--num_epochs=3", "--seed=1", path).code == 0
  chief, other = ended(start(forks, 2, *_TASKS, "--seed=2", path))
  chief.assert_mistake("belongs to a run of another configuration")
  other.assert_mistake("The chief has ended with an error")


def test_too_few_tasks_for_the_workers(forks, tmp_path):
  flags = [*_TASKS, "--meta_batch_size=1", f"--save_path={tmp_path / 'run'}"]
  for one in ended(start(forks, 2, *flags)):
    one.assert_mistake("2 replicas cannot share out 1 tasks")


_TASK = {"type": "worker", "index": 0}


@pytest.mark.parametrize(
  "config",
  [
    "no JSON",
    "[1]",
    '{"cluster": {"worker": ["localhost:1234"]}}',
    json.dumps({"cluster": {"worker": ["localhost:1"]}, "task": {**_TASK, "index": 1}}),
    json.dumps({"cluster": {"worker": ["localhost"]}, "task": _TASK}),
    json.dumps({"cluster": {"worker": 3}, "task": _TASK}),
  ],
  ids=["no_json", "list", "no_task", "no_such_worker", "no_port", "number"],
)
def test_a_bad_description_of_the_cluster(forks, config, tmp_path):
  code = _AS.format(config, "train")
  found = forks.run("train", *_TASKS, f"--save_path={tmp_path / 'run'}", code=code)
  found.assert_mistake("TF_CONFIG", "write")


def test_no_description_of_a_cluster(forks, tmp_path):
  found = forks.run("train", *_TASKS, f"--save_path={tmp_path / 'run'}")
  found.assert_mistake("needs TF_CONFIG", "l2l-launch")


def test_a_worker_that_does_not_come(forks, tmp_path):
  workers = addresses(2)
  config = {"cluster": {"worker": workers}, "task": _TASK}
  flags = [*_TASKS, "--worker_timeout=0.5", f"--save_path={tmp_path / 'run'}"]
  found = forks.run("train", *flags, code=_AS.format(json.dumps(config), "train"))
  found.assert_mistake("After 0.5 seconds", f"worker 1 at {workers[1]}")


def test_a_port_in_use(forks, tmp_path):
  with socket.create_server(("", 0)) as taken:
    address = f"localhost:{taken.getsockname()[1]}"
    config = {"cluster": {"worker": [address, *addresses(1)]}, "task": _TASK}
    code = _AS.format(json.dumps(config), "train")
    found = forks.run("train", *_TASKS, f"--save_path={tmp_path / 'run'}", code=code)
  found.assert_mistake(f"Port {address.split(':')[1]}", "cannot be used")


def test_no_gpus_to_share_the_work(forks, tmp_path):
  flags = [*LINEAR, "--strategy=mirrored", f"--save_path={tmp_path / 'run'}"]
  found = forks.run("train", *flags)
  found.assert_mistake("over the GPUs of this machine", "finds 0")


def test_windows_are_measured_by_one_process(forks, tmp_path):
  flags = [*_TASKS, "--unroll_length=auto", f"--save_path={tmp_path / 'run'}"]
  for one in ended(start(forks, 2, *flags)):
    one.assert_mistake("unroll_length=auto measures in one process")


def test_the_sentence_names_a_worker():
  from l2l_tf.runs import strategies

  message = "remote target /job:worker/replica:0/task:3 while calling RecvBuf"
  assert re.match("Worker 3 has ended", strategies._explanation(message))
  assert re.match("Another worker has ended", strategies._explanation("Timed out"))
