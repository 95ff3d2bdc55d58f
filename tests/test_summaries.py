"""What is written for TensorBoard, read back from its event files."""

import matplotlib.figure
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator, tag_types
from tensorboard.plugins.hparams import plugin_data_pb2

from l2l_tf.evaluation import report
from l2l_tf.evaluation.plots import learning_curves
from l2l_tf.evaluation.protocol import Curves
from l2l_tf.storage.summaries import CURVE, LEARNING_CURVES, TRAJECTORIES, TensorBoard


@pytest.fixture
def board(tmp_path):
  board = TensorBoard(tmp_path / "logs", "training")
  yield board
  board.close()


def read(board, tmp_path, run="."):
  board.flush()
  everything = dict.fromkeys(event_accumulator.DEFAULT_SIZE_GUIDANCE, 0)
  path = str(tmp_path / "logs" / run)
  return event_accumulator.EventAccumulator(path, everything).Reload()


def series(events, tag):
  """Steps and values; scalars as floats, text as bytes, images as lists."""
  points = events.Tensors(tag)
  values = [tf.make_ndarray(e.tensor_proto).tolist() for e in points]
  return [e.step for e in points], values


def metrics():
  return {
    "meta_loss": np.array([3.0, 2.0]),
    "meta_gradient_norm": np.array([0.5, np.nan]),
    "skipped": np.array([False, True]),
    "diverged": np.array([0, 3]),
    "losses": np.array([4.0, 3.0, 2.0, 1.0, 0.5]),
    "gradient_size": np.array([1.0, 2.0, 3.0, 4.0]),
    "update_size": np.array([0.1, 0.2, 0.3, 0.4]),
    "diagnostics": {"lstm_1/input_gate": np.float32(0.25)},
  }


def test_training_shows_windows_and_epochs(board, tmp_path):
  board.training(1, metrics(), epochs_per_second=2.0)
  board.training(2, metrics(), epochs_per_second=4.0)
  events = read(board, tmp_path)
  per_window = {
    "4_window/meta_loss": [3.0, 2.0],
    "4_window/meta_gradient_norm": [0.5, np.nan],
    "4_window/diverged": [0.0, 3.0],
    "4_window/skipped": [0.0, 1.0],
  }
  per_epoch = {
    "3_epoch/final_loss": [0.5, 0.5],
    "3_epoch/mean_loss": [2.1, 2.1],
    "3_epoch/gradient_size": [2.5, 2.5],
    "3_epoch/update_size": [0.25, 0.25],
    "3_epoch/inner_steps_per_second": [2.0 * 4, 4.0 * 4],
    "5_saturation/lstm_1/input_gate": [0.25, 0.25],
  }
  assert set(events.Tags()[tag_types.TENSORS]) == {*per_window, *per_epoch}
  for tag, expected in per_window.items():
    steps, values = series(events, tag)
    assert steps == [0, 1, 2, 3]
    np.testing.assert_allclose(values, expected * 2, rtol=1e-6)
  for tag, expected in per_epoch.items():
    steps, values = series(events, tag)
    assert steps == [1, 2]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_validation_shows_means_and_makes_no_run(board, tmp_path):
  losses = np.array([[4.0, 2.0, 1.0], [2.0, 1.0, 0.5]])
  board.validation(30, losses)
  board.validation(60, losses / 2)
  events = read(board, tmp_path)
  for tag, expected in [("final_loss", 0.75), ("mean_loss", 1.75)]:
    steps, values = series(events, f"2_validation/{tag}")
    assert steps == [30, 60]
    np.testing.assert_allclose(values, [expected, expected / 2])
  assert runs(tmp_path) == {"."}


def test_what_matters_first_is_shown_first(board, tmp_path):
  board.validation(1, np.ones([1, 5]))
  board.training(1, metrics(), epochs_per_second=1.0)
  tags = sorted(read(board, tmp_path).Tags()[tag_types.TENSORS])
  groups = dict.fromkeys(tag.split("/")[0] for tag in tags)
  assert list(groups) == ["2_validation", "3_epoch", "4_window", "5_saturation"]
  assert max(CURVE, LEARNING_CURVES) < tags[0]
  assert TRAJECTORIES.startswith("2_validation/")


def runs(tmp_path):
  """What TensorBoard lists, "." for the directory itself."""
  files = (tmp_path / "logs").rglob("*tfevents*")
  return {str(f.parent.relative_to(tmp_path / "logs")) for f in files}


def test_curves_are_runs_of_the_same_tag_below_one_directory(tmp_path):
  board = TensorBoard(tmp_path / "logs", "evaluation")
  board.curves({"Adam": np.array([2.0, 1.0]), "LSTM (a/b)": np.array([2.0, 0.5])})
  for run, last in [("Adam", 1.0), ("LSTM (a_b)", 0.5)]:
    events = read(board, tmp_path, run)
    assert events.Tags()[tag_types.TENSORS] == [CURVE]
    steps, values = series(events, CURVE)
    assert steps == [0, 1]
    np.testing.assert_allclose(values, [2.0, last])
  assert runs(tmp_path) == {".", "Adam", "LSTM (a_b)"}


def test_an_evaluation_takes_the_place_of_a_former_one_and_of_nothing_else(tmp_path):
  training = TensorBoard(tmp_path / "logs", "training")
  training.validation(1, np.ones([1, 3]))
  training.close()
  elsewhere = TensorBoard(tmp_path / "logs" / "SGD", "training")
  elsewhere.close()
  for names in ["Adam", "SGD", "momentum"], ["Adam", "RMSprop"]:
    board = TensorBoard(tmp_path / "logs", "evaluation")
    board.figure("curves", matplotlib.figure.Figure(figsize=(2, 1)))
    board.curves(dict.fromkeys(names, np.array([2.0, 1.0])))
    board.close()
  assert runs(tmp_path) == {".", "Adam", "RMSprop", "SGD"}
  assert not (tmp_path / "logs" / "momentum").exists()
  events = read(board, tmp_path)
  assert series(events, "curves")[0] == [0]
  assert series(events, "2_validation/final_loss")[0] == [1]
  assert series(read(board, tmp_path, "Adam"), CURVE)[0] == [0, 1]
  assert not read(board, tmp_path, "SGD").Tags()[tag_types.TENSORS]


@pytest.mark.parametrize("is_torn", [False, True])
@pytest.mark.parametrize("after", [None, 0, 1, 2, 3])
def test_a_run_that_goes_on_has_no_point_twice(tmp_path, after, is_torn):
  def train(board, epochs):
    for epoch in epochs:
      board.training(epoch, metrics(), 1.0)
      board.validation(epoch, np.ones([1, 3]))
    board.close()

  first = TensorBoard(tmp_path / "logs", "training")
  first.flags({"seed": 3})
  train(first, [1, 2, 3])
  if is_torn:
    (file,) = (tmp_path / "logs").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
  board = TensorBoard(tmp_path / "logs", "training", after=after)
  train(board, range((after or 0) + 1, 5))
  events = read(board, tmp_path)
  lost = is_torn and after == 3  # the last point, which cannot be told any more
  validated = [1, 2, 3, 4]
  assert series(events, "2_validation/final_loss")[0] == validated
  mean = series(events, "2_validation/mean_loss")[0]
  assert mean == ([1, 2, 4] if lost else validated)
  assert series(events, "3_epoch/final_loss")[0] == [1, 2, 3, 4]
  assert series(events, "4_window/skipped")[0] == [*range(8)]
  has_flags = "flags" in events.Tags()[tag_types.TENSORS]
  assert has_flags == (after is not None)  # who begins writes them anew
  assert runs(tmp_path) == {"."}
  assert all("tfevents" in f.name for f in (tmp_path / "logs").iterdir())


def test_flags_are_shown_as_text_and_hyper_parameters(board, tmp_path):
  flags = {"layers": [20, 20], "learning_rate": 0.1, "seed": 3, "jit": True, "x": None}
  board.flags(flags, ["layers", "learning_rate", "seed", "jit"])
  events = read(board, tmp_path)
  text = series(events, "flags")[1][0].decode()
  for name, value in flags.items():
    assert f"| {name} | `{value}` |" in text
  plugin = events.PluginTagToContent("hparams")
  starts = [
    data.session_start_info.hparams
    for content in plugin.values()
    for data in [plugin_data_pb2.HParamsPluginData.FromString(content)]
    if data.HasField("session_start_info")
  ]
  (hyper_parameters,) = starts
  assert set(hyper_parameters) == {"layers", "learning_rate", "seed", "jit"}
  assert hyper_parameters["layers"].string_value == "[20, 20]"
  assert hyper_parameters["learning_rate"].number_value == 0.1
  assert hyper_parameters["seed"].number_value == 3
  assert hyper_parameters["jit"].bool_value is True


def test_a_figure_is_shown_pixel_by_pixel(board, tmp_path):
  figure = matplotlib.figure.Figure(figsize=(2, 1), dpi=50, facecolor=(1.0, 0.0, 0.0))
  board.figure("curves", figure)
  ((width, height, png),) = series(read(board, tmp_path), "curves")[1]
  assert (int(width), int(height)) == (100, 50)
  pixels = tf.io.decode_png(png).numpy()
  assert pixels.shape == (50, 100, 4)
  np.testing.assert_array_equal(pixels[0, 0], [255, 0, 0, 255])


def test_learning_curves_are_shown(board, tmp_path):
  _, path = report.write({"Adam": Curves(np.ones([2, 3]), {}, 0.1)}, tmp_path)
  board.figure("learning curves", learning_curves(path, set(), "title"))
  ((_, _, png),) = series(read(board, tmp_path), "learning curves")[1]
  assert tf.io.decode_png(png).numpy()[..., :3].min() < 255


@pytest.mark.parametrize("as_graph_def", [False, True])
def test_a_graph_is_shown(board, tmp_path, as_graph_def):
  traced = tf.function(lambda x: tf.add(x, 1.0, name="plus_one"))
  graph = traced.get_concrete_function(tf.constant(1.0)).graph
  board.graph(graph.as_graph_def() if as_graph_def else graph)
  written = tf.compat.v1.GraphDef.FromString(
    read(board, tmp_path).Graph().SerializeToString()
  )
  assert "plus_one" in [node.name for node in written.node]
