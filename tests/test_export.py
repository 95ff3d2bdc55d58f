import contextlib
import dataclasses
import inspect
import io
import json
import os
import pathlib
import pickle
import re
import stat
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_tf import optimizers, registry
from l2l_tf.optimizers import (
  NTMBFGS,
  SGD,
  Adagrad,
  Adam,
  Blocked,
  ConstantGates,
  CoordinatewiseLSTM,
  GateLSTM,
  GeneralRule,
  GlobalAveragingLSTM,
  HierarchicalRNN,
  KernelwiseLSTM,
  LearnedStart,
  Momentum,
  Nesterov,
  Optimizer,
  Partition,
  RMSprop,
  RNNprop,
  Where,
)
from l2l_tf.preprocess import Clamp, Concat, Identity, LogAndSign
from l2l_tf.storage import export
from l2l_tf.storage.export import ExportError

FILTERS, BIAS, SCALE = (
  ("kernel", (3, 2, 1, 2), "kernel"),
  ("b", (2,), "bias"),
  ("s", (), "variable"),
)

# Every class, and no argument at its default.
EVERY = [
  lambda: SGD(0.3),
  lambda: Momentum(0.3, momentum=0.7),
  lambda: Nesterov(0.3, momentum=0.7),
  lambda: RMSprop(0.3, rho=0.8, epsilon=1e-3),
  lambda: Adagrad(0.3, epsilon=1e-3),
  lambda: Adam(0.3, beta_1=0.8, beta_2=0.9, epsilon=1e-3),
  lambda: CoordinatewiseLSTM((3, 2), LogAndSign(7.0), 0.1, seed=5, dtype="float64"),
  lambda: CoordinatewiseLSTM((3,), Clamp(-0.5, 2.0), initializer="zeros"),
  lambda: CoordinatewiseLSTM((2,), Identity(3.0), seed=2**40, dtype="bfloat16"),
  lambda: CoordinatewiseLSTM((), "identity", dtype="float16"),
  lambda: GlobalAveragingLSTM((3, 2), "clamp", 0.1, seed=4, averaged=1),
  lambda: NTMBFGS((3, 2), "clamp", 0.1, seed=4, averaged=1, memory="dense"),
  lambda: NTMBFGS((3,), averaged=2, dense_limit=0, history=4, dtype="float64"),
  lambda: RNNprop((3, 2), 0.8, 0.9, 1e-9, 0.2, (10, 1e3), seed=6, dtype="float64"),
  lambda: RNNprop((2,), initializer="zeros", dtype="bfloat16"),
  lambda: RNNprop((2,), block=3),
  lambda: GeneralRule(4),
  lambda: GeneralRule(None, [0.5] * 20),
  lambda: HierarchicalRNN(0.1, seed=4, dtype="float64"),
  lambda: GateLSTM(seed=3, dtype="float64"),
  lambda: GateLSTM(memory=True, units=3),
  lambda: ConstantGates(0.2, decay=0.1),
  lambda: LearnedStart(ConstantGates(0.2), [BIAS[1], SCALE[1]]),
  lambda: KernelwiseLSTM((3, 2), (2,), "log_and_sign", 0.5, seed=1),
  lambda: CoordinatewiseLSTM((2,), Concat((LogAndSign(5.0), Clamp(scale=20.0)))),
  lambda: Blocked(CoordinatewiseLSTM((2,), "log_and_sign", seed=3), 4),
  lambda: Partition(
    [
      (Where("ker*", 4, "kernel"), KernelwiseLSTM((3, 2), (2,), LogAndSign(3.0))),
      (Where(role="bias"), CoordinatewiseLSTM((2,), "clamp")),
      (Where("s"), Partition([(Where(rank=0), RMSprop(0.2))], [SCALE])),
    ],
    [FILTERS, BIAS, SCALE],
  ),
]


def shuffled(optimizer, seed=0):
  """As after training: no weight is what its constructor draws."""
  rng = np.random.default_rng(seed)
  for v in optimizer.variables:
    v.assign(tf.cast(rng.normal(size=v.shape), v.dtype))
  return optimizer


def gradients(optimizer):
  parameters = {KernelwiseLSTM: [FILTERS], Partition: [FILTERS, BIAS, SCALE]}
  shapes = [s for _, s, _ in parameters.get(type(optimizer), [BIAS, SCALE])]
  return [tf.random.stateless_normal(s, [0, i]) for i, s in enumerate(shapes)]


def run(optimizer, num_steps=3):
  grads = gradients(optimizer)
  state = optimizer.initial_state(grads)
  for _ in range(num_steps):
    updates, state = optimizer(grads, state, params=grads, loss=tf.constant(0.7))
  return [u.numpy() for u in updates]


def assert_same_config(optimizer, other):
  assert type(optimizer) is type(other)
  config, other_config = optimizer.config, other.config
  for (selects, member), (other_selects, other_member) in zip(
    config.pop("routes", []), other_config.pop("routes", []), strict=True
  ):
    assert selects == other_selects
    assert_same_config(member, other_member)
  if "optimizer" in config:  # of a wrapper
    assert_same_config(config.pop("optimizer"), other_config.pop("optimizer"))
  assert config == other_config


def assert_same(optimizer, other):
  assert_same_config(optimizer, other)
  assert len(optimizer.variables) == len(other.variables)
  for v, w in zip(optimizer.variables, other.variables):
    assert v.dtype == w.dtype
    np.testing.assert_array_equal(v, w)
  for u, w in zip(run(optimizer), run(other)):
    np.testing.assert_array_equal(u, w)


@pytest.mark.parametrize("make", EVERY)
def test_what_is_saved_is_what_is_loaded(make, tmp_path):
  optimizer = shuffled(make())
  export.save(optimizer, tmp_path / "o.l2l.npz")
  loaded = export.load(str(tmp_path / "o.l2l.npz"))
  assert_same(loaded, optimizer)


def test_every_public_optimizer_makes_the_round_trip():
  public = {
    cls
    for cls in vars(optimizers).values()
    if inspect.isclass(cls)
    and issubclass(cls, Optimizer)
    and not inspect.isabstract(cls)
  }
  assert public == {type(make()) for make in EVERY}


@pytest.fixture
def path(tmp_path):
  """A sound export."""
  path = tmp_path / "o.l2l.npz"
  export.save(small(), path)
  return path


def small(seed=0):
  return shuffled(CoordinatewiseLSTM((2,), "log_and_sign"), seed)


def write(path, **arrays):
  with path.open("wb") as f:
    np.savez(f, **arrays)


def rewrite(path, edit=lambda header: None, weights=lambda weights: None):
  """Writes the export again with another header or other weights."""
  with np.load(path) as arrays:
    found = dict(arrays)
  header = json.loads(str(found.pop("header")))
  edit(header)
  weights(found)
  write(path, header=np.array(json.dumps(header)), **found)


@contextlib.contextmanager
def unchanged(path):
  """`path` keeps its bytes, and nothing is left beside it."""
  before, names = path.read_bytes(), sorted(os.listdir(path.parent))
  yield
  assert path.read_bytes() == before
  assert sorted(os.listdir(path.parent)) == names


def test_the_file_is_plain_arrays_and_json(path):
  with np.load(path, allow_pickle=False) as arrays:
    header = json.loads(str(arrays["header"]))
    assert header["format"] == "l2l_tf" and header["version"] == export.FORMAT_VERSION
    assert header["optimizer"]["class"] == "CoordinatewiseLSTM"
    assert header["optimizer"]["config"]["layers"] == [2]
    for (shape, dtype), v in zip(header["weights"], small().variables):
      assert shape == list(v.shape) and dtype == v.dtype.name
    assert len(arrays.files) == 1 + len(small().variables)
  assert path.stat().st_size < 8000
  assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_saving_again_builds_no_second_optimizer_again(monkeypatch, tmp_path):
  sizes, make = [], CoordinatewiseLSTM.__init__

  def counted(self, layers, *args, **kwargs):
    sizes.append(tuple(layers))
    make(self, layers, *args, **kwargs)

  one, other = CoordinatewiseLSTM((7, 3)), CoordinatewiseLSTM((7, 4))
  monkeypatch.setattr(CoordinatewiseLSTM, "__init__", counted)
  for optimizer in one, other:
    for _ in range(2):
      export.save(shuffled(optimizer), tmp_path / "o")
  assert sizes == [(7, 3), (7, 4)]
  assert_same(export.load(tmp_path / "o"), other)


def test_missing_folders_are_made(tmp_path):
  export.save(SGD(0.1), tmp_path / "a" / "b" / "o.l2l.npz")
  assert export.load(tmp_path / "a" / "b" / "o.l2l.npz").learning_rate == 0.1


def test_an_existing_file_is_replaced(path):
  export.save(small(seed=1), path)
  assert_same(export.load(path), small(seed=1))
  assert os.listdir(path.parent) == [path.name]


def test_numpy_numbers_are_numbers(tmp_path):
  export.save(Adam(np.float32(0.5), beta_1=np.float64(0.25)), tmp_path / "o")
  config = export.load(tmp_path / "o").config
  assert config["learning_rate"] == 0.5 and config["beta_1"] == 0.25


def test_a_registered_preprocess_of_one_s_own_is_exported(tmp_path, monkeypatch):
  monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

  @registry.register
  @dataclasses.dataclass(frozen=True)
  class Powers:
    inner: object
    exponents: tuple[int, ...] = (1,)

    def __call__(self, grads):
      (feature,) = tf.unstack(self.inner(grads), axis=-1)
      return tf.stack([feature**e for e in self.exponents], axis=-1)

  optimizer = shuffled(CoordinatewiseLSTM((2,), Powers(Clamp(-0.5, 0.5), (1, 2))))
  export.save(optimizer, tmp_path / "o")
  assert_same(export.load(tmp_path / "o"), optimizer)
  del registry._REGISTRY["Powers"]
  with pytest.raises(ExportError, match="the class 'Powers', which is not registered"):
    export.load(tmp_path / "o")


def test_two_classes_of_one_name_cannot_be_registered():
  other = type("Adam", (), {})
  with pytest.raises(ValueError, match="'Adam' is already registered"):
    registry.register(other)
  assert registry.register(Adam) is Adam


# What cannot be saved.


class Unregistered(SGD):
  pass


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: SGD(lambda step: 0.1), "function .* cannot be exported; use numbers"),
    (lambda: SGD(tf.constant(0.1)), "tf.Tensor.* cannot be exported; use numbers"),
    (lambda: Unregistered(0.1), "Unregistered.* cannot be exported; .*register"),
    (
      lambda: type("SGD", (SGD,), {})(0.1),
      "SGD.* cannot be exported; .* class with the decorator",
    ),
    (
      lambda: CoordinatewiseLSTM((), lambda g: g[:, tf.newaxis]),
      "function .* cannot be exported; use numbers, strings, or a class",
    ),
    (
      lambda: Partition([(lambda p: True, SGD(0.1))], [BIAS]),
      "function .* cannot be exported; use numbers",
    ),
    (LogAndSign, r"LogAndSign\(p=10.0\) is not an optimizer; an export holds"),
    (lambda: 3, "3 is not an optimizer; an export holds an l2l_tf Optimizer"),
  ],
)
def test_what_cannot_be_described_is_an_error_that_loses_nothing(make, message, path):
  with unchanged(path), pytest.raises(ExportError, match=message):
    export.save(make(), path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_never_replace_a_sound_file(value, path):
  optimizer = small()
  optimizer.variables[-1].assign([[0.0], [value]])
  with (
    unchanged(path),
    pytest.raises(
      ExportError, match=r"cannot be exported, .*weights that are not finite"
    ),
  ):
    export.save(optimizer, path)


def test_an_optimizer_that_would_not_load_again_is_refused(path, monkeypatch):
  monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

  @registry.register
  class Forgetful(CoordinatewiseLSTM):
    @property
    def config(self):
      return {**super().config, "layers": ()}

  with (
    unchanged(path),
    pytest.raises(
      ExportError, match=r"Forgetful cannot be exported, .*: it holds 5 weights"
    ),
  ):
    export.save(Forgetful((2,)), path)


def test_an_interrupt_leaves_the_old_file(path, monkeypatch):
  def interrupt(file, **arrays):
    file.write(b"half of it")
    raise KeyboardInterrupt

  monkeypatch.setattr(np, "savez", interrupt)
  with unchanged(path), pytest.raises(KeyboardInterrupt):
    export.save(small(seed=1), path)


def test_a_folder_or_a_place_below_a_file_cannot_be_saved_to(path):
  folder = path.parent / "folder"
  folder.mkdir()
  with unchanged(path):
    with pytest.raises(IsADirectoryError):
      export.save(SGD(0.1), folder)
    with pytest.raises((FileExistsError, NotADirectoryError)):
      export.save(SGD(0.1), path / "o.l2l.npz")
  assert not os.listdir(folder)


# What cannot be loaded.


@pytest.mark.parametrize("name", ["", "missing", "missing/missing", "o\0"])
def test_a_missing_file_or_a_folder_is_an_error_that_names_it(name, tmp_path):
  message = f"No exported optimizer at {re.escape(repr(str(tmp_path / name)))}; give"
  with pytest.raises(FileNotFoundError, match=message):
    export.load(tmp_path / name)


def test_an_unreadable_file_is_an_error_that_names_it(path, monkeypatch):
  monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
  with pytest.raises(PermissionError, match=r"No permission to read '.*o\.l2l\.npz'"):
    export.load(path)


def set_version(header):
  header["version"] = 2


def set_format(header):
  header["format"] = "other"


def drop_format(header):
  del header["format"]


def set_config(**config):
  return lambda header: header["optimizer"]["config"].update(config)


def set_class(name, **config):
  def edit(header):
    header["optimizer"] = {"class": name, "config": config}

  return edit


def set_optimizer(value):
  return lambda header: header.update(optimizer=value)


def declare(weight):
  return lambda header: header["weights"].__setitem__(0, weight)


@pytest.mark.parametrize(
  "edit, message",
  [
    (set_version, "has format 'l2l_tf' version 2; this release reads"),
    (set_format, "has format 'other' version 1; this release reads"),
    (drop_format, "has format None version 1; this release reads"),
    (set_class("os.system", command="true"), "'os.system', which is not registered"),
    (set_class("LogAndSign", p=3.0), r"LogAndSign\(p=3.0\) is not an optimizer"),
    (set_class("Where"), "Where.* is not an optimizer"),
    (set_optimizer("CoordinatewiseLSTM"), "'CoordinatewiseLSTM' is not an opt"),
    (set_optimizer([1, 2]), r"\(1, 2\) is not an optimizer"),
    (set_optimizer({"config": {}}), r"or is damaged \(KeyError: 'class'\); export it"),
    (set_optimizer({"class": ["SGD"], "config": {}}), "or is damaged .*TypeError"),
    (set_optimizer({"class": "SGD", "config": 3}), "or is damaged .*AttributeError"),
    (set_class("SGD", learning_rate=0.1), "holds 5 weights, but its .* make 0"),
    (set_class("SGD", learning_rate=-1), "or is damaged .*learning_rate=-1 must be"),
    (set_class("SGD", learning_rate=0.1, rho=1), "or is damaged .*TypeError"),
    (set_class("SGD"), "or is damaged .*TypeError"),
    (set_config(layers=[3]), r"declares the weights .*\[8\].* make .*\[12\]"),
    (set_config(layers=[2, 2]), "holds 5 weights, but its .* make 8"),
    (set_config(preprocess="identity"), r"declares .*\[2, 8\].* make .*\[1, 8\]"),
    (set_config(dtype="float64"), "declares .*float32.* make .*float64"),
    (set_config(layers=[500_000] * 3), "holds 5 weights, but its .* make 11"),
    (set_config(layers=[-1]), "or is damaged .*must be a sequence of positive"),
    (set_config(layers=[10**30]), "or is damaged"),
    (declare([[10**12], "float32"]), r"declares the weights \[\[\[1000000000000\]"),
    (declare([[1], "object"]), "declares the weights .*object"),
    (lambda header: header["weights"].pop(), "it declares the weights"),
    (lambda header: header.pop("weights"), "or is damaged .*KeyError: 'weights'"),
  ],
)
def test_a_foreign_header_is_an_error_that_names_the_file(edit, message, path):
  rewrite(path, edit)
  with pytest.raises(ExportError, match=rf"o\.l2l\.npz' cannot be loaded: .*{message}"):
    export.load(path)


def set_weight(value):
  return lambda weights: weights.update(weight_004=value)


@pytest.mark.parametrize(
  "edit, message",
  [
    (set_weight(np.zeros([1, 2], np.float32)), r"and holds .*\[\[1, 2\], 'float32'\]"),
    (set_weight(np.zeros([2], np.float32)), r"and holds .*\[\[2\], 'float32'\]"),
    (set_weight(np.zeros([2, 1])), r"and holds .*\[\[2, 1\], 'float64'\]"),
    (set_weight(np.array([["a"], ["b"]])), "and holds .*'str"),
    (set_weight(np.full([2, 1], np.nan, np.float32)), "weights that are not finite"),
    (set_weight(np.full([2, 1], np.inf, np.float32)), "weights that are not finite"),
    (lambda weights: weights.pop("weight_004"), "holds 4 weights, but its .* make 5"),
    (lambda weights: weights.clear(), "holds 0 weights, but its .* make 5"),
    (lambda weights: weights.update(weight_005=np.zeros(1)), "holds 6 weights"),
    (
      lambda weights: weights.update(evil=weights.pop("weight_004")),
      "holds 5 weights, but its constructor arguments make 5|or is damaged",
    ),
  ],
)
def test_foreign_weights_are_an_error_that_names_the_file(edit, message, path):
  rewrite(path, weights=edit)
  with pytest.raises(ExportError, match=rf"o\.l2l\.npz' cannot be loaded: .*{message}"):
    export.load(path)


@pytest.mark.parametrize("eighths", range(8))
def test_a_truncated_file_is_an_error(eighths, path):
  content = path.read_bytes()
  path.write_bytes(content[: len(content) * eighths // 8])
  with pytest.raises(ExportError, match="not exported by l2l_tf, or is damaged"):
    export.load(path)


@settings(max_examples=40, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_changes_nothing(position, flip, tmp_path_factory):
  path = tmp_path_factory.mktemp("export") / "o.l2l.npz"
  optimizer = shuffled(CoordinatewiseLSTM((), "log_and_sign"))
  export.save(optimizer, path)
  content = bytearray(path.read_bytes())
  content[int(position * len(content))] ^= flip
  path.write_bytes(content)
  with contextlib.suppress(ExportError):
    loaded = export.load(path)
    for v, w in zip(optimizer.variables, loaded.variables):
      np.testing.assert_array_equal(v, w)


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_an_error(content, tmp_path_factory):
  path = tmp_path_factory.mktemp("export") / "o.l2l.npz"
  path.write_bytes(content)
  with pytest.raises(ExportError, match="not exported by l2l_tf, or is damaged"):
    export.load(path)


class Payload:
  """Touches a file when it is unpickled."""

  def __init__(self, target):
    self.target = target

  def __reduce__(self):
    return pathlib.Path.touch, (self.target,)


@pytest.mark.parametrize("place", ["weight", "header", "npy", "pickle"])
def test_nothing_in_a_file_is_ever_unpickled(place, path, tmp_path):
  target = tmp_path / "executed"
  payload = np.array([[Payload(target)], [0]], dtype=object)
  if place == "weight":
    rewrite(path, weights=set_weight(payload))
  elif place == "header":
    write(path, header=payload)
  elif place == "npy":
    path.write_bytes(npy(payload))
  else:
    path.write_bytes(pickle.dumps(Payload(target)))
  with pytest.raises(ExportError, match="not exported by l2l_tf, or is damaged"):
    export.load(path)
  assert not target.exists()


def replace_member(path, name, content, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path) as archive:
    members = {i.filename: archive.read(i) for i in archive.infolist()}
  members[name] = content
  with zipfile.ZipFile(path, "w", compression) as archive:
    for member, data in members.items():
      archive.writestr(member, data)


def npy(array):
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


@pytest.mark.parametrize("name", ["header.npy", "weight_004.npy"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(name, path):
  replace_member(path, name, npy(np.zeros(10**7, np.uint8)), zipfile.ZIP_DEFLATED)
  assert path.stat().st_size < 50_000
  with pytest.raises(ExportError, match="it is compressed, which no export is"):
    export.load(path)


def test_a_header_beyond_all_reason_is_refused(path):
  replace_member(path, "header.npy", npy(np.zeros(1 << 24, np.uint8)))
  with pytest.raises(ExportError, match="its header is larger than 16777216 bytes"):
    export.load(path)


@pytest.mark.parametrize("name", ["header.npy", "weight_004.npy"])
@pytest.mark.parametrize("dtype, shape", [("<f4", (10**14,)), ("<U4", (1 << 62, 9))])
def test_an_array_that_claims_more_than_the_file_holds_is_refused(
  name, dtype, shape, path
):
  file = io.BytesIO()
  fields = {"descr": dtype, "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(file, fields)
  replace_member(path, name, file.getvalue() + bytes(8))
  with pytest.raises(ExportError, match="not exported by l2l_tf, or is damaged"):
    export.load(path)


@pytest.mark.parametrize(
  "header", ["[" * 10**5, "[]", "3", "null", "{", '{"format": "l2l_tf"}', "\ud800"]
)
def test_a_header_that_is_no_description_is_an_error(header, path):
  write(path, header=np.array(header))
  with pytest.raises(ExportError, match="not exported by l2l_tf, or is damaged"):
    export.load(path)


def test_the_message_is_one_line(path):
  rewrite(path, set_config(layers=[10**30]))
  with pytest.raises(ExportError) as error:
    export.load(path)
  assert len(str(error.value).splitlines()) == 1
