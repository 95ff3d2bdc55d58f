"""A trained optimizer as one small, self-describing file.

The file is an uncompressed .npz: one JSON header (format version, constructor
arguments, shape of every weight) and the weights as plain arrays in the order
of the optimizer's variables. Nothing in it is executed: classes are looked up
among those that registered themselves, and pickled objects are refused.
"""

import dataclasses
import json
import os
import pathlib
import tempfile
import zipfile
from typing import Any

import numpy as np

FORMAT_VERSION = 1
_HEADER = "header"
_MAX_HEADER_BYTES = 1 << 20
_REGISTRY: dict[str, type] = {}


class ExportError(ValueError):
  """A file that is no valid export, or an object that cannot be exported."""


def register(cls: type) -> type:
  """Class decorator: instances may appear in exports under the class's name.

  The class needs a `config` property of constructor arguments, or be a
  dataclass. Register your own preprocessing this way to export it.
  """
  if _REGISTRY.setdefault(cls.__name__, cls) is not cls:
    raise ValueError(f"{cls.__name__!r} is already registered for export.")
  return cls


def save(optimizer: Any, path: str | os.PathLike[str]) -> None:
  """Writes `optimizer` to `path`, replacing it only once all is written.

  Args:
    optimizer: a registered `Optimizer`.
    path: the file; conventionally ending in ".l2l.npz".

  Raises:
    ExportError: if a constructor argument cannot be described.
    OSError: if the file cannot be written; an existing one is left as it was.
  """
  path = pathlib.Path(path)
  weights = [v.numpy() for v in optimizer.variables]
  header = {
    "format": "l2l_tf",
    "version": FORMAT_VERSION,
    "optimizer": _describe(optimizer),
    "weights": [[list(w.shape), w.dtype.name] for w in weights],
  }
  arrays = {_weight_key(i): w for i, w in enumerate(weights)}
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "wb") as f:
      np.savez(f, **{_HEADER: np.array(json.dumps(header))}, **arrays)
      f.flush()
      os.fsync(f.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def load(path: str | os.PathLike[str]) -> Any:
  """Rebuilds the optimizer that `save` wrote.

  Args:
    path: a file written by `save`.

  Returns:
    The optimizer, with its weights.

  Raises:
    FileNotFoundError: if there is no such file.
    ExportError: if it is not a complete export of this format version.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"No exported optimizer at {str(path)!r}; give the path of a file that"
      " l2l-train or l2l_tf.save wrote."
    )
  try:
    header, weights = _read(path)
    optimizer = _build(header["optimizer"])
    _assign(optimizer, weights)
  except ExportError as e:
    raise ExportError(f"{str(path)!r} cannot be loaded: {e}") from None
  except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as e:
    raise ExportError(
      f"{str(path)!r} is not an optimizer exported by l2l_tf, or is damaged"
      f" ({type(e).__name__}: {e}); export it again."
    ) from None
  return optimizer


def _weight_key(index: int) -> str:
  return f"weight_{index:03d}"


def _describe(value: Any) -> Any:
  """Turns a constructor argument into JSON."""
  if type(value).__name__ in _REGISTRY and isinstance(
    value, _REGISTRY[type(value).__name__]
  ):
    config = (
      {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
      if dataclasses.is_dataclass(value)
      else value.config
    )
    return {
      "class": type(value).__name__,
      "config": {k: _describe(v) for k, v in config.items()},
    }
  if isinstance(value, (list, tuple)):
    return [_describe(v) for v in value]
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise ExportError(
    f"{value!r} cannot be exported; use numbers, strings, or a class with the"
    " decorator l2l_tf.export.register."
  )


def _build(description: Any) -> Any:
  """The inverse of `_describe`, through registered classes only."""
  if isinstance(description, list):
    return tuple(_build(d) for d in description)
  if not isinstance(description, dict):
    return description
  cls = _REGISTRY.get(description["class"])
  if cls is None:
    raise ExportError(
      f"it needs the class {description['class']!r}, which is not registered;"
      f" known are {', '.join(sorted(_REGISTRY))}."
    )
  return cls(**{k: _build(v) for k, v in description["config"].items()})


def _read(path: pathlib.Path) -> tuple[dict[str, Any], list[np.ndarray]]:
  with zipfile.ZipFile(path) as archive:
    sizes = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
    if sizes[_HEADER].file_size > _MAX_HEADER_BYTES:
      raise ExportError("its header is larger than any export's.")
  with np.load(path, allow_pickle=False) as arrays:
    header = json.loads(str(arrays[_HEADER]))
    if header.get("format") != "l2l_tf" or header["version"] != FORMAT_VERSION:
      raise ExportError(
        f"it has format {header.get('format')!r} version"
        f" {header.get('version')!r}; this release reads 'l2l_tf' version"
        f" {FORMAT_VERSION}."
      )
    expected = {_weight_key(i) for i in range(len(header["weights"]))}
    if set(sizes) != expected | {_HEADER}:
      raise ExportError(
        f"it declares {len(expected)} weights but holds"
        f" {len(sizes) - 1}; export it again."
      )
    weights = []
    for i, (shape, dtype) in enumerate(header["weights"]):
      # Checked before reading: a declared kilobyte must not unpack to gigabytes.
      declared = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
      if sizes[_weight_key(i)].file_size > declared + 4096:
        raise ExportError(f"weight {i} is larger than the declared {shape}.")
      weights.append(arrays[_weight_key(i)])
  return header, weights


def _assign(optimizer: Any, weights: list[np.ndarray]) -> None:
  variables = optimizer.variables
  shapes = [tuple(v.shape) for v in variables]
  found = [w.shape for w in weights]
  if shapes != found:
    raise ExportError(
      f"its weights have shapes {found}, but its constructor arguments make {shapes}."
    )
  for variable, weight in zip(variables, weights):
    if not np.all(np.isfinite(weight)):
      raise ExportError("it holds weights that are not finite.")
    variable.assign(weight)
