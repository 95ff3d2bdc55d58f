"""Transfer from one perceptron on MNIST to others, and training on several at once."""

from l2l_tf.reproductions.figure import Figure, Learned, Panel

# Other widths and depths than those that are tested.
_SEVERAL = (
  "Ensemble([mnist_mlp(layers=(10,)), mnist_mlp(layers=(15, 15)),"
  " mnist_mlp(layers=(10,), activation='tanh'),"
  " mnist_mlp(layers=(15,), activation='relu')])"
)
_SECOND = {"second_derivatives": True, "learning_rate": 0.001}
# Those of the pretrained mnist_mlp, so that only the nets differ, except that the last
# stage is shorter: it has four nets to run at once.
_STAGES = (
  {"evaluation_period": 20, "evaluation_epochs": 16},
  {"evaluation_period": 20, "evaluation_epochs": 16, **_SECOND},
  {
    "evaluation_period": 40, "evaluation_epochs": 32, **_SECOND, "num_epochs": 160,
    "patience": 3,
  },
)  # fmt: skip


def _panel(title: str, net: str) -> Panel:
  learned = {"LSTM, trained on one net": "mnist", "LSTM, on four nets": "several"}
  return Panel(title, net, learned, num_steps=200, trained_steps=100)


FIGURE = Figure(
  name="transfer",
  title="Transfer on MNIST: trained on 20 sigmoid units for 100 steps",
  source="section 3.2, figures 5 and 6",
  claim=(
    "The LSTM optimizer transfers to 40 units and to two layers, and fails on ReLU."
  ),
  needs=("MNIST",),
  minutes=15,
  megabytes=10,
  learned={
    "mnist": Learned("mnist_mlp"),
    "several": Learned(
      stages=tuple({"problem": _SEVERAL, **stage} for stage in _STAGES), minutes=60
    ),
  },
  panels=(
    _panel("20 units, as in training", "mnist_mlp()"),
    _panel("40 units", "mnist_mlp(layers=(40,))"),
    _panel("two layers of 20", "mnist_mlp(layers=(20, 20))"),
    _panel("20 units, tanh", "mnist_mlp(activation='tanh')"),
    _panel("20 units, ReLU", "mnist_mlp(activation='relu')"),
  ),
  summarizes=True,
  traced="mnist",
)
