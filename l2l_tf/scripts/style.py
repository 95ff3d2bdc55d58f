"""Paints a photograph in the style of a painting.

  l2l-style --content=photo.jpg --style=painting.jpg --output=out.png

An optimizer, by default one that was trained to do so, starts from noise and changes
the picture step by step, until features of VGG-16 are like the photograph's and their
correlations like the painting's. Pictures may be of any common format and shape. The
weights of VGG-16 are read from the file that the variable L2L_VGG16 names, or else
downloaded, 59 MB.

--compare also tunes Adam on the same picture, and writes all of them side by side, with
their losses, to out_compare.png.
"""

from absl import flags

from l2l_tf.runs.settings import StyleSettings
from l2l_tf.scripts import launch

flags.DEFINE_string("content", None, "The photograph to paint.", required=True)
flags.DEFINE_string("style", None, "The painting to imitate.", required=True)
flags.DEFINE_string(
  "output",
  None,
  "File of the picture; its suffix sets the format, such as .png or .jpg.",
  required=True,
)
flags.DEFINE_string(
  "optimizer",
  "neural_art",
  "A pretrained or exported optimizer, or an expression such as"
  " Adam(learning_rate=0.1).",
)
flags.DEFINE_integer(
  "size",
  256,
  "Pixels of the picture's longer side; the other keeps the photograph's proportions.",
  lower_bound=16,
  upper_bound=1024,  # Features of a larger picture would take tens of gigabytes.
)
flags.DEFINE_integer("steps", 128, "Steps of the optimizer.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Names the noise that the picture starts from.")
flags.DEFINE_bool(
  "compare",
  False,
  "Whether to tune Adam on the same picture, and write all pictures side by side, too.",
)
flags.DEFINE_list(
  "imports",
  [],
  "Python files of your own to run first, separated by commas, which register the"
  " classes that the optimizer consists of.",
)

launch.files("imports")


def main() -> None:
  from l2l_tf.runs import style  # imports TensorFlow, too slow for --help

  style.style(launch.settings(StyleSettings, __name__))


def run() -> None:
  """The console command."""
  launch.run(main, __name__)
