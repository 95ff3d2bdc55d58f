"""The command l2l-style, as a function of its settings."""

from l2l_tf.runs import quiet  # noqa: F401 isort: skip

import math
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from l2l_tf import seeds, tables
from l2l_tf.evaluation import plots
from l2l_tf.meta import execution
from l2l_tf.meta import unroll as unroll_lib
from l2l_tf.optimizers import Adam, Optimizer
from l2l_tf.pretraining import cards
from l2l_tf.problems import NeuralStyle, Problem, images
from l2l_tf.problems.neural_style import to_picture
from l2l_tf.runs import own_files, vocabulary
from l2l_tf.runs.settings import StyleSettings
from l2l_tf.storage import files

ADAM_RATES = (0.03, 0.1, 0.3, 1.0)
_EVALUATE = unroll_lib.second_order  # There is no tape to stop gradients for.


class Painted(NamedTuple):
  """A picture that an optimizer has painted."""

  picture: np.ndarray  # [height, width, 3], uint8
  losses: np.ndarray  # [steps + 1]


def style(settings: StyleSettings) -> dict[str, Painted]:
  """Paints a photograph in the style of a painting, and writes the picture.

  Returns:
    What each optimizer painted, by its name.

  Raises:
    ValueError: for files that are no pictures, and for an unknown optimizer.
    DatasetUnavailableError: if VGG-16's weights cannot be had.
    WriteError: if the picture cannot be written.
  """
  own_files.run_all(settings.imports)
  output = _checked_output(settings)
  painting = images.read(os.path.expanduser(settings.style))
  content = _fitted(settings)
  optimizer = load(settings.optimizer)
  size = content.shape[:2]
  problem = NeuralStyle([content], [painting], size, crops=False)
  painted = {settings.optimizer: _with_bar(Painter(problem, optimizer), settings)}
  with files.writing(output):
    data = images.encode(painted[settings.optimizer].picture, output.suffix)
    files.write_atomically(output, data)
  print(f"{_sentence(painted[settings.optimizer])}: {output}")
  if settings.compare:
    painted |= _compare(problem, content, painting, painted, settings, output)
  return painted


def _checked_output(settings: StyleSettings) -> pathlib.Path:
  """Returns the picture's file, found out to be writable before the work."""
  output = pathlib.Path(settings.output).expanduser()
  images.check_suffix(output.suffix)
  for source in settings.content, settings.style:
    path = pathlib.Path(source).expanduser()
    if output.exists() and path.exists() and output.samefile(path):
      raise ValueError(
        f"--output={settings.output} is the picture that is read; name another file."
      )
  for path in [output, *([_beside(output)] if settings.compare else [])]:
    files.check_writable(path)
  return output


def _beside(output: pathlib.Path) -> pathlib.Path:
  """Returns the file of the comparison."""
  return output.with_name(f"{output.stem}_compare.png")


def _fitted(settings: StyleSettings) -> np.ndarray:
  """Returns the photograph in the picture's size."""
  content = images.read(os.path.expanduser(settings.content))
  fitted = images.fitted(content, settings.size)
  height, width, _ = fitted.shape
  if min(height, width) < images.SMALLEST:
    least = math.ceil(images.SMALLEST * max(height, width) / min(height, width))
    raise ValueError(
      f"--size={settings.size} leaves {width} x {height} pixels of"
      f" {settings.content!r}, and each side needs {images.SMALLEST}; give about"
      f" --size={least}, or crop the photograph."
    )
  return fitted


def load(text: str) -> Optimizer:
  """Returns a pretrained or exported optimizer, or the one that an expression makes.

  Raises:
    ValueError: for a text that is none of these.
  """
  path = os.path.expanduser(text)
  is_expression = "(" in text or text in vocabulary.listing("optimizer")
  if is_expression and not os.path.exists(path):
    return vocabulary.build(text, "optimizer")
  return cards.load(path)


class Painter:
  """Paints with one optimizer; its step is compiled once."""

  def __init__(self, problem: Problem, optimizer: Optimizer):
    """Initializes the painter.

    Args:
      problem: a `NeuralStyle`.
      optimizer: learned or hand-designed.
    """
    self._problem = problem
    self._optimizer = execution.prepared(problem, optimizer)
    self._step = tf.function(self._stepped, autograph=False)

  def __call__(
    self,
    steps: int,
    seed: int = 0,
    progress: Callable[[float], None] = lambda loss: None,
    draw: int = 0,
  ) -> Painted:
    """Optimizes a picture, step by step.

    Args:
      steps: to take.
      seed: names the tasks, and the noise that they start from.
      progress: called with the loss after every step.
      draw: number of the task.
    """
    key = seeds.make(seed, seeds.EVALUATION, draw)
    task, params = unroll_lib.draw(self._problem, key)
    running = self._arranged(params)
    carry = unroll_lib.begin(self._problem, running, task, params, _EVALUATE, steps)
    losses = [float(carry.loss)]
    for _ in range(steps):
      carry = self._step(task, carry)
      losses.append(float(carry.loss))
      progress(losses[-1])
    return Painted(to_picture(carry.params[0]), np.array(losses))

  def _arranged(self, params) -> Optimizer:
    return execution.arranged(self._problem, self._optimizer, params)

  def _stepped(self, task, carry):
    running = self._arranged(carry.params)
    return unroll_lib.step(self._problem, running, task, carry, _EVALUATE)[0]


def _with_bar(painter: Painter, settings: StyleSettings, note: str = "") -> Painted:
  with tqdm.tqdm(total=settings.steps, desc=f"Painting{note}", unit="step") as bar:

    def progress(loss):
      bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
      bar.update()

    return painter(settings.steps, settings.seed, progress)


def _compare(problem, content, painting, painted, settings, output):
  """Tunes Adam on this very picture; writes all pictures side by side."""
  adam = _tuned(problem, settings)
  best = min(adam, key=lambda rate: _last(adam[rate]))
  tuned = f"Adam at {best:g}, the best of {len(adam)} rates"
  everything = painted | {tuned: adam[best]}
  shown = {"content": content, "style": images.fitted(painting, settings.size)}
  for name, result in everything.items():
    shown[f"{name}\n{_sentence(result)}"] = result.picture
  path = _beside(output)
  plots.save(plots.pictures([shown]), path)
  rows = [["optimizer", "loss"]]
  rows += [[n, tables.number(_last(x), 3)] for n, x in everything.items()]
  print(f"{tables.aligned(rows)}\nSide by side: {path}")
  return {tuned: adam[best]}


def _tuned(problem, settings) -> dict[float, Painted]:
  """Returns what Adam paints at each of its rates."""
  rate = tf.Variable(0.0, dtype=tf.float64, trainable=False)
  painter = Painter(problem, Adam(lambda step: rate))
  painted = {}
  for value in ADAM_RATES:
    rate.assign(value)
    painted[value] = _with_bar(painter, settings, f" by Adam at {value:g}")
  return painted


def _last(painted: Painted) -> float:
  loss = float(painted.losses[-1])
  return loss if np.isfinite(loss) else float("inf")


def _sentence(painted: Painted) -> str:
  return f"loss {painted.losses[-1]:.4g} after {len(painted.losses) - 1} steps"
