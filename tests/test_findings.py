"""Each rule on an optimizer that must set it off, and on one that must not."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.evaluation import diagnose, findings
from l2l_tf.optimizers import (
  COORDINATE,
  SGD,
  Adagrad,
  Adam,
  CoordinatewiseLSTM,
  Momentum,
  Optimizer,
)


class Rule(Optimizer):
  """Moves by a function of the gradient and the step, from 0."""

  coupling = COORDINATE
  config = {}

  def __init__(self, rule):
    super().__init__()
    self._rule = rule

  def initial_state(self, params):
    return tf.zeros([])

  def __call__(self, grads, state, params=None, loss=None):
    return [self._rule(g, state) for g in grads], state + 1.0


class Gates(Rule):
  """Has one gate that is saturated where gradients are huge."""

  def diagnostics(self, grads, state):
    huge = tf.cast(tf.abs(grads[0]) > 1.0, tf.float32)
    return {"lstm_1/input_gate": tf.reduce_mean(huge), "other": 1.0 + 0.0 * state}


def found(optimizer):
  """Findings by the name of their rule."""
  response, runs = diagnose.response(optimizer), diagnose.behaviour(optimizer)
  listed = findings.findings(response, runs)
  assert listed == sorted(listed, key=lambda f: not f.is_fault)
  assert all(f.text[0].isupper() and f.text.endswith(".") for f in listed)
  return {f.name: f for f in reversed(listed)}


def sign(g, t):
  return -0.01 * tf.sign(g)


def between(low, high):
  """Descends, but uphill where |g| is within the bounds."""
  inside = lambda g: tf.logical_and(tf.abs(g) > low, tf.abs(g) < high)
  return lambda g, t: tf.where(inside(g), -1.0, 1.0) * sign(g, t)


CASES = [
  (
    "not finite",
    lambda g, t: -g * tf.square(g) * tf.square(g),  # overflows above 4e7
    "Not finite at g from -1e+10 to -5.6e+07 and from 5.6e+07 to 1e+10.",
  ),
  (
    "not finite",
    lambda g, t: tf.where(t < 50.0, sign(g, t), np.nan),
    "Not finite in the runs zero, tiny, normal, huge, noise.",
  ),
  (
    "uphill",
    between(0.9, 1.1),
    "Moves uphill at its first step at g of -1 and of 1, and later at g of -1 and of",
  ),
  (
    "uphill",
    lambda g, t: tf.where(t < 10.0, 1.0, -1.0) * sign(g, t),
    "Moves uphill later at g from -1e+10 to -1e-10 and from 1e-10 to 1e+10.",
  ),
  ("downhill", sign, "Moves downhill at every |g| from 1e-10 to 1e+10."),
  (
    "downhill",
    lambda g, t: sign(g, t) + 0.1 * (tf.cast(tf.abs(g) < 1e-3, tf.float32)),
    "Moves downhill for both signs at |g| from 0.001 to 1e+10; scale the loss so that",
  ),
  (
    "dead",
    lambda g, t: tf.where(tf.abs(g) < 5e-4, 0.0, sign(g, t)),
    "Dead below |g| = 0.00056: its effect on the update is under 6e-08,",
  ),
  (
    "dead",
    lambda g, t: 0.01 + 0.0 * g,
    "Dead: no gradient has an effect on the update.",
  ),
  (
    "fades",
    lambda g, t: -g / (1.0 + tf.square(g)),
    "Fades above |g| = 1: the update is 0.5 there, and 1e-10 at 1e+10.",
  ),
  (
    "saturates",
    lambda g, t: -tf.clip_by_value(g, -3.0, 3.0),
    "Saturates above |g| = 3.2: whatever its size, the update is 3, within 10%.",
  ),
  (
    "slope",
    lambda g, t: -tf.sign(g) * tf.sqrt(tf.abs(g)),
    "From |g| = 0.0001 to 1 the update grows as |g|^0.50; Adam's grows",
  ),
  (
    "bias",
    lambda g, t: 0.00012 + sign(g, t),
    "Moves at zero gradient: 0.00012 per step, 0.012 in 100 steps; the gradient 0.01"
    " takes it 1 downhill.",
  ),
  (
    "stalls",
    lambda g, t: sign(g, t) * 0.9**t,
    "Comes to a halt at constant |g| = 0.01: its update in the last 10 of 100 steps is"
    " 7.6e-05 times that in the first 10.",
  ),
  (
    "stalls",
    lambda g, t: sign(g, t) * (1.0 - t / 60.0),
    "Turns uphill at constant |g| = 0.01: its update in the last 10 of 100 steps is -",
  ),
  (
    "drifts",
    lambda g, t: 0.01 - g,
    "Drifts: 100 steps of noise of deviation 0.01 move it by 0.98 on average, with a",
  ),
]


@pytest.mark.parametrize("name, rule, text", CASES)
def test_a_rule_is_set_off(name, rule, text):
  finding = found(Rule(rule))[name]
  assert finding.text.startswith(text)
  assert finding.is_fault == (name not in {"downhill", "saturates", "slope"})


def test_a_sound_optimizer_has_no_fault():
  assert set(found(Rule(sign))) == {"downhill", "saturates", "slope"}
  assert set(found(Adam())) == {"downhill", "saturates", "slope", "memory"}
  assert set(found(Rule(lambda g, t: -1e3 * g))) == {"downhill", "slope"}


def test_hand_designed_rules_are_as_textbooks_say():
  sgd = found(SGD(0.1))
  assert set(sgd) == {"dead", "downhill", "slope"}
  assert sgd["dead"].text.startswith("Dead below |g| = 1e-06:")
  assert "|g|^1.00" in sgd["slope"].text and "|g|^0.00" in found(Adam())["slope"].text
  assert "saturates" in found(Adagrad(0.1))


def test_momentum_is_told_from_its_absence_and_from_its_opposite():
  # Ten steps of mu = 0.9 add up to (1 - 0.9^11) / 0.1, and to (1 + 0.9^11) / 1.9.
  text = found(Momentum(0.1))["memory"].text
  assert text.startswith("Remembers, and gathers momentum: at |g| = 0.01 its update")
  assert "6.9 times the first after equal" in text and "0.69 times after" in text
  assert "memory" not in found(SGD(0.1))
  text = found(Momentum(0.1, momentum=-0.5))["memory"].text
  assert text.startswith("Remembers, and damps what repeats:")


def test_saturated_gates_are_told_and_nothing_else_that_is_diagnosed():
  text = found(Gates(sign))["gates"].text
  assert (
    text == "Its gates saturate at constant |g| = 1e+06: 100% of lstm_1/input_gate."
  )
  linear = CoordinatewiseLSTM((3,), "identity")  # its gates see 1e6 itself
  assert "at constant |g| = 1e+06: " in found(linear)["gates"].text
  assert "gates" not in found(CoordinatewiseLSTM((3,), "log_and_sign"))


@pytest.mark.parametrize(
  "name, rule",
  [
    ("saturates", lambda g, t: -tf.sign(g) * tf.abs(g) ** 0.05),
    ("fades", lambda g, t: -tf.sign(g) / (1.0 + 0.9 * tf.cast(tf.abs(g) > 1, g.dtype))),
    ("bias", lambda g, t: 0.00009 + sign(g, t)),
    ("stalls", lambda g, t: sign(g, t) / (1.0 + 0.05 * t)),
    ("drifts", lambda g, t: 0.0005 - g),
    ("slope", between(0.9, 1.1)),
  ],
)
def test_a_rule_is_not_set_off_by_less_than_its_threshold(name, rule):
  assert name not in found(Rule(rule))


def test_an_optimizer_that_is_nowhere_finite_is_one_finding():
  (finding,) = found(Rule(lambda g, t: g * np.nan)).values()
  assert finding.name == "not finite"


def test_runs_may_be_left_out():
  response = diagnose.response(SGD(0.1))
  names = [f.name for f in findings.findings(response, {})]
  assert names == ["dead", "downhill", "slope"]


@pytest.mark.parametrize("gradients", [[1.0], [-1.0, 0.0, 2.0], [1.0, 0.0, -1.0]])
def test_gradients_without_both_signs_are_refused(gradients):
  response = diagnose.response(SGD(0.1), gradients)
  with pytest.raises(ValueError, match="needs both signs of each magnitude"):
    findings.findings(response, {})
