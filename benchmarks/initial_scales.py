"""Whether a learned optimizer bears nets that start too small or too large.

Every task of l2l-benchmark starts with all kernels multiplied by a scale. Prints the
train loss over the last tenth of the steps as a share of the first loss, and how many
of the trainings diverged: ended above their first loss, or at no number.
"""

import argparse
import logging
from concurrent import futures

import tqdm

from l2l_tf import cores, seeds
from l2l_tf.benchmark import contenders
from l2l_tf.benchmark.trials import Racer
from l2l_tf.optimizers.parameters import Kind, role
from l2l_tf.pretraining import cards
from l2l_tf.problems import KerasModel
from l2l_tf.problems.benchmark_tasks import BENCHMARK_TASKS
from l2l_tf.tables import aligned


class Scaled:
  """A problem whose kernels start as `scale` times what the model draws."""

  def __init__(self, problem: KerasModel, scale: float):
    self._problem, self._scale = problem, scale

  def __getattr__(self, name):
    return getattr(self._problem, name)

  def __call__(self, *args):
    return self._problem(*args)

  def init(self, seed):
    params, constants = self._problem.init(seed)
    kinds = [role(p.shape, p.path).kind for p in self._problem.parameters()]
    scale = lambda kind: 1.0 if kind == Kind.VECTOR else self._scale
    return [scale(k) * p for k, p in zip(kinds, params, strict=True)], constants


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--path", default="general", help="pretrained or exported")
  parser.add_argument("--scales", type=float, nargs="+", default=[0.1, 0.3, 1, 3, 10])
  parser.add_argument("--tasks", nargs="+", default=list(BENCHMARK_TASKS))
  parser.add_argument("--num_steps", type=int, default=300)
  parser.add_argument("--num_seeds", type=int, default=1)
  args = parser.parse_args()
  logging.getLogger("tensorflow").setLevel(logging.ERROR)  # of many functions
  contender = contenders.learned(cards.load(args.path))

  def run(case):
    task, scale = case
    problem = Scaled(BENCHMARK_TASKS[task](), scale)
    racer = Racer(task, problem, args.path, contender.make, args.num_steps)
    race = lambda seed: racer(args.num_steps, None, seeds.EVALUATION, seed)
    return [race(seed) for seed in range(args.num_seeds)]

  cases = [(task, scale) for task in args.tasks for scale in args.scales]
  with futures.ThreadPoolExecutor(cores.num_shards()) as pool:
    found = dict(zip(cases, tqdm.tqdm(pool.map(run, cases), total=len(cases))))
  share = lambda trials: max(t.last / t.first for t in trials)
  rows = [
    [task, *(f"{share(found[task, scale]):.2g}" for scale in args.scales)]
    for task in args.tasks
  ]
  print(
    aligned([["task", *(f"scale {s:g}" for s in args.scales)], *rows], has_rule=True)
  )
  diverged = sum(t.diverged for trials in found.values() for t in trials)
  print(f"{args.num_steps} steps; {diverged} of {len(cases) * args.num_seeds} diverged")


if __name__ == "__main__":
  main()
