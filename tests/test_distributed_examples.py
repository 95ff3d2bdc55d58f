"""The files in examples/distributed, as far as they run without a cluster."""

import json
import os
import pathlib
import re
import subprocess

import pytest

_FILES = pathlib.Path(__file__).parents[1] / "examples" / "distributed"
# A task of each number, in a shell as SLURM would start it.
_SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] || exit 9
shift
for number in 0 1 2; do
  SLURM_PROCID=$number "$@" || exit
done
"""
_SCONTROL = """#!/bin/bash
[ "$*" = "show hostnames n[2,10-11]" ] && printf 'n2\\nn10\\nn11\\n'
"""
_TRAIN = """#!/bin/bash
echo "$TF_CONFIG" | tr '\\n' ' '
printf '\\n%s\\n' "$*"
"""


@pytest.fixture
def shell(tmp_path):
  """Runs bash with stand-ins for the programs of a cluster; returns its lines."""
  for name, text in ("srun", _SRUN), ("scontrol", _SCONTROL), ("l2l-train", _TRAIN):
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o755)

  def run(*args, **variables):
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **variables}
    done = subprocess.run(["bash", *args], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()

  return run


def _check(lines, index, addresses, *words):
  config, command = json.loads(lines[0]), lines[1]
  assert config["cluster"] == {"worker": addresses}
  assert config["task"] == {"type": "worker", "index": index}
  for word in ("--strategy=multi_worker", *words):
    assert word in command.split()


def test_every_task_of_slurm_is_a_worker_on_its_own_node(shell):
  script = str(_FILES / "train.slurm")
  lines = shell(script, "--seed=1", SLURM_JOB_NODELIST="n[2,10-11]")
  assert len(lines) == 6
  for i in range(3):
    _check(lines[2 * i :], i, ["n2:2222", "n10:2222", "n11:2222"], "--seed=1")


def test_slurm_is_asked_for_what_the_training_needs():
  text = (_FILES / "train.slurm").read_text()
  asked = re.findall(r"^#SBATCH --(\S+?)=(\S+)$", text, re.MULTILINE)
  assert dict(asked).keys() >= {"nodes", "ntasks-per-node", "cpus-per-task", "time"}
  # SLURM reads no further than the first command.
  assert text.rindex("#SBATCH") < text.index("set -euo pipefail")


@pytest.fixture
def manifests():
  yaml = pytest.importorskip("yaml", reason="PyYAML is not installed.")
  return list(yaml.safe_load_all((_FILES / "job.yaml").read_text()))


def test_the_job_and_its_service_fit_together(manifests):
  service, job = manifests
  assert service["kind"] == "Service" and service["spec"]["clusterIP"] == "None"
  assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
  spec, pod = job["spec"], job["spec"]["template"]["spec"]
  assert spec["completionMode"] == "Indexed"
  assert pod["subdomain"] == service["metadata"]["name"]
  (container,) = pod["containers"]
  (count,) = (e["value"] for e in container["env"] if e["name"] == "L2L_COUNT")
  assert int(count) == spec["completions"] == spec["parallelism"]


def test_every_pod_of_the_job_is_a_worker_under_its_own_name(manifests, shell):
  _, job = manifests
  (container,) = job["spec"]["template"]["spec"]["containers"]
  program, *args = container["command"]
  assert program == "bash"
  for index in 0, 2:
    lines = shell(*args, L2L_COUNT="3", JOB_COMPLETION_INDEX=str(index))
    addresses = [f"l2l-train-{i}.l2l-train:2222" for i in range(3)]
    _check(lines, index, addresses, "--save_path=/runs/digits")
