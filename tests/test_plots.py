"""What a picture of learning curves shows, and what cannot spoil it."""

import numpy as np
import pytest

from l2l_tf import plots, report
from l2l_tf.evaluate import Curves


def curves(start, end, rate=None):
  losses = np.geomspace(start, end, 6) * np.array([[0.9], [1.0], [1.1]])
  return Curves(losses, {}, rate)


def given():
  return {"SGD": curves(9, 2, 0.1), "lstm": curves(9, 0.01), "Adam": curves(9, 1, 0.1)}


def draw(curves, tmp_path, learned=("lstm",)):
  _, path = report.write(curves, tmp_path)
  return plots.learning_curves(path, set(learned), "a title")


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
