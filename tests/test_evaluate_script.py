"""l2l-evaluate: the table and the files that it leaves."""

from processes import rows


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


def test_an_evaluation_tunes_what_says_no_rate_and_runs_the_rest_as_it_is(
  forks, tmp_path
):
  texts = (
    "sgd",
    "l-bfgs",
    "BFGS",
    "Momentum( momentum=0.5 )",
    "SGD(learning_rate=0.25)",
    "RNNprop((2, 3))",
  )
  flags = "--problem=Quadratic(2, num_dims=3)", "--num_epochs=1", "--num_steps=3"
  ended = forks.run(
    "evaluate", *flags, f"--optimizer={','.join(texts)}", "--plot=false", cwd=tmp_path
  )
  assert ended.code == 0 and not ended.err
  path = tmp_path / "tensorboard_logs" / "Quadratic_2_num_dims_3" / "evaluation"
  rates = {row["optimizer"]: row["learning_rate"] for row in rows(path / "summary.csv")}
  assert {k for k, rate in rates.items() if rate} == {"SGD", "Momentum(momentum=0.5)"}
  assert {k for k, rate in rates.items() if not rate} == {
    "SGD(learning_rate=0.25)", "RNNprop((2, 3))", "BFGS", "L-BFGS"
  }  # fmt: skip
  again = forks.run("evaluate", f"--flagfile={path / 'flags.txt'}", cwd=tmp_path)
  assert again.out == ended.out
