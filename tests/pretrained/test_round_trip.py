"""Saved and loaded again: names, bits, shards, types, memory."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from jbin import pretrained
from tests.pretrained import toys


@pytest.fixture(autouse=True)
def _only_toys(monkeypatch):
  toys.register(monkeypatch, toys.toy)


@pytest.fixture
def saved(tmp_path):
  model = toys.module()
  pretrained.save(model, tmp_path / "toy")
  return model, tmp_path / "toy"


def test_bits_come_back(saved):
  model, folder = saved
  assert toys.same(pretrained.load(folder, model), toys.arrays(model))
  file = folder / "model.safetensors"
  assert toys.same(pretrained.load(str(file), model), toys.arrays(model))


def test_bits_of_odd_numbers_come_back(tmp_path):
  model = toys.module()
  odd = np.array([[0x7FC12345, 0x80000000, 0x00000001, 0xFF800000]], np.uint32)
  model.words.embedding.set_value(jnp.asarray(odd.repeat(5, 0).view("f4")))
  pretrained.save(model, tmp_path)
  assert toys.same(pretrained.load(tmp_path, model), toys.arrays(model))


def test_names_and_places(saved):
  model, folder = saved
  ours, theirs = toys.arrays(model), load_file(folder / "model.safetensors")
  assert {name for name in theirs if "stage" in name} == {
    *(f"stage.0.{i}.fc.weight" for i in range(4)),
    *(f"stage.1.{i}.fc.weight" for i in range(2)),
  }
  np.testing.assert_array_equal(
    theirs["stage.0.3.fc.weight"], ours["stages/0/pairs/odd/kernel"][1].T
  )
  fused = theirs["body.h.1.qkv.weight"]
  assert fused.shape == (18, 4)
  key = ours["blocks/attn/key/kernel"][1]
  np.testing.assert_array_equal(fused[6:12], key.reshape(4, 6).T)
  assert theirs["body.scale"].shape == ()


def test_shards(saved, tmp_path):
  model, folder = saved
  whole = load_file(folder / "model.safetensors")
  pretrained.save(model, tmp_path / "many", shard_bytes=500)
  files = sorted((tmp_path / "many").glob("model-*.safetensors"))
  assert len(files) > 2
  assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
  assert all(path.stat().st_size < 1200 for path in files)
  index = json.loads(
    (tmp_path / "many" / "model.safetensors.index.json").read_text()
  )
  assert index["metadata"]["total_size"] == sum(
    t.nbytes for t in whole.values()
  )
  for name, file in index["weight_map"].items():
    np.testing.assert_array_equal(
      load_file(tmp_path / "many" / file)[name], whole[name]
    )
  assert toys.same(
    pretrained.load(tmp_path / "many", model), toys.arrays(model)
  )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bits_become_float32(saved, dtype):
  model, folder = saved
  toys.rewrite(
    folder,
    lambda tensors: tensors.update(
      {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    ),
  )
  want = {
    path: array.astype(dtype).astype(np.float32)
    for path, array in toys.arrays(model).items()
  }
  assert toys.same(pretrained.load(folder, model), want)


def test_restore_keeps_types_and_shardings(saved):
  model, folder = saved
  other = toys.module(dtype=jnp.bfloat16)
  mesh = jax.make_mesh((2,), ("fsdp",))
  split = NamedSharding(mesh, PartitionSpec("fsdp"))
  kernel = other.head.kernel
  kernel.set_value(jax.device_put(kernel.get_value() * 0, split))
  pretrained.restore(other, folder)
  assert other.head.kernel.get_value().sharding == split
  want = {
    path: array.astype(ml_dtypes.bfloat16)
    for path, array in toys.arrays(model).items()
  }
  assert toys.same(toys.arrays(other), want)


def test_restore_fills_an_abstract_model(saved):
  model, folder = saved
  abstract = nnx.eval_shape(toys.module)
  pretrained.restore(abstract, folder)
  assert toys.same(toys.arrays(abstract), toys.arrays(model))


def test_fresh_by_our_paths_and_by_their_names(saved):
  model, folder = saved
  other = toys.module({**toys.SHAPES, "head/kernel": (4, 7), "head/bias": (7,)})
  found = pretrained.load(folder, other, fresh=("head/.*",))
  want = {p: a for p, a in toys.arrays(model).items() if "head" not in p}
  assert toys.same(found, want)
  toys.rewrite(folder, lambda tensors: tensors.update(more=np.zeros(3, "f4")))
  found = pretrained.load(folder, model, fresh=("more",))
  assert toys.same(found, toys.arrays(model))


def test_a_part_of_a_checkpoint_is_for_a_part_of_a_model(saved):
  model, folder = saved
  part = {"conv/kernel": toys.SHAPES["conv/kernel"]}
  rest = "(?!.*conv).*"
  found = pretrained.load(folder, toys.module(part), fresh=(rest,))
  assert toys.same(found, {"conv/kernel": toys.arrays(model)["conv/kernel"]})


def test_other_spellings_buffers_and_copies(saved):
  model, folder = saved

  def change(tensors):
    for name in list(tensors):
      tensors[name.removeprefix("body.")] = tensors.pop(name)
    tensors["h.0.position_ids"] = np.arange(5)
    tensors["lm_head.weight"] = tensors["wte.weight"]

  toys.rewrite(folder, change)
  assert toys.same(pretrained.load(folder, model), toys.arrays(model))


def test_tensors_are_read_one_by_one(tmp_path):
  depth, side = 24, 256
  tensors = {
    f"stage.0.{i}.fc.weight": np.full((side, side), i, np.float16)
    for i in range(2 * depth)
  }
  save_file(tensors, tmp_path / "model.safetensors")
  shape = (depth, side, side)
  shapes = {f"stages/0/pairs/{name}/kernel": shape for name in ("even", "odd")}
  model = nnx.eval_shape(lambda: toys.module(shapes))
  pretrained.load(tmp_path, model)  # imports
  tracemalloc.start()
  found = pretrained.load(tmp_path, model)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert found["stages/0/pairs/odd/kernel"][5, 0, 0] == 11
  size = sum(array.nbytes for array in found.values())
  assert peak < size + 8 * side * side * 4
