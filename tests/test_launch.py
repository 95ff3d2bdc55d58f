"""What all commands share: help, and one sentence for a mistake."""

import ast
import dataclasses

import pytest
from processes import COMMAND, cold

from l2l_tf.evaluation import protocol, quasi_newton
from l2l_tf.runs import settings
from l2l_tf.runs.vocabulary import KINDS, listing

COUNTS = [
  ("train", ["num_epochs", "log_period", "evaluation_period", "evaluation_epochs"]),
  ("train", ["patience", "num_steps", "unroll_length"]),
  ("evaluate", ["num_epochs", "num_tuning_epochs", "num_steps"]),
]
WRONG_FLAGS = [
  *(
    (s, [f"--{n}={x}"], [f"--{n}={x}"]) for s, ns in COUNTS for n in ns for x in (0, -1)
  ),
  ("train", ["--num_epochs=many"], ["--num_epochs=many"]),
  ("train", ["--num_epochs=1.5"], ["--num_epochs=1.5"]),
  ("train", ["--problem=cifar"], ["--problem=cifar", "simple_multi", "mnist_mlp"]),
  ("train", ["--problem=mine.py:f"], ["no file 'mine.py'", "check the path; see"]),
  ("train", ["--problem=mine.py"], ["path/to/file.py:function", "simple_multi"]),
  ("train", ["--learning_rate=nan"], ["--learning_rate=nan", "positive, finite"]),
  ("train", ["--learning_rate=inf"], ["--learning_rate=inf", "positive, finite"]),
  ("train", ["--learning_rate=-0.1"], ["--learning_rate=-0.1", "positive, finite"]),
  ("train", ["--learning_rate=0"], ["positive, finite number"]),
  ("train", ["--learning_rate=fast"], ["--learning_rate=fast"]),
  ("train", ["--clip_norm=0"], ["--clip_norm=0", "positive; inf turns it off"]),
  ("train", ["--clip_norm=nan"], ["positive; inf turns it off"]),
  ("train", ["--output_scale=nan"], ["--output_scale=nan", "a finite number"]),
  ("train", ["--output_scale=inf"], ["a finite number"]),
  ("train", ["--layers=20,x"], ["--layers=", "'x'", "positive integers"]),
  ("train", ["--layers=20,0"], ["positive integers"]),
  ("train", ["--layers=20,,20"], ["positive integers"]),
  ("train", ["--layers=-20"], ["positive integers"]),
  ("train", ["--optimizer=RNNprap"], ["'RNNprap' is unknown; did you mean RNNprop"]),
  ("train", ["--optimizer=RNNprop(layers=(2)"], ["is no expression such as"]),
  ("train", ["--optimizer=RNNprop(seed=open)"], ["'open' is unknown; known are"]),
  ("train", ["--optimizer=mine.py:Mine()"], ["no file 'mine.py'; check the path"]),
  ("train", ["--problem=Quadratic(n=os.sep)"], ["'os.sep'", "is not allowed"]),
  ("train", ["--problem=Quadratc()"], ["did you mean Quadratic"]),
  (
    "train",
    ["--meta_gradient=Adam"],
    ["'Adam' is unknown; known are", "TruncatedBPTT"],
  ),
  ("train", ["--meta_optimizer=adam"], ["'adam' is unknown; did you mean Adam"]),
  ("train", ["--imports=mine.py"], ["no file 'mine.py'; check the path"]),
  ("train", ["--schedule=linear"], ["cosine", "constant"]),
  ("train", ["--seed=one"], ["--seed=one"]),
  ("train", ["--plot=false"], ["'plot'"]),
  ("train", ["--num_epoch=3"], ["'num_epoch'", "num_epochs"]),
  ("train", ["quadratic"], ["'quadratic' is no flag", "--name=value"]),
  ("train", ["--flagfile=missing.txt"], ["missing.txt"]),
  ("evaluate", ["--problem=cifar"], ["--problem=cifar", "simple_multi", "mnist_mlp"]),
  ("evaluate", ["--problem=mine.py:f"], ["no file 'mine.py'", "check the path; see"]),
  ("evaluate", ["--optimizer=Adam,Lion"], ["'Lion'", "Nesterov", "--path"]),
  ("evaluate", ["--optimizer=SGD,RNNprop(layers=(2,)"], ["is no expression such as"]),
  ("evaluate", ["--optimizer=SGD(eval(1),2)"], ["'eval' is unknown"]),
  ("evaluate", ["--optimizer="], ["nothing to evaluate", "--path"]),
  ("evaluate", ["--learning_rate=nan"], ["positive, finite number"]),
  ("evaluate", ["--learning_rate=0"], ["positive, finite number"]),
  ("evaluate", ["--plot=perhaps"], ["--plot=perhaps"]),
  ("evaluate", ["some.npz"], ["'some.npz' is no flag"]),
  ("diagnose", [], ["nothing to diagnose: give --path"]),
  ("style", ["--style=a.jpg"], ["give --content=..., --output=...; see --help"]),
  ("diagnose", ["--path=some.npz", "--warmup=0"], ["--warmup=0"]),
  ("diagnose", ["--path=some.npz", "--num_steps=0"], ["--num_steps=0"]),
  ("reproduce", [], ["Name a figure, one of quadratics, mnist", "--list"]),
  ("reproduce", ["mnits"], ["--name=mnits", "quadratics"]),
  ("reproduce", ["mnist", "transfer"], ["one name at a time, not mnist transfer"]),
  ("reproduce", ["--name=mnist", "transfer"], ["one name at a time, not transfer"]),
]
WRONG_VALUES = [
  ("train", ["--preprocess=log"], ["preprocess='log'", "log_and_sign"]),
  ("train", ["--preprocess=clamp(scale=x)"], ["clamp(scale=x)"]),
  ("train", ["--preprocess=log_and_sign(p=0)"], ["p=0"]),
  (
    "train",
    ["--optimizer=RNNprop(layer=3)"],
    ["'layer'; its arguments are layers, bet"],
  ),
  ("train", ["--optimizer=RNNprop(layers=3)"], ["layers=3 must be a sequence"]),
  ("train", ["--optimizer=SGD(0.1)"], ["SGD has no weights to meta-train"]),
  (
    "train",
    ["--problem=Quadratic(num_dims='a')"],
    ["Quadratic cannot be made: '<' not"],
  ),
  (
    "train",
    ["--optimizer=RNNprop", "--preprocess=clamp"],
    ["--preprocess", "=RNNprop,"],
  ),
  ("train", ["--optimizer=RNNprop()", "--layers=3"], ["--layers", "RNNprop(), which"]),
  (
    "train",
    ["--meta_gradient=TruncatedBPTT()", "--second_derivatives"],
    ["--second_derivatives was given with --meta_gradient=TruncatedBPTT()", "leave"],
  ),
  (
    "train",
    ["--meta_optimizer=Adam(0.1)", "--learning_rate=0.1"],
    ["--learning_rate was given with --meta_optimizer=Adam(0.1)"],
  ),
  (
    "train",
    ["--meta_optimizer=Adam(learning_rate=1)", "--schedule=constant"],
    ["--schedule was given with --meta_optimizer"],
  ),
  ("train", ["--num_steps=10", "--unroll_length=3"], ["num_steps=10", "length=3"]),
  ("train", ["--save_path=file"], ["save_path='file' is a file; give a directory"]),
  ("train", ["--save_path=file/below"], ["'file/below'", "Not a directory"]),
  (
    "evaluate",
    ["--optimizer=SGD(rate=1)"],
    ["'rate'; its arguments are learning_rate"],
  ),
  (
    "evaluate",
    ["--optimizer=Adam(beta=1)"],
    ["'beta'; its arguments are learning_rat"],
  ),
  ("evaluate", ["--path=missing.npz"], ["'missing.npz'"]),
  ("evaluate", ["--path=."], ["'.'"]),
  ("evaluate", ["--path=file"], ["'file'"]),
  ("evaluate", ["--path=file,"], ["'file'"]),
  ("evaluate", ["--save_path=file/below"], ["'file/below'", "Not a directory"]),
  ("diagnose", ["--path=missing.npz"], ["'missing.npz'"]),
  ("diagnose", ["--path=file"], ["'file'"]),
]


# Nothing waits for TensorFlow.
AT_ONCE = f"""
try:
  {COMMAND}
finally:
  import sys
  assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize(
  "script, args, words", [pytest.param(*m, id=" ".join(m[1])) for m in WRONG_FLAGS]
)
def test_a_wrong_flag_is_one_sentence_at_once(
  light_forks, tmp_path, script, args, words
):
  ended = light_forks.run(script, *args, cwd=tmp_path, code=AT_ONCE.format(script))
  ended.assert_mistake(*words)
  assert not ended.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "script, args, words", [pytest.param(*m, id=" ".join(m[1])) for m in WRONG_VALUES]
)
def test_a_wrong_value_is_one_sentence_and_costs_nothing(
  forks, tmp_path, script, args, words
):
  file = tmp_path / "file"
  file.write_text("mine")
  ended = forks.run(script, *args, cwd=tmp_path)
  ended.assert_mistake(*words)
  assert not ended.out
  assert list(tmp_path.iterdir()) == [file] and file.read_text() == "mine"


GUARDED = """
from l2l_tf.problems.data.datasets import DatasetUnavailableError
from l2l_tf.scripts import launch, evaluate
def main():
  raise {}
launch.run(main, "l2l_tf.scripts.evaluate")
"""


def test_what_is_no_mistake_keeps_its_traceback(forks):
  def run(error, *args):
    return forks.run("evaluate", *args, code=GUARDED.format(error))

  run("DatasetUnavailableError('Set TFDS_DATA_DIR.')").assert_mistake("TFDS_DATA_DIR")
  run("OSError(28, 'No space left on device')").assert_mistake("No space left")
  run("PermissionError(13, 'No', 'a.npz')").assert_mistake("'a.npz'", "permissions")
  for fault in "KeyError('x')", "ValueError('in user code:\\n  File')":
    ended = run(fault)
    assert ended.code == 1 and "Traceback" in ended.err[0]
  ended = run("ValueError('What came.')", "--verbosity=1")
  assert ended.code == 2 and any("Traceback" in line for line in ended.err)
  assert ended.err[-1] == "Error: What came."
  ended = run("KeyboardInterrupt()")
  assert (ended.code, ended.err) == (130, ["Interrupted."])


HELP = """
import sys
from l2l_tf.scripts.{0} import run
try:
  run()
finally:
  from absl import flags
  assert "tensorflow" not in sys.modules
  for f in flags.FLAGS.flags_by_module_dict()["l2l_tf.scripts.{0}"]:
    told = "by default" in f.help or f.default is not None
    text = f.help.split(">: ")[-1]
    print("FLAG", f.name, told and text[0].isupper() and text[-1] == ".")
"""


@pytest.mark.parametrize(
  "script, flags",
  [
    ("train", "problem num_epochs log_period evaluation_period evaluation_epochs"
     " num_steps unroll_length learning_rate second_derivatives save_path seed"),
    ("evaluate", "problem optimizer path num_epochs num_steps learning_rate seed plot"),
    ("diagnose", "path save_path warmup num_steps seed plot"),
    ("benchmark", "path problem tasks num_steps num_seeds baselines save_path"),
  ],
)  # fmt: skip
def test_help_explains_each_flag_at_once(light_forks, script, flags):
  ended = light_forks.run(script, "--help", code=HELP.format(script))
  assert (ended.code, ended.err) == (0, [])
  shown, *told = ended.out.split("FLAG ")
  told = dict(line.split() for line in told)
  assert set(flags.split()) <= set(told) and set(told.values()) == {"True"}
  for name in told:
    assert f"  --{name}: " in shown or f"  --[no]{name}: " in shown
  has_path = script in ("diagnose", "benchmark")
  example = "--path=" if has_path else "--problem=quadratic"
  assert f"  l2l-{script} {example}" in shown


def test_the_flags_know_the_baselines_that_there_are():
  assert list(settings.BASELINES) == list(protocol.BASELINES)
  assert list(settings.QUASI_NEWTON) == list(quasi_newton.METHODS)


def test_help_says_how_quasi_newton_methods_are_counted(light_forks):
  shown = " ".join(light_forks.run("evaluate", "--help").out.split())
  limit = int(quasi_newton.BFGS.most_coordinates)
  for told in (
    "BFGS and L-BFGS, by SciPy, have no learning rate: each evaluation of loss and"
    " gradient counts as a step",
    "minimize the loss on the first one, as a line search needs one function",
    f"BFGS takes up to {limit:,} parameters",
  ):
    assert told in shown


@pytest.mark.parametrize(
  "script, kinds", [("train", KINDS), ("evaluate", ["optimizer"])]
)
def test_help_lists_all_names_with_their_arguments(light_forks, script, kinds):
  shown = " ".join(light_forks.run(script, "--help").out.split())
  for kind in kinds:
    for entry in listing(kind).values():
      assert f"{entry.name}({entry.signature}): {entry.description}" in shown


@pytest.mark.parametrize(
  "script, settings_class",
  [
    ("train", settings.TrainingSettings),
    ("evaluate", settings.EvaluationSettings),
    ("diagnose", settings.DiagnosisSettings),
    ("pretrain", settings.PretrainingSettings),
    ("benchmark", settings.BenchmarkSettings),
    ("reproduce", settings.ReproductionSettings),
    ("style", settings.StyleSettings),
    ("fewshot", settings.FewShotSettings),
    ("launch_workers", settings.LaunchSettings),
  ],
)
def test_settings_from_python_have_the_flags_names_and_defaults(
  light_forks, script, settings_class
):
  code = f"""
from absl import flags
from l2l_tf.scripts import {script}
print({{f.name: f.value for f in
        flags.FLAGS.flags_by_module_dict()["l2l_tf.scripts.{script}"]}})
"""
  defaults = ast.literal_eval(light_forks.run(script, code=code).out)
  listed = {k: tuple(v) if isinstance(v, list) else v for k, v in defaults.items()}
  needed = {
    "diagnose": ["path"],
    "reproduce": ["name"],
    "style": _STYLE,
    "launch_workers": ["workers"],
  }
  given = dict.fromkeys(needed.get(script, []))
  listed.pop("list", None)  # It lists the figures, and sets nothing.
  assert dataclasses.asdict(settings_class(**given)) == listed


_STYLE = ["content", "style", "output"]  # that have no default
NOTICES = """
import os
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\\n"
  b"I0000 port.cc:153] oneDNN custom operations are on.\\n"
  b"E0000 cuda_platform.cc:52] failed call to cuInit: INTERNAL\\n"
  b"a real problem\\n")
"""


@pytest.mark.parametrize(
  "end, code", [("raise ImportError('no')", 1), ("os.abort()", -6)]
)
def test_only_notices_of_the_import_are_held_back(tmp_path, end, code):
  (tmp_path / "tensorflow.py").write_text(NOTICES + end)
  ended = cold("import l2l_tf.runs.quiet", path=[tmp_path])
  assert ended.code == code
  assert ended.err[0] == "a real problem"
  assert (ended.err[-1] == "ImportError: no") == (code == 1)
