"""What `init` may return, and the sentence for what it may not."""

import collections

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from l2l_tf import seeds
from l2l_tf.evaluation.protocol import compare
from l2l_tf.meta import unroll
from l2l_tf.meta.trace_graph import trace_graph
from l2l_tf.meta.trainer import MetaTrainer
from l2l_tf.optimizers import SGD, RNNprop
from l2l_tf.problems import (
  Ensemble,
  Problem,
  ScaledLoss,
  ScaledParameters,
  TaskBatch,
  base,
)

W, B = np.ones([3], np.float32), np.float32(0.0)


class Own(Problem):
  """A bowl around (0, 1) whose `init` returns what it is told to."""

  def __init__(self, drawn):
    self._drawn = drawn

  def init(self, seed):
    return self._drawn

  def __call__(self, params, constants, seed):
    assert type(params) is list
    w, b = (tf.cast(p, tf.float32) for p in params)
    return tf.reduce_sum(w**2) + (b - 1.0) ** 2


def rnnprop():
  return RNNprop(())  # XLA compiles it the soonest.


def train(problem, **settings):
  trainer = MetaTrainer(problem, rnnprop(), num_steps=2, unroll_length=2, **settings)
  return trainer.train_episode(0)["losses"]


USES = {
  "train": train,
  "batch": lambda problem: train(problem, meta_batch_size=2),
  "compare": lambda p: compare(p, {"SGD": SGD(0.1)}, 2, 1, baselines={}),
  "trace_graph": lambda problem: trace_graph(problem, rnnprop(), 2),
  "parameters": lambda problem: problem.parameters(),
  "ensemble": lambda problem: train(Ensemble([problem])),
  "scaled loss": lambda problem: train(ScaledLoss(problem)),
  "scaled parameters": lambda problem: train(ScaledParameters(problem)),
  "task batch": lambda problem: train(TaskBatch(problem, 2)),
}

RIGHT = {
  "tuple": ((W, B), ()),
  "list of the result": [[W, B], []],
  "NumPy": ([W, B], {"a": [np.arange(3)]}),
  "tensors": ([tf.constant(W), tf.constant(B)], tf.constant([1.0])),
  "variables": ([tf.Variable(W), tf.Variable(B)], ()),
  "float64 and a number": ([W.astype(np.float64), 0.0], None),
}


@pytest.fixture(scope="module")
def expected():
  """How a training goes on parameters that are tensors."""
  return train(Own(RIGHT["tensors"]))


@pytest.mark.parametrize("name", RIGHT)
def test_lists_tuples_and_arrays_are_parameters(name, expected):
  np.testing.assert_allclose(train(Own(RIGHT[name])), expected, rtol=1e-5)
  assert USES["batch"](Own(RIGHT[name])).shape == (3,)
  params, constants = base.draw(Own(RIGHT[name]), seeds.make(0))
  assert type(params) is list and all(map(tf.is_tensor, params))
  assert all(map(tf.is_tensor, tf.nest.flatten(constants)))


def test_constants_are_none_or_anything():
  marks = "text", max, None, 3
  for given, expected in [(None, ()), (marks, marks), ([], [])]:
    task, _ = unroll.draw(Own(([W, B], given)), seeds.make(0))
    assert task.constants == expected


WRONG = {
  "a dict of 2": ({"w": W, "b": B}, ()),
  "parameters as a value of type Pair": (
    collections.namedtuple("Pair", "w b")(W, B),
    (),
  ),
  "parameter 1 as a list of 1;": ([W, [B]], ()),
  r"parameters as a tensor of shape \(3,\);": [tf.constant(W), B],
  "a list of 3 instead of a pair;": [W, B, B],
  "parameters as a value of type ndarray;": (W, ()),
  "None instead of a pair;": None,
  "parameter 1 of type int32;": ([W, 1], ()),
  "parameter 0 of type complex64;": ([W + 1j, B], ()),
  "parameter 1 of type string;": ([W, "b"], ()),
  "parameter 1 as None;": ([W, None], ()),
  "parameter 1 as a value of type object;": ([W, object()], ()),
  "no parameters;": ([], ()),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_anything_else_is_one_sentence(sentence):
  for use in ("train", "batch", "parameters"):
    with pytest.raises(ValueError, match=f"^Own.init returned .*{sentence}") as e:
      USES[use](Own(WRONG[sentence]))
    assert "must return (params, constants), where" in str(e.value)
    assert "\n" not in str(e.value) and str(e.value).endswith(".")


@pytest.mark.parametrize("use", USES)
def test_the_sentence_comes_wherever_a_task_is_drawn(use):
  with pytest.raises(ValueError, match=r"^Own\.init returned its parameters as a dict"):
    USES[use](Own(({"w": W, "b": B}, ())))


@pytest.mark.parametrize("constant", [None, "text", max])
def test_constants_that_cannot_be_stacked_are_named_in_a_batch(constant):
  sentence = "^Own.init returned the constant .*cannot be stacked.*meta_batch_size=1"
  with pytest.raises(ValueError, match=sentence):
    USES["batch"](Own(([W, B], [1.0, constant])))


_leaves = st.sampled_from([W, B, 1, None, "text"])
_nests = st.recursive(
  _leaves,
  lambda inner: st.one_of(
    st.lists(inner, max_size=3),
    st.lists(inner, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
  ),
  max_leaves=6,
)


@hypothesis.given(_nests)
def test_whatever_init_returns_is_a_list_of_floats_or_a_sentence(drawn):
  try:
    params, _ = base.draw(Own(drawn), seeds.make(0))
  except ValueError as e:
    assert str(e).startswith("Own.init returned ")
  else:
    assert params and type(params) is list
    assert all(p.dtype == tf.float32 for p in params)
