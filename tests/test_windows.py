"""Meta-gradients by window: their statistics, the choice of a length, the picture."""

import json

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.evaluation import plots, windows
from l2l_tf.meta.gradients import (
  PES,
  MetaGradient,
  TruncatedBPTT,
  Window,
  run_window,
)
from l2l_tf.meta.imitation import Imitation
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.optimizers import SGD, CoordinatewiseLSTM
from l2l_tf.problems import Problem, Quadratic

_RATE = 0.1


class Bowl(Problem):
  """x^2 from x = 1, in every episode."""

  jit_compile = True

  def init(self, seed):
    return [tf.ones([], tf.float64)], []

  def __call__(self, params, constants, seed):
    return tf.square(params[0])


def bowl(**arguments):
  optimizer = SGD(tf.Variable(_RATE, dtype=tf.float64))
  arguments = {"num_steps": 12, "lengths": [3, 6], "num_episodes": 2, **arguments}
  return windows.measure(Bowl(), optimizer, **arguments)


def derivative(step, length):
  """Of the window's sum of losses in the rate, with the gradients as constants."""
  theta = (1 - 2 * _RATE) ** np.arange(step, step + length + 1)
  moved = -np.cumsum(2 * theta)[:-1]  # of each theta after the first, per rate
  return np.sum(2 * theta[1:] * moved)


def test_each_place_has_the_meta_gradient_of_its_window():
  found = bowl()
  assert [(p.length, p.step) for p in found.places] == [
    (3, 0), (3, 3), (3, 6), (3, 9), (6, 0), (6, 6)
  ]  # fmt: skip
  for place in found.places:
    expected = abs(derivative(place.step, place.length))
    np.testing.assert_allclose(place.norm, expected, rtol=1e-6)
    # All episodes are the same.
    np.testing.assert_allclose(place.agreement, 1.0, rtol=1e-6)
    assert place.snr > 1e9


def test_the_tasks_are_those_of_the_seed():
  assert bowl() == bowl()


def test_the_meta_gradient_is_in_the_objective_s_units_and_its_norm_not_clipped():
  places = bowl(objective=MetaObjective(relative=True, clip_norm=0.1)).places
  for place in places:
    start = (1 - 2 * _RATE) ** (2 * place.step)
    expected = abs(derivative(place.step, place.length)) / start
    np.testing.assert_allclose(place.norm, expected, rtol=1e-6)


def draws(mean, deviation, episodes=5, repetitions=4000):
  rng = np.random.default_rng(0)
  shape = repetitions, episodes, len(mean)
  return mean + deviation * rng.normal(size=shape)


def test_statistics_are_unbiased():
  mean = np.array([3.0, -4.0, 0.0])
  products = [x @ x.T for x in draws(mean, 2.0)]
  signal = [windows._between(x) for x in products]
  error = np.std(signal) / np.sqrt(len(signal))
  assert abs(np.mean(signal) - 25.0) < 3 * error
  # The cosine of noise alone is zero on average.
  agreement = [windows._statistics(x)[0] for x in draws(0 * mean, 1.0)]
  assert abs(np.mean(agreement)) < 3 * np.std(agreement) / np.sqrt(len(agreement))
  agreement, snr = windows._statistics(draws(mean, 2.0, 2000, 1)[0])
  np.testing.assert_allclose(snr, 25 / (3 * 4), rtol=0.1)
  assert 0.5 < agreement < 1.0


def test_alignment_is_the_cosine_of_the_means_whatever_the_noise_in_common():
  one, other = np.array([2.0, 0.0, 0.0]), np.array([2.0, 2.0, 0.0])
  noise = draws(np.zeros([3]), 3.0, 3000, 1)[0]
  found = windows._alignment(one + noise, other + noise)
  np.testing.assert_allclose(found, np.sqrt(0.5), atol=0.05)
  assert windows._alignment(0 * noise, one + noise) == 0.0


def judged(**gradients):
  """A measurement of sums of meta-gradients [episodes, phi] by length, l5=..."""
  sums = {int(name[1:]): np.array(x, np.float64) for name, x in gradients.items()}
  return windows._judged(20, [], sums)


def test_biased_windows_lose_and_so_do_long_ones_that_are_no_better():
  up, right = [[0.0, 1.0]] * 4, [[1.0, 0.01]] * 4
  found = judged(l5=right, l10=up, l20=up)
  assert (found.reference, found.best) == (20, 10)
  assert found.reason.startswith("Windows of 10 steps, 1.00 and ")
  assert "2 meta-steps an episode: cosine to the meta-gradient of 20" in found.reason
  assert "better than those of 5 steps (0.01 and " in found.reason
  assert judged(l5=up, l10=up, l20=up).best == 5


def test_a_length_lost_in_noise_or_not_finite_is_no_reference():
  up, noise = [[0.0, 1.0]] * 4, [[1.0, 9.0], [-9.0, 1.0], [9.0, 0.0], [-1.0, -9.0]]
  assert judged(l5=up, l10=up, l20=noise).reference == 10
  explodes = [[0.0, 1.0], [np.inf, 0.0], [np.nan, 0.0], [0.0, 1.0]]
  found = judged(l5=up, l20=explodes)
  assert (found.reference, found.best) == (5, 5) and found.lengths[-1].score == 0.0
  found = judged(l5=noise, l20=noise)
  assert found.best == 5 and "no length has a meta-gradient that" in found.reason


def test_a_longer_window_sees_more_of_what_an_update_does():
  problem, optimizer = Quadratic(8, 5), CoordinatewiseLSTM((2,), output_scale=0.1)
  before = [v.numpy() for v in optimizer.trainable_variables]
  found = windows.measure(problem, optimizer, num_steps=40, num_episodes=4)
  for v, x in zip(optimizer.trainable_variables, before):
    np.testing.assert_array_equal(v, x)
  assert [x.length for x in found.lengths] == [5, 8, 20, 40]
  alignments = [x.alignment for x in found.lengths]
  assert alignments == sorted(alignments) and found.reference == 40
  header, rule, *lines = found.table().splitlines()
  assert header.split()[0] == "window" and set(rule) == {"-", " "}
  assert [line.split()[0].rstrip("*") for line in lines] == ["5", "8", "20", "40"]
  assert found.table().count("*") == 1


class Counting(MetaGradient):
  """One whose estimate is 1, 2, ... in the windows of an episode, drawn by its seed."""

  def init(self, problem, optimizer, seed, num_steps, unroll_length):
    return tf.zeros([], tf.float64)

  def __call__(self, problem, optimizer, task, carry, length, observe,
               objective=None, state=(), seed=None):  # fmt: skip
    assert seed.shape == [2]
    end, curve, observed = run_window(problem, optimizer, task, carry, length, observe)
    return Window([state + 1.0], objective.of_curve(curve), end, observed), state + 1.0


def test_an_estimator_of_ones_own_has_its_state_and_seed():
  places = bowl(meta_gradient=Counting()).places
  assert [p.norm for p in places] == [1.0, 2.0, 3.0, 4.0, 1.0, 2.0]


def test_what_is_imitated_counts_as_in_the_first_episode():
  # (1 - r)^2 / (1 + r^2) with r = rate / 0.05 in every step, whatever the trajectory.
  nothing = lambda curve: 0.0 * curve.losses[0]
  imitation = Imitation(SGD(0.05), weight=3.0, half_life=1.0)
  found = bowl(objective=MetaObjective(function=nothing, imitation=imitation))
  r = _RATE / 0.05
  slope = (2 * (r - 1) * (1 + r**2) - (r - 1) ** 2 * 2 * r) / (1 + r**2) ** 2
  for place in found.places:
    np.testing.assert_allclose(place.norm, 3 * slope / 0.05, rtol=1e-5)


def test_a_meta_batch_has_so_much_less_noise():
  noisy = np.random.default_rng(0).normal([0.0, 3.0], 1.0, [8, 2])
  one, many = (
    windows._judged(20, [], {10: noisy, 20: noisy}, size).lengths for size in (1, 100)
  )
  assert one[0].snr == many[0].snr and one[0].score < many[0].score <= 2.0


@pytest.mark.parametrize(
  "num_steps, lengths",
  [
    (3, [3]),
    (7, [7]),
    (2018, [2]),
    (100, [5, 10, 20, 50, 100]),
    (2000, [5, 8, 16, 40, 80, 200]),
  ],
)
def test_default_lengths_are_divisors_about_a_factor_of_two_apart(num_steps, lengths):
  assert windows.default_lengths(num_steps)[:6] == lengths


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"meta_gradient": PES()}, "PES has particles and episodes of its own"),
    ({"lengths": [3, 5]}, "num_steps=12 must be a positive multiple of"),
    ({"num_episodes": 1}, "num_episodes=1 must be at least 2"),
    ({"meta_gradient": TruncatedBPTT([0.0, 1.0])}, "has 2 weights, for windows of"),
  ],
)
def test_what_cannot_be_measured_is_one_sentence(arguments, message):
  with pytest.raises(ValueError, match=message):
    bowl(**arguments)


def test_every_window_is_a_brick_of_the_picture(tmp_path):
  found = bowl(meta_gradient=TruncatedBPTT(second_derivatives=True))
  found.write(tmp_path / "windows.csv")
  figure = plots.windows(tmp_path / "windows.csv", "Bowl")
  panels = figure.axes[:3]
  for axes in panels:
    bricks = [(p.get_x(), p.get_width()) for p in axes.patches]
    assert bricks == [(p.step, p.length) for p in found.places]
  plots.save(figure, tmp_path / "windows.png")
  assert (tmp_path / "windows.png").stat().st_size > 10_000
  (tmp_path / "windows.csv").write_text("length,step,norm,agreement,snr\r\n")
  with pytest.raises(ValueError, match="holds no numbers"):
    plots.windows(tmp_path / "windows.csv", "Bowl")


def test_a_run_measures_once_and_says_what_it_chose(forks, tmp_path):
  path = tmp_path / "run"
  flags = ["--problem=simple", "--num_epochs=2", "--num_steps=20"]
  flags += ["--unroll_length=auto", f"--save_path={path}"]
  ended = forks.run("train", *flags)
  assert ended.code == 0, ended.err
  length = json.loads((path / "config.json").read_text())["unroll_length"]
  assert f"\nWindows of {length} steps, " in ended.out and "alignment" in ended.out
  assert {"windows.csv", "windows.png"} <= {file.name for file in path.iterdir()}
  (path / "windows.csv").unlink()
  ended = forks.run("train", *flags)
  assert ended.code == 0 and "Already finished" in ended.out
  assert "Windows of" not in ended.out and not (path / "windows.csv").exists()


def test_a_directory_of_something_else_costs_no_measurement(forks, tmp_path):
  run = ["train", "--problem=simple", "--unroll_length=auto"]
  (tmp_path / "file").write_text("")
  forks.run(*run, f"--save_path={tmp_path}/file").assert_mistake("is a file")
  (tmp_path / "config.json").write_text("{")
  forks.run(*run, f"--save_path={tmp_path}").assert_mistake("config.json' is damaged")
  config = {"num_steps": 30, "unroll_length": 7}
  (tmp_path / "config.json").write_text(json.dumps(config))
  ended = forks.run(*run, f"--save_path={tmp_path}")
  ended.assert_mistake("belongs to a run of another configuration", "num_steps=30, now")
  assert "Measuring" not in str(ended.err)


def test_particles_have_no_window_to_choose(forks, tmp_path):
  flags = "--unroll_length=auto", "--meta_gradient=PES", f"--save_path={tmp_path}/run"
  ended = forks.run("train", *flags)
  ended.assert_mistake("PES has particles", "give a number as unroll_length")
  assert not (tmp_path / "run").exists()
