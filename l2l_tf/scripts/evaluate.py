"""Compares optimizers on fresh problems: learned ones as they are, baselines tuned.

  l2l-evaluate --problem=quadratic --path=tensorboard_logs/quadratic/optimizer.l2l.npz

All optimizers run through the same loop, on the same tasks and mini-batches, for the
same number of steps; each baseline's learning rate is selected on other tasks
than the reported ones. BFGS and L-BFGS have none; each of their evaluations of the
loss is a step. Prints the table, and writes summary.csv, curves.csv, curves.png and
TensorBoard logs.
"""

from absl import flags

from l2l_tf.runs import presets, vocabulary
from l2l_tf.runs.settings import (
  BASELINES,
  QUASI_NEWTON,
  STRATEGIES,
  WORKER_TIMEOUT,
  EvaluationSettings,
)
from l2l_tf.scripts import launch

flags.DEFINE_string(
  "problem",
  "quadratic",
  f"What the optimizers optimize: {', '.join(presets.PRESETS)}; or one such as"
  f" 'Quadratic(num_dims=3)', see l2l-train --help; or {presets.OWN}, for what a"
  " function of your own returns.",
)
flags.DEFINE_list(
  "path",
  [],
  "Exported or pretrained optimizers to evaluate, separated by commas, as in general.",
)
launch.define_expressions(
  "optimizer",
  BASELINES,
  f"Hand-designed optimizers to compare with, separated by commas, of"
  f" {', '.join(BASELINES)}; empty for none. {' and '.join(QUASI_NEWTON)}, by SciPy,"
  " have no learning rate: each evaluation of loss and gradient counts as a step, and"
  " the curve shows the best iterate so far; tasks that share a draw are minimized one"
  " by one; of a problem with mini-batches they minimize the loss on the first one, as"
  " a line search needs one function, and are reported on those that all others meet."
  " BFGS takes up to 5,000 parameters. Others are written as for l2l-train, also"
  " of a file of your own; their learning rate is tuned, too, unless it is said, as in"
  " --optimizer='Adam,Momentum(momentum=0.5),SGD(learning_rate=0.1)':\n"
  f"{vocabulary.describe('optimizer')}",
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
flags.DEFINE_list(
  "imports",
  [],
  "Python files of your own to run first, separated by commas, which register the"
  " classes that the exports consist of, or that --optimizer names; the file of"
  " --problem is run anyway.",
)
flags.DEFINE_string(
  "save_path",
  None,
  "Directory of the results; by default evaluation/ beside the first exported"
  " optimizer, else tensorboard_logs/<problem>/evaluation.",
)
flags.DEFINE_bool("plot", True, "Whether to draw curves.png.")
flags.DEFINE_enum(
  "strategy",
  None,
  STRATEGIES,
  "What shares out the draws of the problem: multi_worker, over the workers that"
  " TF_CONFIG or SLURM names, as l2l-train --help says; by default this process does"
  " all.",
)
flags.DEFINE_float(
  "worker_timeout",
  WORKER_TIMEOUT,
  "Seconds that a worker waits for the others, with --strategy=multi_worker.",
)

launch.problem("problem")
launch.positive_number("learning_rate")
launch.positive_number("worker_timeout")
launch.files("imports")
launch.expressions_or_baselines("optimizer")
flags.register_multi_flags_validator(
  ["path", "optimizer"],
  lambda values: any(values.values()),
  "nothing to evaluate: give --path or --optimizer",
)


def main() -> None:
  from l2l_tf.runs import evaluation  # imports TensorFlow, too slow for --help

  evaluation.evaluate(launch.settings(EvaluationSettings, __name__))


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
