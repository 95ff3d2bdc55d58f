"""Pictures of neural art that several optimizers painted, to be looked at."""

from collections.abc import Mapping

import matplotlib.figure
import numpy as np
import tqdm

from l2l_tf import seeds
from l2l_tf.evaluation import plots
from l2l_tf.optimizers import Optimizer
from l2l_tf.problems import NeuralStyle
from l2l_tf.problems.data import images
from l2l_tf.runs.style import Painter


def draw(
  problems: Mapping[str, NeuralStyle],
  optimizers: Mapping[str, Mapping[str, Optimizer]],
  num_steps: int,
  count: int,
  seed: int,
) -> matplotlib.figure.Figure:
  """Paints, and arranges photographs, paintings and results, a row for each picture.

  Args:
    problems: by title.
    optimizers: by the same titles, and by name.
    num_steps: of every optimizer.
    count: pictures of each problem.
    seed: names the tasks; the first are those of an evaluation with that seed.

  Returns:
    The figure; the caller saves it.
  """
  rows = []
  total = count * sum(map(len, optimizers.values()))
  with tqdm.tqdm(total=total, desc="Painting", unit="picture") as bar:
    for title, problem in problems.items():
      painters = {n: Painter(problem, o) for n, o in optimizers[title].items()}
      for i in range(count):
        row = {title: _photograph(problem, seed, i), "style": _painting(problem)}
        for name, painter in painters.items():
          painted = painter(num_steps, seed, draw=i)
          row[f"{name}, loss {painted.losses[-1]:.3g}"] = painted.picture
          bar.update()
        rows.append(row)
  return plots.pictures(rows)


def _photograph(problem: NeuralStyle, seed: int, number: int) -> np.ndarray:
  init, _ = seeds.split(seeds.make(seed, seeds.EVALUATION, number), 2)
  return problem.photograph(init)


def _painting(problem: NeuralStyle) -> np.ndarray:
  """Returns the middle of the painting, a square."""
  picture = problem.paintings[0]
  height, width, _ = picture.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  return images.fitted(picture[top : top + side, left : left + side], 256)
