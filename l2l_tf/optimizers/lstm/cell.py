"""The LSTM cell: one step forwards, its partial derivatives, and one step backwards.

Zaremba et al. 2014, equations 4-6 without dropout, https://arxiv.org/abs/1409.2329,
for one layer at step t:

    z   = W_x x_t + W_h h_{t-1} + b      (z_i, z_f, z_o, z_g stacked, as in the paper)
    i   = sigm(z_i)       f = sigm(z_f + 1)       o = sigm(z_o)       g = tanh(z_g)
    c_t = f c_{t-1} + i g
    h_t = o tanh(c_t)

The 1 that is added to z_f is the forget bias of Jozefowicz et al. 2015: with fresh
weights, the cell keeps most of its content. The caller computes z, for all gates in one
matrix product; everything here is elementwise.
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

  Each [units, N]; c_i, for example, is the derivative of c_t with respect to z_i. They
  are six arrays, as are the five activations and c_{t-1} from which they are computed;
  saving the derivatives leaves only products and sums to the backward pass.
  """

  c_i: tf.Tensor
  c_f: tf.Tensor
  h_o: tf.Tensor
  c_g: tf.Tensor
  h_c: tf.Tensor  # derivative of h_t with respect to c_t, for a fixed o
  c_c: tf.Tensor  # derivative of c_t with respect to c_{t-1}


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
    forget_bias: what to add to z_f; 0 if the biases in z include it already.
    sigmoid: `tf.sigmoid` or `sigmoid_by_tanh`.

  Returns:
    h_t and c_t, each [units, N], and the activations that `derivatives` needs.
  """
  z_i, z_f, z_o, z_g = tf.split(z, 4)
  i, f, o = sigmoid(z_i), sigmoid(z_f + forget_bias), sigmoid(z_o)
  g = tf.tanh(z_g)
  next_c = f * c + i * g
  tanh_c = tf.tanh(next_c)
  h = o * tanh_c
  return h, next_c, Activations(i, f, o, g, tanh_c)


def derivatives(activations: Activations, c: tf.Tensor) -> Derivatives:
  """Returns a step's partial derivatives; sigm' = s (1 - s) and tanh' = 1 - t^2.

  Args:
    activations: the step's activations, from `forward`.
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
    d_c: the part of dL/dc_t that comes through c_{t+1}, [units, N].
    partial: the partial derivatives of the step.

  Returns:
    dL/dz_i, dL/dz_f, dL/dz_o and dL/dz_g, and dL/dc_{t-1}, each [units, N].
  """
  d_c = d_c + d_h * partial.h_c
  d_z = [d_c * partial.c_i, d_c * partial.c_f, d_h * partial.h_o, d_c * partial.c_g]
  return d_z, d_c * partial.c_c
