"""Learned optimizers for TensorFlow 2 and Sonnet 2."""

import importlib
import importlib.abc
import importlib.machinery
import sys

__version__ = "0.2.0"  # setup.py reads it here.

# Public name -> its module. Each is imported when it is first used, so that
# `l2l-train --help` need not wait for TensorFlow.
_PUBLIC = {
  "AnalyticPES": "meta.gradients",
  "CoordinatewiseLSTM": "optimizers",
  "Curriculum": "meta.curriculum",
  "EvolutionStrategies": "meta.gradients",
  "ExponentialHorizon": "meta.curriculum",
  "GateLSTM": "optimizers",
  "GeneralRule": "optimizers",
  "GlobalAveragingLSTM": "optimizers",
  "Growing": "meta.curriculum",
  "HierarchicalRNN": "optimizers",
  "Imitation": "meta.imitation",
  "KernelwiseLSTM": "optimizers",
  "Merged": "meta.gradients",
  "LearnedStart": "optimizers",
  "MetaGradient": "meta.gradients",
  "MetaObjective": "meta.objective",
  "MetaTrainer": "meta.trainer",
  "NRES": "meta.gradients",
  "NTMBFGS": "optimizers",
  "Optimizer": "optimizers",
  "PES": "meta.gradients",
  "Partition": "optimizers",
  "Problem": "problems",
  "RNNprop": "optimizers",
  "RandomHorizon": "meta.curriculum",
  "Reptile": "meta.gradients",
  "RotatingTrainer": "meta.rotation",
  "StaggeredBPTT": "meta.gradients",
  "SuiteTrainer": "meta.suite",
  "TruncatedBPTT": "meta.gradients",
  "Where": "optimizers",
  "Window": "meta.gradients",
  "all_ones": "meta.objective",
  "best_loss": "meta.objective",
  "compare": "evaluation.protocol",
  "last_only": "meta.objective",
  "load": "pretraining.cards",
  "log_relative_loss": "meta.objective",
  "mean_loss": "meta.objective",
  "plot": "evaluation.report",
  "pretrained": "pretraining.cards",
  "register": "registry",
  "save": "storage.export",
  "summarize": "evaluation.report",
  "table": "evaluation.report",
}
_MODULES = ["keras", "meta", "optimizers", "preprocess", "problems", "seeds"]

__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str):
  if name in _PUBLIC:
    return getattr(importlib.import_module(f"l2l_tf.{_PUBLIC[name]}"), name)
  if name in _MODULES:
    return importlib.import_module(f"l2l_tf.{name}")
  raise AttributeError(f"module 'l2l_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
  return [*globals(), *__all__]


# Where the modules of version 0.1.0 are now; code that imports them still works.
_MOVED = {
  "cards": "pretraining.cards",
  "checkpoint": "storage.checkpoint",
  "comparison": "evaluation.comparison",
  "devices": "cores",
  "diagnose": "evaluation.diagnose",
  "evaluate": "evaluation.protocol",
  "export": "storage.export",
  "findings": "evaluation.findings",
  "meta_gradients": "meta.gradients",
  "meta_train": "meta.trainer",
  "optimizers.blocks": "optimizers.layout",
  "optimizers.deep_lstm": "optimizers.lstm.network",
  "optimizers.lstm_sequence": "optimizers.lstm.backprop",
  "plots": "evaluation.plots",
  "presets": "runs.presets",
  "problems.datasets": "problems.data.datasets",
  "problems.examples": "problems.data.examples",
  "report": "evaluation.report",
  "summaries": "storage.summaries",
  "trace_graph": "meta.trace_graph",
  "training_run": "runs.training_run",
  "unroll": "meta.unroll",
}


class _MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Imports a moved module by its old name."""

  def find_spec(self, fullname, path=None, target=None):
    package, _, name = fullname.partition(".")
    if package == __name__ and name in _MOVED:
      return importlib.machinery.ModuleSpec(fullname, self)
    return None

  def create_module(self, spec):
    new = _MOVED[spec.name.partition(".")[2]]
    module = importlib.import_module(f"{__name__}.{new}")
    spec.loader_state = module.__spec__  # The import system overwrites it.
    return module

  def exec_module(self, module):
    module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(_MovedFinder())
