"""The losses of neural style, re-derived, and the tasks that are drawn."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import Adam
from l2l_tf.problems import NeuralStyle, neural_style, vgg
from l2l_tf.problems.neural_style import to_picture

RNG = np.random.default_rng(0)
WEIGHTS = vgg.untrained((2, 3, 4))
PHOTOGRAPH = RNG.integers(0, 256, [40, 56, 3], np.uint8)
PAINTING = RNG.integers(0, 256, [50, 44, 3], np.uint8)


def make(size=16, contents=(PHOTOGRAPH,), styles=(PAINTING,), **options):
  return NeuralStyle(contents, styles, size, WEIGHTS, **options)


def convolved(picture, kernel, bias):
  """A 3 x 3 convolution and ReLU, of a picture continued by its mirror image."""
  height, width, _ = picture.shape
  wide = np.pad(picture, [(1, 1), (1, 1), (0, 0)], "symmetric")
  total = np.zeros([height, width, len(bias)]) + bias
  for i in range(3):
    for j in range(3):
      total += wide[i : i + height, j : j + width] @ kernel[i, j]
  return np.maximum(total, 0.0)


def halved(picture):
  height, width, channels = picture.shape
  return picture.reshape(height // 2, 2, width // 2, 2, channels).max(axis=(1, 3))


def features(picture):
  """The outputs of the seven convolutions, from red, green and blue in 0..255."""
  blue_first = (picture - [123.68, 116.779, 103.939])[..., ::-1]
  found = [blue_first]
  for i, (kernel, bias) in enumerate(WEIGHTS):
    hidden = halved(found[-1]) if i in (2, 4) else found[-1]
    found.append(convolved(hidden, kernel.astype(np.float64), bias))
  return found[1:]


def gram(x):
  columns = x.reshape(-1, x.shape[-1])
  return columns.T @ columns / len(columns)


def relative(x, target):
  return np.sum((x - target) ** 2) / np.sum(target**2)


def test_its_parts_are_those_of_the_equations():
  """With pictures of the problem's own size, which nothing resizes."""
  content = PHOTOGRAPH[:16, :20]
  painting = RNG.integers(0, 256, [16, 24, 3], np.uint8)
  problem = make((16, 20), [content], [painting], crops=False, dtype=tf.float64)
  params, constants = problem.init(seeds.make(3))
  x = 255.0 / (1.0 + np.exp(-params[0].numpy()))
  mine, photograph, style = map(features, (x, content, painting))
  errors = [relative(gram(mine[i]), gram(style[i])) for i in (1, 3, 6)]
  y = x / 64.0
  smooth = np.mean(np.diff(y, axis=0) ** 2) + np.mean(np.diff(y, axis=1) ** 2)
  difference = np.mean((mine[3] - photograph[3]) ** 2) / np.mean(style[3] ** 2)
  expected = [difference, np.mean(errors), smooth]
  np.testing.assert_allclose(problem.parts(params, constants), expected, rtol=1e-10)
  weighted = make(
    (16, 20), [content], [painting], crops=False, dtype=tf.float64, terms=(3, 0.5, 2)
  )
  loss = weighted(params, constants, seeds.make(0))
  np.testing.assert_allclose(loss, np.dot([3, 0.5, 2], expected), rtol=1e-10)


def test_its_gradient_is_that_of_finite_differences():
  problem = make(16, dtype=tf.float64, terms=(1.0, 1.0, 0.3))
  (theta,), constants = problem.init(seeds.make(1))
  loss = tf.function(lambda x: problem([x], constants, None), autograph=False)
  with tf.GradientTape() as tape:
    tape.watch(theta)
    value = loss(theta)
  gradient = tape.gradient(value, theta)
  for _ in range(5):
    direction = tf.constant(RNG.normal(size=theta.shape))
    ends = [float(loss(theta + h * direction)) for h in (1e-6, -1e-6)]
    slope = float(tf.reduce_sum(gradient * direction))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_a_perfect_picture_costs_only_its_roughness():
  picture = PHOTOGRAPH[:16, :16]
  problem = make(16, [picture], [picture], crops=False)
  _, constants = problem.init(seeds.make(0))
  levels = tf.constant(picture.clip(1, 254) / 255.0, tf.float32)
  theta = tf.math.log(levels / (1.0 - levels))
  content, style, smooth = map(float, problem.parts([theta], constants))
  assert content < 1e-3 and style < 1e-3 and smooth > 1.0
  np.testing.assert_array_equal(to_picture(theta), picture.clip(1, 254))


def test_the_start_is_noise_of_bright_colours():
  (theta,), _ = make(64, [np.zeros([64, 64, 3], np.uint8)]).init(seeds.make(2))
  assert abs(theta.numpy().mean()) < 0.1 and abs(theta.numpy().std() - 3.0) < 0.1
  levels = to_picture(theta)
  assert np.mean((levels < 25) | (levels > 230)) > 0.4


def test_a_seed_names_a_task_and_others_differ():
  problem = make(16, [PHOTOGRAPH, PAINTING], [PAINTING, PHOTOGRAPH])
  draw = tf.function(problem.init, autograph=False)
  drawn = [tf.nest.flatten(draw(seeds.make(0, i))) for i in range(12)]
  again = tf.nest.flatten(problem.init(seeds.make(0, 3)))
  for x, y in zip(drawn[3], again, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
  thetas, contents, *grams = [{x.numpy().tobytes() for x in xs} for xs in zip(*drawn)]
  assert len(thetas) == len(contents) == 12
  assert [len(x) for x in grams] == [2, 2, 2]
  assert draw.experimental_get_tracing_count() == 1


def test_a_crop_lies_in_its_photograph_and_may_be_mirrored():
  """Red grows to the right and green downwards, both by one level for a pixel."""
  x, y = np.meshgrid(np.arange(96), np.arange(64))
  ramp = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
  problem, zooms, signs = make(16, [ramp]), [], set()
  for i in range(30):
    cut = problem._cut(tf.constant(0), seeds.make(0, i)).numpy()
    across, down = np.diff(cut[0, :, 0]), np.diff(cut[:, 0, 1])
    assert cut.shape == (16, 16, 3) and not cut[..., 2].any()
    assert np.ptp(across) < 0.51 and np.ptp(down) < 0.51
    zooms.append(down.mean())
    signs.add(np.sign(across[0]))
    assert abs(across[0]) == pytest.approx(down[0], abs=0.51)
    assert cut[..., 0].max() <= 95 and cut[..., 1].max() <= 63
  assert signs == {-1.0, 1.0}
  assert 1.0 <= min(zooms) < 1.3 and 3.0 < max(zooms) <= 4.0


def test_an_unrolled_optimizer_lowers_the_loss_of_any_shape():
  problem = make((16, 25), contents=[PHOTOGRAPH / 255.0])
  assert [p.shape for p in problem.parameters()] == [(16, 25, 3)]
  optimizer = Adam(0.1)
  task, carry = unroll.start(problem, optimizer, seeds.make(5))
  run = tf.function(
    lambda task, carry: unroll.unroll(problem, optimizer, task, carry, 20),
    autograph=False,
  )
  end, losses = run(task, carry)
  assert losses[-1] < 0.5 * carry.loss and end.params[0].shape == (16, 25, 3)


GREY = np.zeros([20, 20], np.uint8)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"size": 15}, r"size=15; it must be .* at least 16"),
    ({"size": (16, 16, 3)}, r"size=\(16, 16, 3\); it must be a number"),
    ({"size": 16.0}, r"size=16.0; it must be a number"),
    ({"terms": (1, 1)}, r"terms=\(1.0, 1.0\); it needs"),
    ({"terms": (1, -1, 0)}, "none of them negative"),
    ({"terms": (0, 0, 0)}, "not all zero"),
    ({"terms": (1, np.inf, 0)}, "three numbers"),
    ({"contents": []}, "got no contents; it needs at least one picture"),
    ({"styles": [GREY]}, r"styles with an array of shape \(20, 20\) and type uint8"),
    ({"contents": [2.0 * PHOTOGRAPH]}, r"contents with floats from 0 to 5\d\d?; they"),
    ({"styles": [np.full([16, 16, 3], np.nan)]}, "styles with floats from nan to nan"),
    ({"styles": [PAINTING / 255.0 - 0.1]}, r"floats from -0.1 to .*; they must lie in"),
    ({"contents": [PHOTOGRAPH.astype(int)]}, "contents .* type int64; a picture is"),
    ({"size": 48}, r"a picture of 40 x 56 pixels .*; it needs at least 48 x 48"),
    ({"styles": [PAINTING[:9]]}, "styles with a picture of 9 x 44 .* at least 16 x 16"),
  ],
)
def test_what_is_no_picture_or_out_of_range_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make(**options)


@pytest.mark.parametrize(
  "weights, message",
  [
    (WEIGHTS[:6], "those of 6 convolutions; give the 7 of VGG-16 from block1_conv1 to"),
    (WEIGHTS[::-1], r"block1_conv1 have the shapes \(3, 3, 4, 4\) and \(4,\); "),
    (
      [*WEIGHTS[:2], vgg.Convolution(WEIGHTS[2].kernel, np.zeros([9])), *WEIGHTS[3:]],
      r"block2_conv1 .* a kernel must be \(3, 3, 2, n\) and its bias \(n,\), as vgg",
    ),
  ],
)
def test_weights_of_another_network_are_refused(weights, message):
  with pytest.raises(ValueError, match=message):
    NeuralStyle([PHOTOGRAPH], [PAINTING], 16, weights)


def test_names_stand_for_pictures_in_a_directory(tmp_path, monkeypatch):
  from PIL import Image

  monkeypatch.setenv("L2L_PHOTOS", str(tmp_path))
  for i, name in enumerate(["content/a", "content/b", "content/c", "style/starry"]):
    path = tmp_path / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(PHOTOGRAPH + np.uint8(i)).save(path)
  problem = neural_style("train", "starry", 16, WEIGHTS)
  np.testing.assert_array_equal(problem._pixels, PHOTOGRAPH.ravel())
  tests = neural_style("test", ["starry", PAINTING], 16, WEIGHTS)
  np.testing.assert_array_equal(tests._pixels, PHOTOGRAPH.ravel() + np.uint8(2))
  assert tests._styles[0].shape == (2, 2, 2)
