"""Pictures of all kinds, and what is said of those that are none."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from l2l_tf.problems import DatasetUnavailableError, images

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, [20, 30, 3], np.uint8)
GREY = RNG.integers(0, 256, [20, 30], np.uint8)


def saved(tmp_path, image, name="picture.png", **options):
  path = tmp_path / name
  image.save(path, **options)
  return path


def test_colours_are_read_as_they_were_written(tmp_path):
  for name in ("a.png", "b.bmp", "c.tif", "d.webp"):
    options = {"lossless": True} if name == "d.webp" else {}
    path = saved(tmp_path, Image.fromarray(COLOURS), name, **options)
    np.testing.assert_array_equal(images.read(path), COLOURS)


@pytest.mark.parametrize("mode", ["L", "I;16", "F", "1", "P"])
def test_grey_becomes_three_equal_channels(tmp_path, mode):
  grey = np.where(GREY > 127, np.uint8(255), np.uint8(0)) if mode == "1" else GREY
  image, suffix = Image.fromarray(grey).convert("L"), "png"
  if mode == "I;16":
    image = Image.fromarray(grey.astype(np.uint16) * 257)
  elif mode == "F":
    image, suffix = Image.fromarray(grey.astype(np.float32) / 255), "tif"
  elif mode in "1P":
    image = image.convert(mode)
  read = images.read(saved(tmp_path, image, f"grey.{suffix}"))
  np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=-1))


def test_what_is_transparent_is_white(tmp_path):
  alpha = np.full([20, 30], 255, np.uint8)
  alpha[:, :10], alpha[:, 10:20] = 0, 51
  both = np.concatenate([COLOURS, alpha[..., None]], axis=-1)
  read = images.read(saved(tmp_path, Image.fromarray(both)))
  assert (read[:, :10] == 255).all()
  np.testing.assert_allclose(read[:, 10:20], 204 + 0.2 * COLOURS[:, 10:20], atol=1.01)
  np.testing.assert_array_equal(read[:, 20:], COLOURS[:, 20:])
  two = Image.fromarray(np.stack([GREY, alpha], axis=-1), "LA")
  assert (images.read(saved(tmp_path, two))[:, :10] == 255).all()
  named = Image.fromarray(GREY % 4).convert("P")
  read = images.read(saved(tmp_path, named, "p.png", transparency=0))
  assert (read[GREY % 4 == 0] == 255).all() and (read[GREY % 4 == 3] == 3).all()


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6  # turn it clockwise
  path = saved(tmp_path, Image.fromarray(COLOURS), exif=exif)
  np.testing.assert_array_equal(images.read(path), np.rot90(COLOURS, -1))


def test_of_an_animation_the_first_picture_is_taken(tmp_path):
  first, second = (Image.new("RGB", (20, 20), colour) for colour in ("red", "blue"))
  path = saved(tmp_path, first, "a.gif", save_all=True, append_images=[second])
  assert (images.read(path) == [255, 0, 0]).all()


@pytest.mark.parametrize("size", [(15, 40), (40, 1)])
def test_a_tiny_picture_is_refused(tmp_path, size):
  path = saved(tmp_path, Image.new("RGB", size))
  with pytest.raises(ValueError, match=f"has {size[0]} x {size[1]} pixels; each side"):
    images.read(path)


def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path):
  data = io.BytesIO()
  Image.fromarray(COLOURS).save(data, "png")
  contents = {"text": b"no picture", "empty": b"", "cut": data.getvalue()[:300]}
  for name, content in contents.items():
    path = tmp_path / f"{name}.png"
    path.write_bytes(content)
    with pytest.raises(
      ValueError, match=r"could not be read as a picture .*; give"
    ) as e:
      images.read(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)
  with pytest.raises(FileNotFoundError):
    images.read(tmp_path / "missing.png")


def test_a_picture_is_resized_and_keeps_its_proportions():
  ramp = np.repeat(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], 60, axis=0)
  picture = np.repeat(ramp, 3, axis=-1)
  for longest, shape in [(30, (20, 30, 3)), (45, (30, 45, 3)), (180, (120, 180, 3))]:
    fitted = images.fitted(picture, longest)
    assert fitted.shape == shape and fitted.dtype == np.uint8
    assert (np.diff(fitted[0, :, 0].astype(int)) >= 0).all()
  assert images.fitted(picture[:1], 20).shape == (1, 20, 3)


def test_an_encoded_picture_is_read_back(tmp_path):
  for suffix, most in [(".png", 0), (".JPG", 255), (".webp", 255)]:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(images.encode(COLOURS, suffix))
    assert np.abs(images.read(path).astype(int) - COLOURS).max() <= most
  with pytest.raises(ValueError, match=r"suffix '.txt'; choose one of .bmp, .gif"):
    images.encode(COLOURS, ".txt")


@pytest.fixture
def photos(tmp_path, monkeypatch):
  """A directory of 11 photographs, whose grey is their number, and two paintings."""
  for folder in ("content", "style"):
    (tmp_path / folder).mkdir()
  for i in range(11):
    image = Image.new("RGB", (20, 20), (i, i, i))
    image.save(tmp_path / "content" / f"{'abcdefghijk'[i]}.png")
  (tmp_path / "content" / "licence.txt").write_text("free")
  for i, name in enumerate(["great_wave_1831.png", "starry_night.png"]):
    Image.new("RGB", (20, 20), (0, 0, i)).save(tmp_path / "style" / name)
  monkeypatch.setenv("L2L_PHOTOS", str(tmp_path))
  return tmp_path


def test_photographs_are_split_by_their_names(photos):
  numbers = {s: [int(x[0, 0, 0]) for x in images.photographs(s)] for s in images.SPLITS}
  assert numbers == {
    "train": [0, 1, 2, 3, 4, 5], "validation": [6, 7], "test": [8, 9, 10]
  }  # fmt: skip
  with pytest.raises(ValueError, match="split 'all'; choose one of train, validation"):
    images.photographs("all")


def test_a_painting_is_found_by_the_beginning_of_its_name(photos):
  assert images.painting("great_wave")[0, 0].tolist() == [0, 0, 0]
  assert images.painting("starry_night")[0, 0].tolist() == [0, 0, 1]
  with pytest.raises(DatasetUnavailableError, match="no picture whose name starts"):
    images.painting("sunflowers")


def test_without_pictures_a_sentence_says_how_to_get_them(photos, monkeypatch):
  for path in sorted((photos / "content").iterdir())[2:]:
    path.unlink()
  with pytest.raises(
    DatasetUnavailableError, match=r"has 2 pictures; .* 3: get some by"
  ):
    images.photographs("train")
  monkeypatch.delenv("L2L_PHOTOS")
  for load in (
    lambda: images.photographs("test"),
    lambda: images.painting("great_wave"),
  ):
    with pytest.raises(DatasetUnavailableError, match=r"L2L_PHOTOS .* curl") as e:
      load()
    assert "\n" not in str(e.value)
