"""A learned optimizer trains a Sonnet module, or any other TensorFlow variables.

python examples/sonnet_loop.py
"""

import sonnet as snt
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

  tf.random.set_seed(0)
  model = snt.Sequential([snt.Flatten(), snt.nets.MLP([32, 10])])
  model(data.test_images)  # Sonnet makes the variables in the first call.
  optimizer = l2l_tf.keras.LearnedOptimizer(_OPTIMIZER.value)
  if optimizer.has_horizon:
    optimizer.total_steps = _STEPS.value

  @tf.function
  def train_step(images, labels):
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images))
      )
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
