"""Draws meta-gradients by window: where they explode, where short windows are biased.

An optimizer learns a little on scikit-learn's digits; then its meta-gradients are
measured for windows of several lengths, at every place of an episode, and the table and
the picture are made. `--relative-loss` divides each window's meta-loss by the loss
where it starts, and `--clip-norm` clips.
"""

import argparse
import pathlib
import tempfile

import tqdm

from l2l_tf import MetaObjective, MetaTrainer
from l2l_tf.evaluation import plots, windows
from l2l_tf.optimizers import Adam, CoordinatewiseLSTM
from l2l_tf.problems import digits_mlp


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=200, help="of an episode")
  parser.add_argument("--warm-up", type=int, default=40, help="episodes of training")
  parser.add_argument("--episodes", type=int, default=16, help="to measure on")
  parser.add_argument("--relative-loss", action="store_true")
  parser.add_argument("--clip-norm", type=float, default=float("inf"))
  parser.add_argument("--picture", type=pathlib.Path, default="windows.png")
  args = parser.parse_args()
  problem = digits_mlp()
  optimizer = CoordinatewiseLSTM((20, 20), "log_and_sign", output_scale=0.1)
  trainer = MetaTrainer(
    problem, optimizer, Adam(0.003), num_steps=100, unroll_length=20, clip_norm=1.0
  )
  for _ in tqdm.tqdm(trainer.train(args.warm_up), total=args.warm_up):
    pass
  objective = MetaObjective(relative=args.relative_loss, clip_norm=args.clip_norm)
  found = windows.measure(
    problem,
    optimizer,
    args.steps,
    objective=objective,
    num_episodes=args.episodes,
  )
  print(f"{found.table()}\n{found.reason}")
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory, "windows.csv")
    found.write(path)
    title = "Meta-gradients on digits, by length of the window and place in the episode"
    plots.save(plots.windows(path, title), args.picture)


if __name__ == "__main__":
  main()
