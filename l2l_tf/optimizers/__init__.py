"""Learned and hand-designed optimizers, behind one interface."""

from l2l_tf.optimizers.base import Optimizer
from l2l_tf.optimizers.blocked import Blocked
from l2l_tf.optimizers.coordinatewise import CoordinatewiseLSTM, KernelwiseLSTM
from l2l_tf.optimizers.gate_lstm import ConstantGates, GateLSTM
from l2l_tf.optimizers.general_rule import GeneralRule
from l2l_tf.optimizers.global_averaging import GlobalAveragingLSTM
from l2l_tf.optimizers.hand_designed import (
  SGD,
  Adagrad,
  Adam,
  Momentum,
  Nesterov,
  RMSprop,
)
from l2l_tf.optimizers.hierarchical import HierarchicalRNN
from l2l_tf.optimizers.learned_start import LearnedStart
from l2l_tf.optimizers.ntm_bfgs import NTMBFGS
from l2l_tf.optimizers.partition import Partition, Where
from l2l_tf.optimizers.rnnprop import RNNprop
from l2l_tf.optimizers.traits import (
  ALL,
  COORDINATE,
  GRADIENTS,
  LOSS,
  PARAMETERS,
  TENSOR,
  Coupling,
  Reads,
)
