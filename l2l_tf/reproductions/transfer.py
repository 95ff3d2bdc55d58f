"""Transfer from one perceptron on MNIST to others, and training on several at once."""

import math

from l2l_tf.reproductions.figure import Figure, Learned, Panel

# Other widths and depths than those that are tested.
_SEVERAL = (
  "Ensemble([mnist_mlp(layers=(10,)), mnist_mlp(layers=(15, 15)),"
  " mnist_mlp(layers=(10,), activation='tanh'),"
  " mnist_mlp(layers=(15,), activation='relu')])"
)


def _imitating(problem: str, minutes: int) -> Learned:
  """Returns a training in which only the net, or the nets, are chosen."""
  stage = {
    "problem": problem,
    "optimizer": (
      "RNNprop(layers=(20,), beta_1=0.85, output_scale=0.05, time_scales=(10, 100),"
      " block=32)"
    ),
    "num_epochs": 5,
    "num_steps": 200,
    "unroll_length": 2,
    "evaluation_period": 5,
    "evaluation_epochs": 2,
    "clip_norm": 1.0,
    "relative_loss": True,
    "learning_rate": 0.005,
    "meta_gradient": "StaggeredBPTT(lanes=6)",
    "imitation": "GeneralRule()",
    "imitation_weight": 100.0,
    "imitation_half_life": math.inf,
  }
  return Learned(stages=(stage,), minutes=minutes)


def _panel(title: str, net: str) -> Panel:
  learned = {
    "LSTM, as in the paper": "mnist",
    "RNNprop, on one net": "transfer_one",
    "RNNprop, on four nets": "transfer_several",
  }
  return Panel(title, net, learned, num_steps=200)


FIGURE = Figure(
  name="transfer",
  title="Transfer on MNIST: the LSTM was trained on 20 sigmoid units for 100 steps",
  source="section 3.2, figures 5 and 6",
  claim=(
    "The LSTM optimizer transfers to 40 units and to two layers, and fails on ReLU."
  ),
  needs=("MNIST",),
  minutes=25,
  megabytes=10,
  learned={
    "mnist": Learned("mnist_mlp"),
    "transfer_one": _imitating("mnist_mlp()", 3),
    "transfer_several": _imitating(_SEVERAL, 8),
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
