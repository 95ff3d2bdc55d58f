"""How the gradient of the meta-loss with respect to phi is computed."""

from l2l_tf.meta.gradients.base import MetaGradient, Window
from l2l_tf.meta.gradients.recorded import RecordedBPTT
from l2l_tf.meta.gradients.taped import TapedBPTT
from l2l_tf.meta.gradients.truncated import TruncatedBPTT
from l2l_tf.meta.objective import MetaObjective, all_ones, last_only
