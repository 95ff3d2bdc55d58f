"""Photographs and paintings: reading, shrinking and encoding them, by Pillow.

A picture is a NumPy array [height, width, 3] of uint8, red, green and blue. Folders of
pictures come from the directory that the environment variable L2L_PHOTOS names: its
folder content/ holds photographs, its folder style/ holds paintings.
"""

import io
import math
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from l2l_tf.problems.data.datasets import DatasetUnavailableError

VARIABLE = "L2L_PHOTOS"
SPLITS = ("train", "validation", "test")
SMALLEST = 16  # pixels of a side; three more halvings would leave nothing to compare
_WHITE = (255, 255, 255, 255)
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_SIXTEEN_BITS = 257  # 65,535 becomes 255

_KODAK = (
  'mkdir -p photos/content && for i in $(seq -w 1 24); do curl -o "photos/content'
  '/kodim$i.png" "https://r0k.us/graphics/kodak/kodak/kodim$i.png"; done'
)
_COMMONS = (
  'mkdir -p photos/style && curl -L -A l2l_tf -o "photos/style/{name}.jpg"'
  ' "https://commons.wikimedia.org/wiki/Special:FilePath/{file}?width=1280"'
)
_PAINTINGS = {
  "starry_night": ("Van%20Gogh%20-%20Starry%20Night%20-%20Google%20Art%20Project.jpg"),
  "great_wave": "Tsunami_by_hokusai_19th_century.jpg",
}


def read(path: str | os.PathLike[str], smallest: int = SMALLEST) -> np.ndarray:
  """Reads a picture of any format that Pillow knows.

  It is turned as its EXIF orientation says. Transparent parts become white, grey
  becomes RGB, 16 bits become 8; of an animation, the first picture is taken.

  >>> with open("a.png", "wb") as file:
  ...   _ = file.write(images.encode(np.zeros([20, 30, 3], np.uint8)))
  >>> images.read("a.png").shape
  (20, 30, 3)

  Args:
    path: the file.
    smallest: pixels that each side must have at least.

  Returns:
    uint8, [height, width, 3].

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is no picture, is damaged, or is too small.
  """
  try:
    # Pillow warns of what it reads slowly, and refuses what would fill the memory.
    with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
      image.load()
      # A "P" picture that names a transparent colour has no band of alpha yet.
      pixels = np.asarray(_on_white(_eight_bits(ImageOps.exif_transpose(image))))
  except (FileNotFoundError, PermissionError, IsADirectoryError):
    raise
  except Image.DecompressionBombError as error:
    raise ValueError(
      f"{str(path)!r} has too many pixels to be read safely; shrink it to"
      f" {Image.MAX_IMAGE_PIXELS // 10**6} million at most."
    ) from error
  # Pillow's readers raise many exceptions, on damaged files also SyntaxError.
  except Exception as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    raise ValueError(
      f"{str(path)!r} could not be read as a picture ({reason.rstrip('.')}); give a"
      " PNG, a JPEG or another common picture file."
    ) from None
  height, width, _ = pixels.shape
  if min(height, width) < smallest:
    raise ValueError(
      f"{str(path)!r} has {width} x {height} pixels; each side needs at least"
      f" {smallest}."
    )
  return pixels


def read_folder(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Reads all pictures of a folder, in the order of their file names.

  Returns:
    The pictures, as `read` returns them, by file names; files with other suffixes than
    those of pictures are skipped.

  Raises:
    ValueError: as in `read`.
  """
  files = sorted(pathlib.Path(path).iterdir())
  return {f.name: read(f) for f in files if f.suffix.lower() in _SUFFIXES}


def photographs(split: str) -> list[np.ndarray]:
  """Returns a split of the photographs in `content/` of the directory L2L_PHOTOS.

  They are taken in the order of their file names: the last quarter is for tests, the
  tenth before it for validation, the rest for training, with fractions rounded up. Of
  29 photographs these are 8, 3 and 18.

  Args:
    split: "train", "validation" or "test".

  Raises:
    DatasetUnavailableError: if there are fewer than three photographs.
    ValueError: for another split, and as in `read`.
  """
  if split not in SPLITS:
    raise ValueError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
  found = list(read_folder(_folder("content", _KODAK, least=3)).values())
  num_test, num_validation = math.ceil(len(found) / 4), math.ceil(len(found) / 10)
  train = len(found) - num_test - num_validation
  ends = [0, train, train + num_validation, len(found)]
  i = SPLITS.index(split)
  return found[ends[i] : ends[i + 1]]


def painting(name: str) -> np.ndarray:
  """Returns the painting in `style/` of the directory L2L_PHOTOS whose name starts so.

  Args:
    name: the beginning of a file's name, such as "starry_night".

  Raises:
    DatasetUnavailableError: if there is no folder of paintings, or none so named.
    ValueError: as in `read`.
  """
  file = _PAINTINGS.get(name, "<file>")
  command = _COMMONS.format(name=name, file=file)
  folder = _folder("style", command, least=1)
  for path in sorted(folder.iterdir()):
    if path.stem.startswith(name) and path.suffix.lower() in _SUFFIXES:
      return read(path)
  raise DatasetUnavailableError(
    f"{folder} has no picture whose name starts with {name!r}; get one by {command}"
    f" and set {VARIABLE} to the folder photos."
  )


def _folder(name: str, command: str, least: int) -> pathlib.Path:
  """Returns a folder below L2L_PHOTOS that has some pictures."""
  place = os.environ.get(VARIABLE)
  advice = f"get some by {command} and set {VARIABLE} to the folder photos."
  if not place:
    raise DatasetUnavailableError(
      f"Neural art needs pictures in the folders content and style of a directory that"
      f" the variable {VARIABLE} names, which is not set; {advice}"
    )
  folder = pathlib.Path(place).expanduser() / name
  files = folder.iterdir() if folder.is_dir() else ()
  count = sum(f.suffix.lower() in _SUFFIXES for f in files)
  if count < least:
    raise DatasetUnavailableError(
      f"{folder}, below the directory that {VARIABLE} names, has {count} pictures; it"
      f" needs at least {least}: {advice}"
    )
  return folder


def fitted(picture: np.ndarray, longest: int) -> np.ndarray:
  """Resizes a picture so that its longer side has `longest` pixels.

  >>> images.fitted(np.zeros([100, 200, 3], np.uint8), 64).shape
  (32, 64, 3)
  """
  height, width, _ = picture.shape
  scale = longest / max(height, width)
  return resized(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def resized(picture: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Resizes a picture to (height, width), by Lanczos' filter.

  >>> images.resized(np.zeros([100, 200, 3], np.uint8), (10, 15)).shape
  (10, 15, 3)
  """
  height, width = shape
  image = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
  return np.asarray(image)


def encode(picture: np.ndarray, suffix: str = ".png") -> bytes:
  """Returns a picture as the bytes of a file.

  >>> images.encode(np.zeros([2, 3, 3], np.uint8))[1:4]
  b'PNG'

  Args:
    picture: uint8, [height, width, 3].
    suffix: the file's, which says the format, such as ".png" or ".jpg".

  Raises:
    ValueError: for a suffix of no format that Pillow writes.
  """
  file = io.BytesIO()
  options = {"quality": 95} if _format(suffix) == "JPEG" else {}
  Image.fromarray(picture).save(file, _format(suffix), **options)
  return file.getvalue()


def check_suffix(suffix: str) -> None:
  """Raises ValueError unless `encode` knows a suffix."""
  _format(suffix)


def _format(suffix: str) -> str:
  known = Image.registered_extensions()
  if suffix.lower() not in _SUFFIXES or suffix.lower() not in known:
    raise ValueError(
      f"A picture cannot be written with the suffix {suffix!r}; choose one of"
      f" {', '.join(sorted(_SUFFIXES))}."
    )
  return known[suffix.lower()]


def _eight_bits(image: Image.Image) -> Image.Image:
  """Converts grey of 16 or 32 bits, which Pillow would clip at 255."""
  if image.mode == "F":
    values = np.asarray(image) * (255 if np.max(np.asarray(image)) <= 1 else 1)
  elif image.mode.startswith("I"):
    values = np.asarray(image).astype(np.float64) / _SIXTEEN_BITS
  else:
    return image
  return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
  if not image.has_transparency_data:
    return image.convert("RGB")
  image = image.convert("RGBA")
  return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert(
    "RGB"
  )
