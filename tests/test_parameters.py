"""How the kinds of tensors are told apart, with the names that Keras's layers give."""

import keras
import pytest
import sonnet as snt
import tensorflow as tf
from keras import layers as L

from l2l_tf.optimizers.parameters import Kind, role
from l2l_tf.problems import keras_variables

# Layer, the shape of its input -> by the variable's name: kind, and inputs and outputs.
LAYERS = {
  "dense": (L.Dense(5), (3,), {"kernel": (Kind.KERNEL, (3, 5)), "bias": Kind.VECTOR}),
  "conv": (
    L.Conv2D(6, 3),
    (8, 8, 4),
    {"kernel": (Kind.KERNEL, (36, 6)), "bias": Kind.VECTOR},
  ),
  "grouped": (L.Conv2D(6, 3, groups=2), (8, 8, 4), {"kernel": (Kind.KERNEL, (18, 6))}),
  "conv_1d": (L.Conv1D(6, 3), (8, 4), {"kernel": (Kind.KERNEL, (12, 6))}),
  "depthwise": (L.DepthwiseConv2D(3), (8, 8, 4), {"kernel": (Kind.FILTERS, (9, 4))}),
  "separable": (
    L.SeparableConv2D(6, 3),
    (8, 8, 4),
    {
      "depthwise_kernel": (Kind.FILTERS, (9, 4)),
      "pointwise_kernel": (Kind.KERNEL, (4, 6)),
    },
  ),
  "gru": (
    L.GRU(5),
    (7, 3),
    {
      "kernel": (Kind.KERNEL, (3, 15)),
      "recurrent_kernel": (Kind.RECURRENT, (5, 15)),
      "bias": Kind.VECTOR,
    },
  ),
  "batch_norm": (
    L.BatchNormalization(),
    (3,),
    {"gamma": Kind.VECTOR, "beta": Kind.VECTOR},
  ),
  "prelu": (L.PReLU(), (4, 4, 3), {"alpha": Kind.VECTOR}),
}


def variables_of(layer, shape):
  model = keras.Sequential([keras.Input(shape), layer])
  return keras_variables.parameters(model.trainable_variables)


@pytest.mark.parametrize("case", LAYERS)
def test_layers_of_keras(case):
  layer, shape, expected = LAYERS[case]
  found = {
    p.path.split("/")[-1]: role(p.shape, p.path) for p in variables_of(layer, shape)
  }
  for name, what in expected.items():
    kind, matrix = what if isinstance(what, tuple) else (what, None)
    assert found[name].kind == kind, name
    assert matrix in (None, found[name].matrix), name


def test_attention_maps_its_inputs_to_heads_and_back():
  x = keras.Input((7, 12))
  y = L.MultiHeadAttention(3, 5)(x, x)
  found = {
    "/".join(v.path.split("/")[-2:]): role(v.shape, v.path)
    for v in keras.Model(x, y).trainable_variables
  }
  for name in ("query", "key", "value"):
    assert found[f"{name}/kernel"].matrix == (12, 15)
    assert found[f"{name}/bias"].kind == Kind.VECTOR
  assert found["attention_output/kernel"].matrix == (15, 12)


def test_rows_of_an_embedding():
  (p,) = variables_of(L.Embedding(11, 4), (3,))
  assert role(p.shape, p.path) == (Kind.EMBEDDING, 4, (11, 4))


def test_variables_of_sonnet():
  linear, table = snt.Linear(4), snt.Embed(9, 3)
  linear(tf.zeros([1, 2]))
  found = [role(v.shape, v.name).kind for v in (linear.w, linear.b, table.embeddings)]
  assert found == [Kind.KERNEL, Kind.VECTOR, Kind.EMBEDDING]


def test_recurrent_kernels_of_sonnet():
  for make in (snt.GRU, snt.LSTM):
    core = make(5)
    core(tf.zeros([1, 3]), core.initial_state(1))
    found = {v.name: role(v.shape, v.name) for v in core.trainable_variables}
    kinds = {name.split("/")[-1][:-2]: r.kind for name, r in found.items()}
    assert kinds == {"w_i": Kind.KERNEL, "w_h": Kind.RECURRENT, "b": Kind.VECTOR}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (5,), (0, 3), (1, 1, 8)])
def test_single_numbers_empty_tensors_and_lone_rows_are_vectors(shape):
  assert role(shape).kind == Kind.VECTOR


def test_without_a_path_the_shape_decides():
  assert role((3, 4)).kind == Kind.KERNEL
  assert role((3, 3, 2, 4)).matrix == (18, 4)
