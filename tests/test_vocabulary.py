"""What the source says of the names is what they are."""

import inspect

import pytest

from l2l_tf import optimizers, preprocess, problems, registry
from l2l_tf.meta import curriculum, gradients
from l2l_tf.runs import expressions, own_files, vocabulary
from l2l_tf.runs.vocabulary import KINDS, build, check, listing

ROOMS = {
  "optimizer": optimizers,
  "problem": problems,
  "meta_gradient": gradients,
  "curriculum": curriculum,
}
META_GRADIENT = getattr(gradients, "MetaGradient", gradients.TruncatedBPTT)
BASES = {
  "optimizer": optimizers.Optimizer,
  "problem": problems.Problem,
  "meta_gradient": META_GRADIENT,
  "curriculum": curriculum.Curriculum,
}
# Their arguments include functions, which no expression can write.
NOT_WRITTEN = {"KerasModel"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_of_a_room_is_listed(kind):
  base = BASES[kind]
  candidates = {
    **{k: v for k, v in vars(ROOMS[kind]).items() if isinstance(v, type)},
    **{k: v for k, v in registry.registered().items() if v.__module__[:6] == "l2l_tf"},
  }
  classes = {
    k
    for k, v in candidates.items()
    if issubclass(v, base) and not inspect.isabstract(v) and k[0] != "_"
  }
  listed = {k for k in listing(kind) if isinstance(vocabulary.resolve(k), type)}
  assert listed == classes - NOT_WRITTEN


def test_functions_that_make_problems_are_listed():
  functions = {
    k for k in listing("problem") if inspect.isfunction(getattr(problems, k))
  }
  assert functions == {
    "cifar10_conv",
    "digits_mlp",
    "few_shot",
    "mnist_mlp",
    "neural_style",
    "quadratics",
    "small_classifiers",
  }


@pytest.mark.parametrize("kind, name", [(k, n) for k in KINDS for n in listing(k)])
def test_a_listed_name_has_the_arguments_and_the_words_of_its_source(kind, name):
  entry, value = listing(kind)[name], vocabulary.resolve(name)
  assert entry.parameters == tuple(expressions.signature_of(value).parameters)
  assert entry.description == inspect.getdoc(value).splitlines()[0]
  assert f"{name}({entry.signature}): {entry.description}" in vocabulary.describe(kind)


@pytest.mark.parametrize("name", sorted(vocabulary._nested()))
def test_every_name_that_can_be_an_argument_is_found(name):
  assert callable(vocabulary.resolve(name))


def test_constants_among_defaults_are_shown_as_numbers():
  assert "epsilon=1e-07" in listing("optimizer")["Adam"].signature


def test_an_optimizer_of_any_depth_is_made():
  text = (
    "CoordinatewiseLSTM(layers=(4,), preprocess=Concat([LogAndSign, Clamp(scale=20)]))"
  )
  config = build(text, "optimizer").config
  parts = (preprocess.LogAndSign(), preprocess.Clamp(scale=20))
  assert config["preprocess"] == preprocess.Concat(parts)
  routes = "[(Where(rank=2), Adam(0.1)), (Where(rank=1), SGD(0.2))]"
  text = f"Partition({routes}, [('w', (2, 3), 'kernel'), ('b', (3,), 'bias')])"
  members = build(text, "optimizer")
  assert isinstance(members, optimizers.Partition)
  assert build(f"Partition({routes})", "optimizer").distinguishes_parameters


def test_a_meta_gradient_takes_weights_by_name_or_number():
  assert build("TruncatedBPTT", "meta_gradient") == gradients.TruncatedBPTT()
  made = build("TruncatedBPTT(last_only, True)", "meta_gradient")
  assert made.weights is gradients.last_only and made.second_derivatives
  assert build("TruncatedBPTT([1.0, 2.5])", "meta_gradient").weights == [1.0, 2.5]


@pytest.mark.parametrize(
  "kind, text, sentence",
  [
    (
      "optimizer",
      "RNNprob()",
      "did you mean RNNprop; one of your own is named as in p",
    ),
    ("optimizer", "Quadratic()", "'Quadratic' is unknown"),
    ("optimizer", "RNNprop(dtype=float64)", "'float64' is unknown"),
    ("optimizer", "CoordinatewiseLSTM(preprocess=Clam())", "did you mean Clamp"),
    ("meta_gradient", "TruncatedBPTT(weights=lastonly)", "did you mean last_only"),
    ("meta_gradient", "Truncated()", "did you mean TruncatedBPTT"),
    ("optimizer", "missing.py:F()", "no file 'missing.py'; check the path"),
    ("optimizer", "RNNprop(layers=range(3))", "'range' is unknown"),
    ("optimizer", "eval('1')", "'eval' is unknown"),
    ("optimizer", "Adam(eval('1'))", "'eval' is unknown"),
  ],
)
def test_an_unknown_name_is_one_sentence(kind, text, sentence):
  with pytest.raises(ValueError, match=sentence):
    check(text, kind)


OWN = """
import l2l_tf
from l2l_tf.optimizers import SGD

class Half:
  def __call__(self, step):
    return 0.5

@l2l_tf.register
class Own(SGD):
  def __init__(self, learning_rate=Half(), seed=0):
    super().__init__(learning_rate)
    self.seed = seed

def make(rate):
  return Own(rate)

def fails():
  raise ValueError("What came.")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
  (tmp_path / "own.py").write_text(OWN)
  monkeypatch.chdir(tmp_path)


def test_a_class_of_ones_own_is_made_with_literals_and_names_of_its_file(own):
  made = build("own.py:Own(Half(), seed=4)", "optimizer", {"seed": 7})
  assert type(made).__name__ == "Own" and made.seed == 4
  assert made.learning_rate(0) == 0.5
  assert build("own.py:Own", "optimizer", {"seed": 7}).seed == 7
  assert build("own.py:make(0.25)", "optimizer").learning_rate == 0.25
  assert registry.registered()["Own"] is type(made)


def test_a_registered_class_is_known_by_its_name_alone(own):
  with pytest.raises(ValueError, match="'Own' is unknown"):
    check("Own()", "optimizer")
  assert check("Own()", "optimizer", may_be_registered=True)
  own_files.run("own.py")
  made = build("Partition([(Where(), Own(0.5))], [('w', (2,), 'bias')])", "optimizer")
  assert isinstance(made, optimizers.Partition)
  assert build("Own(0.5)", "optimizer").learning_rate == 0.5
  assert vocabulary.parameters("Own", "optimizer") == ("learning_rate", "seed")
  with pytest.raises(ValueError, match=r"Own\(0.5\) returned .* must return a problem"):
    build("Own(0.5)", "problem")


@pytest.mark.parametrize(
  "text, error, sentence",
  [
    (
      "own.py:Own(rate=1)",
      ValueError,
      "Own: .*'rate'; its arguments are learning_rate",
    ),
    ("own.py:Missing", ValueError, "own.py has no function 'Missing'; define it there"),
    ("own.py:Half()", ValueError, r"Half\(\) of own.py returned .* an optimizer"),
    ("own.py:Own(Halv())", ValueError, "'Halv' is unknown"),
    ("own.py:Own(learning_rate=-1)", RuntimeError, r"Own\(\) of own.py failed"),
    ("own.py:fails()", RuntimeError, r"fails\(\) of own.py failed, see above"),
  ],
)
def test_a_mistake_with_ones_own_file_is_said(own, text, error, sentence):
  with pytest.raises(error, match=sentence):
    build(text, "optimizer")
