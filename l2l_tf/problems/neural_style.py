"""Painting a photograph in the style of a painting, as an optimization task.

Andrychowicz et al. 2016, section 3.4, https://arxiv.org/abs/1606.04474, after Gatys,
Ecker and Bethge 2015, "A Neural Algorithm of Artistic Style",
https://arxiv.org/abs/1508.06576
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.problems.base import Parameter, Problem
from l2l_tf.problems.data import images, vgg

# Grey levels, 0..255, of red, green and blue: ImageNet's means, by which the inputs of
# VGG-16 are centred, and about the standard deviation of a photograph.
_MEAN = (123.68, 116.779, 103.939)
_UNIT = 64.0
_WHITE = 255.0
TERMS = (0.1, 1.0, 0.05)
_STYLE_LAYERS = (1, 3, 6)  # the last convolution of each block
_CONTENT_LAYER = 3
_POOLED = (2, 4)  # convolutions with a pooling before them
_STYLE_SCALE = 2  # shorter sides of a painting for each longer side of the picture
_START = 3.0  # standard deviation of theta_0
_TINY = 1e-12  # keeps an error relative to zeros finite
_LEAST = (images.SMALLEST, images.SMALLEST)


class Target(NamedTuple):
  """What the features of a picture are compared with; a task's constants."""

  content: tf.Tensor  # [1, h, w, C], of the photograph
  styles: tuple[tf.Tensor, ...]  # Gram matrices of the painting, each [C, C]


class NeuralStyle(Problem):
  """Paints a photograph in the style of a painting; theta is the picture.

  f = alpha L_content + beta L_style + gamma L_reg over features of VGG-16.

  L_style is the squared difference between the picture's and the painting's Gram
  matrices, divided by the square of the painting's, in the mean over the last
  convolutions of the three blocks: 1 is the cost of no features at all. L_content is
  the squared difference from the photograph's features of block2_conv2, divided by the
  mean square of the painting's, as large as which they have to be in the end: divided
  by the photograph's, which differ much, pale photographs would outweigh the style.
  L_reg is the mean square of the differences between neighbouring pixels, in units of
  64 grey levels, about a photograph's standard deviation.

  theta holds the logits of red, green and blue, so that no step leaves what a screen
  can show. A task is a random part of a photograph, a painting, and the start, noise of
  bright colours, theta_0 ~ N(0, 3^2). It lies far from any picture, and the nearer a
  channel is to black or white, the smaller its gradients are: an optimizer has to find
  the size of each coordinate's steps.

  The weights were chosen by looking at pictures after hundreds of steps of L-BFGS. At
  alpha = 0.1 the photograph is recognised at once, and colours and strokes are the
  painting's; at 0.05 parts of it drown in strokes, at 0.3 its own shades come back.
  gamma = 0.05 keeps single pixels from standing out. In the end the content costs
  about twice what the style does, and the roughness a third of it.

  >>> photograph = problems.datasets.photograph()
  >>> problem = NeuralStyle([photograph], [photograph], 16, vgg.untrained())
  >>> [parameter.shape for parameter in problem.parameters()]
  [(16, 16, 3)]
  """

  def __init__(
    self,
    contents: Sequence[np.ndarray],
    styles: Sequence[np.ndarray],
    size: int | Sequence[int] = 64,
    weights: Sequence[vgg.Convolution] | None = None,
    terms: Sequence[float] = TERMS,
    crops: bool = True,
    dtype: tf.DType = tf.float32,
  ):
    """Initializes the problem, and computes the Gram matrices of the paintings.

    Args:
      contents: photographs, [height, width, 3], uint8 or floats in [0, 1].
      styles: paintings, likewise. A task draws one of each.
      size: pixels of a side of the picture, or (height, width).
      weights: of the convolutions; by default those that `vgg.vgg16` returns.
      terms: alpha, beta and gamma.
      crops: whether a task takes a part of random place and size, at least the
        picture's, from its photograph, and mirrors it every other time; or else all
        of it, resized.
      dtype: floating type of the picture and the loss.

    Raises:
      DatasetUnavailableError: if the default weights cannot be had.
      ValueError: for arrays that are no pictures or too small, for weights of other
        shapes, and for a size or terms out of range.
    """
    self._shape = _checked_size(size)
    self._terms = _checked_terms(terms)
    self._crops = crops
    self._dtype = dtype
    contents = _checked_pictures("contents", contents, self._shape if crops else _LEAST)
    self.paintings = styles = _checked_pictures("styles", styles, _LEAST)
    with tf.init_scope():
      self._weights = _weights(vgg.vgg16() if weights is None else weights, dtype)
      # Of several sizes; a graph takes them as one input, of bytes.
      self._sizes = tf.constant([x.shape[:2] for x in contents])  # [N, 2]
      self._ends = tf.constant(np.cumsum([x.size for x in contents]), tf.int64)
      self._pixels = tf.constant(np.concatenate([x.ravel() for x in contents]))
      grams = [self._grams(self._painting(x)) for x in styles]
      self._styles = tuple(map(tf.stack, zip(*grams)))  # of each layer, [M, C, C]

  def init(self, seed):
    photograph, crop, painting, start = seeds.split(seed, 4)
    cut = self._drawn(photograph, crop)
    content = self._features(cut)[_CONTENT_LAYER]
    painting = seeds.integers([], painting, len(self._styles[0]))
    noise = seeds.normal([*self._shape, 3], start, _START, self._dtype)
    return [noise], Target(content, tuple(x[painting] for x in self._styles))

  def photograph(self, seed: tf.Tensor) -> np.ndarray:
    """Returns the photograph, or its part, that `init` draws; uint8, [h, w, 3]."""
    photograph, crop, *_ = seeds.split(seed, 4)
    return tf.cast(tf.round(self._drawn(photograph, crop)), tf.uint8).numpy()

  def __call__(self, params, constants, seed):
    del seed  # The whole picture is looked at in every step.
    return tf.add_n([w * x for w, x in zip(self._terms, self.parts(params, constants))])

  def parts(
    self, params: list[tf.Tensor], constants: Target
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns L_content, L_style and L_reg, before their weights."""
    (theta,) = params
    levels = _WHITE * tf.sigmoid(theta)
    features = self._features(levels)
    with tf.name_scope("content"):
      power = tf.linalg.trace(constants.styles[_STYLE_LAYERS.index(_CONTENT_LAYER)])
      square = tf.math.squared_difference(features[_CONTENT_LAYER], constants.content)
      # The sum over channels, in the mean over places; so is the power.
      content = tf.reduce_mean(tf.reduce_sum(square, axis=-1)) / (power + _TINY)
    with tf.name_scope("style"):
      pairs = zip(self._grams(features), constants.styles, strict=True)
      style = tf.add_n([relative_error(*pair) for pair in pairs]) / len(_STYLE_LAYERS)
    with tf.name_scope("smoothness"):
      return content, style, total_variation(levels / _UNIT)

  def data_sources(self):
    counted = lambda arrays: [np.array([x.shape for x in arrays]), *arrays]
    return [
      ("photographs", [self._sizes, self._pixels]),
      ("paintings", counted(self.paintings)),
      ("convolutions", counted([kernel for kernel, _ in self._weights])),
    ]

  def parameters(self):
    return [Parameter("picture", (*self._shape, 3), "variable")]

  def _features(self, levels: tf.Tensor) -> list[tf.Tensor]:
    """Returns what all convolutions make of a picture [h, w, 3]; each [1, h, w, C].

    Beyond its edge a picture is continued by its mirror image. Zeros there, as in
    VGG-16, make the features at the edge unlike any of the painting's, and a frame is
    painted around the picture.
    """
    hidden = (levels - tf.constant(_MEAN, self._dtype))[tf.newaxis]
    features = []
    for i, (kernel, bias) in enumerate(self._weights):
      with tf.name_scope(vgg.NAMES[i]):
        if i in _POOLED:
          hidden = tf.nn.max_pool2d(hidden, 2, 2, "VALID")
        hidden = tf.pad(hidden, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        hidden = tf.nn.bias_add(tf.nn.conv2d(hidden, kernel, 1, "VALID"), bias)
        hidden = tf.nn.relu(hidden)
      features.append(hidden)
    return features

  def _grams(self, features: list[tf.Tensor]) -> list[tf.Tensor]:
    return [gram(features[i]) for i in _STYLE_LAYERS]

  def _painting(self, painting: np.ndarray) -> list[tf.Tensor]:
    """Returns the features of a painting, shrunk to the scale of the picture."""
    longest = _STYLE_SCALE * max(self._shape)
    height, width, _ = painting.shape
    scale = min(1.0, longest / min(height, width))
    size = [round(height * scale), round(width * scale)]
    return self._features(self._resized(painting, size))

  def _drawn(self, photograph: tf.Tensor, crop: tf.Tensor) -> tf.Tensor:
    """Returns the part that the seeds of a photograph and of its crop name."""
    return self._cut(seeds.integers([], photograph, len(self._sizes)), crop)

  def _cut(self, index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns a photograph, or a part of it, in the picture's size."""
    height, width = tf.unstack(self._sizes[index])
    end = self._ends[index]
    pixels = self._pixels[end - tf.cast(height * width * 3, tf.int64) : end]
    photograph = tf.reshape(pixels, [height, width, 3])
    if self._crops:
      photograph = self._part(photograph, tf.stack([height, width]), seed)
    return self._resized(photograph, self._shape)

  def _part(self, photograph, size, seed):
    """Returns a part of a photograph that has the picture's proportions."""
    scale, down, right, mirrored = tf.unstack(seeds.uniform([4], seed))
    size = tf.cast(size, tf.float32)
    # From one pixel for each of the picture's to the whole photograph, with equal
    # probability in every octave.
    zoom = tf.reduce_min(size / self._shape) ** scale
    sides = tf.minimum(tf.floor(zoom * self._shape), size)
    begin = tf.floor((size - sides) * tf.stack([down, right]))
    top, left = tf.unstack(tf.cast(begin, tf.int32))
    bottom, end = tf.unstack(tf.cast(begin + sides, tf.int32))
    part = photograph[top:bottom, left:end]
    return tf.cond(mirrored < 0.5, lambda: part, lambda: tf.reverse(part, [1]))

  def _resized(self, picture, size) -> tf.Tensor:
    return tf.cast(tf.image.resize(picture, size, "area"), self._dtype)


def neural_style(
  contents: str | Sequence[np.ndarray] = "train",
  styles: str | Sequence[str] | Sequence[np.ndarray] = "starry_night",
  size: int | Sequence[int] = 64,
  weights: Sequence[vgg.Convolution] | None = None,
  terms: Sequence[float] = TERMS,
) -> NeuralStyle:
  """Returns a `NeuralStyle` on pictures of the directory that L2L_PHOTOS names.

  >>> photograph = problems.datasets.photograph()
  >>> problem = neural_style([photograph], [photograph], 16, vgg.untrained())
  >>> params, target = problem.init(tf.constant([0, 1]))
  >>> content, style, smoothness = problem.parts(params, target)

  Args:
    contents: a split of the photographs, "train", "validation" or "test", see
      `images.photographs`; or arrays, as for `NeuralStyle`.
    styles: names of paintings, or one, see `images.painting`; or arrays.
    size: as for `NeuralStyle`, like the others.
    weights: of the convolutions.
    terms: alpha, beta and gamma.

  Raises:
    DatasetUnavailableError: if the pictures or the weights cannot be had.
    ValueError: as for `NeuralStyle`, and for another split.
  """
  if isinstance(contents, str):
    contents = images.photographs(contents)
  styles = [styles] if isinstance(styles, str) else styles
  styles = [images.painting(x) if isinstance(x, str) else x for x in styles]
  return NeuralStyle(contents, styles, size, weights, terms)


def to_picture(theta: tf.Tensor) -> np.ndarray:
  """Returns theta as a picture to look at, uint8, [height, width, 3]."""
  return tf.cast(tf.round(_WHITE * tf.sigmoid(theta)), tf.uint8).numpy()


def gram(features: tf.Tensor) -> tf.Tensor:
  """Returns the mean products of all pairs of channels; [1, h, w, C] -> [C, C]."""
  columns = tf.reshape(features, [-1, features.shape[-1]])
  count = tf.cast(tf.shape(columns)[0], features.dtype)
  return tf.matmul(columns, columns, transpose_a=True) / count


def relative_error(value: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns |value - target|^2 / |target|^2."""
  square = tf.reduce_sum(tf.square(target)) + _TINY
  return tf.reduce_sum(tf.math.squared_difference(value, target)) / square


def total_variation(picture: tf.Tensor) -> tf.Tensor:
  """Returns the mean squared differences of pixels from those below and beside them."""
  down = tf.math.squared_difference(picture[1:], picture[:-1])
  right = tf.math.squared_difference(picture[:, 1:], picture[:, :-1])
  return tf.reduce_mean(down) + tf.reduce_mean(right)


def _weights(weights, dtype) -> list[tuple[tf.Tensor, tf.Tensor]]:
  """Returns the kernels and biases; the first kernel takes red before blue."""
  vgg.check(weights)
  pairs = [(tf.cast(kernel, dtype), tf.cast(bias, dtype)) for kernel, bias in weights]
  (kernel, bias), *others = pairs
  return [(tf.reverse(kernel, [2]), bias), *others]


def _checked_size(size: int | Sequence[int]) -> tuple[int, int]:
  sides = tuple(size) if isinstance(size, Sequence) else (size, size)
  is_pair = len(sides) == 2 and all(isinstance(side, int) for side in sides)
  if not is_pair or min(sides) < images.SMALLEST:
    raise ValueError(
      f"NeuralStyle got size={size!r}; it must be a number of pixels, or (height,"
      f" width), of at least {images.SMALLEST}."
    )
  return sides


def _checked_terms(terms: Sequence[float]) -> tuple[float, ...]:
  terms = tuple(map(float, terms))
  in_range = all(0 <= weight < math.inf for weight in terms)
  if len(terms) != 3 or not in_range or not any(terms):
    raise ValueError(
      f"NeuralStyle got terms={terms}; it needs the weights of content, style and"
      " smoothness: three numbers, none of them negative, and not all zero."
    )
  return terms


def _checked_pictures(
  name: str, pictures: Sequence[np.ndarray], smallest: tuple[int, int]
) -> list[np.ndarray]:
  """Returns pictures as uint8."""
  if not len(pictures):
    raise ValueError(f"NeuralStyle got no {name}; it needs at least one picture.")
  return [_checked_picture(name, np.asarray(x), smallest) for x in pictures]


def _checked_picture(name, picture, smallest) -> np.ndarray:
  is_float = np.issubdtype(picture.dtype, np.floating)
  if (
    picture.ndim != 3
    or picture.shape[2] != 3
    or not (is_float or picture.dtype == np.uint8)
  ):
    raise ValueError(
      f"NeuralStyle got {name} with an array of shape {picture.shape} and type"
      f" {picture.dtype}; a picture is [height, width, 3], of uint8, or of floats from"
      " 0 to 1."
    )
  if any(side < least for side, least in zip(picture.shape, smallest)):
    raise ValueError(
      f"NeuralStyle got {name} with a picture of {picture.shape[0]} x"
      f" {picture.shape[1]} pixels (height x width); it needs at least"
      f" {smallest[0]} x {smallest[1]}."
    )
  return _levels(name, picture) if is_float else picture


def _levels(name: str, picture: np.ndarray) -> np.ndarray:
  """Returns floats as grey levels, whatever is beyond 0 and 1 by less than half one."""
  low, high = np.min(picture), np.max(picture)  # NaN, if there is one
  levels = np.rint(_WHITE * picture)
  if not (np.min(levels) >= 0 and np.max(levels) <= _WHITE):
    raise ValueError(
      f"NeuralStyle got {name} with floats from {low:.4g} to {high:.4g}; they must lie"
      " in [0, 1]: divide grey levels by 255, or give them as uint8."
    )
  return levels.astype(np.uint8)
