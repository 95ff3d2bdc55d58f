"""A convolutional net on CIFAR-10, and nets for labels that were held out."""

from collections.abc import Sequence

from l2l_tf.reproductions.figure import Figure, Learned, Panel

_FIVE, _TWO = (0, 1, 2, 3, 4), (3, 5)  # the labels of CIFAR-5 and of CIFAR-2
# The LSTM of the preset, which has one for convolutions and one for dense layers.
_LSTM = (
  "RNNprop(layers=(20,), beta_1=0.85, output_scale=0.02, time_scales=(10, 100, 1000),"
  " block=32)"
)
# For nets that come to losses near zero, where the steps have to be imitated closely.
_LONGER = {"num_epochs": 2, "evaluation_period": 2}
_KERNELS = "KernelwiseLSTM((5, 5), preprocess='log_and_sign', output_scale=0.02)"
_KERNELWISE = (
  f"Partition([(Where(rank=4), {_KERNELS}), (Where(rank=2), {_LSTM}),"
  f" (Where(rank=1), {_LSTM})])"
)
_BASELINES = ("momentum", "Nesterov", "RMSprop", "Adam")


def _net(labels: Sequence[int] | None, *options: str) -> str:
  chosen = [] if labels is None else [f"labels={labels}"]
  return f"cifar10_conv({', '.join([*chosen, *options])})"


def _trained(labels: Sequence[int] | None = None, **options) -> Learned:
  """Returns a training by the preset's recipe, on other labels or of another LSTM."""
  problem = _net(labels, "batch_size=32")  # Smaller mini-batches take less time.
  stage = {"problem": problem, "evaluation_period": 1, **options}
  return Learned(stages=(stage,), minutes=4 * options.get("num_epochs", 1))


def _but(labels: Sequence[int]) -> tuple[int, ...]:
  return tuple(label for label in range(10) if label not in labels)


def _panel(title: str, labels: Sequence[int] | None, learned: dict[str, str]) -> Panel:
  few = {"num_draws": 3, "num_tuning_draws": 1, "rates_per_decade": 2}
  return Panel(title, _net(labels), learned, 1000, baselines=_BASELINES, **few)


FIGURE = Figure(
  name="cifar",
  title="CIFAR-10 and labels that were held out: a convolutional net, batch norm",
  source="section 3.3, figure 7",
  claim=(
    "The LSTM optimizers are below all tuned baselines for 1,000 steps, on CIFAR-10 and"
    " on both subsets, and those trained on other labels do as well as LSTM-sub."
  ),
  needs=("CIFAR-10",),
  minutes=80,
  megabytes=10,
  final_share=0.1,
  whole=50_000,
  learned={
    "general": Learned("general"),
    "cifar": _trained(),
    "cifar_one": _trained(optimizer=_LSTM),
    "cifar_kernels": _trained(optimizer=_KERNELWISE),
    "cifar_but_five": _trained(_but(_FIVE)),
    "cifar_five": _trained(_FIVE),
    "cifar_but_two": _trained(_but(_TWO), **_LONGER),
    "cifar_two": _trained(_TWO, **_LONGER),
  },
  panels=(
    _panel(
      "CIFAR-10",
      None,
      {
        "LSTM": "cifar",
        "one LSTM for all layers": "cifar_one",
        "LSTM on whole kernels": "cifar_kernels",
        "GeneralRule, the teacher": "general",
      },
    ),
    _panel("CIFAR-5", _FIVE, {"LSTM": "cifar_but_five", "LSTM-sub": "cifar_five"}),
    _panel("CIFAR-2", _TWO, {"LSTM": "cifar_but_two", "LSTM-sub": "cifar_two"}),
  ),
)
