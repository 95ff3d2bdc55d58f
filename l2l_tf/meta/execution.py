"""How an optimizer is run, given its traits, sizes and the machine.

Decided here alone, for meta-training and for Keras: which tasks share a call, which
parts run side by side, how coordinates are cut into blocks, what XLA compiles. It
changes results by rounding at most.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from l2l_tf import cores
from l2l_tf.meta import unroll
from l2l_tf.meta.objective import MetaObjective
from l2l_tf.optimizers import ALL, COORDINATE, LOSS, Blocked, Optimizer
from l2l_tf.optimizers.compiled import Compiled
from l2l_tf.optimizers.parts import Divisible, InParts
from l2l_tf.optimizers.stacked import Stacked
from l2l_tf.optimizers.wrapper import Wrapper
from l2l_tf.problems import Problem, TaskBatch

_BLOCK = 1 << 13  # coordinates; the fastest of 2^12 to 2^14 on two cores
_MOST_IN_A_PROGRAM = 8  # blocks, each of which XLA compiles
_MOST_IN_A_CALL = 1 << 15  # coordinates of lanes that are vectorised together
_MIN_GROUP = 256  # coordinates; fewer do not repay a compiled call of their own


class Group(NamedTuple):
  """Tasks that run in one call."""

  problem: Problem
  task: unroll.Task
  params: list[tf.Tensor]  # theta_0


def prepared(problem: Problem, optimizer: Optimizer) -> Optimizer:
  """Returns the optimizer as it is to be run on a problem.

  One that distinguishes parameters is told which ones the problem has; others are not:
  to describe its parameters a problem may have to draw some. One that couples all
  coordinates moves each of a problem's independent tasks by itself.
  """
  if optimizer.distinguishes_parameters:
    return optimizer.with_parameters(problem.parameters())
  couples_tasks = problem.num_tasks > 1 and optimizer.coupling == ALL
  return Stacked(optimizer) if couples_tasks and _can_stack(optimizer) else optimizer


def compiles_loop(problem: Problem, optimizer: Optimizer) -> bool:
  """Whether XLA compiles the whole inner loop as one program."""
  return problem.jit_compile and optimizer.jit_compile


def compiled_loop(problem: Problem, optimizer: Optimizer, run: Callable) -> Callable:
  """Returns `run`, the inner loop, compiled where that is possible."""
  if not compiles_loop(problem, optimizer):
    return run
  return tf.function(run, jit_compile=True, autograph=False)


def blocked(optimizer: Optimizer, size: int | None, num_coordinates: int) -> Optimizer:
  """Wraps an optimizer in blocks, or in parts, if it can be cut at all.

  Args:
    optimizer: any.
    size: the most coordinates of a block; None for one block.
    num_coordinates: of all parameters.
  """
  if optimizer.coupling == COORDINATE:
    return Blocked(optimizer, size)
  can_be_cut = isinstance(optimizer, Divisible) and optimizer.jit_compile
  if not can_be_cut or size is None or num_coordinates <= size or cores.on_gpu():
    return optimizer
  rounds = -(-num_coordinates // (size * cores.num_shards()))
  return InParts(optimizer, rounds * cores.num_shards())


def arranged(
  problem: Problem,
  optimizer: Optimizer,
  params: list[tf.Tensor],
  is_compiled: bool = False,
) -> Optimizer:
  """Wraps an optimizer so that its step is compiled, and cut into blocks.

  Args:
    problem: what it is run on.
    optimizer: any.
    params: the parameters that it moves.
    is_compiled: whether XLA compiles the whole episode.
  """
  whole = compiles_loop(problem, optimizer)
  running = optimizer
  if optimizer.jit_compile and not whole:
    running = Compiled(optimizer)
  is_known = all(p.shape.is_fully_defined() for p in params)
  if optimizer.coupling != COORDINATE or cores.on_gpu() or not is_known:
    return running
  size = sum(p.shape.num_elements() for p in params)
  count = -(-size // _BLOCK)
  if whole or is_compiled:
    count = min(count, _MOST_IN_A_PROGRAM)
  return running if count <= 1 else Blocked(running, -(-size // count))


def uncompiled(optimizer: Optimizer) -> Optimizer:
  """Undoes what `arranged` compiles, for use in a larger program that XLA compiles."""
  if isinstance(optimizer, Compiled):
    return optimizer.inner
  if isinstance(optimizer, Blocked):
    return optimizer.rewrapped(uncompiled(optimizer.inner))
  return optimizer


def compiles_way_back(optimizer: Optimizer) -> bool:
  """Whether XLA compiles the derivatives of an optimizer's step.

  It would compile those of a step that is vectorised over tasks anew for all values.
  """
  if isinstance(optimizer, Wrapper):
    return not isinstance(optimizer, Stacked) and compiles_way_back(optimizer.inner)
  return optimizer.jit_compile


def stacks(optimizer: Optimizer, objective: MetaObjective) -> bool:
  """Whether several tasks can share one call, and one loss, the sum of theirs.

  An optimizer that reads the loss would read that sum, and a learned start of the
  parameters has the shapes of one task. One that couples coordinates is vectorised over
  the tasks, which needs operations that are known to TensorFlow, as they are to XLA.
  """
  is_sum = objective.is_weighted_sum and not objective.clips_tasks
  return is_sum and _can_stack(optimizer)


def _can_stack(optimizer: Optimizer) -> bool:
  can_be_vectorised = optimizer.coupling == COORDINATE or optimizer.jit_compile
  is_apart = can_be_vectorised and not optimizer.learns_initial_params
  return is_apart and LOSS not in optimizer.reads


def stacked(problem: Problem, optimizer: Optimizer, group: Group) -> Optimizer:
  """Returns what moves a group's tasks, each by itself.

  Args:
    problem: of each task.
    optimizer: that moves one task.
    group: from `groups`, given these two.
  """
  is_one = group.problem is problem or optimizer.coupling == COORDINATE
  return optimizer if is_one else Stacked(optimizer)


def groups(
  problem: Problem,
  optimizer: Optimizer,
  keys: list[tf.Tensor],
  most: int | None = None,
  objective: MetaObjective = MetaObjective(),  # noqa: B008
) -> list[Group]:
  """Draws the tasks that the keys name, in groups that can run side by side.

  Tasks are stacked, if `stacks` says so, then split into as many groups as there are
  cores for. `stacked` returns what moves a group. A single task is split where its
  coordinates are independent of each other.

  Args:
    problem: the distribution of tasks.
    optimizer: what moves their parameters.
    keys: a seed [2] for each task.
    most: groups, if that is to be limited further.
    objective: the meta-loss.
  """
  is_whole = len(keys) == 1 and optimizer.coupling != COORDINATE
  if is_whole or not stacks(optimizer, objective):
    return [Group(problem, *unroll.draw(problem, key)) for key in keys]
  if len(keys) > 1:
    problem, key = TaskBatch(problem, len(keys)), tf.stack(keys)
  else:
    (key,) = keys
  task, params = unroll.draw(problem, key)
  size = sum(p.shape.num_elements() for p in params)
  parts = list(cores.shards(problem.num_tasks, most or size // _MIN_GROUP))
  if len(parts) == 1:
    return [Group(problem, task, params)]
  return [_part(problem, task, params, slice(*part)) for part in parts]


def _part(problem, task, params, part) -> Group:
  cut = lambda nest: tf.nest.map_structure(lambda x: x[part], nest)
  # One seed is that of all tasks; several are one for each.
  seed = task.seed[part] if task.seed.shape.rank == 2 else task.seed
  return Group(problem, unroll.Task(cut(task.constants), seed), cut(params))


def vectorises(problem: Problem, optimizer: Optimizer) -> bool:
  """Whether one program takes a step of many episodes, each with weights of its own.

  Otherwise every episode has operations of its own, as convolutions want it on a CPU.
  """
  return compiles_loop(problem, optimizer)


def stepped(problem: Problem, optimizer: Optimizer) -> Optimizer:
  """Returns what takes single steps of episodes that are not vectorised."""
  if vectorises(problem, optimizer) or not optimizer.jit_compile:
    return optimizer
  return Compiled(optimizer)


def lane_parts(
  problem: Problem, optimizer: Optimizer, count: int, size: int
) -> list[tuple[int, int]]:
  """Returns (begin, end) of the lanes that share a call.

  Args:
    problem: what is optimized.
    optimizer: what optimizes.
    count: lanes.
    size: coordinates of one lane.
  """
  if not vectorises(problem, optimizer):
    return [(i, i + 1) for i in range(count)]
  if cores.on_gpu():
    return [(0, count)]
  parts = max(min(cores.num_shards(), count), -(-count * size // _MOST_IN_A_CALL))
  parts = -(-count // max(1, count // parts))
  cuts = [count * i // parts for i in range(parts + 1)]
  return list(itertools.pairwise(cuts))


def side_by_side(run: Callable, calls: list[tuple]) -> list:
  """Returns what `run` gives for each of the argument tuples, as many at once as fit.

  With fewer calls than cores each has its share of them; further calls wait for one
  that is done, so that no more are under way than there are cores.
  """
  if len(calls) > 1:  # Those of one size share what is traced and compiled.
    run = tf.function(run, autograph=False)
  lanes, results = max(1, min(len(calls), cores.num_shards())), []
  with cores.shared_by(lanes):
    for i, call in enumerate(calls):
      before = tf.nest.flatten(results[i - lanes]) if i >= lanes else []
      with tf.control_dependencies([x for x in before if tf.is_tensor(x)]):
        results.append(run(*call))
  return results
