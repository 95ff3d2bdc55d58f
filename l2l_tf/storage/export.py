"""A trained optimizer as one small, self-describing file.

The file is an uncompressed .npz: one JSON header (format version, constructor
arguments, shape and type of every weight) and the weights as plain arrays in the order
of the optimizer's variables. Nothing in it is executed: classes come from the
`registry`, and pickled objects are refused.
"""

import functools
import io
import json
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import sonnet as snt
import tensorflow as tf

from l2l_tf import optimizers, registry
from l2l_tf.registry import ExportError
from l2l_tf.storage import files

FORMAT_VERSION = 1
_HEADER = "header"
_MAX_HEADER_BYTES = 1 << 24


def save(optimizer: optimizers.Optimizer, path: str | os.PathLike[str]) -> None:
  """Writes `optimizer` to a file.

  An existing file is replaced only once the new one is complete.

  >>> optimizer = RNNprop((5,))
  >>> save(optimizer, "mine.l2l.npz")
  >>> load("mine.l2l.npz").config == optimizer.config
  True

  Args:
    optimizer: a registered `Optimizer`.
    path: the file; by convention, its name ends in ".l2l.npz".

  Raises:
    ExportError: if a constructor argument cannot be described, or `load` would
      refuse the result, e.g. for a weight that is not finite.
    OSError: if the file cannot be written; an existing one is left as it was.
  """
  data, path = dumps(optimizer), pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_atomically(path, data)


def dumps(optimizer: optimizers.Optimizer) -> bytes:
  """Returns the bytes that `save` writes.

  Args:
    optimizer: a registered `Optimizer`.

  Raises:
    ExportError: as in `save`.
  """
  header = {
    "format": "l2l_tf",
    "version": FORMAT_VERSION,
    "optimizer": registry.describe(optimizer),
    "weights": _specs(optimizer),
  }
  arrays = {_weight_key(i): v.numpy() for i, v in enumerate(optimizer.variables)}
  file = io.BytesIO()
  np.savez(file, **{_HEADER: np.array(json.dumps(header))}, **arrays)
  try:
    _read(file.getvalue(), _specs_as_before)
  except ExportError as e:
    raise ExportError(
      f"{type(optimizer).__name__} cannot be exported, as load would refuse it: {e}"
    ) from e
  return file.getvalue()


def load(path: str | os.PathLike[str]) -> optimizers.Optimizer:
  """Rebuilds the optimizer that `save` wrote.

  Args:
    path: a file written by `save`.

  Returns:
    The optimizer, with its weights.

  Raises:
    FileNotFoundError: if there is no such file.
    PermissionError: if it may not be read.
    ExportError: if it is not a complete export of this format version.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"No exported optimizer at {str(path)!r}; give the path of a file that"
      " l2l-train or l2l_tf.save wrote."
    )
  if not os.access(path, os.R_OK):
    raise PermissionError(f"No permission to read {str(path)!r}; change its mode.")
  try:
    return loads(path.read_bytes())
  except ExportError as e:
    raise ExportError(f"{str(path)!r} cannot be loaded: {e}") from None


def loads(data: bytes) -> optimizers.Optimizer:
  """Rebuilds an optimizer from what `dumps` returned.

  Raises:
    ExportError: if it is not a complete export of this format version.
  """
  description, weights = _read(data)
  optimizer = registry.build(description)
  for variable, weight in zip(optimizer.variables, weights):
    variable.assign(weight)
  return optimizer


def _weight_key(index: int) -> str:
  return f"weight_{index:03d}"


def _specs(optimizer: Any) -> list[Any]:
  """Returns the shape and type of each weight, as JSON."""
  if not isinstance(optimizer, tf.Module):
    raise ExportError(
      f"{optimizer!r:.100} is not an optimizer; an export holds an l2l_tf Optimizer."
    )
  return [
    [list(v.shape), np.dtype(v.dtype.as_numpy_dtype).name] for v in optimizer.variables
  ]


def _specs_made(description: Any) -> list[Any]:
  """Returns the shape and type of each weight of the optimizer that `load` builds."""
  snt.Module()  # Sonnet checks once for eager mode, which would fail in the graph.
  with tf.Graph().as_default():  # for the shapes alone; no weight is allocated
    return _specs(registry.build(description))


def _specs_as_before(description: Any) -> list[Any]:
  """As `_specs_made`, but a run that saves one optimizer often builds it once."""
  classes = tuple(registry.registered().items())
  return _specs_made_once(json.dumps(description), classes)


@functools.lru_cache(maxsize=16)
def _specs_made_once(description: str, classes: tuple[Any, ...]) -> list[Any]:
  del classes  # With others, the description may mean something else.
  return _specs_made(json.loads(description))


def _read(
  data: bytes, make: Callable[[Any], list[Any]] = _specs_made
) -> tuple[Any, list[np.ndarray]]:
  """Returns the optimizer's description and weights, or raises `ExportError`."""
  try:
    return _read_unguarded(data, make)
  except ExportError:
    raise
  except Exception as e:  # Damaged files may raise anything.
    cause = f"{type(e).__name__}: {e}".splitlines()[0][:300]
    raise ExportError(
      f"it was not exported by l2l_tf, or is damaged ({cause}); export it again."
    ) from e


def _read_unguarded(data, make):
  with (
    zipfile.ZipFile(io.BytesIO(data)) as archive,
    np.load(io.BytesIO(data), allow_pickle=False) as arrays,
  ):
    members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
    # Without compression, no array can be larger than the file.
    if any(m.compress_type != zipfile.ZIP_STORED for m in members.values()):
      raise ExportError("it is compressed, which no export is; export it again.")
    if members[_HEADER].file_size > _MAX_HEADER_BYTES:
      raise ExportError(f"its header is larger than {_MAX_HEADER_BYTES} bytes.")
    header = json.loads(str(arrays[_HEADER]))
    if header.get("format") != "l2l_tf" or header["version"] != FORMAT_VERSION:
      raise ExportError(
        f"it has format {header.get('format')!r} version"
        f" {header.get('version')!r}; this release reads 'l2l_tf' version"
        f" {FORMAT_VERSION}."
      )
    specs = make(header["optimizer"])
    keys = [_weight_key(i) for i in range(len(specs))]
    if set(members) != {_HEADER, *keys}:
      raise ExportError(
        f"it holds {len(members) - 1} weights, but its constructor arguments make"
        f" {len(specs)}; export it again."
      )
    weights = [_decode(arrays[key], dtype) for key, (_, dtype) in zip(keys, specs)]
  found = [[list(w.shape), w.dtype.name] for w in weights]
  if not header["weights"] == found == specs:
    raise ExportError(
      f"it declares the weights {header['weights']} and holds {found}, but its"
      f" constructor arguments make {specs}; export it again."
    )
  if not all(np.all(np.isfinite(w)) for w in weights):
    raise ExportError("it holds weights that are not finite.")
  return header["optimizer"], weights


def _decode(array: np.ndarray, dtype: str) -> np.ndarray:
  """Restores bfloat16, which .npy files store as raw pairs of bytes."""
  return array.view(dtype) if array.dtype.kind == "V" else array
