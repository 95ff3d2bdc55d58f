"""What meta-gradients hold of memory, by the kernel's count, against the window."""

import pytest

CODE = """
import ctypes, resource
import tensorflow as tf

# Tensors that are freed go back to the kernel, in place of into gaps that are counted.
M_MMAP_THRESHOLD = -3
assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 17)

from l2l_tf import PES, MetaTrainer, TruncatedBPTT
from l2l_tf.optimizers import SGD
from l2l_tf.problems import Problem

class Bowl(Problem):
  jit_compile = {is_compiled}

  def init(self, seed):
    return [tf.ones([{size}])], ()

  def __call__(self, params, constants, seed):
    return tf.reduce_mean(params[0] ** 2)

def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

lengths = dict(num_steps=2 * {window}, unroll_length={window})
optimizer = SGD(tf.Variable(0.1))
trainer = MetaTrainer(Bowl(), optimizer, SGD(1e-9), {meta_gradient}, **lengths)
before = peak()
assert not trainer.train_episode(0)["skipped"].any()
print((peak() - before) / 1024)
"""
SIZE = 1 << 18  # parameters of the optimizee: 1 MiB


def peak(forks, meta_gradient, window, is_compiled):
  """MiB that an episode of two windows needs, compilation included."""
  code = CODE.format(
    size=SIZE, meta_gradient=meta_gradient, window=window, is_compiled=is_compiled
  )
  ended = forks.run("", code=code)
  assert ended.code == 0, ended.err
  return float(ended.out)


@pytest.mark.parametrize("is_compiled", [True, False], ids=["xla", "graph"])
def test_memory_of_pes_does_not_grow_with_the_window(forks, is_compiled):
  few, many = (peak(forks, "PES(pairs=1)", n, is_compiled) for n in (10, 300))
  assert many - few < 50  # MiB: a sixth of the parameters for each further step


@pytest.mark.parametrize("is_compiled", [True, False], ids=["xla", "graph"])
def test_memory_of_back_propagation_does(forks, is_compiled):
  method = "TruncatedBPTT(second_derivatives=True)"
  few, many = (peak(forks, method, n, is_compiled) for n in (10, 100))
  assert many - few > 90  # the parameters at least, for each further step
