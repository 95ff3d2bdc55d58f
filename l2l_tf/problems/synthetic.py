"""Problems that need no data: quadratics, polynomials, and sums of problems.

Andrychowicz et al. 2016, section 3.1, https://arxiv.org/abs/1606.04474. `Simple`,
`SimpleMulti` and the uniform quadratics are those of google-deepmind/learning-to-learn,
problems.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from l2l_tf import dtypes, seeds
from l2l_tf.problems.base import Parameter, Problem, draw

_QUADRATIC_DISTRIBUTIONS = ("normal", "uniform")


class Simple(Problem):
  """f(x) = x^2, starting at x = 1; one scalar parameter.

  >>> problem, seed = Simple(), tf.constant([0, 1])
  >>> params, constants = problem.init(seed)
  >>> float(problem(params, constants, seed))
  1.0
  """

  jit_compile = True

  def init(self, seed):
    return [tf.ones([])], []

  def __call__(self, params, constants, seed):
    return tf.square(params[0])


class SimpleMulti(Problem):
  """f(x) = x_0^2 + x_1^2, starting at x = (1, 1); two scalar parameters.

  >>> len(SimpleMulti().parameters())
  2
  """

  jit_compile = True

  def init(self, seed):
    return [tf.ones([]), tf.ones([])], []

  def __call__(self, params, constants, seed):
    return tf.add_n([tf.square(x) for x in params])


class Quadratic(Problem):
  """A batch of independent random quadratics, f(theta) = ||W theta - y||^2.

  Section 3.1 of the paper. The loss is the mean over the batch. The gradient of each
  quadratic is therefore divided by `batch_size`, as in the original code.

  >>> problem = Quadratic(batch_size=2, num_dims=3)
  >>> problem.parameters()
  [Parameter(path='theta', shape=(2, 3), role='variable')]
  >>> params, (w, y) = problem.init(tf.constant([0, 1]))
  >>> w.shape
  TensorShape([2, 3, 3])
  """

  jit_compile = True

  def __init__(
    self,
    batch_size: int = 128,
    num_dims: int = 10,
    distribution: str = "normal",
    stddev: float = 0.01,
    dtype: tf.DType = tf.float32,
  ):
    """Initializes the problem.

    Args:
      batch_size: how many independent quadratics one task consists of.
      num_dims: dimensions of theta.
      distribution: which distribution the entries of W and y are drawn from: "normal"
        is N(0, 1), as in the paper; "uniform" is U[0, 1), as in the original code.
      stddev: standard deviation of the initial theta, which is drawn from
        N(0, stddev^2).
      dtype: floating type of parameters, W, y and the loss.

    Raises:
      ValueError: for sizes below one or an unknown distribution.
    """
    if batch_size < 1 or num_dims < 1:
      raise ValueError(
        f"Quadratic got batch_size={batch_size} and num_dims={num_dims}; both"
        " must be at least 1."
      )
    if distribution not in _QUADRATIC_DISTRIBUTIONS:
      raise ValueError(
        f"Quadratic got distribution={distribution!r}; choose one of"
        f" {', '.join(_QUADRATIC_DISTRIBUTIONS)}."
      )
    self.batch_size = batch_size
    # A subclass may define a loss that is not a sum over independent tasks.
    self.num_tasks = batch_size if type(self) is Quadratic else 1
    self.num_dims = num_dims
    self._stddev = stddev
    self._dtype = dtype
    self._draw = seeds.normal if distribution == "normal" else seeds.uniform

  def init(self, seed):
    keys = seeds.split(seed, 3)
    shape = [self.batch_size, self.num_dims]
    w = self._draw([*shape, self.num_dims], keys[0], dtype=self._dtype)
    y = self._draw(shape, keys[1], dtype=self._dtype)
    theta = seeds.normal(shape, keys[2], self._stddev, self._dtype)
    return [theta], [w, y]

  def task_losses(self, params, constants, seed):
    (theta,), (w, y) = params, constants
    return tf.reduce_sum(tf.square(tf.linalg.matvec(w, theta) - y), axis=1)

  def __call__(self, params, constants, seed):
    # Not the mean over the given tasks: params may hold only some of them.
    return tf.reduce_sum(self.task_losses(params, constants, seed)) / self.batch_size

  def parameters(self):
    return [Parameter("theta", (self.batch_size, self.num_dims), "variable")]


class Polynomial(Problem):
  """Least-squares regression to a random polynomial.

  The coefficients of the target p(x) = sum_i c_i x^i are drawn from N(0, 1). The
  parameters are the coefficients of another polynomial, which is fitted to p: the loss
  is the mean squared difference on points x ~ U[-1, 1), drawn afresh in each step.

  >>> problem = Polynomial(num_coefficients=3)
  >>> params, (target,) = problem.init(tf.constant([0, 1]))
  >>> float(problem([target], [target], tf.constant([0, 2])))
  0.0
  """

  jit_compile = True

  def __init__(self, num_coefficients: int = 7, batch_size: int = 64):
    """Initializes the problem.

    Args:
      num_coefficients: number of coefficients, the polynomial's degree plus one.
      batch_size: number of points that each step draws.

    Raises:
      ValueError: if either is below one.
    """
    if num_coefficients < 1 or batch_size < 1:
      raise ValueError(
        f"Polynomial got num_coefficients={num_coefficients} and"
        f" batch_size={batch_size}; both must be at least 1."
      )
    self._num_coefficients = num_coefficients
    self._batch_size = batch_size

  def init(self, seed):
    target = seeds.normal([self._num_coefficients], seed)
    return [tf.zeros([self._num_coefficients])], [target]

  def __call__(self, params, constants, seed):
    (theta,), (target,) = params, constants
    x = 2.0 * seeds.uniform([self._batch_size, 1], seed) - 1.0
    powers = tf.pow(x, tf.range(self._num_coefficients, dtype=x.dtype))  # [B, C]
    return tf.reduce_mean(tf.square(tf.linalg.matvec(powers, theta - target)))

  def parameters(self):
    return [Parameter("coefficients", (self._num_coefficients,), "variable")]


class Ensemble(Problem):
  """A weighted sum of problems, optimized jointly by one optimizer.

  >>> problem = Ensemble([Simple(), Polynomial(3)], weights=[1.0, 0.5])
  >>> [parameter.path for parameter in problem.parameters()]
  ['problem_0/param_0', 'problem_1/coefficients']
  """

  def __init__(
    self, problems: Sequence[Problem], weights: Sequence[float] | None = None
  ):
    """Initializes the sum.

    Args:
      problems: the terms of the sum; their parameters are listed in this order.
      weights: one factor per problem; all ones by default.

    Raises:
      ValueError: if there are no problems, if there are more or fewer weights than
        problems, or if a weight is not finite.
    """
    weights = [1.0] * len(problems) if weights is None else list(weights)
    if not all(math.isfinite(w) for w in weights):
      raise ValueError(f"Ensemble got weights={weights}; they must be finite numbers.")
    if not problems or len(problems) != len(weights):
      raise ValueError(
        f"Ensemble got {len(problems)} problems and {len(weights)} weights; it"
        " needs at least one problem and one weight for each."
      )
    self.jit_compile = all(p.jit_compile for p in problems)
    self._problems = list(problems)
    self._weights = weights
    self._sizes = [len(p.parameters()) for p in problems]

  def init(self, seed):
    keys = seeds.split(seed, len(self._problems))
    drawn = [draw(p, key) for p, key in zip(self._problems, keys)]
    return [x for params, _ in drawn for x in params], [c for _, c in drawn]

  def __call__(self, params, constants, seed):
    return self._sum(lambda problem: problem, params, constants, seed)

  def meta_loss(self, params, constants, seed):
    return self._sum(lambda problem: problem.meta_loss, params, constants, seed)

  @property
  def has_meta_loss(self):
    return any(p.has_meta_loss for p in self._problems)

  def _sum(self, loss_of, params, constants, seed):
    keys = seeds.split(seed, len(self._problems))
    members = zip(self._problems, self._weights, self._split(params), constants, keys)
    return dtypes.add([w * loss_of(p)(x, c, s) for p, w, x, c, s in members])

  def project(self, params, constants):
    members = zip(self._problems, self._split(params), constants)
    return [x for problem, p, c in members for x in problem.project(p, c)]

  @property
  def is_constrained(self):
    return any(p.is_constrained for p in self._problems)

  def held_out(self, params, constants):
    members = zip(self._problems, self._split(params), constants)
    return {
      f"problem_{i}/{name}": value
      for i, (problem, x, c) in enumerate(members)
      for name, value in problem.held_out(x, c).items()
    }

  def data_sources(self):
    return [source for p in self._problems for source in p.data_sources()]

  def parameters(self):
    return [
      Parameter(f"problem_{i}/{p.path}", p.shape, p.role)
      for i, problem in enumerate(self._problems)
      for p in problem.parameters()
    ]

  def _split(self, params: list[tf.Tensor]) -> list[list[Any]]:
    rest = iter(params)
    return [[next(rest) for _ in range(size)] for size in self._sizes]


def quadratics(batch_size: int = 64) -> Ensemble:
  """Returns an `Ensemble` of both kinds of `Quadratic`, normal and uniform.

  >>> [parameter.shape for parameter in quadratics(batch_size=2).parameters()]
  [(2, 10), (2, 10)]

  Args:
    batch_size: quadratics of each kind.
  """
  kinds = ("normal", "uniform")
  return Ensemble([Quadratic(batch_size, distribution=kind) for kind in kinds])
