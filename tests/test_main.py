"""The command l2l, beside the commands that it gathers."""

import ast
import pathlib
import subprocess

import pytest
from processes import ROOT, cold

import l2l_tf
from l2l_tf.scripts import main

AS_MODULE = "import runpy; runpy.run_module('l2l_tf', run_name='__main__')"


@pytest.fixture
def l2l(light_forks, tmp_path):
  """Runs l2l in a process, and asserts that it has not imported TensorFlow."""
  code = "\n".join([
    "import sys",
    "from l2l_tf.scripts.main import run",
    "try:",
    "  run()",
    "finally:",
    "  assert 'tensorflow' not in sys.modules",
  ])  # fmt: skip
  return lambda *args: light_forks.run("main", *args, cwd=tmp_path, code=code)


def keyword(name):
  """Returns a literal keyword argument that setup.py gives to `setup`."""
  tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
  found = [k for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg == name]
  return ast.literal_eval(found[0].value)


def test_each_subcommand_is_a_program_of_its_own_too():
  programs = {"l2l = l2l_tf.scripts.main:run"}
  for name, command in main.COMMANDS.items():
    programs.add(f"l2l-{name} = l2l_tf.scripts.{command.module}:run")
  listed = keyword("entry_points")["console_scripts"]
  assert set(listed) == programs and len(listed) == len(programs)


def test_each_script_is_a_subcommand_described_by_its_first_line():
  descriptions = {}
  for path in pathlib.Path(main.__file__).parent.glob("*.py"):
    source = path.read_text(encoding="utf-8")
    if "launch.run(main, __name__" in source:
      docstring = ast.get_docstring(ast.parse(source))
      descriptions[path.stem] = docstring.splitlines()[0]
  assert descriptions == {c.module: c.description for c in main.COMMANDS.values()}


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]], ids=str)
def test_alone_it_lists_the_subcommands(l2l, args):
  ended = l2l(*args)
  assert (ended.code, ended.err) == (0, [])
  for name, command in main.COMMANDS.items():
    assert f"  {name:9}  {command.description}\n" in ended.out


def test_the_list_waits_for_no_library():
  code = f"""
import sys
before = set(sys.modules)
try:
  {AS_MODULE}
finally:
  own = {{name.partition(".")[0] for name in set(sys.modules) - before}}
  foreign = own - sys.stdlib_module_names - {{"l2l_tf"}}
  assert not foreign, foreign
"""
  ended = cold(code)
  assert (ended.code, ended.err) == (0, [])
  assert "  train  " in ended.out


def test_its_version_is_the_package_s(l2l):
  assert l2l("--version").out == f"l2l_tf {l2l_tf.__version__}\n"


@pytest.mark.parametrize(
  "args, words",
  [
    (["trian"], ["'trian' is unknown; did you mean train; see l2l --help"]),
    (["l2l-evaluate"], ["did you mean evaluate;"]),
    (["zzz"], ["'zzz' is unknown; known are benchmark, diagnose, evaluate"]),
    (["--versoin"], ["did you mean --version;"]),
    (["--completion"], ["did you mean --completion=SHELL;"]),
    (["--completion=ksh"], ["--completion=ksh", "known are bash, zsh"]),
    (["train", "--num_epoch=3"], ["'num_epoch'", "num_epochs"]),
    (["reproduce", "mnits"], ["--name=mnits", "quadratics"]),
    (["launch", "--workers=2", "--", "no-program"], ["'no-program' is no program"]),
  ],
  ids=str,
)
def test_a_mistake_is_one_sentence(l2l, args, words):
  ended = l2l(*args)
  ended.assert_mistake(*words)
  assert not ended.out


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_help_of_a_subcommand_is_its_program_s_under_its_own_name(
  light_forks, l2l, name
):
  script = main.COMMANDS[name].module
  own = light_forks.run(script, "--help").out.replace(f"l2l-{script}:", f"l2l-{name}:")
  ended = l2l(name, "--help")
  assert (ended.code, ended.err) == (0, [])
  assert f"\nl2l {name}:\n" in ended.out and "l2l-" not in ended.out
  assert ended.out.split() == own.replace("l2l-", "l2l ").split()


def test_a_subcommand_does_what_its_program_does(light_forks, l2l):
  own, ended = light_forks.run("reproduce", "--list"), l2l("reproduce", "--list")
  assert (ended.code, ended.out, ended.err) == (0, own.out, own.err)
  ended = l2l("launch", "--workers=1", "--", "printenv", "TF_CONFIG")
  assert ended.code == 0 and '"worker": ["localhost:' in ended.out


BASH = """
source ./completion
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p l2l | sed 's/.*-F \\([^ ]*\\).*/\\1/') l2l "${@: -1}" "${@: -2:1}"
echo ${COMPREPLY[*]}
"""


def test_bash_completes_subcommands_flags_and_their_choices(l2l, tmp_path):
  ended = l2l("--completion=bash")
  assert (ended.code, ended.err) == (0, [])
  (tmp_path / "completion").write_text(ended.out)

  def completed(*words):
    command = ["bash", "-c", BASH, "bash", "l2l", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    return done.stdout.split()

  assert completed("") == list(main.COMMANDS)
  assert completed("tr") == ["train"]
  assert completed("train", "--problem=quadratic", "--num_s") == ["--num_steps"]
  assert completed("evaluate", "--nopl") == ["--noplot"]
  assert completed("train", "--schedule", "co") == ["cosine", "constant"]
  assert completed("style", "--content", "comp") == ["completion"]


def test_completion_without_its_library_says_what_to_install(tmp_path):
  (tmp_path / "shtab.py").write_text("raise ImportError('no', name='shtab')")
  code = f"import sys; sys.argv = ['l2l', '--completion=bash']; {AS_MODULE}"
  ended = cold(code, path=[tmp_path])
  ended.assert_mistake("--completion needs the package shtab: pip install shtab")
