"""Photographs painted in the style of a painting."""

from l2l_tf.reproductions.figure import Figure, Learned, Panel

_BASELINES = ("momentum", "RMSprop", "L-BFGS", "Adam")


def _panel(title: str, problem: str, num_draws: int = 16) -> Panel:
  draws = {"num_draws": num_draws, "num_tuning_draws": max(1, num_draws // 8)}
  learned, rates = {"LSTM": "neural_art"}, {"rates_per_decade": 2}
  return Panel(title, problem, learned, 128, baselines=_BASELINES, **draws, **rates)


FIGURE = Figure(
  name="neural_art",
  title="Neural art: photographs that were never seen in training",
  source="section 3.4, figures 8 and 9",
  claim=(
    "The LSTM optimizer is below all tuned baselines on the painting and the resolution"
    " of training, and remains so on a new painting and at twice the resolution."
  ),
  needs=("photographs", "VGG-16"),
  minutes=45,
  megabytes=3,
  learned={"neural_art": Learned("neural_art")},
  panels=(
    _panel("The Starry Night, 64 x 64", "neural_style('test')"),
    _panel("another painting, 64 x 64", "neural_style('test', 'great_wave')"),
    # A step costs four times as much there.
    _panel("twice the resolution", "neural_style('test', size=128)", num_draws=4),
  ),
  gallery=3,
)
