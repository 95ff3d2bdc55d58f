"""Builds what a training consists of, as its settings describe it."""

import pathlib
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.meta.curriculum import Curriculum, check_lengths
from l2l_tf.meta.gradients import MetaGradient, TruncatedBPTT
from l2l_tf.meta.imitation import Imitation
from l2l_tf.meta.objective import (
  MetaObjective,
  all_ones,
  best_loss,
  last_only,
  log_relative_loss,
  mean_loss,
)
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import Adam, Optimizer
from l2l_tf.runs import presets, vocabulary
from l2l_tf.runs.settings import ARCHITECTURE, TrainingSettings
from l2l_tf.storage import export

_META_LOSSES = {
  "sum": {"weights": all_ones},
  "last": {"weights": last_only},
  "mean": {"function": mean_loss},
  "log_relative": {"function": log_relative_loss},
  "best": {"function": best_loss},
}
_FINAL_RATE = 0.02  # at the end of the cosine, as a share of the first rate


def build_trainer(
  settings: TrainingSettings, strategy: tf.distribute.Strategy | None = None
) -> MetaTrainer:
  """Builds the trainer that the settings describe, with what shares out its work."""
  if settings.curriculum is not None:
    lengths = {"curriculum": _build_curriculum(settings)}
  else:
    lengths = {k: getattr(settings, k) for k in ("num_steps", "unroll_length")}
    check_lengths(**lengths)
  return MetaTrainer(
    presets.get(settings.problem).make_problem(),
    build_optimizer(settings),
    _build_meta_optimizer(settings),
    _build_meta_gradient(settings),
    seed=settings.seed,
    jit_compile=settings.jit_compile,
    meta_batch_size=settings.meta_batch_size,
    strategy=strategy,
    **lengths,
    **_objective(settings),
  )


def build_optimizer(settings: TrainingSettings) -> Optimizer:
  """Builds a fresh optimizer, or loads the one to start from.

  Raises:
    ExportError: if the optimizer cannot be exported, which is checked before training.
  """
  if settings.initial_path is not None:
    return export.load(pathlib.Path(settings.initial_path).expanduser())
  given = {k: getattr(settings, k) for k in ARCHITECTURE}
  given = {k: v for k, v in given.items() if v is not None}
  seed = {"seed": settings.seed}
  optimizer = vocabulary.build(settings.optimizer, "optimizer", seed, **given)
  export.dumps(optimizer)
  return optimizer


def _build_meta_gradient(settings: TrainingSettings) -> MetaGradient:
  if settings.meta_gradient is not None:
    return vocabulary.build(settings.meta_gradient, "meta_gradient")
  return TruncatedBPTT(second_derivatives=settings.second_derivatives)


def _build_curriculum(settings: TrainingSettings) -> Curriculum:
  return vocabulary.build(settings.curriculum, "curriculum", {"seed": settings.seed})


def _objective(settings: TrainingSettings) -> dict[str, Any]:
  """Returns the trainer's arguments that define the meta-loss and its clipping."""
  relative, clip_norm = settings.relative_loss, settings.clip_norm
  own = settings.meta_loss, settings.imitation, settings.task_clip_norm
  if all(x is None for x in own):  # The meta-gradient may have weights of its own.
    return {"relative_loss": relative, "clip_norm": clip_norm}
  common = {"relative": relative, "clip_norm": clip_norm}
  common["imitation"] = _imitation(settings)
  if settings.task_clip_norm is not None:
    common["task_clip_norm"] = settings.task_clip_norm
  return {
    "objective": MetaObjective(**_META_LOSSES[settings.meta_loss or "sum"], **common)
  }


def _imitation(settings: TrainingSettings) -> Imitation | None:
  if settings.imitation is None:
    return None
  rate = {"learning_rate": 0.001}  # if the expression says none
  teacher = vocabulary.build(settings.imitation, "optimizer", **rate)
  return Imitation(teacher, settings.imitation_weight, settings.imitation_half_life)


def _build_meta_optimizer(settings: TrainingSettings) -> Optimizer:
  rate = settings.learning_rate
  if rate is not None and settings.schedule == "cosine":
    num_windows = settings.num_steps // settings.unroll_length
    num_updates = settings.num_epochs * num_windows
    rate = keras.optimizers.schedules.CosineDecay(rate, num_updates, _FINAL_RATE)
  if settings.meta_optimizer is None:
    return Adam(rate)
  given = {} if rate is None else {"learning_rate": rate}
  return vocabulary.build(settings.meta_optimizer, "optimizer", **given)
