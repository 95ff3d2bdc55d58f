"""l2l-diagnose: what it prints and the files that it leaves."""

import pytest
from processes import rows

from l2l_tf.optimizers import SGD, Adam, Partition, Where
from l2l_tf.storage import export


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
