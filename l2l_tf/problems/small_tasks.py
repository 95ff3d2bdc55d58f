"""Many small classifiers: a distribution to meta-train on, and held-out tasks.

Training tasks and held-out tasks belong to different families. Training uses the
digits, iris and wine data, with perceptrons of one to three hidden layers of at most 64
units, and networks with one or two convolutions. Held out are two further data sets
(breast_cancer and MNIST), deeper and wider perceptrons, a deeper convolutional network,
and problems that are not classification.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence

from l2l_tf.problems.base import Problem
from l2l_tf.problems.classification import FAN_IN, MLP, Classifier, ConvNet, mnist_mlp
from l2l_tf.problems.data import datasets
from l2l_tf.problems.scaled import ScaledLoss, ScaledParameters
from l2l_tf.problems.synthetic import Ensemble, Polynomial, Quadratic

_ACTIVATIONS = ("relu", "tanh", "sigmoid")
_DATA: Mapping[str, Callable[[], datasets.Dataset]] = {
  "digits": datasets.digits,
  "iris": lambda: datasets.table("iris"),
  "wine": lambda: datasets.table("wine"),
}
_DEPTHS, _WIDTHS = (1, 2, 3), (8, 16, 32, 64)
_FILTERS = ((8,), (4, 8))
_BATCH_SIZES = (16, 32, 64, 128)
_MAX_COORDINATES = 1_500  # in one network; they determine the cost of meta-training


def small_classifiers(num_tasks: int = 12, seed: int = 0) -> Problem:
  """Returns small networks on digits, iris and wine, trained by one optimizer.

  Every fourth network is convolutional. Data sets and activation functions alternate.
  Depth, width and batch size are drawn at random, and drawn again if the network has
  more than 1,500 parameters. The loss is the mean over the networks of cross-entropy
  divided by log(classes), its value for a uniform guess, so that data with more classes
  do not count more. A task is an initialisation, a scale for every parameter, and a
  scale for the loss.

  >>> problem = small_classifiers(num_tasks=2)
  >>> sorted({parameter.path.split("/")[0] for parameter in problem.parameters()})
  ['problem_0', 'problem_1']

  Args:
    num_tasks: number of networks.
    seed: determines the architectures.

  Raises:
    ValueError: if `num_tasks` is below one.
  """
  if num_tasks < 1:
    raise ValueError(
      f"small_classifiers got num_tasks={num_tasks}; it must be at least 1."
    )
  rng = random.Random(seed)
  nets = [_draw_small_net(i, rng) for i in range(num_tasks)]
  weights = [1.0 / (num_tasks * math.log(net.num_classes)) for net in nets]
  return ScaledLoss(ScaledParameters(Ensemble(nets, weights)))


def _draw_small_net(index: int, rng: random.Random) -> Classifier:
  while True:
    net = _draw_net(index, rng)
    if sum(math.prod(p.shape) for p in net.parameters()) <= _MAX_COORDINATES:
      return net


def _draw_net(index: int, rng: random.Random) -> Classifier:
  activation = _ACTIVATIONS[index % 3]
  batch_size = rng.choice(_BATCH_SIZES)
  if index % 4 == 3:
    filters = rng.choice(_FILTERS)
    return ConvNet(datasets.digits(), filters, activation, batch_size, FAN_IN)
  data = list(_DATA.values())[index % 4]
  layers = [rng.choice(_WIDTHS) for _ in range(rng.choice(_DEPTHS))]
  return MLP(data(), layers, activation, batch_size, FAN_IN)


def _table(layers: Sequence[int], activation: str, batch_size: int) -> MLP:
  data = datasets.table("breast_cancer")
  return MLP(data, layers, activation, batch_size, FAN_IN)


def _digits(layers: Sequence[int], activation: str, batch_size: int) -> MLP:
  return MLP(datasets.digits(), layers, activation, batch_size, FAN_IN)


# Name -> function that makes the task; no data are read before it is called.
HELD_OUT_TASKS: Mapping[str, Callable[[], Problem]] = {
  "breast_cancer, softmax regression": lambda: _table((), "relu", 64),
  "breast_cancer, 32 relu": lambda: _table((32,), "relu", 32),
  "breast_cancer, 2 x 32 tanh": lambda: _table((32, 32), "tanh", 64),
  "digits, 128 relu": lambda: _digits((128,), "relu", 128),
  "digits, 4 x 32 relu": lambda: _digits((32,) * 4, "relu", 64),
  "digits, 5 x 24 tanh": lambda: _digits((24,) * 5, "tanh", 32),
  "digits, 3 convolutions": lambda: ConvNet(datasets.digits(), (8, 16, 32)),
  "MNIST, 20 sigmoid": mnist_mlp,
  "MNIST, 2 x 20 relu": lambda: MLP(datasets.mnist(), (20, 20), "relu", 64, FAN_IN),
  "polynomials": Polynomial,
  "quadratics": lambda: Quadratic(batch_size=16),
}
