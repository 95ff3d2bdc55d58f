"""Every block of code in the documentation: Python runs, commands are understood."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import processes
import pytest

from l2l_tf.scripts.main import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
  *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
  *sorted((ROOT / "docs").rglob("*.md")),
]
# An indented block belongs to a list. A comment above a block makes it short in tests.
BLOCK = re.compile(
  r"(?:<!-- in tests: (?P<short>.+) -->\n+)?"
  r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
  re.MULTILINE | re.DOTALL,
)
# Writes down the words of a command instead of running it.
NOTE = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["NOTES"], "a") as notes:
  notes.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""
SCRIPTS = {f"l2l-{name}": command.module for name, command in COMMANDS.items()}
# The file of a reader's own that pages speak of.
MY_MODEL = """
import keras
import numpy as np
import l2l_tf

def problem():
  build = lambda: keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
  data = np.ones([8, 4], "float32"), np.ones([8, 1], "float32")
  return l2l_tf.problems.keras_model(build, "mse", data, held_out=data)
"""
# Programs that a page may name, and that are not this project's.
OTHERS = [
  "apt", "git", "kubectl", "pip", "pytest", "python", "python3", "ruff", "sbatch",
  "srun", "tensorboard", "twine",
]  # fmt: skip


def blocks(page, *languages):
  """Returns the line and the code of the page's blocks in these languages."""
  text = page.read_text(encoding="utf-8")
  found = []
  for match in BLOCK.finditer(text):
    if match["language"] in languages:
      code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
      found.append((text[: match.start()].count("\n") + 1, _shortened(code, match)))
  return found


def _shortened(code, match):
  for change in (match["short"] or "").split("; "):
    if change:
      old, new = change.split(" -> ")
      assert old in code, f"{old!r} is to be shortened, but not in the block"
      code = code.replace(old, new)
  return code


def with_blocks(*languages):
  found = [page for page in PAGES if blocks(page, *languages)]
  names = [str(page.relative_to(ROOT)) for page in found]
  return pytest.mark.parametrize("page", found, ids=names)


def test_there_are_pages_to_test():
  assert len([page for page in PAGES if blocks(page, "python")]) >= 5
  assert len([page for page in PAGES if blocks(page, "", "sh")]) >= 8


@with_blocks("python")
def test_python_runs(page, tmp_path, monkeypatch):
  """The blocks of a page go on from one another."""
  import matplotlib

  matplotlib.use("agg")
  monkeypatch.chdir(tmp_path)
  (tmp_path / "examples").symlink_to(ROOT / "examples")
  namespace = {"__name__": "documentation"}
  for line, code in blocks(page, "python"):
    exec(compile("\n" * line + code, str(page), "exec"), namespace)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
  """A directory in which every program that a page may name only notes its words."""
  path = tmp_path_factory.mktemp("programs")
  names = ["make", "l2l", *SCRIPTS, *OTHERS]
  for name in names:
    (path / name).write_text(NOTE)
    (path / name).chmod(0o755)
  (path / "activate").touch()
  for environment in (".venv", "renew"):
    (path / environment).mkdir()
    (path / environment / "bin").symlink_to(path)
  return path


def commands(page, programs):
  """Returns the words of all commands of a page, as the shell understands them."""
  notes = programs / "notes"
  notes.write_text("")
  path = f"{programs}:/usr/bin:/bin"
  for line, code in blocks(page, "", "sh", "bash", "console"):
    done = subprocess.run(
      ["bash", "-u", "-c", code],
      cwd=programs,
      env={**os.environ, "PATH": path, "NOTES": str(notes)},
      capture_output=True,
      text=True,
    )
    assert not done.stderr, (page.name, line, done.stderr)
  return [json.loads(line) for line in notes.read_text().splitlines()]


@pytest.fixture(scope="module")
def complaint(library_forks, tmp_path_factory):
  """What is wrong with a command's words, or nothing, as a function of these."""
  path = tmp_path_factory.mktemp("workplace")
  for name in ("benchmarks", "examples"):
    (path / name).symlink_to(ROOT / name)
  (path / "my_model.py").write_text(MY_MODEL)
  (path / "flags.txt").touch()
  (path / "forks").mkdir()
  imports = f"sys.path.append({str(ROOT / 'tests')!r}); import dry_runs"
  imports += "; dry_runs.commands()"
  forks = processes.Forks(path / "forks", imports, library_forks)
  yield functools.cache(lambda words: complaint_about(words, forks, path))
  forks.close()


def complaint_about(words, forks, workplace):
  # Earlier commands would have made another checkout, and a training's flags.
  words = [re.sub("^--vs=/tmp/.*", f"--vs={ROOT}", word) for word in words]
  words = [re.sub("^--flagfile=runs/.*", "--flagfile=flags.txt", w) for w in words]
  program, *rest = words
  said = ""
  if program in ("l2l", *SCRIPTS):
    code = processes.COMMAND.format(SCRIPTS.get(program, "main"))
    said = complaint_of(forks.run(program, *rest, cwd=workplace, code=code))
    if "--" in rest:  # A command follows.
      said += complaint_about(rest[rest.index("--") + 1 :], forks, workplace)
  elif program in ("python", "python3") and rest[0].endswith(".py"):
    code = f"sys.path.insert(0, {str(ROOT / pathlib.Path(rest[0]).parent)!r})\n"
    code += "import runpy; dry_runs.scripts()\n"
    code += f"runpy.run_path({rest[0]!r}, run_name='__main__')"
    assert re.search("argparse|absl", (ROOT / rest[0]).read_text()), "It would run."
    said = complaint_of(forks.run(rest[0], *rest[1:], cwd=workplace, code=code))
  elif program == "make":
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    said = "".join(f"no {x}" for x in rest if "=" not in x and x not in targets)
  else:
    paths = [word for word in rest if re.match("(benchmarks|docs|examples)/", word)]
    said = "".join(f"no {path}" for path in paths if not (ROOT / path).exists())
  return said


def complaint_of(ended):
  return "\n".join(ended.err or ["It fails."]) if ended.code else ""


@with_blocks("", "sh", "bash", "console")
def test_commands_are_understood(page, programs, complaint):
  found = {" ".join(x): complaint(tuple(x)) for x in commands(page, programs)}
  assert not any(found.values()), {k: v for k, v in found.items() if v}


@pytest.mark.parametrize(
  "line, expected",
  [
    ("l2l-train --epochs=3", "epochs"),
    ("l2l train --epochs=3", "epochs"),
    ("l2l trian", "train"),
    ("l2l-train --problem=quadratc", "quadratc"),
    ("l2l-train --problem=missing.py:f", "missing.py"),
    ("l2l-train --optimizer=RNNprop(layer=3)", "layer"),
    ("l2l-train --meta_gradient=PES(pair=3)", "pair"),
    ("l2l-evaluate --optimizer=Momentum(momentun=0.5)", "momentun"),
    ("l2l-benchmark --tasks=nothing", "nothing"),
    ("l2l-launch --workers=2 -- l2l-train --num_epoch=1", "num_epoch"),
    ("python benchmarks/windows.py --step=x", "step"),
    ("python examples/custom_loop.py --epochs=0", "epochs"),
    ("make tests", "tests"),
    ("sbatch examples/train.slurm", "no examples/train.slurm"),
  ],
)
def test_a_wrong_command_is_found(line, expected, complaint):
  assert expected in complaint(tuple(line.split(" ")))


SHORT = {
  "train": ["--num_epochs=1", "--evaluation_epochs=1"],
  "evaluate": ["--num_epochs=1", "--num_tuning_epochs=1", "--num_steps=5"],
}


def test_the_readmes_commands_run_in_their_order(programs, forks, tmp_path):
  """With few steps; the later ones use what the earlier ones leave."""
  done = []
  for program, *words in commands(ROOT / "README.md", programs):
    if program == "l2l" and words[0] in SHORT:
      code = processes.COMMAND.format("main")
      ended = forks.run("l2l", *words, *SHORT[words[0]], cwd=tmp_path, code=code)
      assert ended.code == 0, (words, ended.err)
      done.append(words[0])
  assert {"train", "evaluate"} <= {*done}
