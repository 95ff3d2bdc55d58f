"""One window of meta-training as a graph for TensorBoard, with every step unrolled.

Andrychowicz et al. 2016, figure 2: the optimizee f along the top, the optimizer
m below it, and the stopped gradients between them.
"""

import re

import tensorflow as tf

from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.meta.gradients import TruncatedBPTT
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import Problem

# TensorFlow puts all derivatives below one scope. These rules move df/dtheta to its
# step, and the other derivatives to the meta-gradient.
_RENAMED = [
  (r"gradient_tape/step_(\d+)/optimizee/", r"step_\1/gradient/"),
  (r"gradient_tape/", r"meta_gradient/"),
  (r"step_(\d+)/gradient_1/", r"step_\1/gradient/"),
  (r"Identity(_\d+)?$", r"outputs/Identity\1"),
]


def trace_graph(
  problem: Problem,
  optimizer: Optimizer,
  unroll_length: int = 5,
  second_derivatives: bool = False,
) -> tf.compat.v1.GraphDef:
  """Traces the first window of an episode; nothing is run.

  Args:
    problem: the optimizee.
    optimizer: the learned optimizer.
    unroll_length: steps to unroll.
    second_derivatives: as in `TruncatedBPTT`.

  Returns:
    A graph for TensorBoard with the name scopes step_0/optimizee, step_0/gradient,
    step_0/optimizer/lstm_1, ..., meta_loss, meta_gradient, meta_optimizer/adam.
  """
  trainer = MetaTrainer(
    problem,
    optimizer,
    meta_gradient=TruncatedBPTT(
      second_derivatives=second_derivatives, unroll=unroll_lib.static_unroll
    ),
    num_steps=unroll_length,
    unroll_length=unroll_length,
  )
  graph = trainer.trace_window().as_graph_def()
  for node in graph.node:
    node.name = _readable(node.name)
    node.input[:] = [_readable(name) for name in node.input]
  return graph


def _readable(name: str) -> str:
  control, name = ("^", name[1:]) if name.startswith("^") else ("", name)
  name, *output = name.split(":")
  for pattern, replacement in _RENAMED:
    name = re.sub("^" + pattern, replacement, name)
  return control + ":".join([name, *output])
