"""Galleries: what hangs in them belongs together."""

import numpy as np

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import SGD
from l2l_tf.problems import NeuralStyle, datasets
from l2l_tf.problems.data import vgg
from l2l_tf.runs import gallery
from l2l_tf.runs.style import Painter

WEIGHTS = vgg.untrained((2, 3, 4))


def test_a_row_shows_a_task_and_what_became_of_it():
  photograph = datasets.photograph()
  problem = NeuralStyle([photograph], [photograph[:40]], 16, WEIGHTS)
  optimizer = SGD(10.0)
  figure = gallery.draw({"parks": problem}, {"parks": {"SGD": optimizer}}, 2, 2, seed=5)
  shown = [axes.images[0].get_array() for axes in figure.axes]
  labels = [axes.get_xlabel() for axes in figure.axes]
  assert len(shown) == 6 and labels[:2] == ["parks", "style"]
  assert np.any(shown[0] != shown[3])  # another part of the photograph
  for i in range(2):
    painted = Painter(problem, optimizer)(2, seed=5, draw=i)
    np.testing.assert_array_equal(shown[3 * i + 2], painted.picture)
    assert labels[3 * i + 2] == f"SGD, loss {painted.losses[-1]:.3g}"
    # The photograph that is shown is the one whose features the task compares with.
    task, _ = unroll.draw(problem, seeds.make(5, seeds.EVALUATION, i))
    same = NeuralStyle([shown[3 * i]], [photograph], 16, WEIGHTS, crops=False)
    _, target = same.init(seeds.make(0))
    error = np.abs(target.content - task.constants.content).max()
    assert error < 0.02 * np.abs(task.constants.content).max()
