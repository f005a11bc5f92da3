"""Where weights are found: files, folders, the hub."""

import contextlib
import json

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

from jbin import errors, pretrained
from jbin.pretrained import _source


@pytest.fixture
def weights(tmp_path):
  """A folder with one file of weights, by another name."""
  save_file({"a": np.zeros(2, "f4")}, tmp_path / "weights.safetensors")
  return tmp_path


def test_the_only_file_of_a_folder(weights):
  found = _source.find(weights)
  assert found.files == (weights / "weights.safetensors",)
  assert found.config == {}


def test_the_config_beside_a_file(weights):
  (weights / "config.json").write_text('{"model_type": "vit"}')
  found = _source.find(str(weights / "weights.safetensors"))
  assert found.config == {"model_type": "vit"}


def test_which_file_of_several(weights):
  save_file({"a": np.zeros(2, "f4")}, weights / "other.safetensors")
  with pytest.raises(
    errors.UserError, match=r"other\.safetensors, weights\.safe"
  ):
    _source.find(weights)
  (weights / "other.safetensors").rename(weights / "model.safetensors")
  assert _source.find(weights).files == (weights / "model.safetensors",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth"])
def test_pickles_are_not_opened(tmp_path, name):
  (tmp_path / name).write_bytes(b"not even a pickle")
  for source in (tmp_path, tmp_path / name):
    with pytest.raises(errors.UserError, match=r"run code .*save_pretrained"):
      _source.find(source)


def test_an_empty_folder(tmp_path):
  with pytest.raises(errors.UserError, match="none is there, but nothing"):
    _source.find(tmp_path)


def test_shards_that_are_not_there(tmp_path):
  index = {
    "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}
  }
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
  save_file({"a": np.zeros(2, "f4")}, tmp_path / "model-1.safetensors")
  with pytest.raises(errors.UserError, match=r": model-2\.safetensors, named"):
    _source.find(tmp_path)


def test_a_damaged_file(tmp_path):
  path = tmp_path / "model.safetensors"
  path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
  with pytest.raises(errors.UserError, match=r"model\.safetensors: it cannot"):
    pretrained.model(_with_config(tmp_path))


def test_a_damaged_config(weights):
  (weights / "config.json").write_text("<html>")
  with pytest.raises(errors.UserError, match=r"config\.json: it is no JSON"):
    _source.find(weights)


_HERE = "weights.safetensors"
FOREIGN = {
  "[1]": "it holds a list, not names",
  "{}": "it has no weight_map",
  '{"weight_map": {}}': "it has no weight_map",
  '{"weight_map": [1]}': "it has no weight_map",
  '{"weight_map": {"a": 1}}': r"a in 1, which is not the name",
  '{"weight_map": {"a": "../x.safetensors"}}': r"not the name of .* beside it",
  '{"weight_map": {"a": "/x.safetensors"}}': r"not the name of .* beside it",
  '{"weight_map": {"a": "model.bin"}}': r"not the name of .* beside it",
}


@pytest.mark.parametrize("text", FOREIGN)
def test_an_index_that_is_none(text, tmp_path):
  path = tmp_path / _source.INDEX
  path.write_text(text)
  with pytest.raises(errors.UserError, match=FOREIGN[text]) as caught:
    _source.find(tmp_path)
  assert str(path) in str(caught.value)


@pytest.mark.parametrize(
  ("tensors", "said"),
  [
    (("a", "b"), "it lacks b"),
    (("a", "c"), "it lacks c"),
    ((), None),
    (("b",), r"it has a, and .* \(2 such tensors\)"),
  ],
)
def test_shards_have_what_the_index_says(tensors, said, weights):
  place = dict.fromkeys(tensors or ("a",), _HERE)
  (weights / _source.INDEX).write_text(json.dumps({"weight_map": place}))
  with contextlib.ExitStack() as stack:
    if said is None:
      assert len(_source.tensors(_source.find(weights), stack)) == 1
      return
    with pytest.raises(errors.UserError, match=rf"{_HERE}: {said}"):
      _source.tensors(_source.find(weights), stack)


CONFIGS = {
  "[1]": "it holds a list",
  '{"model_type": "vit", "hidden_size": "x"}': "a value that its key cannot",
  '{"model_type": "vit", "hidden_size": 0}': "a value that its key cannot",
  '{"model_type": "pvt_v2", "depths": 3}': "a value that its key cannot",
  '{"architecture": "nest_tiny_jx", "model_args": 1}': "a value that its key",
}


@pytest.mark.parametrize("text", CONFIGS)
def test_a_config_that_is_none(text, weights):
  (weights / "config.json").write_text(text)
  with pytest.raises(errors.UserError, match=CONFIGS[text]):
    pretrained.model(weights)


def _with_config(folder):
  (folder / "config.json").write_text('{"model_type": "vit"}')
  return folder


def test_no_such_path():
  with pytest.raises(errors.UserError, match="no such file or folder"):
    _source.find("/no/such/folder")


def test_the_hub_gives_a_folder(weights, monkeypatch):
  asked = {}

  def snapshot_download(name, **kwargs):
    asked.update(kwargs, name=name)
    return str(weights)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  found = _source.find("some-org/vit.tiny@refs/pr/1")
  assert found.files == (weights / "weights.safetensors",)
  assert found.said == "some-org/vit.tiny@refs/pr/1"
  assert asked["name"] == "some-org/vit.tiny"
  assert asked["revision"] == "refs/pr/1"
  assert "config.json" in asked["allow_patterns"]
  assert not any("bin" in pattern for pattern in asked["allow_patterns"])
  _source.find("org/name")
  assert asked["revision"] is None


def test_without_a_network(monkeypatch):
  def snapshot_download(name, **kwargs):
    raise huggingface_hub.errors.LocalEntryNotFoundError("no route\nto host")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  with pytest.raises(
    errors.UserError,
    match=r"org/name: .*\(LocalEntryNotFoundError: no route\); without a",
  ):
    _source.find("org/name")
