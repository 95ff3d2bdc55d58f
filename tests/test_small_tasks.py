import math

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf import seeds
from l2l_tf.meta import unroll
from l2l_tf.optimizers import SGD
from l2l_tf.problems import (
  HELD_OUT_TASKS,
  MLP,
  ConvNet,
  DatasetUnavailableError,
  Ensemble,
  small_classifiers,
  small_tasks,
)
from l2l_tf.problems.classification import Classifier
from l2l_tf.problems.data import datasets


def nets(monkeypatch, num_tasks, seed=0):
  """The members of an ensemble, and their weights."""
  made = {}

  def ensemble(members, weights):
    made.update(members=members, weights=weights)
    return Ensemble(members, weights)

  monkeypatch.setattr(small_tasks, "Ensemble", ensemble)
  small_classifiers(num_tasks, seed)
  return made["members"], made["weights"]


def held_out(name):
  try:
    return HELD_OUT_TASKS[name]()
  except DatasetUnavailableError as e:
    pytest.skip(str(e))


def data_of(net):
  return net._dataset.train_images.shape.as_list()


def kernels(net):
  return [p.shape for p in net.parameters() if p.role == "kernel"]


def architecture(net):
  return type(net), net._activation, net._batch_size, kernels(net), data_of(net)


def test_a_seed_names_the_architectures(monkeypatch):
  first, again, other = (
    [architecture(net) for net in nets(monkeypatch, 8, seed)[0]] for seed in (0, 0, 1)
  )
  assert first == again
  assert first != other


def test_the_nets_are_varied_and_small(monkeypatch):
  members, _ = nets(monkeypatch, 48)
  mlps = [net for net in members if isinstance(net, MLP)]
  convolutional = [net for net in members if isinstance(net, ConvNet)]
  assert len(convolutional) == 12
  assert {len(kernels(net)) - 1 for net in mlps} == {1, 2, 3}
  assert {len(kernels(net)) - 1 for net in convolutional} == {1, 2}
  hidden = {width for net in mlps for _, width in kernels(net)[:-1]}
  assert hidden == {8, 16, 32, 64}
  assert {net._batch_size for net in members} == {16, 32, 64, 128}
  for kind in (mlps, convolutional):
    assert len({net._activation for net in kind}) == 3
  assert len({tuple(data_of(net)) for net in mlps}) == 3
  sizes = [sum(np.prod(p.shape) for p in net.parameters()) for net in members]
  assert max(sizes) <= 1_500
  default = sum(np.prod(p.shape) for p in small_classifiers().parameters())
  assert default < 20_000


def test_no_net_counts_more_for_having_more_classes(monkeypatch):
  """A guess costs log(num_classes), which the weights turn into one for all."""
  members, weights = nets(monkeypatch, 8)
  guesses = [w * math.log(net.num_classes) for net, w in zip(members, weights)]
  np.testing.assert_allclose(guesses, 1 / 8)
  problem = small_classifiers(8)
  params, constants = problem.init(seeds.make(0))
  zeros = [tf.zeros_like(p) for p in params]
  (loss,) = problem.task_losses(zeros, constants, seeds.make(1))
  np.testing.assert_allclose(loss, 1.0, rtol=1e-5)


def test_a_draw_has_its_own_scale_and_a_common_unit_of_report():
  problem = small_classifiers(4)
  ratios, reported = [], []
  for i in range(6):
    params, constants = problem.init(seeds.make(0, i))
    (loss,) = problem.task_losses(params, constants, seeds.make(1))
    reported.append(float(loss))
    ratios.append(float(problem(params, constants, seeds.make(1)) / loss))
  assert max(ratios) / min(ratios) > 10
  assert max(reported) / min(reported) < 3


def test_what_is_held_out_is_disjoint_from_what_trains(monkeypatch):
  """No held-out net could have been drawn: by data, kind, depth or width."""
  members, _ = nets(monkeypatch, 48)
  data = {tuple(data_of(net)) for net in members}
  deepest = {kind: 0 for kind in (MLP, ConvNet)}
  for net in members:
    deepest[type(net)] = max(deepest[type(net)], len(kernels(net)))
  widest = max(shape[-1] for net in members for shape in kernels(net))
  for name in HELD_OUT_TASKS:
    if name.startswith("MNIST"):  # a data set that training does not know
      continue
    problem = held_out(name)
    if isinstance(problem, Classifier) and tuple(data_of(problem)) in data:
      assert (
        len(kernels(problem)) > deepest[type(problem)]
        or max(shape[-1] for shape in kernels(problem)) > widest
      ), name
  trained_on = {tuple(datasets.table(n).train_images.shape) for n in ("iris", "wine")}
  assert data == trained_on | {tuple(datasets.digits().train_images.shape)}


@pytest.mark.parametrize("name", HELD_OUT_TASKS)
def test_a_held_out_task_starts_with_a_finite_loss_and_gradient(name):
  problem = held_out(name)
  _, carry = unroll.start(problem, SGD(0.1), seeds.make(0))
  assert 0 < carry.loss < 100
  assert all(np.isfinite(g).all() and np.any(g != 0) for g in carry.grads[-1:])
  assert sum(p.shape.num_elements() for p in carry.params) < 20_000


def test_no_tasks_are_refused():
  with pytest.raises(
    ValueError, match=r"small_classifiers got num_tasks=0; it must be"
  ):
    small_classifiers(0)
