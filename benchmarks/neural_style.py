"""Times the unroll on neural style against the same, plainly written.

Both take the same steps of Adam on the same picture: l2l_tf's `unroll`, one
`tf.while_loop`, and a Python loop around one `tf.function` step with a `GradientTape`,
as tutorials on neural style have it. They take turns; what is printed is the ratio of
the two times of each round, and the peak of resident memory of an episode of
meta-training at 128 x 128. Photographs and paintings are scikit-learn's; VGG-16's
weights are random, unless L2L_VGG16 names a file: they make no difference to the time.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from l2l_tf import MetaTrainer, seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import Adam, RNNprop
from l2l_tf.problems import NeuralStyle, datasets, vgg
from l2l_tf.problems.neural_style import TERMS

_RATE = 0.1
_FILTERS = (64, 128, 256)  # VGG-16's


def make(size: int) -> NeuralStyle:
  weights = vgg.vgg16() if os.environ.get(vgg.VARIABLE) else vgg.untrained(_FILTERS)
  photograph = np.kron(datasets.photograph(), np.ones([2, 2, 1]))
  return NeuralStyle([photograph], [photograph], size, weights, TERMS)


def ours(problem: NeuralStyle, steps: int):
  """Returns a function that takes all steps and returns the last loss."""
  optimizer = Adam(_RATE)

  @tf.function(autograph=False)
  def run(task, carry):
    evaluate = unroll.second_order  # There is no tape to stop gradients for.
    _, losses = unroll.unroll(problem, optimizer, task, carry, steps, evaluate=evaluate)
    return losses[-1]

  task, carry = unroll.start(problem, optimizer, seeds.make(0))
  return lambda: float(run(task, carry))


def plain(problem: NeuralStyle, steps: int):
  """The same as in `ours`, as one writes it by hand."""
  task, (start,) = unroll.draw(problem, seeds.make(0))
  theta, m, v = (tf.Variable(tf.zeros_like(start)) for _ in range(3))

  @tf.function(autograph=False)
  def step(t):
    with tf.GradientTape() as tape:
      loss = problem([theta], task.constants, None)
    gradient = tape.gradient(loss, theta)
    m.assign(0.9 * m + 0.1 * gradient)
    v.assign(0.999 * v + 0.001 * tf.square(gradient))
    unbiased = tf.sqrt(v / (1.0 - 0.999**t))
    theta.assign_sub(_RATE * m / (1.0 - 0.9**t) / (unbiased + 1e-8))
    return loss

  def run():
    theta.assign(start)
    m.assign(tf.zeros_like(start))
    v.assign(tf.zeros_like(start))
    for t in range(1, steps + 1):
      step(tf.constant(float(t)))
    return float(problem([theta], task.constants, None))

  return run


def seconds(run) -> float:
  began = time.perf_counter()
  run()
  return time.perf_counter() - began


def compare(size: int, steps: int, rounds: int) -> None:
  problem = make(size)
  contenders = {"l2l_tf": ours(problem, steps), "plain": plain(problem, steps)}
  losses = {name: run() for name, run in contenders.items()}  # and compile
  if not np.isclose(*losses.values(), rtol=0.02):
    raise SystemExit(f"Error: they end at different losses, {losses}.")
  times = [
    {name: seconds(run) for name, run in contenders.items()} for _ in range(rounds)
  ]
  for name in contenders:
    rate = statistics.median(steps / t[name] for t in times)
    print(f"{size} x {size}, {name}: {rate:.1f} steps per second")
  ratios = sorted(t["plain"] / t["l2l_tf"] for t in times)
  print(
    f"{size} x {size}, plain / l2l_tf: {statistics.median(ratios):.2f}"
    f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
  )


def measure_memory(size: int) -> None:
  """Prints the peak of this process, which trains for one window of 32 steps."""
  trainer = MetaTrainer(make(size), RNNprop(), num_steps=32, unroll_length=32)
  trainer.train_episode(0)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(
    f"{size} x {size}, a window of 32 steps of meta-training: {peak:.2f} GiB in all"
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", type=int, default=64, help="pixels of a side")
  parser.add_argument("--steps", type=int, default=32)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--memory", type=int, default=128, help="its size; 0 for none")
  parser.add_argument("--memory-alone", type=int, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.memory_alone:
    measure_memory(args.memory_alone)
    return
  compare(args.size, args.steps, args.rounds)
  if args.memory:  # in a process of its own
    command = [sys.executable, __file__, f"--memory-alone={args.memory}"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
  main()
