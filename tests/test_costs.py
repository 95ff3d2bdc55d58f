"""What a window costs, counted instead of timed: kernels, products, bytes, traces.

A change that brings back the tape through the optimizee, a product per step for the
weights' gradient, or activations of all coordinates at once fails here.
"""

import collections
import functools
import re

import pytest
import tensorflow as tf

from l2l_tf import unroll
from l2l_tf.meta_gradients import TruncatedBPTT
from l2l_tf.meta_train import MetaTrainer
from l2l_tf.optimizers import CoordinatewiseLSTM, lstm_sequence
from l2l_tf.preprocess import LogAndSign
from l2l_tf.problems import Quadratic, digits_mlp

_SHAPE = re.compile(r"\b(f32|s32|pred|f64)\[([\d,]*)\]")
_BYTES = {"f32": 4, "s32": 4, "pred": 1, "f64": 8}


@functools.cache
def program(num_coordinates, num_steps, stage="optimized_hlo"):
  """XLA's program for the pass over `num_steps` recorded gradients."""
  optimizer = CoordinatewiseLSTM((20, 20), "log_and_sign")
  weights = tf.nest.map_structure(tf.convert_to_tensor, optimizer._network.weights)
  arguments = (
    weights,
    LogAndSign(),
    0.1,
    tf.zeros([num_steps + 1, 1, num_coordinates]),
    tf.ones([num_steps]),
    optimizer.initial_state([tf.zeros([num_coordinates])]),
    tf.constant(0),
    tf.constant(2),
    128,
  )
  describe = lstm_sequence._shard_gradient.experimental_get_compiler_ir(*arguments)
  return describe(stage=stage)


def buffers(text):
  """Bytes of each kind of array that the program carries through its loops."""
  carried = re.findall(r"= \((.*?)\) while\(", text)
  shapes = {match for line in carried for match in _SHAPE.findall(line)}
  return {
    (kind, dims): _BYTES[kind] * functools.reduce(
      lambda n, d: n * int(d), filter(None, dims.split(",")), 1
    )
    for kind, dims in shapes
  }  # fmt: skip


def test_the_weights_gradient_is_one_product_over_all_steps():
  products = re.findall(r"f32\[([\d,]+)\]\S* dot\(", program(512, 20, "hlo"))
  gates, steps_times_block = 80, 20 * 128
  assert sorted(products) == sorted(
    [
      f"{gates},128",  # forwards, per step and layer
      f"{gates},128",
      "20,128",  # backwards: the linear map, the upper layer, the lower one
      "40,128",
      "20,128",
      f"{2 + 1 + 20},{gates}",  # once: each layer's weights, and the linear map's
      f"{20 + 1 + 20},{gates}",
      "20,1",
    ]
  )
  assert f"{gates},{steps_times_block}" in program(512, 20, "hlo")


def test_the_program_does_not_grow_with_the_window():
  count = lambda text: text.count(" = ")
  assert count(program(512, 100, "hlo")) == count(program(512, 20, "hlo"))


def test_activations_are_held_for_one_block_at_a_time():
  few, many = (buffers(program(n, 20)) for n in (512, 8192))
  with_coordinates = lambda kinds, n: {k for k in kinds if str(n) in k[1].split(",")}
  assert set(few) - with_coordinates(few, 512) == set(many) - with_coordinates(
    many, 8192
  )
  # Of all coordinates: the recorded gradients and the state before the window.
  largest = max(many[kind] for kind in with_coordinates(many, 8192))
  assert largest == 4 * max(21 * 8192, 20 * 8192)
  assert max(few[k] for k in set(few) - with_coordinates(few, 512)) <= 4 * 20 * 80 * 128


@pytest.mark.parametrize("num_steps", [20, 40])
def test_memory_grows_by_the_recorded_gradients_of_a_block_and_its_activations(
  num_steps,
):
  kinds = buffers(program(512, num_steps))
  longest = {k: n for k, n in kinds.items() if k[1].startswith(f"{num_steps},")}
  assert sum(longest.values()) <= 4 * num_steps * 128 * 300  # floats a coordinate-step


def operations(graph):
  """Counts the kinds of operations in a graph and all its functions."""
  definition = graph.as_graph_def()
  functions = [f.node_def for f in definition.library.function]
  return collections.Counter(
    n.op for nodes in [definition.node, *functions] for n in nodes
  )


def episode_graph(problem, second_derivatives=False):
  trainer = MetaTrainer(
    problem,
    CoordinatewiseLSTM((4,)),
    meta_gradient=TruncatedBPTT(second_derivatives=second_derivatives),
  )
  arguments = tf.constant(0), tf.constant(5), tf.constant(20)
  return trainer._compiled.get_concrete_function(*arguments).graph


@pytest.mark.parametrize("make", [lambda: Quadratic(4, 3), digits_mlp])
def test_first_order_keeps_no_tape(make):
  # What a tape needs of a loop's steps is pushed onto lists until the way back.
  assert operations(episode_graph(make()))["TensorListPushBack"] == 0


def test_second_derivatives_do_keep_one():
  counts = operations(episode_graph(Quadratic(4, 3), second_derivatives=True))
  assert counts["TensorListPushBack"] > 0


def test_an_episode_holds_no_host_call():
  counts = operations(episode_graph(digits_mlp()))
  assert not {"PyFunc", "EagerPyFunc", "PyFuncStateless"} & set(counts)


def test_the_optimizee_is_differentiated_once():
  calls = []

  class Counting(Quadratic):
    def __call__(self, params, constants, seed):
      calls.append(1)
      return super().__call__(params, constants, seed)

  problem, optimizer = Counting(2, 2), CoordinatewiseLSTM((2,))
  task, carry = unroll.start(problem, optimizer, tf.constant([0, 1]))
  calls.clear()
  TruncatedBPTT()(problem, optimizer, task, carry, tf.constant(3), lambda *_: ())
  assert len(calls) == 1  # traced once: no second pass, neither here nor on a tape
