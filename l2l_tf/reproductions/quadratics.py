"""The paper's random quadratics."""

from l2l_tf.reproductions.figure import Figure, Learned, Panel

FIGURE = Figure(
  name="quadratics",
  title="Quadratics, 10-d, W and y from N(0, 1)",
  source="section 3.1, figure 4 left",
  claim="The LSTM optimizer is far below all tuned baselines after 100 steps.",
  needs=(),
  minutes=2,
  megabytes=1,
  learned={"quadratic": Learned("quadratic")},
  panels=(Panel("quadratics", "Quadratic()", {"LSTM": "quadratic"}, num_draws=8),),
)
