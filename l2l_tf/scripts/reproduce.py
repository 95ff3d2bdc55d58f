"""Makes a figure of the paper again: trains, evaluates, draws.

  l2l-reproduce --list
  l2l-reproduce transfer
  l2l-reproduce transfer --quick

Trains what the package does not bring, tunes the baselines, runs all of them on fresh
tasks, and leaves figure.png, curves.csv, table.txt and table.md in the directory
reproductions/transfer. Started again with the same flags, it goes on where it was
stopped.

Andrychowicz et al. 2016, https://arxiv.org/abs/1606.04474
"""

from absl import flags

from l2l_tf import tables
from l2l_tf.reproductions import FIGURES
from l2l_tf.runs.settings import ReproductionSettings
from l2l_tf.scripts import launch

_ABOUT_THE_LIST = """
l2l-reproduce NAME makes one. Minutes are those on two cores, trainings included; with
--quick less than two. MNIST and CIFAR-10 are read from the directory TFDS_DATA_DIR or
downloaded, VGG-16's weights from the file L2L_VGG16 or downloaded, photographs from the
directory L2L_PHOTOS."""
_LIST = flags.DEFINE_bool("list", False, "Show all figures and what each needs.")
flags.DEFINE_enum(
  "name", None, list(FIGURES), "Which figure; the name alone does, too."
)
flags.DEFINE_bool(
  "quick",
  False,
  "Go through all of it in less than two minutes, with settings so small that nothing"
  " can be concluded; the picture says so.",
)
flags.DEFINE_integer(
  "seed",
  0,
  "Names the first weights of trainings and every task drawn; what another seed than 0"
  " gives lies beside the rest, in seed_1 and so on below --save_path.",
)
flags.DEFINE_string(
  "save_path",
  None,
  "Directory of all figures and their trainings; by default reproductions, in the"
  " current directory.",
)


def main() -> int:
  if _LIST.value:
    print(_listing())
    return 0
  if flags.FLAGS.name is None:
    raise ValueError(f"Name a figure, one of {', '.join(FIGURES)}, or give --list.")
  from l2l_tf.runs import reproduction  # imports TensorFlow, too slow for --help

  given = launch.settings(ReproductionSettings, __name__, leave_out=("list",))
  return reproduction.reproduce(given)


def _listing() -> str:
  rows = [["name", "figure", "needs", "minutes", "MB"]]
  for figure in FIGURES.values():
    needs = ", ".join(figure.needs) or "-"
    sizes = f"{figure.all_minutes}", f"{figure.megabytes}"
    rows.append([figure.name, f"{figure.title} ({figure.source})", needs, *sizes])
  return tables.aligned(rows, num_left=3, has_rule=True) + "\n" + _ABOUT_THE_LIST


def run() -> None:
  """The console command."""
  launch.run(main, __name__, argument="name")
