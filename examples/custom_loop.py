"""A learned optimizer in a training loop of one's own: `apply`, and nothing else.

python examples/custom_loop.py
"""

import keras
import tensorflow as tf
import tqdm
from absl import app, flags

import l2l_tf

_OPTIMIZER = flags.DEFINE_string(
  "optimizer", "general", "A pretrained optimizer, or the path of an exported one."
)
_STEPS = flags.DEFINE_integer("steps", 500, "Training steps.", lower_bound=1)


def main(unused_argv: list[str]) -> None:
  data = l2l_tf.problems.datasets.digits()
  batches = tf.data.Dataset.from_tensor_slices((data.train_images, data.train_labels))
  batches = batches.shuffle(2000, seed=0).repeat().batch(64).take(_STEPS.value)

  keras.utils.set_random_seed(0)
  model = keras.Sequential(
    [
      keras.Input([8, 8, 1]),
      keras.layers.Conv2D(16, 3, activation="relu"),
      keras.layers.Flatten(),
      keras.layers.Dense(10),
    ]
  )
  compute_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  optimizer = l2l_tf.keras.LearnedOptimizer(_OPTIMIZER.value)
  if optimizer.has_horizon:
    optimizer.total_steps = _STEPS.value

  @tf.function
  def train_step(images, labels):
    with tf.GradientTape() as tape:
      loss = compute_loss(labels, model(images, training=True))
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(grads, model.trainable_variables)
    return loss

  bar = tqdm.tqdm(batches, total=_STEPS.value, unit="step")
  for step, (images, labels) in enumerate(bar):
    loss = train_step(images, labels)
    if step % 20 == 0:
      bar.set_postfix(loss=f"{float(loss):.4f}")
  right = tf.argmax(model(data.test_images), axis=1, output_type=tf.int32)
  accuracy = tf.reduce_mean(tf.cast(right == data.test_labels, tf.float32))
  print(f"Held-out accuracy: {float(accuracy):.4f}")


if __name__ == "__main__":
  app.run(main)
