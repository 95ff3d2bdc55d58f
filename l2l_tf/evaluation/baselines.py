"""The baselines: hand-designed optimizers, with grids of learning rates to tune on.

A baseline is a function of a learning rate. How many rates can be tried depends on how
long each of them runs, so there is a grid for each purpose.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from l2l_tf import optimizers
from l2l_tf.pretraining import cards

BASELINES = {
  "SGD": optimizers.SGD,
  "momentum": optimizers.Momentum,
  "Nesterov": optimizers.Nesterov,
  "RMSprop": optimizers.RMSprop,
  "Adagrad": optimizers.Adagrad,
  "Adam": optimizers.Adam,
}


def _grid(first: float, last: float, num: int) -> tuple[float, ...]:
  """Returns `num` rates at equal ratios, from 10^first to 10^last."""
  return tuple(float(rate) for rate in np.logspace(first, last, num))


# For all baselines of a comparison: four rates per decade. The range is wide because
# the gradients of `Quadratic` are divided by its batch size.
LEARNING_RATES = _grid(-4, 2, 25)

# For cards: three rates per decade of a narrower range, as each rate runs for
# thousands of steps on every held-out task. Rules that normalise the gradient make
# updates about as large as the rate. Momentum's are proportional to the gradient, and
# with mu = 0.9 about ten of them add up.
NORMALISED_RATES = _grid(-3, 0, 10)
MOMENTUM_RATES = _grid(-2, 1, 10)


_NORMALISED = ("RMSprop", "Adagrad", "Adam")


class CardBaseline(NamedTuple):
  """One column of a card's table."""

  name: str  # in `BASELINES`
  learning_rates: Sequence[float]  # a single one is not tuned


CARD_BASELINES = {
  cards.TUNED_ADAM: CardBaseline("Adam", NORMALISED_RATES),
  "momentum": CardBaseline("momentum", MOMENTUM_RATES),
  "RMSprop": CardBaseline("RMSprop", NORMALISED_RATES),
  cards.DEFAULT_ADAM: CardBaseline("Adam", (0.001,)),
}


def start_of_search(name: str, per_decade: int) -> tuple[float, ...]:
  """Returns rates from which the search for a baseline's best rate sets out.

  They span two decades. `tuning.tune` goes on beyond them while the best one lies at an
  end, so that few rates do for long runs.

  >>> from l2l_tf.evaluation import baselines
  >>> [round(rate, 4) for rate in baselines.start_of_search("Adam", 2)]
  [0.001, 0.0032, 0.01, 0.0316, 0.1]

  Args:
    name: in `BASELINES`.
    per_decade: rates per decade.
  """
  first = -3 if name in _NORMALISED else -2
  return _grid(first, first + 2, 2 * per_decade + 1)
