"""What keeping the optimizer's state in fewer bits costs in quality.

Fits a small network on the digits from several initialisations, with the state of a
pretrained optimizer in each type, on the same mini-batches.
"""

import argparse

import keras
import numpy as np

from l2l_tf.keras import LearnedOptimizer
from l2l_tf.problems.data import datasets

_DTYPES = [None, "bfloat16"]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--optimizer", default="general_lstm", help="name or path")
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument("--epochs", type=int, default=20)
  args = parser.parse_args()
  print(
    "| state | bytes a parameter | train loss | held-out loss | held-out accuracy |"
  )
  for dtype in _DTYPES:
    runs = np.array([_fit(args, dtype, seed) for seed in range(args.seeds)])
    size, *values = zip(runs.mean(axis=0), runs.std(axis=0))
    cells = " | ".join(f"{mean:.4f} +/- {std:.4f}" for mean, std in values)
    print(f"| {dtype or 'float32'} | {size[0]:.0f} | {cells} |", flush=True)


def _fit(args: argparse.Namespace, dtype: str | None, seed: int) -> list[float]:
  keras.utils.set_random_seed(seed)
  layers = [keras.layers.Flatten(), keras.layers.Dense(64, "relu")]
  model = keras.Sequential([keras.Input([8, 8, 1]), *layers, keras.layers.Dense(10)])
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  optimizer = LearnedOptimizer(args.optimizer, state_dtype=dtype)
  model.compile(optimizer, loss, metrics=["accuracy"])
  x, y, x_test, y_test = (t.numpy() for t in datasets.digits())
  model.fit(x, y, batch_size=64, epochs=args.epochs, verbose=0)
  size = sum(v.value.numpy().nbytes for v in optimizer.variables)
  train_loss, _ = model.evaluate(x, y, verbose=0)
  held_out = model.evaluate(x_test, y_test, verbose=0)
  return [size / model.count_params(), train_loss, *held_out]


if __name__ == "__main__":
  main()
