"""VGG-16's weights: from a file, from the network, and what is said without either."""

import os
import socket

import keras
import numpy as np
import pytest

from l2l_tf.problems import DatasetUnavailableError, vgg

SHAPES = [
  (3, 3, 3, 64), (3, 3, 64, 64), (3, 3, 64, 128), (3, 3, 128, 128), (3, 3, 128, 256),
  (3, 3, 256, 256), (3, 3, 256, 256),
]  # fmt: skip


@pytest.fixture(scope="module")
def arrays():
  """Arrays of the right names and shapes."""
  names = ["11", "12", "21", "22", "31", "32", "33"]
  found = {"block5_conv3/kernel": np.zeros([1])}
  for (block, number), shape in zip(names, SHAPES):
    name = f"block{block}_conv{number}"
    found[f"{name}/kernel"] = np.full(shape, 10 * int(block) + int(number), np.float32)
    found[f"{name}/bias"] = np.ones(shape[-1:], np.float32)
  return found


def test_a_file_is_read(arrays, tmp_path, monkeypatch):
  np.savez(tmp_path / "vgg.npz", **arrays)
  monkeypatch.setenv("L2L_VGG16", str(tmp_path / "vgg.npz"))
  read = vgg.vgg16.__wrapped__()
  assert [w.kernel.shape for w in read] == SHAPES
  assert [w.bias.shape for w in read] == [shape[-1:] for shape in SHAPES]
  assert [w.kernel[0, 0, 0, 0] for w in read] == [11, 12, 21, 22, 31, 32, 33]


def test_a_file_of_other_weights_is_refused(arrays, tmp_path):
  path = tmp_path / "vgg.npz"
  wrong = {**arrays, "block2_conv1/kernel": np.zeros([3, 3, 64, 64], np.float32)}
  np.savez(path, **wrong)
  with pytest.raises(
    ValueError,
    match=r"L2L_VGG16 .* block2_conv1/kernel has \(3, 3, 64, 64\), not \(3, 3, 64, 128",
  ):
    vgg.read(path)
  del wrong["block2_conv1/kernel"]
  np.savez(path, **wrong)
  with pytest.raises(ValueError, match="block2_conv1/kernel has no such array, not"):
    vgg.read(path)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
  (tmp_path / "text.npz").write_text("no weights")
  for name in ("text.npz", "missing.npz"):
    with pytest.raises(
      DatasetUnavailableError, match=r"^Could not read VGG-16's .*or set L2L_VGG16"
    ) as e:
      vgg.read(tmp_path / name)
    assert name in str(e.value) and "\n" not in str(e.value)


def test_without_a_network_a_sentence_says_how_to_get_them(tmp_path, monkeypatch):
  monkeypatch.delenv("L2L_VGG16", raising=False)
  monkeypatch.setenv("KERAS_HOME", str(tmp_path))
  for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
    monkeypatch.delenv(name, raising=False)
  with socket.socket() as closed:
    closed.bind(("127.0.0.1", 0))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(
      DatasetUnavailableError,
      match=r"^Could not download VGG-16's .* keras.applications downloads them .*"
      r" set L2L_VGG16 to an .npz file",
    ):
      vgg.vgg16.__wrapped__()
  assert not os.listdir(tmp_path)


def test_downloaded_weights_are_those_of_keras(tmp_path, monkeypatch):
  """Without a network: an untrained model stands for the downloaded one."""
  inputs = keras.Input([None, None, 3])
  hidden = inputs
  for name, shape in zip(vgg.NAMES, SHAPES):
    hidden = keras.layers.Conv2D(shape[-1], 3, padding="same", name=name)(hidden)
  model = keras.Model(inputs, hidden)
  monkeypatch.delenv("L2L_VGG16", raising=False)
  monkeypatch.setenv("KERAS_HOME", str(tmp_path))
  monkeypatch.setattr(vgg.datasets, "require_reachable", lambda url: None)
  monkeypatch.setattr(keras.applications, "VGG16", lambda **options: model)
  read = vgg.vgg16.__wrapped__()
  assert [w.kernel.shape for w in read] == SHAPES
  kernel, bias = model.get_layer("block3_conv2").get_weights()
  np.testing.assert_array_equal(read[5].kernel, kernel)
  np.testing.assert_array_equal(read[5].bias, bias)


def test_untrained_weights_keep_the_size_of_the_outputs():
  weights = vgg.untrained((4, 16, 64), seed=3)
  again, other = vgg.untrained((4, 16, 64), seed=3), vgg.untrained((4, 16, 64), seed=4)
  assert [w.kernel.shape[2:] for w in weights] == [
    (3, 4), (4, 4), (4, 16), (16, 16), (16, 64), (64, 64), (64, 64)
  ]  # fmt: skip
  for w, same, differs in zip(weights, again, other):
    assert (w.kernel == same.kernel).all() and (w.kernel != differs.kernel).any()
    assert w.kernel.dtype == w.bias.dtype == np.float32 and not w.bias.any()
  fan_in = 9 * 64
  assert np.isclose(weights[-1].kernel.std(), (2 / fan_in) ** 0.5, rtol=0.02)
