"""The package as it is installed: what the wheel holds, and that it works by itself."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from processes import ROOT

import l2l_tf

OUTSIDE = """
import pathlib, sys
import numpy as np
import keras, l2l_tf
assert pathlib.Path(l2l_tf.__file__).is_relative_to(sys.argv[1]), l2l_tf.__file__
print(l2l_tf.pretrained()["general"].name)
x = np.random.default_rng(0).normal(size=[32, 4]).astype("float32")
model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
model.compile(l2l_tf.keras.LearnedOptimizer("general"), loss="mse")
losses = model.fit(x, x.sum(axis=1), epochs=3, batch_size=8, verbose=0).history["loss"]
assert losses[-1] < losses[0], losses
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """Builds a source distribution, and the wheel from that, without the network."""
  pytest.importorskip("build.__main__", reason="Install build: pip install build.")
  directory = tmp_path_factory.mktemp("package")
  source = directory / "source"
  kept = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
  shutil.copytree(ROOT / "l2l_tf", source / "l2l_tf", ignore=kept)
  for path in ROOT.iterdir():
    if path.is_file() and not path.name.startswith("."):
      shutil.copy(path, source)
  command = [sys.executable, "-m", "build", "--no-isolation"]
  done = subprocess.run(command, cwd=source, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  (path,) = (source / "dist").glob("*.whl")
  return path


@pytest.fixture(scope="module")
def installed(wheel):
  """Installs the wheel into an empty directory, beside the libraries that are there."""
  target = wheel.parents[2] / "installed"
  command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
  done = subprocess.run(
    [
      *command,
      "--disable-pip-version-check",
      "--no-compile",
      "--target",
      target,
      wheel,
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return target


def run(installed, *command):
  """Runs a command where the installed package, and nothing of the repository, is."""
  env = {**os.environ, "PYTHONPATH": str(installed), "TF_CPP_MIN_LOG_LEVEL": "3"}
  done = subprocess.run(
    command, cwd=installed.parent, env=env, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
  tree = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "l2l_tf").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
  }
  with zipfile.ZipFile(wheel) as archive:
    names = {name for name in archive.namelist() if ".dist-info/" not in name}
  assert names == tree
  assert {"l2l_tf/py.typed", "l2l_tf/pretraining/weights/general.l2l.npz"} <= names


def test_the_wheel_names_version_license_and_programs(wheel):
  info = f"l2l_tf-{l2l_tf.__version__}.dist-info"
  with zipfile.ZipFile(wheel) as archive:
    metadata = archive.read(f"{info}/METADATA").decode()
    programs = archive.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in archive.namelist()
  head, _, description = metadata.partition("\n\n")
  assert f"\nVersion: {l2l_tf.__version__}\n" in head
  assert "\nLicense: Apache-2.0" in head or "\nLicense-Expression: Apache-2.0" in head
  assert description == (ROOT / "README.md").read_text(encoding="utf-8")
  assert "l2l = l2l_tf.scripts.main:run" in programs


def test_installed_it_works_outside_the_repository(installed):
  version = run(installed, sys.executable, installed / "bin" / "l2l", "--version")
  assert version == f"l2l_tf {l2l_tf.__version__}\n"
  shown = run(installed, sys.executable, "-c", OUTSIDE, installed)
  assert shown == "general\n"


def test_the_changelog_and_the_citation_name_the_same_version():
  version = l2l_tf.__version__
  citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
  assert f"version: {version}" in citation
  changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
  released = [line for line in changes if line.startswith("## [")][1]
  date = released.partition(f"## [{version}] - ")[2]
  assert date and f"date-released: {date}" in citation
