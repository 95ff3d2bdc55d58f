"""Learned optimizers for TensorFlow 2 and Sonnet 2."""

import importlib

# Public name -> its module. Each is imported when it is first used, so that
# `l2l-train --help` need not wait for TensorFlow.
_PUBLIC = {
  "CoordinatewiseLSTM": "optimizers",
  "KernelwiseLSTM": "optimizers",
  "MetaTrainer": "meta_train",
  "Optimizer": "optimizers",
  "Partition": "optimizers",
  "Problem": "problems",
  "RNNprop": "optimizers",
  "TruncatedBPTT": "meta_gradients",
  "Where": "optimizers",
  "all_ones": "meta_gradients",
  "compare": "evaluate",
  "last_only": "meta_gradients",
  "load": "cards",
  "plot": "report",
  "pretrained": "cards",
  "register": "registry",
  "save": "export",
  "summarize": "report",
  "table": "report",
}
_MODULES = ["keras", "optimizers", "preprocess", "problems"]

__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str):
  if name in _PUBLIC:
    return getattr(importlib.import_module(f"l2l_tf.{_PUBLIC[name]}"), name)
  if name in _MODULES:
    return importlib.import_module(f"l2l_tf.{name}")
  raise AttributeError(f"module 'l2l_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
  return [*globals(), *__all__]
