"""l2l-style: a user's picture, painted, and what is said of what cannot be."""

import re

import numpy as np
import pytest
from PIL import Image
from processes import COMMAND

from l2l_tf.optimizers import CoordinatewiseLSTM
from l2l_tf.problems import images, vgg
from l2l_tf.storage import export

RNG = np.random.default_rng(0)
CODE = "import os; os.environ['L2L_VGG16'] = {!r}; " + COMMAND.format("style")
TINY = ["--size=40", "--steps=3"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A turned, transparent photograph; a grey painting; random weights; an export."""
  path = tmp_path_factory.mktemp("style")
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees
  pixels = RNG.integers(0, 256, [30, 60, 4], np.uint8)
  Image.fromarray(pixels).save(path / "photo.png", exif=exif)
  Image.fromarray(pixels[..., 0]).save(path / "painting.jpg")
  Image.new("RGB", (9, 50)).save(path / "tiny.png")
  Image.new("RGB", (400, 20)).save(path / "wide.png")
  (path / "text.jpg").write_text("no picture")
  arrays = {
    f"{name}/{part}": value
    for name, pair in zip(vgg.NAMES, vgg.untrained((64, 128, 256)))
    for part, value in pair._asdict().items()
  }
  np.savez(path / "vgg.npz", **arrays)
  arrays["block1_conv1/bias"] = np.zeros([3])
  np.savez(path / "other.npz", **arrays)
  export.save(CoordinatewiseLSTM((3,), "log_and_sign"), path / "mine.l2l.npz")
  return path


def style(forks, files, *flags, weights="vgg.npz"):
  code = CODE.format(str(files / weights))
  return forks.run("style", *flags, cwd=files, code=code)


def test_a_photograph_of_any_shape_is_painted(forks, files):
  flags = ["--content=photo.png", "--style=painting.jpg", "--output=out.jpg", *TINY]
  ended = style(forks, files, *flags, "--optimizer=mine.l2l.npz")
  assert ended.code == 0 and not ended.err
  assert re.fullmatch(r"loss [\d.e+]+ after 3 steps: out.jpg\n", ended.out)
  assert "3/3" in ended.bar[-1] and "loss" in ended.bar[-1]
  assert images.read(files / "out.jpg").shape == (40, 20, 3)


def test_a_comparison_is_a_second_picture(forks, files):
  flags = ["--content=photo.png", "--style=painting.jpg", "--output=both.png", *TINY]
  ended = style(
    forks, files, *flags, "--optimizer=Adam(learning_rate=0.1)", "--compare"
  )
  assert ended.code == 0 and not ended.err
  _, header, mine, adam, where = ended.out.splitlines()
  assert header.split() == ["optimizer", "loss"] and where.endswith("both_compare.png")
  assert mine.startswith("Adam(learning_rate=0.1)") and "the best of 4 rates" in adam
  # Adam at 0.1 is one of the rates.
  assert float(adam.split()[-1]) <= float(mine.split()[-1])
  assert images.read(files / "both.png").shape == (40, 20, 3)
  height, width, _ = images.read(files / "both_compare.png").shape
  assert width > height  # four pictures in a row


WRONG = [
  (["--content=tiny.png"], ["'tiny.png' has 9 x 50 pixels; each side needs"]),
  (["--style=text.jpg"], ["'text.jpg' could not be read as a picture"]),
  (["--content=none.png"], ["'none.png'", "No such file"]),
  (["--output=out.txt"], ["cannot be written with the suffix '.txt'; choose one of"]),
  (["--output=none/out.png"], ["'none/out.png' could not be written (No such file"]),
  (["--output=."], ["the suffix ''; choose one of"]),
  (["--output=painting.jpg"], ["--output=painting.jpg is the picture that is read"]),
  (["--content=wide.png"], ["leaves 256 x 13 pixels of 'wide.png'", "--size=316"]),
  (["--optimizer=nothing"], ["'nothing'", "a pretrained name"]),
  (["--optimizer=RNNprop(layer=3)"], ["'layer'; its arguments are layers"]),
  (["--size=15"], ["--size=15"]),
]


@pytest.mark.parametrize("flags, words", [pytest.param(*w, id=w[0][0]) for w in WRONG])
def test_a_mistake_is_one_sentence_before_any_work(forks, files, flags, words):
  valid = ["--content=photo.png", "--style=painting.jpg", "--output=never.png"]
  ended = style(forks, files, *valid, "--optimizer=mine.l2l.npz", *flags)
  ended.assert_mistake(*words)
  assert not ended.bar and not (files / "never.png").exists()


def test_weights_of_another_network_are_refused(forks, files):
  flags = ["--content=photo.png", "--style=painting.jpg", "--output=never.png"]
  flags += ["--optimizer=mine.l2l.npz"]
  ended = style(forks, files, *flags, weights="other.npz")
  ended.assert_mistake("other.npz", "block1_conv1/bias has (3,), not (64,)")
