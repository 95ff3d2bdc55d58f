"""The LSTM cell, its partial derivatives, and the step backwards through it.

Zaremba et al. 2014, equations 4-6 without dropout, https://arxiv.org/abs/1409.2329,
for one layer at step t:

    z   = W_x x_t + W_h h_{t-1} + b      (z_i, z_f, z_o, z_g stacked)
    i   = sigm(z_i)       f = sigm(z_f + 1)       o = sigm(z_o)       g = tanh(z_g)
    c_t = f c_{t-1} + i g
    h_t = o tanh(c_t)

The 1 that is added to z_f is the forget bias of Jozefowicz et al. 2015: a fresh cell
remembers. The product z is the caller's; everything here is elementwise.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

FORGET_BIAS = 1.0


class Activations(NamedTuple):
  """What one step of a layer computes between z and h_t, each [units, N]."""

  input: tf.Tensor  # i
  forget: tf.Tensor  # f
  output: tf.Tensor  # o
  candidate: tf.Tensor  # g
  tanh_c: tf.Tensor  # tanh(c_t)


class Derivatives(NamedTuple):
  """Partial derivatives of one layer's step, saved for the backward pass.

  Each [units, N]; c_i, for example, is the derivative of c_t with respect to z_i.
  """

  c_i: tf.Tensor
  c_f: tf.Tensor
  h_o: tf.Tensor
  c_g: tf.Tensor
  h_c: tf.Tensor  # of h_t with respect to c_t, at a fixed o
  c_c: tf.Tensor  # of c_t with respect to c_{t-1}


def sigmoid_by_tanh(x: tf.Tensor) -> tf.Tensor:
  """The sigmoid, equal to `tf.sigmoid` up to rounding.

  XLA computes a tanh in half the time of its own sigmoid. Without XLA this form takes
  three operations in place of one.
  """
  return 0.5 + 0.5 * tf.tanh(0.5 * x)


def forward(
  z: tf.Tensor,
  c: tf.Tensor,
  forget_bias: float = FORGET_BIAS,
  sigmoid: Callable[[tf.Tensor], tf.Tensor] = tf.sigmoid,
) -> tuple[tf.Tensor, tf.Tensor, Activations]:
  """One step of one layer, from z.

  Args:
    z: the gates before their non-linearities, [4 units, N], in the order i, f, o, g.
    c: c_{t-1}, [units, N].
    forget_bias: 0 if z has it already, because it was added to the biases.
    sigmoid: `tf.sigmoid` or `sigmoid_by_tanh`.

  Returns:
    h_t and c_t, each [units, N], and what `derivatives` needs.
  """
  z_i, z_f, z_o, z_g = tf.split(z, 4)
  i, f, o = sigmoid(z_i), sigmoid(z_f + forget_bias), sigmoid(z_o)
  g = tf.tanh(z_g)
  next_c = f * c + i * g
  tanh_c = tf.tanh(next_c)
  h = o * tanh_c
  return h, next_c, Activations(i, f, o, g, tanh_c)


def derivatives(activations: Activations, c: tf.Tensor) -> Derivatives:
  """The partial derivatives of a step from c_{t-1}; sigm' = s (1 - s), tanh' = 1 - t^2.

  Args:
    activations: of the step, from `forward`.
    c: c_{t-1}, [units, N].
  """
  i, f, o, g, tanh_c = activations
  return Derivatives(
    c_i=g * i * (1.0 - i),
    c_f=c * f * (1.0 - f),
    h_o=tanh_c * o * (1.0 - o),
    c_g=i * (1.0 - tf.square(g)),
    h_c=o * (1.0 - tf.square(tanh_c)),
    c_c=f,
  )


def backward(
  d_h: tf.Tensor, d_c: tf.Tensor, partial: Derivatives
) -> tuple[list[tf.Tensor], tf.Tensor]:
  """One step of one layer backwards, by the chain rule.

  Args:
    d_h: dL/dh_t, [units, N].
    d_c: dL/dc_t as far as it comes through c_{t+1}, [units, N].
    partial: the partial derivatives of the step.

  Returns:
    dL/dz_i, dL/dz_f, dL/dz_o and dL/dz_g, and dL/dc_{t-1}, each [units, N].
  """
  d_c = d_c + d_h * partial.h_c
  d_z = [d_c * partial.c_i, d_c * partial.c_f, d_h * partial.h_o, d_c * partial.c_g]
  return d_z, d_c * partial.c_c
