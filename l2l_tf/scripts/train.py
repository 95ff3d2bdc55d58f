"""Meta-trains an LSTM optimizer on a problem and exports the best one found.

  l2l-train --problem=quadratic

Started again with the same flags, a run goes on where it was stopped: Ctrl-C and
SIGTERM end it after the current epoch with a checkpoint, and even SIGKILL costs
only the epochs since the last validation. Flags without a default take the
problem's recipe.
"""

from l2l_tf.scripts import quiet  # noqa: F401 isort: skip

import math
import pathlib
import time
from typing import Any

import keras
import numpy as np
import tqdm
from absl import flags

from l2l_tf import meta_gradients, presets
from l2l_tf.meta_train import MetaTrainer, check_lengths
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM
from l2l_tf.scripts import launch
from l2l_tf.summaries import TensorBoard
from l2l_tf.trace_graph import trace_graph
from l2l_tf.training_run import TrainingRun, stop_signals

_PROBLEM = flags.DEFINE_string(
  "problem",
  "quadratic",
  "What to optimize: "
  + "; ".join(f"{name} ({p.description})" for name, p in presets.PRESETS.items())
  + ".",
)
_NUM_EPOCHS = flags.DEFINE_integer(
  "num_epochs", None, "Training epochs; one optimizes a fresh task for num_steps."
)
_LOG_PERIOD = flags.DEFINE_integer(
  "log_period", 100, "Epochs between lines on the terminal."
)
_EVALUATION_PERIOD = flags.DEFINE_integer(
  "evaluation_period",
  50,
  "Epochs between validations, each followed by a checkpoint.",
)
_EVALUATION_EPOCHS = flags.DEFINE_integer(
  "evaluation_epochs",
  None,
  "Fixed tasks, never trained on, whose mean final loss selects the best optimizer.",
)
_PATIENCE = flags.DEFINE_integer(
  "patience", None, "Validations without improvement that end the run; none: never."
)
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Inner steps per epoch.")
_UNROLL_LENGTH = flags.DEFINE_integer(
  "unroll_length", None, "Inner steps per window of truncated back-propagation."
)
_LEARNING_RATE = flags.DEFINE_float(
  "learning_rate", None, "Of the meta-optimizer, Adam."
)
_SCHEDULE = flags.DEFINE_enum(
  "schedule",
  "cosine",
  ["cosine", "constant"],
  "How the learning rate goes: to zero along a cosine, or not at all.",
)
_CLIP_NORM = flags.DEFINE_float(
  "clip_norm", None, "Global norm to which meta-gradients are clipped."
)
_META_LOSS = flags.DEFINE_enum(
  "meta_loss",
  "sum",
  ["sum", "last"],
  "Whether all losses of a window count, as in the paper, or only the last.",
)
_SECOND_DERIVATIVES = flags.DEFINE_bool(
  "second_derivatives", False, "Whether to differentiate the optimizee's gradients too."
)
_LAYERS = flags.DEFINE_list(
  "layers", None, "Units of each LSTM layer; empty for a linear optimizer."
)
_PREPROCESS = flags.DEFINE_string(
  "preprocess",
  None,
  "Features of the gradient: identity, clamp, log_and_sign or several joined by '+',"
  " with numbers as in log_and_sign(p=5)+clamp(scale=20).",
)
_OUTPUT_SCALE = flags.DEFINE_float(
  "output_scale", None, "Factor on the LSTM's output, so that first steps are small."
)
_INITIALIZER = flags.DEFINE_enum(
  "initializer", None, ["truncated_normal", "zeros"], "Initial weights of the LSTM."
)
_SAVE_PATH = flags.DEFINE_string(
  "save_path",
  None,
  "Directory of checkpoints, TensorBoard logs and the exported optimizer; by default"
  " tensorboard_logs/<problem>.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Names the weights and every task drawn.")
_JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "Whether XLA compiles an epoch.")
_TRACE_GRAPH = flags.DEFINE_bool(
  "trace_graph",
  False,
  "Also write the graph of one window of five steps, for TensorBoard's Graphs tab.",
)

# What a run's result does not depend on; it may differ when a run is resumed.
_PRESENTATION = ("log_period", "save_path", "trace_graph")
_HYPER_PARAMETERS = [
  "problem", "layers", "preprocess", "output_scale", "learning_rate", "schedule",
  "clip_norm", "num_steps", "unroll_length", "second_derivatives", "seed",
]  # fmt: skip


def settings() -> dict[str, Any]:
  """Returns all flags' values, those not given taken from the problem's recipe."""
  recipe = presets.get(_PROBLEM.value)._asdict()
  values = {
    f.name: recipe.get(f.name) if f.value is None else f.value
    for f in flags.FLAGS.flags_by_module_dict()[__name__]
  }
  values["layers"] = [_positive("layers", size) for size in values["layers"]]
  values["save_path"] = values["save_path"] or f"tensorboard_logs/{_PROBLEM.value}"
  return values


def build_trainer(values: dict[str, Any]) -> MetaTrainer:
  """Builds what the settings describe."""
  check_lengths(values["num_steps"], values["unroll_length"])
  rate, num_epochs = values["learning_rate"], values["num_epochs"]
  _positive("num_epochs", num_epochs)
  _positive("log_period", values["log_period"])
  if not 0 < rate < math.inf:
    raise ValueError(f"learning_rate={rate} must be a positive, finite number.")
  if values["schedule"] == "cosine":
    num_updates = num_epochs * values["num_steps"] // values["unroll_length"]
    rate = keras.optimizers.schedules.CosineDecay(rate, num_updates)
  weights = {"sum": meta_gradients.all_ones, "last": meta_gradients.last_only}
  return MetaTrainer(
    presets.get(values["problem"]).make_problem(),
    CoordinatewiseLSTM(
      values["layers"],
      values["preprocess"],
      values["output_scale"],
      values["initializer"],
      values["seed"],
    ),
    Adam(rate),
    meta_gradients.TruncatedBPTT(
      weights[values["meta_loss"]], values["second_derivatives"]
    ),
    values["num_steps"],
    values["unroll_length"],
    values["clip_norm"],
    values["seed"],
    values["jit_compile"],
  )


def train(
  run: TrainingRun, board: TensorBoard, num_epochs: int, log_period: int
) -> int:
  """Trains to the end or to a signal, showing progress; returns the exit code."""
  recent: list[float] = []
  with (
    stop_signals() as received,
    tqdm.tqdm(
      total=num_epochs, initial=int(run.epoch), unit="epoch", desc="Meta-training"
    ) as bar,
  ):
    before = time.perf_counter()
    for epoch in run.epochs():
      now = time.perf_counter()
      board.training(epoch.number, epoch.metrics, 1.0 / (now - before))
      recent.append(float(epoch.metrics["losses"][-1]))
      if epoch.validation is not None:
        board.validation(epoch.number, epoch.validation.losses)
        board.flush()
      if epoch.number % log_period == 0:
        bar.write(_line(epoch.number, recent, run))
        recent.clear()
      bar.set_postfix(best=f"{float(run.best_loss):.4g}", skipped=int(run.num_skipped))
      bar.update()
      if received:
        run.save()
        bar.write(
          f"Stopped after epoch {epoch.number}; the same command goes on there."
        )
        return 128 + received[0]
      before = time.perf_counter()
  return 0


def _line(epoch: int, recent: list[float], run: TrainingRun) -> str:
  line = (
    f"epoch {epoch:5d}  final loss {np.mean(recent):.4g}"
    f"  best validation {float(run.best_loss):.4g}"
  )
  skipped = int(run.num_skipped)
  return line + (f"  {skipped} windows skipped, not finite" if skipped else "")


def _positive(name: str, value: int | str) -> int:
  if not str(value).isdigit() or int(value) < 1:
    raise ValueError(f"{name}={value} must be a positive integer.")
  return int(value)


def main() -> int:
  values = settings()
  path = pathlib.Path(values["save_path"])
  trainer = build_trainer(values)
  config = {k: v for k, v in values.items() if k not in _PRESENTATION}
  run = TrainingRun(
    trainer,
    path,
    config,
    values["num_epochs"],
    values["evaluation_period"],
    values["evaluation_epochs"],
    values["patience"],
  )
  launch.write_flags(path / "flags.txt", __name__, values)
  board = TensorBoard(path)
  if run.resumed_from is None:
    board.flags(values, _HYPER_PARAMETERS)
  if values["trace_graph"]:
    board.graph(trace_graph(trainer.problem, trainer.optimizer))
  code = train(run, board, values["num_epochs"], values["log_period"])
  board.close()
  if code == 0:
    print(f"Best validation loss {float(run.best_loss):.4g}: {run.export_path}")
  return code


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
