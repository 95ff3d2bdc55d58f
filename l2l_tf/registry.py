"""The classes that an exported optimizer may consist of, and their form in JSON.

Nothing in an export is executed: a class is looked up here by its name, among
those that are registered.
"""

import dataclasses
from typing import Any

import numpy as np

_REGISTRY: dict[str, type] = {}


class ExportError(ValueError):
  """The file is not a valid export, or the object cannot be exported."""


def register(cls: type) -> type:
  """Class decorator: instances can be exported, under the class's name.

  Command-line expressions such as --optimizer=Name(units=3) know the name as well. The
  class must be a dataclass, or have a `config` property that returns the constructor's
  arguments by name.

  >>> @l2l_tf.register
  ... class Cubed:
  ...   config = {}
  ...   def __call__(self, grads):
  ...     return grads[:, tf.newaxis] ** 3
  >>> save(CoordinatewiseLSTM(preprocess=Cubed()), "cubed.l2l.npz")

  Raises:
    ValueError: if another class of the same name is registered.
  """
  if _REGISTRY.setdefault(cls.__name__, cls) is not cls:
    raise ValueError(
      f"{cls.__name__!r} is already registered for export, as another class; give this"
      " one a name of its own, and import its file only once."
    )
  return cls


def registered() -> dict[str, type]:
  """Returns the registered classes by name."""
  return dict(_REGISTRY)


def describe(value: Any) -> Any:
  """Turns a constructor argument into JSON."""
  if _REGISTRY.get(type(value).__name__) is type(value):
    config = (
      {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
      if dataclasses.is_dataclass(value)
      else value.config
    )
    return {
      "class": type(value).__name__,
      "config": {k: describe(v) for k, v in config.items()},
    }
  if isinstance(value, (list, tuple)):
    return [describe(v) for v in value]
  if isinstance(value, (np.bool_, np.integer, np.floating)):
    return value.item()
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise ExportError(
    f"{value!r} cannot be exported; use numbers, strings, or a class with the"
    " decorator l2l_tf.register."
  )


def build(description: Any) -> Any:
  """The inverse of `describe`, through registered classes only."""
  if isinstance(description, list):
    return tuple(build(d) for d in description)
  if not isinstance(description, dict):
    return description
  cls = _REGISTRY.get(description["class"])
  if cls is None:
    raise ExportError(
      f"it needs the class {description['class']!r}, which is not registered; if it is"
      " your own, import the file that defines it first, as the flag"
      " --imports=path/to/file.py of the commands does; known are"
      f" {', '.join(sorted(_REGISTRY))}."
    )
  return cls(**{k: build(v) for k, v in description["config"].items()})
