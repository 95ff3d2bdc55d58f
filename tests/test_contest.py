"""The benchmarks' contenders: processes of their own that take turns."""

import argparse
import contextlib
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import contest  # noqa: E402

CONTENDER = """
import ctypes, os, sys, time
import l2l_tf

class Contender:
  version = "contender 1"

  def __init__(self, log):
    self._log = log

  def turn(self, index):
    with open(self._log, "a") as f:
      f.write(f"{os.getpid()} {index}\\n")
    time.sleep(0.1)

  def pid(self):
    return os.getpid()

  def l2l_tf(self):
    return l2l_tf.__file__

  def cores(self):
    return len(os.sched_getaffinity(0))

  def crash(self):
    ctypes.string_at(0)

  def fail(self):
    raise KeyError("x")

def crash(unused_log):
  ctypes.string_at(0)
"""


@pytest.fixture
def crew(tmp_path, monkeypatch):
  """Starts contenders of the module above; a turn writes to the file `log`."""
  (tmp_path / "contender.py").write_text(CONTENDER)
  monkeypatch.syspath_prepend(tmp_path)
  with contest.Crew(threads=1) as crew:
    crew.make = lambda name, make="Contender", **kwargs: crew.start(
      name, f"contender:{make}", str(tmp_path / "log"), **kwargs
    )
    yield crew


def test_one_process_at_a_time_takes_a_turn_and_times_it(crew, tmp_path):
  workers = {name: crew.make(name) for name in ("l2l_tf", "jax")}
  pids = [worker.call("pid") for worker in workers.values()]
  assert workers["jax"].version == "contender 1"
  assert workers["jax"].call("cores") == 1
  first, times = contest.take_turns(workers, rounds=2)
  turns = [tuple(map(int, x.split())) for x in (tmp_path / "log").open()]
  own, jax = pids
  assert own != jax
  assert turns == [
    *[(own, 0), (jax, 0), (own, 1), (jax, 1)],
    *[(own, 2), (jax, 2), (jax, 3), (own, 3)],
  ]
  assert all(len(seconds) == 2 for seconds in times.values())
  for seconds in [*first.values(), *np.concatenate([*times.values()])]:
    assert 0.1 <= seconds < 2


@pytest.mark.parametrize("moment", ["when made", "when told"])
def test_a_crash_is_one_sentence_that_names_who(crew, capfd, moment):
  worker = crew.make("torch", "crash" if moment == "when made" else "Contender")
  with pytest.raises(SystemExit, match=r"^torch crashed with SIGSEGV in its process;"):
    worker.call("crash")


def test_an_error_is_shown_and_ends_the_program(crew, capfd):
  with pytest.raises(
    SystemExit, match="jax failed in its process with the error above"
  ):
    crew.make("jax").call("fail")
  assert "KeyError: 'x'" in capfd.readouterr().err


def test_another_checkout_is_imported_in_place_of_this_one(crew, tmp_path):
  other = tmp_path / "before"
  (other / "l2l_tf").mkdir(parents=True)
  (other / "l2l_tf" / "__init__.py").touch()
  workers = crew.make("l2l_tf"), crew.make("vs before", checkout=other)
  files = [worker.call("l2l_tf") for worker in workers]
  assert files == [str(p / "l2l_tf" / "__init__.py") for p in (ROOT, other)]


@pytest.mark.parametrize("error", [None, InterruptedError])
def test_a_crew_ends_with_its_block(tmp_path, error):
  start = time.monotonic()
  expected = pytest.raises(error) if error else contextlib.nullcontext()
  with expected, contest.Crew(threads=1) as crew:
    make = ("threading:Event",) if error is None else ("time:sleep", 60)
    worker = crew.start("sleeper", *make)
    if error:
      raise error
  assert worker._process.exitcode is not None
  assert time.monotonic() - start < 30


def parse(*args):
  parser = argparse.ArgumentParser()
  with pytest.MonkeyPatch.context() as m:
    m.setattr(sys, "argv", ["benchmark", *args])
    return contest.parse_args(parser, ["jax", "torch.compile", "floor"])


def test_whom_to_run_against(monkeypatch, capsys):
  monkeypatch.setattr(contest.importlib.util, "find_spec", lambda name: name)
  assert parse().against == ["jax", "torch.compile", "floor"]
  assert parse("--against=floor").against == ["floor"]
  assert parse("--against=").against == []
  vs = parse(f"--vs={ROOT}")
  assert (vs.against, vs.vs) == ([], ROOT)
  assert parse(f"--vs={ROOT}", "--against=jax").against == ["jax"]
  for flag, complaint in [
    ("--against=jax,keras", "keras is none of jax, torch.compile, floor"),
    ("--vs=/", "'/' holds no package l2l_tf"),
    ("--rounds=0", "'0' is not a positive whole number"),
  ]:
    with pytest.raises(SystemExit):
      parse(flag)
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["jax", "torch"])
def test_a_missing_distribution_is_one_sentence(monkeypatch, missing):
  found = lambda name: None if name == missing else name
  monkeypatch.setattr(contest.importlib.util, "find_spec", found)
  with pytest.raises(SystemExit, match=f"^{missing} is not installed, .*--against.$"):
    parse()
  parse("--against=floor")


def test_contenders_must_agree(capsys):
  expected = {"loss": 2.0, "gradient": [np.ones(3), np.zeros(2)], "more": 1}
  found = {"loss": 2.0, "gradient": [np.full(3, 1 + 1e-6), np.zeros(2)]}
  contest.check_agreement("jax", found, expected, 1e-4)
  assert "jax and l2l_tf agree on the gradient to 1.0e-06" in capsys.readouterr().out
  for value in 2.01, float("nan"):
    with pytest.raises(SystemExit, match=r"jax differs from l2l_tf by .* in the loss"):
      contest.check_agreement("jax", {"loss": value}, expected, 1e-4)


def test_ratios_are_of_the_same_round(capsys):
  times = {"l2l_tf": np.array([0.1, 0.2, 0.4]), "jax": np.array([0.2, 0.2, 0.2])}
  contest.report("epoch", {"l2l_tf": 1.0, "jax": 2.0}, times)
  line = capsys.readouterr().out.splitlines()[-1]
  assert line.split() == ["jax", "/", "l2l_tf", "0.50", "1.00", "2.00"]
  contest.report("epoch", {"l2l_tf": 1.0, "jax": 2.0}, times, reference="jax")
  line = capsys.readouterr().out.splitlines()[-1]
  assert line.split() == ["l2l_tf", "/", "jax", "0.50", "1.00", "2.00"]


def test_the_main_modules_import_no_framework():
  code = (
    "import sys, meta_train, keras_step, structure_step\n"
    "print({'tensorflow', 'keras', 'jax', 'torch', 'l2l_tf'} & {*sys.modules})"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT / "benchmarks",
    capture_output=True,
    text=True,
  )
  assert done.stdout == "set()\n", done.stderr
