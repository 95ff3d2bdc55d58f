"""Makes one of the pretrained optimizers: trains it, compares it, writes its card.

  l2l-pretrain --name=general

Runs l2l-train once for each stage of the recipe, or l2l-fewshot, then compares the
result with tuned baselines on held-out tasks, and writes weights and card. Started
again with the same flags, it resumes where it was stopped.
"""

from absl import flags

from l2l_tf.pretraining import recipes
from l2l_tf.runs.settings import PretrainingSettings
from l2l_tf.scripts import launch

flags.DEFINE_enum("name", "general", list(recipes.RECIPES), "Which one to make.")
flags.DEFINE_integer("seed", 0, "Names the weights and every task drawn.")
flags.DEFINE_integer(
  "num_epochs",
  None,
  "Epochs of meta-training, each one episode, of every stage, or the meta-updates of"
  " l2l-fewshot; by default as the recipe says.",
  lower_bound=1,
)
flags.DEFINE_list(
  "horizons",
  None,
  "Numbers of steps after which to compare; by default as the recipe says.",
)
flags.DEFINE_integer(
  "num_draws",
  None,
  "Draws of every held-out task that are reported; by default as the recipe says.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "num_tuning_draws",
  None,
  "Draws on which each learning rate of the grid runs; by default as the recipe says.",
  lower_bound=1,
)
flags.DEFINE_string(
  "save_path",
  None,
  "Directory of the stages' runs and of comparison.csv; by default"
  " tensorboard_logs/pretrain_<name>.",
)
flags.DEFINE_string(
  "output_path",
  None,
  "Directory of the weights and the card; by default where the package keeps them.",
)

flags.register_validator(
  "horizons",
  lambda steps: (
    steps is None or (steps and all(s.isdecimal() and int(s) > 0 for s in steps))
  ),
  "it must be positive integers separated by commas, such as 100,1000",
)


def main() -> int:
  from l2l_tf.runs import pretraining  # imports TensorFlow, too slow for --help

  as_integers = lambda steps: tuple(map(int, steps))
  return pretraining.make(
    launch.settings(PretrainingSettings, __name__, horizons=as_integers)
  )


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
