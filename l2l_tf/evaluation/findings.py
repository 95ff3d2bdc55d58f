"""Rules that turn the measurements of `diagnose` into sentences.

An update u(g) has two parts at each magnitude of the gradient: the signal
(u(-g) - u(g)) / 2, positive where the update goes downhill, and the bias
(u(-g) + u(g)) / 2, which moves the parameter whatever the gradient's sign. Where the
bias is larger, the update for one of the two signs goes uphill.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from l2l_tf.evaluation.diagnose import HUGE, NORMAL, TINY, Response, Run

BIAS = 0.01  # movement at zero gradient, as a share of that at the normal gradient
RESOLUTION = 2.0**-24  # an update this small does not change a float32 weight of size 1
FADED = 0.5  # signal at the largest gradient, as a share of its maximum
FLAT = 1.1  # ratio of largest to smallest signal of a saturated response ...
FLAT_SPAN = 10.0  # ... over a range of |g| of at least this ratio
SLOPE_RANGE = 1e-4, 1.0  # gradients between which the exponent is measured
MEMORY = 1.5  # ratio of the signals after equal and after alternating gradients
STALLED = 0.1  # signal of the last tenth of a run, as a share of the first tenth's
DRIFT = 1.0  # mean of the totals under noise, in their standard deviations
SATURATED = 0.5  # share of a layer's gates that are within 0.05 of 0 or of 1

_CONSTANT = {"tiny": TINY, "normal": NORMAL, "huge": HUGE}


class Finding(NamedTuple):
  """One thing to know about an optimizer."""

  name: str  # of the rule
  is_fault: bool  # whether it can keep an optimizer from learning
  text: str


class _Signs(NamedTuple):
  """The finite part of a response, by ascending gradient magnitude; each [M]."""

  magnitudes: np.ndarray
  first: np.ndarray  # signal
  constant: np.ndarray  # signal
  alternating: np.ndarray  # signal
  downhill: np.ndarray  # bool: both signs go downhill, first and after equal gradients

  def nearest(self, magnitude: float) -> int:
    return int(np.abs(np.log(self.magnitudes / magnitude)).argmin())


def findings(response: Response, runs: Mapping[str, Run]) -> list[Finding]:
  """Applies every rule; the constants of this module are the thresholds.

  Args:
    response: from `diagnose.response`, on gradients like `diagnose.GRADIENTS`:
      ascending, zero in the middle, both signs of each magnitude.
    runs: from `diagnose.behaviour`.

  Returns:
    The findings, faults first.

  Raises:
    ValueError: if the gradients do not have this form.
  """
  g = response.gradients
  if len(g) < 3 or not np.array_equal(g, -g[::-1]) or not (np.diff(g) > 0).all():
    raise ValueError(
      "findings needs both signs of each magnitude, ascending, with zero between them;"
      " give response the gradients diagnose.GRADIENTS."
    )
  found = [*_not_finite(response, runs), *_uphill(response)]
  signs, runs = _by_magnitude(response), _finite(runs)
  if len(signs.magnitudes):
    for rule in _downhill, _dead, _fades, _saturates, _slope, _memory:
      found += rule(signs)
  for rule in _bias, _stalls, _drifts, _gates:
    found += rule(runs)
  return sorted(found, key=lambda finding: not finding.is_fault)


def _not_finite(response: Response, runs: Mapping[str, Run]) -> Iterator[Finding]:
  finite = np.isfinite(response[1:]).all(axis=0)
  lost = [name for name, run in runs.items() if not np.isfinite(run.updates).all()]
  where = [] if finite.all() else [f"at g {_ranges(response.gradients, ~finite)}"]
  where += [f"in the runs {', '.join(lost)}"] if lost else []
  if where:
    yield _fault("not finite", f"Not finite {' and '.join(where)}.")


def _uphill(response: Response) -> Iterator[Finding]:
  where = []
  curves = {"at its first step": response.first, "later": response.constant}
  for when, curve in curves.items():
    wrong = np.sign(curve) * np.sign(response.gradients) > 0
    where += (
      [f"{when} at g {_ranges(response.gradients, wrong)}"] if wrong.any() else []
    )
  if where:
    yield _fault("uphill", f"Moves uphill {', and '.join(where)}.")


def _downhill(signs: _Signs) -> Iterator[Finding]:
  where = _ranges(signs.magnitudes, signs.downhill)
  if signs.downhill.all():
    yield _note("downhill", f"Moves downhill at every |g| {where}.")
  elif signs.downhill.any():
    yield _note(
      "downhill",
      f"Moves downhill for both signs at |g| {where}; scale the loss so that gradients"
      " lie there.",
    )


def _dead(signs: _Signs) -> Iterator[Finding]:
  alive = np.maximum(np.abs(signs.first), np.abs(signs.constant)) > RESOLUTION
  if not alive.any():
    yield _fault("dead", "Dead: no gradient has an effect on the update.")
  elif not alive[0]:
    yield _fault(
      "dead",
      f"Dead below |g| = {signs.magnitudes[alive.argmax()]:.2g}: its effect on the"
      f" update is under {RESOLUTION:.0e}, too small to change a weight of size 1.",
    )


def _fades(signs: _Signs) -> Iterator[Finding]:
  peak = int(signs.constant.argmax())
  last, most = signs.constant[[-1, peak]]
  if most > RESOLUTION and 0 <= last < FADED * most:
    yield _fault(
      "fades",
      f"Fades above |g| = {signs.magnitudes[peak]:.2g}: the update is {most:.2g} there,"
      f" and {last:.2g} at {signs.magnitudes[-1]:.2g}.",
    )


def _saturates(signs: _Signs) -> Iterator[Finding]:
  from_top = signs.constant[::-1]
  low, high = np.minimum.accumulate(from_top), np.maximum.accumulate(from_top)
  flat = (low > RESOLUTION) & (high <= FLAT * low)
  if not flat.any():
    return
  edge = signs.magnitudes[-flat.sum()]
  if signs.magnitudes[-1] >= FLAT_SPAN * edge:
    yield _note(
      "saturates",
      f"Saturates above |g| = {edge:.2g}: whatever its size, the update is"
      f" {from_top[0]:.2g}, within {FLAT - 1:.0%}.",
    )


def _slope(signs: _Signs) -> Iterator[Finding]:
  ends = [signs.nearest(g) for g in SLOPE_RANGE]
  (small, large), (begin, end) = signs.magnitudes[ends], signs.constant[ends]
  if small < large and min(begin, end) > 0:
    exponent = round(np.log(end / begin) / np.log(large / small), 2) + 0.0  # no -0.0
    yield _note(
      "slope",
      f"From |g| = {small:.2g} to {large:.2g} the update grows as |g|^{exponent:.2f};"
      " Adam's grows as |g|^0, SGD's as |g|^1.",
    )


def _memory(signs: _Signs) -> Iterator[Finding]:
  at = signs.nearest(NORMAL)
  first, equal, changing = (curve[at] for curve in signs[1:4])
  if min(first, equal) > 0 and not 1 / MEMORY <= changing / equal <= MEMORY:
    kind = "damps what repeats" if changing > equal else "gathers momentum"
    yield _note(
      "memory",
      f"Remembers, and {kind}: at |g| = {signs.magnitudes[at]:.2g} its update is"
      f" {equal / first:.2g} times the first after equal gradients,"
      f" {changing / first:.2g} times after alternating ones.",
    )


def _bias(runs: Mapping[str, Run]) -> Iterator[Finding]:
  zero, normal = runs.get("zero"), runs.get("normal")
  if zero is None or normal is None:
    return
  total, signal = zero.totals[-1, 0], _signal(normal).sum()
  if np.abs(total) > BIAS * np.abs(signal):
    count = len(zero.updates)
    yield _fault(
      "bias",
      f"Moves at zero gradient: {total / count:.2g} per step, {total:.2g} in {count}"
      f" steps; the gradient {NORMAL:g} takes it {signal:.2g} downhill.",
    )


def _stalls(runs: Mapping[str, Run]) -> Iterator[Finding]:
  for name in "normal", "huge":
    signal = _signal(runs[name]) if name in runs else np.zeros(1)
    tenth = -(-len(signal) // 10)
    head, tail = signal[:tenth].mean(), signal[-tenth:].mean()
    if head > RESOLUTION and tail < STALLED * head:
      yield _fault(
        "stalls",
        f"{'Turns uphill' if tail < 0 else 'Comes to a halt'} at constant |g| ="
        f" {_CONSTANT[name]:g}: its update in the last {tenth} of {len(signal)} steps"
        f" is {tail / head:.2g} times that in the first {tenth}.",
      )


def _drifts(runs: Mapping[str, Run]) -> Iterator[Finding]:
  totals = runs["noise"].totals if "noise" in runs else np.zeros([1, 1])
  mean, spread = totals[-1].mean(), totals[-1].std()
  if np.abs(mean) > max(DRIFT * spread, RESOLUTION):
    yield _fault(
      "drifts",
      f"Drifts: {len(totals)} steps of noise of deviation {NORMAL:g} move it by"
      f" {mean:.2g} on average, with a deviation of only {spread:.2g}.",
    )


def _gates(runs: Mapping[str, Run]) -> Iterator[Finding]:
  for name, value in _CONSTANT.items():
    shares = runs[name].diagnostics.items() if name in runs else []
    stuck = [f"{v:.0%} of {k}" for k, v in shares if "gate" in k and v > SATURATED]
    if stuck:
      where = f"at constant |g| = {value:g}"
      yield _fault("gates", f"Its gates saturate {where}: {', '.join(stuck)}.")


def _fault(name: str, text: str) -> Finding:
  return Finding(name, True, text)


def _note(name: str, text: str) -> Finding:
  return Finding(name, False, text)


def _signal(run: Run) -> np.ndarray:
  """Returns the signal of each step of a run with constant gradients; [T]."""
  return (run.updates[:, 1] - run.updates[:, 0]) / 2


def _by_magnitude(response: Response) -> _Signs:
  middle = len(response.gradients) // 2
  fold = lambda x: (x[:middle][::-1], x[middle + 1 :])  # of -g and of g
  finite = np.logical_and(*fold(np.isfinite(response[1:]).all(axis=0)))
  magnitudes = response.gradients[middle + 1 :][finite]
  signals, downhill = [], np.ones(len(magnitudes), bool)
  for curve in response[1:]:
    minus, plus = (side[finite] for side in fold(curve))
    signals.append((minus - plus) / 2)
    if curve is not response.alternating:  # Momentum may still go the other way.
      downhill &= (minus > 0) & (plus < 0)
  return _Signs(magnitudes, *signals, downhill)


def _finite(runs: Mapping[str, Run]) -> dict[str, Run]:
  return {k: run for k, run in runs.items() if np.isfinite(run.updates).all()}


def _ranges(values: np.ndarray, mask: np.ndarray) -> str:
  """Describes the values where `mask` is true, e.g. "from 1e-10 to 0.1 and of 10"."""
  edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
  texts = []
  for begin, end in zip(values[edges[::2]], values[edges[1::2] - 1]):
    texts.append(
      f"of {begin:.2g}" if begin == end else f"from {begin:.2g} to {end:.2g}"
    )
  return " and ".join(texts)
