"""How the gradient of the meta-loss with respect to phi is computed."""

from l2l_tf.meta.gradients.analytic_pes import AnalyticPES
from l2l_tf.meta.gradients.base import MetaGradient, Window, run_window
from l2l_tf.meta.gradients.evolution import EvolutionStrategies
from l2l_tf.meta.gradients.merged import Merged
from l2l_tf.meta.gradients.nres import NRES
from l2l_tf.meta.gradients.pes import PES
from l2l_tf.meta.gradients.recorded import RecordedBPTT
from l2l_tf.meta.gradients.replayed import ReplayedBPTT
from l2l_tf.meta.gradients.reptile import Reptile
from l2l_tf.meta.gradients.staggered import StaggeredBPTT
from l2l_tf.meta.gradients.taped import TapedBPTT
from l2l_tf.meta.gradients.truncated import TruncatedBPTT
from l2l_tf.meta.objective import MetaObjective, all_ones, last_only
