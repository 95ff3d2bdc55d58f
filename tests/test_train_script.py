"""l2l-train: what it shows and writes, and how its flags go together."""

import json
import signal

import numpy as np
from disk import unchanged
from short_run import (
  IN_CHECKPOINT,
  IN_EXPORT,
  NUM_EPOCHS,
  TINY,
  UNPICTURED,
  latest,
  result,
)

from l2l_tf.storage import export


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


CONSTANT = [  # A linear optimizer, which XLA compiles in half the time of an LSTM.
  "--problem=simple", "--evaluation_period=2", "--num_steps=4", "--unroll_length=2",
  "--schedule=constant",
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


def test_killed_while_it_writes_the_saved_flags_repeat_a_run(
  forks, reference, tmp_path
):
  path = tmp_path / "run"
  flagfile = f"--flagfile={reference[1] / 'flags.txt'}"

  def train(*flags, **kwargs):
    return forks.run("train", flagfile, f"--save_path={path}", *flags, **kwargs)

  def killed(limit):
    """By the kernel, in the middle of writing a file that is larger."""
    ended = train(limit=limit, fatal=True, code=UNPICTURED)
    return ended.code == -signal.SIGXFSZ

  assert killed(IN_EXPORT)
  assert list(path.glob(".*.tmp")) and not latest(path)
  assert killed(IN_CHECKPOINT)
  assert list(path.glob("checkpoints/*_temp")) and not latest(path)

  ended = train("--log_period=20", "--trace_graph")
  assert ended.code == 0 and not ended.err
  lines = [line for line in ended.out.splitlines() if line.startswith("epoch ")]
  assert [line.split()[1] for line in lines] == ["20", "40", "60"]
  assert all("final loss" in x and "best validation" in x for x in lines)
  config = [p / "config.json" for p in (path, reference[1])]
  assert config[0].read_text() == config[1].read_text()
  assert result(path) == result(reference[1])


def test_early_stopping_is_said(forks, tmp_path):
  ended = forks.run(
    "train", "--problem=simple", "--num_epochs=50", "--evaluation_period=1",
    "--num_steps=2", "--unroll_length=2", "--output_scale=0", "--patience=3",
    cwd=tmp_path,
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


def test_expressions_describe_a_run_and_its_flags_repeat_it(forks, tmp_path):
  def train(path, *flags):
    return forks.run("train", *flags, f"--save_path={path}", cwd=tmp_path)

  spaced = [
    "--problem=Quadratic( batch_size = 2, num_dims=3 )", "--num_epochs=2",
    "--optimizer=CoordinatewiseLSTM( (2,),Concat([Clamp(scale=2)]) )",
  ]  # fmt: skip
  rest = [
    "--num_steps=4", "--unroll_length=2", "--meta_optimizer=RMSprop(rho=0.5)",
    "--meta_gradient=TruncatedBPTT(last_only,second_derivatives=True)",
  ]  # fmt: skip
  first = train("run", *spaced, *rest)
  assert first.code == 0 and not first.err
  opening = (
    "Training on Quadratic(batch_size=2, num_dims=3) (by the recipe of quadratic)"
  )
  assert first.out.startswith(opening)
  config = json.loads((tmp_path / "run" / "config.json").read_text())
  assert config["optimizer"] == "CoordinatewiseLSTM((2,), Concat([Clamp(scale=2)]))"
  gradient = "TruncatedBPTT(last_only, second_derivatives=True)"
  assert config["meta_gradient"] == gradient
  assert config["meta_optimizer"] == "RMSprop(rho=0.5)"
  told_elsewhere = "layers", "preprocess", "meta_loss", "second_derivatives"
  assert all(config[name] is None for name in told_elsewhere)
  assert config["learning_rate"] == 0.003 and config["schedule"] == "cosine"

  assert train("run", "--flagfile=run/flags.txt").out.startswith("Already finished")
  train(
    "run", "--flagfile=run/flags.txt", "--meta_gradient=TruncatedBPTT"
  ).assert_mistake(f"meta_gradient={gradient!r}, now 'TruncatedBPTT';")
  assert train("again", "--flagfile=run/flags.txt").code == 0
  assert result(tmp_path / "again", 2) == result(tmp_path / "run", 2)


def test_the_seed_is_that_of_the_weights_unless_the_expression_says_one(
  forks, tmp_path
):
  def weights(seed, optimizer):
    flags = "--problem=simple", "--num_epochs=1", "--num_steps=2", "--unroll_length=2"
    rate = "--learning_rate=1e-30"  # the weights stay as they were drawn
    path = tmp_path / f"{seed}{optimizer}"
    ended = forks.run(
      "train", *flags, rate, f"--optimizer={optimizer}", f"--seed={seed}",
      f"--save_path={path}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return export.load(path / "optimizer.l2l.npz").config["seed"]

  assert weights(3, "RNNprop(layers=())") == 3
  assert weights(3, "RNNprop(layers=(), seed=5)") == 5
