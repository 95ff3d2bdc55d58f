"""What a figure consists of: panels, and the learned optimizers that they show.

Problems and optimizers are expressions as in l2l-train's flags: figures are listed
without importing TensorFlow.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

BASELINES = ("SGD", "momentum", "Nesterov", "RMSprop", "Adam")
# Too little to learn anything: what runs is all that a figure needs.
_QUICK_TRAINING = {
  "num_epochs": 1,
  "evaluation_period": 1,
  "evaluation_epochs": 1,
  "num_steps": 10,
  "unroll_length": 5,
  "meta_gradient": "StaggeredBPTT(lanes=1)",  # as all trainings, but of one episode
}
_QUICK_PANEL = {
  "num_steps": 10,
  "trained_steps": None,
  "num_draws": 1,
  "num_tuning_draws": 1,
  "rates_per_decade": 1,
}


class Learned(NamedTuple):
  """A learned optimizer: a pretrained one of the package, or one to be trained.

  Attributes:
    pretrained: name for `l2l_tf.load`; then there are no stages.
    stages: settings of l2l-train, by the names of its flags. Every stage starts from
      the optimizer of the previous one.
    minutes: how long the stages take, on two cores.
  """

  pretrained: str | None = None
  stages: tuple[Mapping[str, Any], ...] = ()
  minutes: int = 0


class Panel(NamedTuple):
  """A plot of learning curves on one problem.

  Attributes:
    title: above the plot.
    problem: expression for l2l-train's --problem.
    learned: name in the legend -> name in the figure's `learned`.
    num_steps: steps that every optimizer takes.
    trained_steps: steps of a training's episodes; None if they are as many.
    num_draws: draws of the problem that are reported.
    num_tuning_draws: draws on which each learning rate of a baseline runs.
    rates_per_decade: of a baseline.
    baselines: what the learned optimizers are compared with.
  """

  title: str
  problem: str
  learned: Mapping[str, str]
  num_steps: int = 100
  trained_steps: int | None = None
  num_draws: int = 32
  num_tuning_draws: int = 8
  rates_per_decade: int = 3
  baselines: tuple[str, ...] = BASELINES


class Figure(NamedTuple):
  """One of the paper's figures.

  Attributes:
    name: for the command line.
    title: above the picture.
    source: section and figure of the paper.
    claim: what the paper says of it, in a sentence.
    needs: data that do not come with the package.
    minutes: of the evaluation on two cores; the trainings add theirs.
    megabytes: what it leaves on the disk.
    learned: the learned optimizers by name. Figures share those of one name.
    panels: from left to right.
    summarizes: whether a further row shows the final losses of all panels.
    traced: the learned optimizer along whose trajectories a further row shows the
      gradients' sizes; None for no such row.
    gallery: pictures of each panel that are painted to be looked at.
    final_share: share of a run's steps, the last ones, whose mean is its final loss; 0
      for the last step alone. On small mini-batches that one is noisy.
    whole: examples of the whole training set, if it has parts that are in use instead;
      the title says so of a part.
  """

  name: str
  title: str
  source: str
  claim: str
  needs: tuple[str, ...]
  minutes: int
  megabytes: int
  learned: Mapping[str, Learned]
  panels: tuple[Panel, ...]
  summarizes: bool = False
  traced: str | None = None
  gallery: int = 0
  final_share: float = 0.0
  whole: int = 0

  @property
  def all_minutes(self) -> int:
    """Minutes of trainings and evaluation, if nothing is there yet."""
    return self.minutes + sum(one.minutes for one in self.learned.values())


def quick(figure: Figure) -> Figure:
  """Returns a figure with the same kinds of parts, of which nothing can be concluded.

  Most of its time goes into the graphs of trainings. One stands for all whose quick
  settings differ in their problems alone, in every panel. Two baselines are compared in
  the first panel, one in the others.
  """
  learned = {
    name: one._replace(stages=tuple(map(_quick_stage, one.stages[:1])))
    for name, one in figure.learned.items()
  }
  first: dict[Any, str] = {}
  stands_for = {
    name: first.setdefault(_kind(one), name) for name, one in learned.items()
  }
  learned = {name: learned[name] for name in first.values()}
  first_panel, *others = figure.panels
  panels = [_quick_panel(first_panel, stands_for, num_baselines=2)]
  panels += [_quick_panel(panel, stands_for, num_baselines=1) for panel in others]
  gallery = min(figure.gallery, 1)
  return figure._replace(learned=learned, panels=tuple(panels), gallery=gallery)


def _kind(one: Learned) -> Any:
  """Returns what two trainings have in common that differ in their problems alone."""
  stages = [{k: v for k, v in stage.items() if k != "problem"} for stage in one.stages]
  return one.pretrained, repr([sorted(stage.items()) for stage in stages])


def _quick_panel(
  panel: Panel, stands_for: Mapping[str, str], num_baselines: int
) -> Panel:
  label: dict[str, str] = {}  # the first in the legend, by the optimizer
  for shown, name in panel.learned.items():
    label.setdefault(stands_for[name], shown)
  learned = {shown: name for name, shown in label.items()}
  baselines = panel.baselines[-num_baselines:]
  return panel._replace(learned=learned, baselines=baselines, **_QUICK_PANEL)


def _quick_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
  kept = {k: v for k, v in stage.items() if k not in ("curriculum", "patience")}
  return {**kept, **_QUICK_TRAINING}
