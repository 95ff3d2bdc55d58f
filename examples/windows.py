"""Draws meta-gradients by window: where they explode, where short windows are biased.

An optimizer learns a little on scikit-learn's digits; then its meta-gradients are
measured for windows of several lengths, at every place of an episode, and the table and
the picture are made. `--relative_loss` divides each window's meta-loss by the loss
where it starts, and `--clip_norm` clips, as in l2l-train.
"""

import pathlib
import tempfile

import tqdm
from absl import app, flags

from l2l_tf import MetaObjective, MetaTrainer
from l2l_tf.evaluation import plots, windows
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM
from l2l_tf.problems import digits_mlp

NUM_STEPS = flags.DEFINE_integer("num_steps", 200, "Steps of an episode.")
WARM_UP = flags.DEFINE_integer("warm_up", 40, "Episodes of training beforehand.")
NUM_EPISODES = flags.DEFINE_integer("num_episodes", 16, "Episodes to measure on.")
RELATIVE = flags.DEFINE_bool("relative_loss", False, "Relative meta-losses.")
CLIP_NORM = flags.DEFINE_float("clip_norm", float("inf"), "Clips meta-gradients.")
PICTURE = flags.DEFINE_string("picture", "windows.png", "The picture's file.")


def main(_) -> None:
  problem = digits_mlp()
  optimizer = CoordinatewiseLSTM((20, 20), "log_and_sign", output_scale=0.1)
  trainer = MetaTrainer(
    problem, optimizer, Adam(0.003), num_steps=100, unroll_length=20, clip_norm=1.0
  )
  for _ in tqdm.tqdm(trainer.train(WARM_UP.value), total=WARM_UP.value):
    pass
  objective = MetaObjective(relative=RELATIVE.value, clip_norm=CLIP_NORM.value)
  found = windows.measure(
    problem,
    optimizer,
    NUM_STEPS.value,
    objective=objective,
    num_episodes=NUM_EPISODES.value,
  )
  print(f"{found.table()}\n{found.reason}")
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory, "windows.csv")
    found.write(path)
    title = "Meta-gradients on digits, by length of the window and place in the episode"
    plots.save(plots.windows(path, title), pathlib.Path(PICTURE.value))


if __name__ == "__main__":
  app.run(main)
