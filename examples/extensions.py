"""An optimizer per tensor, one with gates, a meta-gradient and a problem of one's own.

l2l-train --problem=examples/extensions.py:HeldOut --num_steps=20 --unroll_length=10 \
  --optimizer='examples/extensions.py:Gated(shapes=((4, 1), (1,)))' \
  --meta_gradient='examples/extensions.py:OneSample(stddev=0.01)'
"""

import tensorflow as tf

import l2l_tf
from l2l_tf import seeds
from l2l_tf.meta.gradients import run_window
from l2l_tf.optimizers import GRADIENTS, PARAMETERS, TENSOR


@l2l_tf.register
class Normalized(l2l_tf.Optimizer):
  """(a) -exp(phi) g / rms(g), of every tensor by itself, with a state for each."""

  coupling, reads, config = TENSOR, {GRADIENTS}, {}

  def __init__(self):
    super().__init__()
    self.log_rate = tf.Variable(-3.0)

  def initial_state(self, params):
    return [tf.zeros([], p.dtype) for p in params]

  def __call__(self, grads, state, params=None, loss=None):
    state = [0.9 * s + 0.1 * tf.reduce_mean(g**2) for s, g in zip(state, grads)]
    rates = [tf.exp(self.log_rate) / tf.sqrt(s + 1e-12) for s in state]
    return [-r * g for r, g in zip(rates, grads)], state


@l2l_tf.register
class Gated(l2l_tf.Optimizer):
  """(b) theta' = f theta - i g, from a start theta_0 that is learned too."""

  coupling, reads, config = TENSOR, {GRADIENTS, PARAMETERS}, {}

  def __init__(self, shapes):
    super().__init__()
    self.config = {"shapes": shapes}
    self.forget, self.input = tf.Variable(4.0), tf.Variable(-3.0)  # before a sigmoid
    self.start = [tf.Variable(tf.zeros(shape)) for shape in shapes]

  def initial_params(self, params):
    return [tf.reshape(s, p.shape) for s, p in zip(self.start, params, strict=True)]

  def initial_state(self, params):
    return ()

  def __call__(self, grads, state, params=None, loss=None):
    f, i = tf.sigmoid(self.forget), tf.sigmoid(self.input)
    return [f * p - i * g - p for p, g in zip(params, grads)], state


class OneSample(l2l_tf.MetaGradient):
  """(c) Evolution strategies with one antithetic pair a window."""

  def __init__(self, stddev=0.01):
    self.stddev = stddev

  def __call__(self, problem, optimizer, *arguments):
    *window, objective, state, seed = arguments
    phi = optimizer.get_phi()
    noise = [seeds.normal(w.shape, k) for w, k in zip(phi, seeds.split(seed, len(phi)))]

    def run(scale):
      moved = optimizer.with_phi([w + scale * n for w, n in zip(phi, noise)])
      end, curve, seen = run_window(problem, moved, *window)
      return objective.of_curve(curve), end, seen

    slope = (run(self.stddev)[0] - run(-self.stddev)[0]) / (2 * self.stddev)
    return l2l_tf.Window([slope * n for n in noise], *run(0.0)), state


class HeldOut(l2l_tf.Problem):
  """(d) Least squares on 8 points, meta-trained for the loss on 64 others."""

  def init(self, seed):
    w, *x = (seeds.normal([n, 4], k) for n, k in zip((1, 8, 64), seeds.split(seed, 3)))
    return [tf.zeros([4, 1]), tf.zeros([1])], [(x, x @ tf.transpose(w)) for x in x]

  def __call__(self, params, constants, seed, part=0):
    x, y = constants[part]
    return tf.reduce_mean(tf.square(x @ params[0] + params[1] - y))

  def meta_loss(self, params, constants, seed):
    return self(params, constants, seed, part=1)
