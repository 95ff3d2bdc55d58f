"""Trains optimizers for few-shot tasks, and compares them on classes never seen.

  l2l-fewshot --dataset=omniglot --ways=5 --shots=1
  l2l-fewshot --dataset=digits --ways=3 --minutes=1

Trains gradient descent as an LSTM (Ravi and Larochelle 2017) and its baselines, each
for --minutes, runs all of them on the same test episodes, and leaves table.txt,
table.md, scores.csv, gates.png and gates.csv, and logs for TensorBoard. Started again
with the same flags, it goes on where it was stopped; with more --minutes it trains on.

https://openreview.net/forum?id=rJY0-Kcll
"""

from absl import flags

from l2l_tf.runs.settings import FEW_SHOT_METHODS, FewShotSettings
from l2l_tf.scripts import launch

flags.DEFINE_enum("dataset", "omniglot", ["omniglot", "digits"], "Whose classes.")
flags.DEFINE_integer("ways", 5, "Classes of an episode.", lower_bound=2)
flags.DEFINE_integer("shots", 1, "Support images of each class.", lower_bound=1)
flags.DEFINE_integer("queries", 15, "Query images of each class.", lower_bound=1)
flags.DEFINE_enum(
  "learner",
  "conv",
  ["conv", "dense"],
  "The network: four convolutional blocks, or one hidden layer.",
)
flags.DEFINE_enum(
  "statistics",
  "paper",
  ["paper", "batch", "support"],
  "Whose mean and variance normalise query images: their own in training and the"
  " support set's in tests, always their own, or always the support set's.",
)
flags.DEFINE_list(
  "methods",
  list(FEW_SHOT_METHODS),
  f"What to train and compare, of {', '.join(FEW_SHOT_METHODS)}.",
)
flags.DEFINE_integer(
  "num_steps",
  None,
  "Passes over the support set; by default 12 for one shot, 8 for more.",
  lower_bound=1,
)
flags.DEFINE_float("minutes", 10.0, "Minutes of training for each method.")
flags.DEFINE_integer(
  "num_updates", 100_000, "Meta-updates of a method at most.", lower_bound=1
)
flags.DEFINE_integer("meta_batch_size", 1, "Episodes of a meta-update.", lower_bound=1)
flags.DEFINE_float("learning_rate", 0.001, "Of the meta-optimizer, Adam.")
flags.DEFINE_float("clip_norm", 0.25, "To which a meta-gradient is clipped.")
flags.DEFINE_integer(
  "evaluation_period", 250, "Meta-updates between validations.", lower_bound=1
)
flags.DEFINE_integer(
  "validation_episodes",
  50,
  "Episodes of a validation, and of each rate of a baseline that is tuned.",
  lower_bound=1,
)
flags.DEFINE_integer("test_episodes", 600, "Episodes of a test.", lower_bound=2)
flags.DEFINE_integer(
  "test_seeds",
  1,
  "Tests, of other episodes each: --seed, --seed + 1, ...",
  lower_bound=1,
)
flags.DEFINE_integer(
  "gate_tasks", 5, "Test episodes whose gates are drawn.", lower_bound=1
)
flags.DEFINE_integer("seed", 0, "Names the weights and every episode.")
flags.DEFINE_string(
  "save_path",
  None,
  "Directory of the results; by default, one in tensorboard_logs is named by the task.",
)

launch.choices("methods", list(FEW_SHOT_METHODS))
for _name in ("minutes", "learning_rate", "clip_norm"):
  launch.positive_number(_name)


def main() -> int:
  from l2l_tf.runs import few_shot  # imports TensorFlow, too slow for --help

  return few_shot.few_shot(launch.settings(FewShotSettings, __name__))


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
