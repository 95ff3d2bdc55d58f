"""Distributions of optimization tasks, as callables that return losses."""

from l2l_tf.problems.all_classes import AllClasses
from l2l_tf.problems.altered import LogLoss, NoisyGradients, SparseGradients
from l2l_tf.problems.base import Parameter, Problem
from l2l_tf.problems.cifar import cifar10_conv
from l2l_tf.problems.classic_functions import ClassicFunction
from l2l_tf.problems.classification import MLP, ConvNet, digits_mlp, mnist_mlp
from l2l_tf.problems.data import class_splits, datasets, images, random_data, vgg
from l2l_tf.problems.data.datasets import Dataset, DatasetUnavailableError, as_dataset
from l2l_tf.problems.few_shot import Episode, FewShot, few_shot
from l2l_tf.problems.few_shot_learners import ConvBlocks, Dense, Learner
from l2l_tf.problems.keras_model import KerasModel, keras_model
from l2l_tf.problems.landscapes import (
  Bowl,
  DependencyChain,
  MinMaxWell,
  Norm,
  OutwardSnake,
  ProjectionQuadratic,
)
from l2l_tf.problems.neural_style import NeuralStyle, neural_style
from l2l_tf.problems.scaled import ScaledLoss, ScaledParameters
from l2l_tf.problems.small_tasks import HELD_OUT_TASKS, small_classifiers
from l2l_tf.problems.synthetic import (
  Ensemble,
  Polynomial,
  Quadratic,
  Simple,
  SimpleMulti,
  quadratics,
)
from l2l_tf.problems.task_batch import TaskBatch
