"""What a run depends on beyond its settings: the content of what they name.

An expression names data that may be others on another machine, and a path names an
optimizer that may have been moved, or replaced by another one.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from l2l_tf.problems import Problem
from l2l_tf.problems.fingerprint import differ, fingerprint
from l2l_tf.runs.settings import TrainingSettings
from l2l_tf.runs.training_run import ConfigurationError, saved_config

_DATA, _INITIAL = "data", "initial_optimizer"


def known(settings: TrainingSettings, problem: Problem) -> dict[str, str]:
  """Returns for a run's configuration the data and the digest of its first optimizer.

  They are left out where the run's directory, of an earlier version, does not say them.
  """
  found = {}
  if data := fingerprint(problem):
    found[_DATA] = data
  if settings.initial_path is not None:
    path = pathlib.Path(settings.initial_path).expanduser()
    found[_INITIAL] = hashlib.sha256(path.read_bytes()).hexdigest()
  saved = saved_config(settings.save_path)
  return {k: v for k, v in found.items() if saved is None or k in saved}


def may_change(config: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the settings that do not matter because what they name is known."""
  return ("initial_path",) if _INITIAL in config else ()


def explained(error: ConfigurationError, settings: TrainingSettings) -> Exception:
  """Returns the error on a directory's other content, or else the error itself."""
  path, changed = settings.save_path, error.changes.keys()
  if changed == {_DATA}:
    sentence = differ(path, *(data or "" for data in error.changes[_DATA]))
  elif changed == {_INITIAL}:
    sentence = (
      f"The run in {path!r} started from another optimizer than"
      f" --initial_path={settings.initial_path} holds now; put that one back, or give"
      " another --save_path."
    )
  else:
    return error
  return ConfigurationError(sentence, error.changes)
