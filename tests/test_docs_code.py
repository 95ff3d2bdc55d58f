"""Every block of code in the documentation: Python runs, commands are understood."""

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


@with_blocks("", "sh", "bash", "console")
def test_commands_are_understood(page, programs, light_forks):
  for program, *words in commands(page, programs):
    check(program, words, light_forks)


def check(program, words, light_forks):
  if program == "make":
    makefile = (ROOT / "Makefile").read_text()
    targets = [word for word in words if "=" not in word]
    assert all(re.search(f"^{w}:", makefile, re.MULTILINE) for w in targets), words
  elif program == "l2l":
    check_script(f"l2l-{words[0]}", words[1:], light_forks)
  elif program in SCRIPTS:
    check_script(program, words, light_forks)
  elif program in ("python", "python3") and words[0].endswith(".py"):
    check_file(words[0], words[1:])


def check_script(program, words, light_forks):
  """Its own flags take the words, and refuse what they do not know."""
  if program == "l2l-launch":
    separator = words.index("--")
    inner, *its_words = words[separator + 1 :]
    check(inner, its_words, light_forks)
    words = words[:separator]
  # An earlier command of the page writes its flags.
  words = [word for word in words if not word.startswith("--flagfile=runs/")]
  code = processes.COMMAND.format(SCRIPTS[program])
  ended = light_forks.run(
    SCRIPTS[program], *words, "--only_check_args", cwd=ROOT, code=code
  )
  assert ended.code == 0, (program, words, ended.err)


def check_file(path, words):
  """There is such a file, and its directory knows the flags."""
  assert (ROOT / path).is_file()
  siblings = (ROOT / path).parent.glob("*.py")  # Some flags are defined in these.
  code = "".join(file.read_text(encoding="utf-8") for file in siblings)
  for word in words:
    if word.startswith("--"):
      name = word[2:].partition("=")[0]
      assert re.search(f'"(--)?{name}"', code), (path, word)
