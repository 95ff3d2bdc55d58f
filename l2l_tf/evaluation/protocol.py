"""Learning curves under one protocol.

Learned and hand-designed optimizers run through the same unroll, on the same draws of
a problem, with the same mini-batches and number of steps. A baseline's learning rate
is selected on draws from another seed branch than the reported ones. Quasi-Newton
methods have no rate; each of their evaluations of the loss counts as a step.
"""

from collections.abc import Callable, Mapping, Sequence

import tqdm

from l2l_tf import optimizers, seeds
from l2l_tf.evaluation import quasi_newton, tuning
from l2l_tf.evaluation.baselines import BASELINES, LEARNING_RATES
from l2l_tf.evaluation.runner import Curves, Runner
from l2l_tf.meta.replicas import Replicas
from l2l_tf.problems import Problem

# A function of a learning rate, or what needs none.
Baseline = Callable[..., optimizers.Optimizer] | quasi_newton.Method


def compare(
  problem: Problem,
  learned: Mapping[str, optimizers.Optimizer],
  num_steps: int = 100,
  num_draws: int = 8,
  seed: int = 0,
  baselines: Mapping[str, Baseline] = BASELINES,
  num_tuning_draws: int = 8,
  learning_rates: Sequence[float] = LEARNING_RATES,
  replicas: Replicas | None = None,
) -> dict[str, Curves]:
  """Runs learned optimizers and tuned baselines on the same fresh draws.

  >>> learned = {"LSTM": CoordinatewiseLSTM((5,))}
  >>> curves = compare(
  ...   Quadratic(batch_size=4), learned, num_steps=5, num_draws=1,
  ...   baselines={"SGD": SGD}, learning_rates=[0.001, 0.1, 10.0], num_tuning_draws=1)
  >>> curves["LSTM"].losses.shape, curves["SGD"].learning_rate
  ((4, 6), 0.1)

  Args:
    problem: the distribution of tasks.
    learned: optimizers to run untuned, by name.
    num_steps: steps that every optimizer takes on each draw.
    num_draws: draws of the problem to report on. A draw of quadratics holds a whole
      batch of tasks, a draw of most other problems a single task.
    seed: seed of all draws; those for tuning come from another branch of it.
    baselines: functions of a learning rate, by name, each of which runs at the rate
      that has the lowest mean loss after the last step; also `quasi_newton.BFGS` and
      `LBFGS`, which have none.
    num_tuning_draws: draws on which each rate of the grid runs.
    learning_rates: the grid; a single rate is used without tuning.
    replicas: whose processes share out the draws; all get the same curves.

  Returns:
    `Curves` by name, the learned optimizers first: losses [num_tasks, num_steps + 1],
    held-out results, and the learning rate of a baseline.

  Raises:
    ValueError: for a count below one, a learning rate that is not positive and
      finite, a baseline that always diverges, or a problem that a quasi-Newton method
      cannot minimize.
  """
  for name, count in [
    ("num_steps", num_steps),
    ("num_draws", num_draws),
    ("num_tuning_draws", num_tuning_draws),
  ]:
    if count < 1:
      raise ValueError(f"{name}={count} must be at least 1.")
  if not learning_rates or not all(0 < r < float("inf") for r in learning_rates):
    raise ValueError(
      f"learning_rates={learning_rates} must be positive, finite numbers, at least one."
    )
  for method in baselines.values():
    if isinstance(method, quasi_newton.Method):
      quasi_newton.check(problem, method)
  curves, total = {}, len(learned) + len(baselines)
  is_shown = replicas is None or replicas.is_chief
  with tqdm.tqdm(total=total, desc="Evaluating", disable=not is_shown) as bar:
    for name, optimizer in learned.items():
      bar.set_postfix_str(name)
      runner = Runner(problem, optimizer, num_steps, replicas=replicas)
      curves[name] = runner(seed, seeds.EVALUATION, num_draws)
      bar.update()
    for name, baseline in baselines.items():
      if isinstance(baseline, quasi_newton.Method):
        bar.set_postfix_str(name)
        counts = num_steps, num_draws, seed, seeds.EVALUATION
        curves[name] = quasi_newton.run(problem, *counts, method=baseline)
      else:
        bar.set_postfix_str(f"tuning {name}")
        tuned = tuning.tune(
          problem,
          baseline,
          learning_rates,
          [num_steps],
          tuning.last_step_loss,
          num_draws=num_draws,
          num_tuning_draws=num_tuning_draws,
          seed=seed,
          replicas=replicas,
        )
        curves[name] = tuned[num_steps]
      bar.update()
  return curves
