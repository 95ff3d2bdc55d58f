"""A small perceptron on MNIST, for as many steps as in training and for more."""

from l2l_tf.reproductions.figure import Figure, Learned, Panel

NET = "mnist_mlp()"

FIGURE = Figure(
  name="mnist",
  title="MNIST, 20 sigmoid units",
  source="section 3.2, figure 4 center and right",
  claim=(
    "The LSTM optimizer, trained for 100 steps, is below all tuned baselines, and stays"
    " below them for 200 steps."
  ),
  needs=("MNIST",),
  minutes=4,
  megabytes=1,
  learned={"mnist": Learned("mnist_mlp")},
  panels=(
    Panel("100 steps, as in training", NET, {"LSTM": "mnist"}),
    Panel("200 steps", NET, {"LSTM": "mnist"}, num_steps=200, trained_steps=100),
  ),
)
