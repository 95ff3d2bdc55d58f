"""What a window costs, counted instead of timed: kernels, products, bytes, traces.

A change that brings back the tape through the optimizee, a product per step for the
weights' gradient, or activations of all coordinates at once fails here.
"""

import collections
import functools
import math
import re

import pytest
import tensorflow as tf

from l2l_tf.meta.gradients import TruncatedBPTT
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import CoordinatewiseLSTM
from l2l_tf.optimizers.lstm import backprop
from l2l_tf.problems import Quadratic, digits_mlp

_SHAPE = re.compile(r"\b(f32|s32|pred|f64)\[([\d,]*)\]")
_BYTES = {"f32": 4, "s32": 4, "pred": 1, "f64": 8}


@functools.cache
def program(num_coordinates, num_steps, stage="optimized_hlo"):
  """XLA's program for the pass over `num_steps` recorded gradients."""
  optimizer = CoordinatewiseLSTM((20, 20), "log_and_sign")
  weights = tf.nest.map_structure(tf.convert_to_tensor, optimizer._network.weights)
  shard_gradient = backprop.compiled(optimizer._inputs, 0.1, False, 128, 100)
  describe = shard_gradient.experimental_get_compiler_ir(
    weights,
    tf.zeros([num_steps + 1, 1, num_coordinates]),
    tf.ones([num_steps]),
    optimizer.initial_state([tf.zeros([num_coordinates])]),
    (),
    tf.constant(0),
    tf.constant(2),
  )
  return describe(stage=stage)


def carried(text):
  """The arrays that each loop of the program carries, as (kind, dimensions)."""
  loops = re.findall(r"= \((.*?)\) while\(", text)
  return [_SHAPE.findall(loop) for loop in loops]


def size(array):
  kind, dims = array
  return math.prod(int(n) for n in dims.split(",") if n) * _BYTES[kind]


def test_the_weights_gradient_is_one_product_over_all_steps():
  products = re.findall(r"f32\[([\d,]+)\]\S* dot\(", program(512, 20, "hlo"))
  gates, steps_times_block = 80, 20 * 128
  assert sorted(products) == sorted(
    [
      *[f"{gates},128"] * 2,  # to the segments of long windows, per step and layer
      *[f"{gates},128"] * 2,  # forwards
      "20,128",  # backwards: the linear map, the upper layer, the lower one
      "40,128",
      "20,128",
      f"{2 + 1 + 20},{gates}",  # once: each layer's weights
      f"{20 + 1 + 20},{gates}",
    ]
  )
  assert f"{gates},{steps_times_block}" in program(512, 20, "hlo")


def test_the_program_does_not_grow_with_the_window():
  count = lambda text: text.count(" = ")
  assert count(program(512, 100, "hlo")) == count(program(512, 20, "hlo"))


def test_activations_are_held_for_one_block_at_a_time():
  # Of all coordinates a loop holds what it is given: gradients and state.
  given = {f"61,1,{n}" for n in (512, 8192)} | {f"20,{n}" for n in (512, 8192)}
  few, many = (
    sorted(array for loop in carried(program(n, 60)) for array in loop)
    for n in (512, 8192)
  )
  rest = lambda arrays: [array for array in arrays if array[1] not in given]
  assert rest(few) == rest(many)
  assert max(map(size, rest(many))) == 4 * 60 * 80 * 128


@pytest.mark.parametrize("num_steps", [60, 100])
def test_a_window_s_memory_is_so_many_floats_per_coordinate_and_step(num_steps):
  # Of the block in hand: 120 derivatives, 80 gates' gradients, 23 or 41 inputs of each
  # layer, 20 outputs and an update's gradient.
  of_steps = lambda loop: [a for a in loop if re.search(rf"\b{num_steps},", a[1])]
  floats = [
    sum(map(size, of_steps(loop))) / (4 * num_steps * 128)
    for loop in carried(program(512, num_steps))
  ]
  assert max(floats) <= 500


def test_of_a_long_window_one_segment_is_held():
  # Gradients and features go with its length, and the states between segments.
  of_length = lambda n: max(
    size(array)
    for loop in carried(program(512, n))
    for array in loop
    if "512" not in array[1].split(",")
  )
  assert of_length(1_000) == of_length(100)


def test_an_episode_traces_its_parts_once():
  trainer = MetaTrainer(Quadratic(4, 3), CoordinatewiseLSTM((4,)), num_steps=40)
  trainer.train_episode(0)
  count = lambda: backprop.compiled.cache_info().misses
  before = trainer.num_traces, count()
  for episode in range(1, 4):
    trainer.train_episode(episode)
  assert (trainer.num_traces, count()) == before


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
