"""Compares optimizers on fresh problems: learned ones as they are, baselines tuned.

  l2l-evaluate --problem=quadratic --path=tensorboard_logs/quadratic/optimizer.l2l.npz

Everyone runs through the same loop, on the same tasks and mini-batches, for the
same number of steps; each baseline's learning rate is selected on other tasks
than the reported ones. Prints the table, and writes summary.csv, curves.csv,
curves.png and TensorBoard logs.
"""

from absl import flags

from l2l_tf.runs import presets
from l2l_tf.scripts import launch

# The names in `evaluation.baselines`, which cannot be asked without TensorFlow.
BASELINES = ["SGD", "momentum", "Nesterov", "RMSprop", "Adagrad", "Adam"]

flags.DEFINE_string(
  "problem",
  "quadratic",
  f"What the optimizers optimize: {', '.join(presets.PRESETS)}; or {presets.OWN}, for"
  " what a function of your own returns.",
)
flags.DEFINE_list(
  "path",
  [],
  "Exported or pretrained optimizers to evaluate, separated by commas, as in general.",
)
flags.DEFINE_list(
  "optimizer",
  BASELINES,
  "Hand-designed optimizers to compare with, separated by commas; empty for none.",
)
flags.DEFINE_float(
  "learning_rate",
  None,
  "Learning rate of the hand-designed optimizers; by default each has its own, tuned.",
)
flags.DEFINE_integer(
  "num_epochs",
  None,
  "Draws of the problem; one draw of quadratics holds 128 of them, of others one task;"
  " by default as the problem's recipe says.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "num_tuning_epochs",
  None,
  "Draws on which each learning rate of the grid runs; by default as --num_epochs.",
  lower_bound=1,
)
flags.DEFINE_integer("num_steps", 100, "Steps per task.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Names the tasks.")
flags.DEFINE_string(
  "save_path",
  None,
  "Directory of the results; by default evaluation/ beside the first exported"
  " optimizer, else tensorboard_logs/<problem>/evaluation.",
)
flags.DEFINE_bool("plot", True, "Whether to draw curves.png.")

launch.problem("problem")
launch.positive_number("learning_rate")
flags.register_validator(
  "optimizer",
  lambda names: {n.lower() for n in names} <= {n.lower() for n in BASELINES},
  f"it must be of {', '.join(BASELINES)}; exported ones are for --path",
)
flags.register_multi_flags_validator(
  ["path", "optimizer"],
  lambda values: any(values.values()),
  "nothing to evaluate: give --path or --optimizer",
)


def main() -> None:
  from l2l_tf.runs import evaluation  # TensorFlow with it: seconds, not for --help

  evaluation.evaluate(launch.values(__name__))


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
