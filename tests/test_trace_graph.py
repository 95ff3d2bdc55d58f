"""The graph that TensorBoard shows, read back from its event file."""

import collections

import pytest
import tensorflow as tf

from l2l_tf import cores
from l2l_tf.meta.trace_graph import trace_graph
from l2l_tf.optimizers import CoordinatewiseLSTM
from l2l_tf.problems import Polynomial, Quadratic
from l2l_tf.storage.summaries import TensorBoard

STEPS = 5


@pytest.fixture(scope="module", params=[False, True], ids=["first", "second"])
def traced(request, tmp_path_factory):
  """Whether second derivatives are taken, and the graph from the event file."""
  logdir = tmp_path_factory.mktemp("logs")
  graph = trace_graph(Polynomial(7), CoordinatewiseLSTM((19,)), STEPS, request.param)
  board = TensorBoard(logdir, "training")
  board.graph(graph)
  board.close()
  (path,) = logdir.glob("events.*")
  (written,) = [
    tf.compat.v1.GraphDef.FromString(event.graph_def)
    for event in tf.compat.v1.train.summary_iterator(str(path))
    if event.HasField("graph_def")
  ]
  return request.param, written


def scopes(graph):
  """Every name scope, and which operations lie in it or below it."""
  found = collections.defaultdict(set)
  for node in graph.node:
    parts = node.name.split("/")
    for i in range(1, len(parts)):
      found["/".join(parts[:i])].add(node.op)
  return found


def test_the_scopes_read_as_the_papers_figure_2(traced):
  _, graph = traced
  found = scopes(graph)
  for t in range(STEPS):
    assert {"MatMul", "Sigmoid", "Tanh"} <= found[f"step_{t}/optimizer/lstm_1"]
    assert "MatMul" in found[f"step_{t}/optimizer/linear"]
    assert found[f"step_{t}/optimizer/update"]
    assert {"StatelessRandomUniformFullIntV2", "Mean"} <= found[f"step_{t}/optimizee"]
    assert found[f"step_{t}/gradient"]
  # The last move is judged too, by a loss but by no further move.
  assert "Mean" in found[f"step_{STEPS}/optimizee"]
  assert f"step_{STEPS}/optimizer" not in found
  assert f"step_{STEPS + 1}" not in found
  assert "Sum" in found["meta_loss"]
  assert "AssignAddVariableOp" in found["meta_optimizer"]
  assert "Sqrt" in found["meta_optimizer/adam"]


def test_at_the_top_there_is_nothing_else(traced):
  _, graph = traced
  steps = {f"step_{t}" for t in range(STEPS + 1)}
  named = {"init", "losses", "meta_loss", "meta_gradient", "meta_optimizer"}
  top = {node.name.split("/")[0] for node in graph.node if "/" in node.name}
  assert steps | named <= top <= steps | named | {"outputs"}


def test_the_stopped_gradients_are_visible(traced):
  second_derivatives, graph = traced
  stopped = [node.name for node in graph.node if node.op == "StopGradient"]
  if second_derivatives:
    assert not stopped
  else:
    for t in range(STEPS):
      assert any(name.startswith(f"step_{t}/gradient/") for name in stopped)
    parts = {name.split("/")[1] for name in stopped}
    assert parts == {"gradient", "first_order"}


def test_the_gradient_is_all_that_joins_optimizee_to_optimizer(traced):
  """An arrow leaves step_t/gradient for step_t/optimizer, none step_t/optimizee."""
  _, graph = traced
  for t in range(STEPS):
    sources = {
      "/".join(name.lstrip("^").split("/")[:2])
      for node in graph.node
      if node.name.startswith(f"step_{t}/optimizer/")
      for name in node.input
    }
    assert f"step_{t}/gradient" in sources
    assert f"step_{t}/optimizee" not in sources


def test_names_are_unique_and_every_input_exists(traced):
  _, graph = traced
  names = [node.name for node in graph.node]
  repeated = [name for name, n in collections.Counter(names).items() if n > 1]
  assert not repeated
  inputs = {
    name.lstrip("^").split(":")[0] for node in graph.node for name in node.input
  }
  assert inputs <= set(names)


def test_no_name_is_also_a_scope_of_other_nodes(traced):
  _, graph = traced
  names = {node.name for node in graph.node}
  assert not names & {name.split("/")[0] for name in names if "/" in name}


def test_a_graph_of_any_length_and_depth():
  graph = trace_graph(Polynomial(2), CoordinatewiseLSTM((2, 3)), unroll_length=1)
  found = scopes(graph)
  assert "step_0/optimizer/lstm_2" in found and "step_1/optimizer" not in found


def test_tracing_trains_nothing():
  optimizer = CoordinatewiseLSTM((2,))
  before = [v.numpy() for v in optimizer.variables]
  trace_graph(Polynomial(2), optimizer, unroll_length=1)
  for variable, value in zip(optimizer.variables, before, strict=True):
    assert (variable.numpy() == value).all()


def test_independent_tasks_are_drawn_as_one_graph(monkeypatch):
  monkeypatch.setattr(cores, "num_shards", lambda: 2)
  graph = trace_graph(Quadratic(128, 10), CoordinatewiseLSTM((2,)), unroll_length=1)
  scopes = {node.name.split("/")[1] for node in graph.node if "step_0/" in node.name}
  assert "optimizer" in scopes and "optimizer_1" not in scopes
