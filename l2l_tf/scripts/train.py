"""Meta-trains an optimizer on a problem and exports the best one found.

  l2l-train --problem=quadratic
  l2l-train --problem='Quadratic(num_dims=20)' --optimizer='RNNprop(layers=(20, 20))'

Started again with the same flags, a run resumes where it was stopped: Ctrl-C and
SIGTERM end it after the current epoch with a checkpoint, and even SIGKILL costs
only the epochs since the last validation. With a higher --patience, or under
--schedule=constant a higher --num_epochs, a finished run goes on as well. Flags
without a default here take their value from the problem's recipe. An expression is a
constructor call with literal arguments, of a name in l2l_tf or in a file of your own,
as in path/to/file.py:MyClass(units=3).
"""

import math

from absl import flags

from l2l_tf.runs import presets, vocabulary
from l2l_tf.runs.settings import (
  AUTO,
  CHOICES,
  STRATEGIES,
  WORKER_TIMEOUT,
  TrainingSettings,
)
from l2l_tf.scripts import launch


def _recipe(name: str) -> str:
  """Describes a flag's default: the recipes' values, the most common one first."""
  by_value: dict[str, list[str]] = {}
  recipes = {**presets.PRESETS, presets.OWN: presets.OWN_RECIPE}
  for problem, preset in recipes.items():
    value = getattr(preset, name)
    text = ",".join(map(str, value)) or "none" if name == "layers" else str(value)
    by_value.setdefault(text, []).append(problem)
  (common, _), *others = sorted(by_value.items(), key=lambda item: -len(item[1]))
  rest = "".join(f"; {', '.join(names)}: {value}" for value, names in others)
  return f"by default, as the problem's recipe says, {common}{rest}."


flags.DEFINE_string(
  "problem",
  "quadratic",
  f"What the optimizer learns to optimize: {', '.join(presets.PRESETS)}; or"
  f" {presets.OWN}, for what a function of your own returns, such as"
  " l2l_tf.problems.keras_model(build_model, loss, dataset), with arguments if it takes"
  " any; or one such as --problem='Quadratic(batch_size=2, num_dims=3)', by the recipe"
  f" of the name most like it:\n{vocabulary.describe('problem')}",
)
flags.DEFINE_integer(
  "num_epochs",
  None,
  "Epochs of meta-training; each is one episode, which optimizes a freshly drawn task"
  f" (or meta-batch) for num_steps; {_recipe('num_epochs')}",
  lower_bound=1,
)
flags.DEFINE_integer(
  "log_period", 100, "Epochs between lines on the terminal.", lower_bound=1
)
flags.DEFINE_integer(
  "evaluation_period",
  50,
  "Epochs between validations, each followed by a checkpoint.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "evaluation_epochs",
  None,
  "Fixed tasks, never trained on, whose mean final loss selects the best optimizer;"
  f" {_recipe('evaluation_epochs')}",
  lower_bound=1,
)
flags.DEFINE_integer(
  "patience",
  None,
  "Validations in a row without improvement that end the run; by default none do.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "num_steps", None, f"Inner steps per episode; {_recipe('num_steps')}", lower_bound=1
)
flags.DEFINE_integer(
  "meta_batch_size",
  1,
  "Fresh tasks that an episode optimizes side by side; the meta-loss is their mean.",
  lower_bound=1,
)
flags.DEFINE_string(
  "unroll_length",
  None,
  "Inner steps per window of truncated back-propagation, a divisor of num_steps; auto"
  " measures meta-gradients by window on a few episodes, writes windows.csv and"
  f" windows.png, and says what it chose and why; {_recipe('unroll_length')}",
)
flags.DEFINE_float(
  "learning_rate",
  None,
  f"Learning rate of the meta-optimizer; {_recipe('learning_rate')}",
)
flags.DEFINE_enum(
  "schedule",
  None,
  CHOICES["schedule"],
  "How the learning rate falls: along a cosine to 2% of itself, or not at all; by"
  " default cosine.",
)
flags.DEFINE_string(
  "meta_optimizer",
  None,
  "What trains the optimizer, written as --optimizer is, as in"
  " 'Adam(learning_rate=0.001)'; if that says no learning rate, --learning_rate and"
  " --schedule do; by default Adam.",
)
flags.DEFINE_float(
  "clip_norm",
  None,
  f"Global norm to which meta-gradients are clipped, inf for no clipping;"
  f" {_recipe('clip_norm')}",
)
flags.DEFINE_float(
  "task_clip_norm",
  None,
  "Global norm to which the meta-gradient of each task of a meta-batch is clipped, so"
  " that no task drowns the others; by default inf, for no clipping.",
)
flags.DEFINE_enum(
  "meta_loss",
  None,
  CHOICES["meta_loss"],
  "What is minimized of a window's losses: their sum, as in the paper and by default;"
  " the last; their mean; the mean of log(loss / loss at the episode's start); or the"
  " mean of the best loss so far.",
)
flags.DEFINE_bool(
  "relative_loss",
  None,
  "Whether a window's meta-loss is divided by the loss where it starts, so that tasks"
  f" of any unit, and late windows, count alike; {_recipe('relative_loss')}",
)
flags.DEFINE_string(
  "imitation",
  None,
  "Optimizer whose updates are imitated at first, written as --optimizer is, as in"
  " 'Adam(learning_rate=0.001)', its default rate; the relative distance from its"
  f" updates is added to the meta-loss; {_recipe('imitation')}",
)
flags.DEFINE_float(
  "imitation_weight",
  None,
  f"Weight of that distance in the first epoch; {_recipe('imitation_weight')}",
)
flags.DEFINE_float(
  "imitation_half_life",
  None,
  "Epochs in which the weight halves, inf for a constant one;"
  f" {_recipe('imitation_half_life')}",
)
flags.DEFINE_bool(
  "second_derivatives",
  None,
  "Whether to differentiate the optimizee's gradients too; by default not.",
)
flags.DEFINE_string(
  "curriculum",
  None,
  "How long episodes and windows are, in place of --num_steps and --unroll_length, as"
  " in 'Growing(stages=((20, 20), (100, 20), (500, 50)))', or a class of"
  " path/to/file.py:MyCurriculum(); it goes with --schedule=constant; by default the"
  " same in every episode. There are:\n"
  f"{vocabulary.describe('curriculum')}",
)
flags.DEFINE_string(
  "meta_gradient",
  None,
  "How the gradient of the meta-loss is computed, in place of"
  " --second_derivatives, as in 'TruncatedBPTT(second_derivatives=True)', or a class of"
  " path/to/file.py:MyMetaGradient(); None is TruncatedBPTT;"
  f" {_recipe('meta_gradient')} There are:\n{vocabulary.describe('meta_gradient')}",
)
flags.DEFINE_string(
  "optimizer",
  None,
  "What is meta-trained. A name alone takes its arguments from --layers, --preprocess,"
  " --output_scale and --initializer, or the recipe; an expression says them, as in"
  " --optimizer='RNNprop(layers=(20, 20), time_scales=(10, 100))', and takes --seed"
  " where it says no seed. A class of your own, with the decorator l2l_tf.register, is"
  f" path/to/file.py:MyOptimizer(units=3); {_recipe('optimizer')} There are:\n"
  f"{vocabulary.describe('optimizer')}",
)
flags.DEFINE_list(
  "layers",
  None,
  f"Units of each LSTM layer, empty for a linear optimizer; {_recipe('layers')}",
)
flags.DEFINE_string(
  "preprocess",
  None,
  "Features of the gradient: identity, clamp, log_and_sign or several joined by '+',"
  f" with numbers as in log_and_sign(p=5)+clamp(scale=20); {_recipe('preprocess')}",
)
flags.DEFINE_float(
  "output_scale",
  None,
  f"Factor on the LSTM's output, so that first steps are small;"
  f" {_recipe('output_scale')}",
)
flags.DEFINE_enum(
  "initializer",
  None,
  ["truncated_normal", "zeros"],
  f"Initial weights of the LSTM; {_recipe('initializer')}",
)
flags.DEFINE_string(
  "initial_path",
  None,
  "Exported optimizer to go on from, such as one trained on a cheaper problem, with its"
  " own layers, preprocess and output_scale; by default a fresh one.",
)
flags.DEFINE_list(
  "imports",
  [],
  "Python files of your own to run first, separated by commas, which register the"
  " classes that the optimizer of --initial_path consists of, or that flags name.",
)
flags.DEFINE_string(
  "save_path",
  None,
  "Directory of checkpoints, TensorBoard logs and the exported optimizer; by default"
  " tensorboard_logs/<problem>, of a file's function tensorboard_logs/file_function.",
)
flags.DEFINE_integer("seed", 0, "Names the weights and every task drawn.")
flags.DEFINE_enum(
  "strategy",
  None,
  STRATEGIES,
  "What shares out the tasks of a meta-batch, or the lanes of an estimator: mirrored,"
  " over the GPUs of this machine; multi_worker, over the workers that TF_CONFIG or"
  " SLURM names, each of which is to be started with this same command (l2l-launch"
  " starts some on this machine); by default this process does all.",
)
flags.DEFINE_float(
  "worker_timeout",
  WORKER_TIMEOUT,
  "Seconds that a worker waits for the others, with --strategy=multi_worker.",
)
flags.DEFINE_bool(
  "jit_compile",
  False,
  "Whether XLA compiles an episode as a whole; by default it compiles the parts that"
  " gain by it, on all cores.",
)
flags.DEFINE_bool(
  "trace_graph",
  False,
  "Also write the graph of one window of five steps, for TensorBoard's Graphs tab.",
)

launch.problem("problem")
launch.expression("optimizer", "optimizer")
launch.expression("meta_optimizer", "optimizer")
launch.expression("meta_gradient", "meta_gradient")
launch.expression("curriculum", "curriculum")
launch.expression("imitation", "optimizer")
launch.files("imports")
launch.positive_number("learning_rate")
launch.positive_number("imitation_weight")
flags.register_validator(
  "imitation_half_life", lambda x: x is None or x > 0, "it must be positive"
)
flags.register_validator(
  "unroll_length",
  lambda x: x in (None, AUTO) or (x.isdecimal() and int(x) > 0),
  "it must be a positive integer, or auto",
)
for _name in ("clip_norm", "task_clip_norm"):
  flags.register_validator(
    _name, lambda x: x is None or x > 0, "it must be positive; inf turns it off"
  )
launch.positive_number("worker_timeout")
flags.register_validator(
  "output_scale",
  lambda x: x is None or math.isfinite(x),
  "it must be a finite number",
)
flags.register_validator(
  "layers",
  lambda sizes: all(s.isdecimal() and int(s) > 0 for s in sizes or []),
  "it must be positive integers separated by commas, such as 20,20",
)


def settings(given: flags.FlagValues = flags.FLAGS) -> TrainingSettings:
  """Returns the flags' values as settings."""
  as_integers = lambda layers: tuple(map(int, layers))
  as_length = lambda text: text if text == AUTO else int(text)
  return launch.settings(
    TrainingSettings, __name__, given, layers=as_integers, unroll_length=as_length
  )


def main() -> int:
  from l2l_tf.runs import training  # imports TensorFlow, too slow for --help

  return training.train(settings())


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
