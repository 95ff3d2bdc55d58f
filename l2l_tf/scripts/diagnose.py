"""Shows what a trained optimizer does with gradients, and why it may not learn.

  l2l-diagnose --path=tensorboard_logs/quadratic/optimizer.l2l.npz

No problem is run: the optimizer is given gradients from -1e10 to 1e10, at its first
step and after a history, and constant gradients and noise over 100 steps. Prints a
table and findings, with faults marked by "!"; writes response.csv, trajectories.csv,
findings.txt and diagnosis.png.
"""

from absl import flags

from l2l_tf.runs.settings import DiagnosisSettings
from l2l_tf.scripts import launch

flags.DEFINE_string(
  "path",
  None,
  "The exported optimizer, or a pretrained one by its name; by default none, give one.",
)
flags.DEFINE_string(
  "save_path",
  None,
  "Directory of the results; by default diagnosis/ beside the exported optimizer.",
)
flags.DEFINE_integer(
  "warmup", 10, "Steps of history before the later updates.", lower_bound=1
)
flags.DEFINE_integer(
  "num_steps", 100, "Steps of constant gradients and of noise.", lower_bound=1
)
flags.DEFINE_integer("seed", 0, "Names the noise.")
flags.DEFINE_list(
  "imports",
  [],
  "Python files of your own to run first, separated by commas, which register the"
  " classes that the export consists of.",
)
flags.DEFINE_bool("plot", True, "Whether to draw diagnosis.png.")

launch.files("imports")
flags.register_validator("path", bool, "nothing to diagnose: give --path")


def main() -> None:
  from l2l_tf.runs import diagnosis  # imports TensorFlow, too slow for --help

  diagnosis.diagnose(launch.settings(DiagnosisSettings, __name__))


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
