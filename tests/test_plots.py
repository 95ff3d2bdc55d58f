"""What pictures of curves and of a diagnosis show, and what cannot spoil them."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.evaluation import diagnose, plots, report
from l2l_tf.evaluation.protocol import Curves
from l2l_tf.optimizers import SGD, Adam, CoordinatewiseLSTM
from l2l_tf.storage.validations import Validations


def curves(start, end, rate=None):
  losses = np.geomspace(start, end, 6) * np.array([[0.9], [1.0], [1.1]])
  return Curves(losses, {}, rate)


def given():
  return {"SGD": curves(9, 2, 0.1), "lstm": curves(9, 0.01), "Adam": curves(9, 1, 0.1)}


def draw(curves, tmp_path, learned=("lstm",)):
  _, path = report.write(curves, tmp_path)
  return plots.learning_curves(path, set(learned), "a title")


def draw_trajectories(tmp_path, finals):
  validations = Validations(tmp_path / "validation.csv", 0)
  for epoch, final in finals.items():
    validations.add(epoch, np.array([9.0, 4.0, final]))
  return plots.trajectories(tmp_path / "validation.csv", "a title")


def test_trajectories_are_coloured_by_epoch_and_the_best_stands_out(tmp_path):
  figure = draw_trajectories(tmp_path, {50: 2.0, 100: 0.5, 150: 1.0})
  axes, bar = figure.axes
  *lines, best = axes.lines
  assert [line.get_label() for line in lines] == [f"_epoch {n}" for n in (50, 100, 150)]
  for line, final in zip(lines, [2.0, 0.5, 1.0]):
    np.testing.assert_array_equal(line.get_data(), [[0, 1, 2], [9.0, 4.0, final]])
  assert len({tuple(line.get_color()) for line in lines}) == 3
  assert best.get_label() == "best, epoch 100  (0.5)"
  np.testing.assert_array_equal(best.get_ydata(), [9.0, 4.0, 0.5])
  assert axes.get_yscale() == "log" and axes.get_title() == "a title"
  assert bar.get_ylabel() == "epoch" and bar.get_ylim() == (50, 150)


def test_of_many_trajectories_the_first_the_last_and_a_few_between_are_drawn(tmp_path):
  axes, _ = draw_trajectories(tmp_path, {n: 1.0 / n for n in range(1, 101)}).axes
  epochs = [int(line.get_label().split()[1]) for line in axes.lines[:-1]]
  assert len(epochs) == 12 and epochs[0] == 1 and epochs[-1] == 100
  assert set(np.diff(epochs)) == {9}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 0.0])
def test_a_diverged_trajectory_spoils_nothing(tmp_path, bad):
  figure = draw_trajectories(tmp_path, {1: bad, 2: 1.0})
  figure.savefig(tmp_path / "picture.png")
  low, high = figure.axes[0].get_ylim()
  assert 0 < low <= 1 and 9 <= high < 90
  plots.save(draw_trajectories(tmp_path, {1: bad}), tmp_path / "alone.png")


def means(axes):
  """The lines in the legend; the others are medians."""
  return [line for line in axes.lines if not line.get_label().startswith("_")]


def test_one_line_and_one_band_per_optimizer(tmp_path):
  (axes,) = draw(given(), tmp_path).axes
  assert len(means(axes)) == len(axes.collections) == len(axes.lines) / 2 == 3
  by_label = {line.get_label().split()[0]: line for line in means(axes)}
  assert list(by_label) == ["lstm", "Adam", "SGD"]
  for name, c in given().items():
    band = report.mean_band(c.losses)
    steps, values = by_label[name].get_data()
    np.testing.assert_array_equal(steps, np.arange(6))
    np.testing.assert_allclose(values, band.value, rtol=1e-8)
  for (name, line), area in zip(by_label.items(), axes.collections):
    band = report.mean_band(given()[name].losses)
    outline = area.get_paths()[0].vertices
    np.testing.assert_allclose(outline[:, 1].min(), band.low.min(), rtol=1e-8)
    np.testing.assert_allclose(outline[:, 1].max(), band.high.max(), rtol=1e-8)
    np.testing.assert_allclose(area.get_facecolor()[0, :3], line.get_color())
  assert len({line.get_color() for line in axes.lines}) == 3


def test_axes_legend_and_styles(tmp_path):
  (axes,) = draw(given(), tmp_path).axes
  assert axes.get_yscale() == "log" and axes.get_xlim() == (0, 5)
  assert axes.get_title() == "a title"
  assert axes.get_xlabel() and axes.get_ylabel()
  texts = [text.get_text() for text in axes.get_legend().get_texts()]
  assert texts == ["lstm  (0.01)", "Adam  (1)", "SGD  (2)"]
  assert [line.get_linestyle() for line in means(axes)] == ["-", "--", "--"]
  low, high = axes.get_ylim()
  assert 0 < low < 0.01 and 9 < high < 90


@pytest.mark.parametrize("bad", [1e30, np.inf, np.nan])
@pytest.mark.parametrize("name", ["Adam", "zzz", "AAA"])
def test_a_diverged_optimizer_does_not_stretch_the_axis(tmp_path, bad, name):
  losses = given()["Adam"].losses.copy()
  losses[:, 2:] = bad
  spoiled = Curves(losses, {}, 0.1)
  figure = draw({name: None, **given()} | {name: spoiled}, tmp_path)
  low, high = figure.axes[0].get_ylim()
  assert 0 < low < 0.01 and 9 < high < 200
  assert len(means(figure.axes[0])) == len({name, *given()})
  figure.savefig(tmp_path / "curves.png", dpi=40)


@pytest.mark.filterwarnings("ignore:Data has no positive values")
@pytest.mark.parametrize(
  "losses",
  [
    [[np.nan, np.nan]],
    [[np.nan, 1.0], [1.0, 2.0]],
    [[0.0, 0.0]],
    [[0.0, 3.0]],
    [[-1.0, -2.0]],
    [[5.0, 5.0]],
  ],
)
def test_a_curve_without_anything_to_draw_is_still_saved(tmp_path, losses):
  figure = draw({"lstm": Curves(np.array(losses), {})}, tmp_path)
  low, high = figure.axes[0].get_ylim()
  assert 0 < low < high < np.inf
  path = tmp_path / "curves.png"
  figure.savefig(path, dpi=40)
  assert path.read_bytes().startswith(b"\x89PNG")


def test_more_optimizers_than_colours(tmp_path):
  many = {f"lstm {i}": curves(9, 1 + i) for i in range(11)}
  assert len(means(draw(many, tmp_path, many).axes[0])) == 11


def test_a_file_without_curves_is_refused(tmp_path):
  path = tmp_path / "curves.csv"
  path.write_text("optimizer,step,mean,mean_low,mean_high\n")
  with pytest.raises(ValueError, match=r"curves\.csv' holds no curves"):
    plots.learning_curves(path, set(), "")


def draw_diagnosis(tmp_path, optimizer):
  runs = diagnose.behaviour(optimizer, num_steps=3)
  paths = diagnose.write(diagnose.response(optimizer), runs, tmp_path)
  return plots.diagnosis(*paths, "a title")


def by_label(axes):
  return {line.get_label(): line for line in axes.lines}


def test_a_diagnosis_shows_the_response_and_the_trajectories(tmp_path):
  figure = draw_diagnosis(tmp_path, SGD(0.1))
  left, right = figure.axes
  assert figure.get_suptitle() == "a title"
  assert all(a.get_xlabel() and a.get_ylabel() and a.get_title() for a in figure.axes)
  assert (left.get_xscale(), left.get_yscale(), right.get_yscale()) == ("log",) * 3
  sizes, updates = by_label(left)["first step"].get_data()
  np.testing.assert_allclose(updates, 0.1 * sizes, rtol=1e-5)
  assert left.get_xlim() == (sizes[0], sizes[-1]) == (1e-10, 1e10)
  np.testing.assert_allclose(by_label(left)["proportional to g"].get_ydata(), updates)
  steps, totals = by_label(right)["|g| = 0.01"].get_data()
  np.testing.assert_array_equal(steps, [1, 2, 3])
  np.testing.assert_allclose(totals, 1e-3 * steps, rtol=1e-5)
  for axes in figure.axes:
    low, high = axes.get_ylim()
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    assert 0 < low < values[values > 0].min() and values.max() < high
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(texts) == 5 + (axes is right) and texts[-1] == "dashed: g < 0"


def test_what_goes_uphill_lies_below_zero_and_in_the_red(tmp_path):
  turning = SGD(lambda step: 0.1 - 0.2 * tf.cast(step, tf.float32))
  left, right = draw_diagnosis(tmp_path, turning).axes
  assert left.get_yscale() == right.get_yscale() == "symlog"
  for axes in left, right:
    assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]
    assert [text.get_text().strip() for text in axes.texts] == ["uphill"]
  assert not draw_diagnosis(tmp_path, SGD(0.1)).axes[0].texts


def test_what_is_not_finite_is_marked(tmp_path):
  left, _ = draw_diagnosis(tmp_path, SGD(1e35)).axes
  marked = by_label(left)["not finite"].get_xdata()
  np.testing.assert_allclose([marked[0], marked[-1]], [10**3.75, 1e10])
  assert np.isfinite(left.get_ylim()).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
  "optimizer",
  [
    Adam(0.1, epsilon=1e-30),  # everywhere the same
    CoordinatewiseLSTM((), initializer="zeros"),  # everywhere zero
    SGD(lambda step: np.nan),
  ],
)
def test_a_response_without_any_shape_is_still_saved(tmp_path, optimizer):
  figure = draw_diagnosis(tmp_path, optimizer)
  for axes in figure.axes:
    low, high = axes.get_ylim()
    assert low > 0 and 8 * low < high < np.inf
  path = tmp_path / "diagnosis.png"
  figure.savefig(path, dpi=40)
  assert path.read_bytes().startswith(b"\x89PNG")


def test_a_diagnosis_without_numbers_is_refused(tmp_path):
  response, steps = diagnose.write(
    diagnose.response(SGD(0.1)), diagnose.behaviour(SGD(0.1), 1), tmp_path
  )
  for path in steps, response:
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=rf"{path.name}' holds no"):
      plots.diagnosis(response, steps, "")
