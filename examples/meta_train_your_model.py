"""The whole circle: your model, an optimizer trained for it, `fit`, and the comparison.

  python examples/meta_train_your_model.py

Replace `build_model` and the data by your own. `make_problem` serves the command line
too, with checkpoints, TensorBoard and every setting:

  l2l-train --problem=examples/meta_train_your_model.py:make_problem
"""

import pathlib

import keras
import tqdm
from absl import app, flags

import l2l_tf
from l2l_tf.optimizers import Adam, RNNprop

_EPISODES = flags.DEFINE_integer(
  "num_episodes", 150, "Tasks to meta-train on, each a training of 100 steps."
)
_DRAWS = flags.DEFINE_integer(
  "num_draws",
  8,
  "Fresh tasks to compare optimizers on, and to tune baselines on.",
)
_PATH = flags.DEFINE_string("results_path", "runs/your_model", "Where results go.")


def build_model() -> keras.Model:
  return keras.Sequential(
    [
      keras.Input([8, 8, 1]),
      keras.layers.Flatten(),
      keras.layers.Dense(32, activation="relu"),
      keras.layers.Dropout(0.1),
      keras.layers.Dense(10),
    ]
  )


def load_data():
  data = l2l_tf.problems.datasets.digits()
  return [t.numpy() for t in data]


def loss() -> keras.losses.Loss:
  return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_problem() -> l2l_tf.Problem:
  x, y, x_test, y_test = load_data()
  return l2l_tf.problems.keras_model(
    build_model, loss(), (x, y), held_out=(x_test, y_test), jit_compile=True
  )


def main(unused_argv: list[str]) -> None:
  path = pathlib.Path(_PATH.value)
  problem, optimizer = make_problem(), RNNprop()

  trainer = l2l_tf.MetaTrainer(problem, optimizer, Adam(0.003), unroll_length=20)
  episodes = trainer.train(_EPISODES.value)
  for metrics in (bar := tqdm.tqdm(episodes, "Meta-training", _EPISODES.value)):
    bar.set_postfix(final_loss=f"{metrics['losses'][-1]:.3f}")
  l2l_tf.save(optimizer, path / "optimizer.l2l.npz")

  x, y, x_test, y_test = load_data()
  model = build_model()
  learned = l2l_tf.keras.LearnedOptimizer(path / "optimizer.l2l.npz")
  model.compile(learned, loss(), metrics=["accuracy"])
  model.fit(x, y, epochs=4, validation_data=(x_test, y_test), verbose=2)

  draws = {"num_draws": _DRAWS.value, "num_tuning_draws": _DRAWS.value}
  curves = l2l_tf.compare(problem, {"learned": optimizer}, **draws)
  print(l2l_tf.table(l2l_tf.summarize(curves)))
  print(f"Learning curves: {l2l_tf.plot(curves, path)}")


if __name__ == "__main__":
  app.run(main)
