"""Compares learned optimizers, untuned, with tuned optimizers of Keras.

  l2l-benchmark --path=general
  l2l-benchmark --path=general --problem=my_model.py:problem

For every task each baseline runs at six learning rates at least, half a decade apart,
and at more while the best lies at an end; the best one then runs on other seeds than
those it was selected on. Learned optimizers run as they are, on the same seeds, and
also for as many seconds as Adam takes. Prints a table for each task and one over all;
writes results.csv, tables.txt, profile.png and curves.png. Started again with the same
--save_path, it goes on where it was stopped.
"""

from absl import flags

from l2l_tf.runs.settings import CONTENDERS, BenchmarkSettings
from l2l_tf.scripts import launch

flags.DEFINE_list(
  "path",
  ["general"],
  "Pretrained or exported learned optimizers, separated by commas.",
)
flags.DEFINE_string(
  "problem",
  None,
  "A model of your own: a function in a Python file, as in my_model.py:problem, which"
  " returns l2l_tf.problems.keras_model(build_model, loss, data, held_out=...); by"
  " default the built-in tasks.",
)
flags.DEFINE_list(
  "tasks",
  [],
  "Built-in tasks, separated by commas, as in --tasks='CIFAR: mixer,sums: 2 GRUs'; a"
  " wrong name lists them; by default all.",
)
flags.DEFINE_integer("num_steps", 1000, "Steps of a training.", lower_bound=20)
flags.DEFINE_integer(
  "num_seeds", 3, "Trainings of each contender that are reported.", lower_bound=1
)
flags.DEFINE_list(
  "baselines",
  [],
  f"Keras's optimizers to tune, of {', '.join(CONTENDERS)}; Adam with a cosine is"
  " always among them; by default all.",
)
flags.DEFINE_list(
  "imports",
  [],
  "Python files of your own to run first, separated by commas, which register the"
  " classes that the exports consist of.",
)
flags.DEFINE_string(
  "save_path",
  "tensorboard_logs/benchmark",
  "Directory of the results, and of the trials that are finished.",
)

launch.files("imports")
launch.choices("baselines", CONTENDERS)


def main() -> None:
  from l2l_tf.runs import benchmark  # imports TensorFlow, too slow for --help

  benchmark.run(launch.settings(BenchmarkSettings, __name__))


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
