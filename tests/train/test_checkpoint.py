"""Checkpoints: exact, on any mesh, and damage is seen."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors
from jbin.train import checkpoint, sharding


def _tree(scale=1.0):
  return {
    "kernel": scale * jnp.arange(64.0 * 32).reshape(64, 32),
    "half": jnp.ones((8,), jnp.bfloat16),
    "key": jax.random.key(7),
    "count": jnp.uint32(3),
  }


def _place(tree, mesh):
  return jax.device_put(tree, sharding.intended(tree, mesh))


def _targets(tree, mesh, info=None):
  del info
  abstract = jax.eval_shape(lambda: tree)
  where = sharding.intended(abstract, mesh)
  place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  return {"model": jax.tree.map(place, abstract, where)}


@pytest.fixture
def mesh():
  return sharding.make_mesh(2, 4)


@pytest.fixture
def three(tmp_path, mesh):
  """A folder with checkpoints 1, 2, 3 whose kernels are scaled by the step."""
  folder = tmp_path / "checkpoints"
  opened = checkpoint.Checkpoints(folder, 3)
  for step in (1, 2, 3):
    opened.save(step, {"model": _place(_tree(step), mesh)}, {"data": step})
  assert opened.latest == 3
  opened.close()
  return folder


def _restore(folder, mesh, keep=None, tree=None):
  said = []
  opened = checkpoint.Checkpoints(folder, keep, said.append)
  try:
    targets = functools.partial(_targets, tree or _tree(), mesh)
    return opened.restore(targets), said
  finally:
    opened.close()


@pytest.mark.parametrize("sizes", [(2, 4), (1, 1), (8, 1)])
def test_round_trip_on_any_mesh(three, sizes):
  mesh = sharding.make_mesh(*sizes)
  (info, groups), said = _restore(three, mesh)
  assert (info["step"], info["data"], said) == (3, 3, [])
  got, want = groups["model"], _tree(3)
  sharding.check(got, sharding.intended(want, mesh), "after restoring")
  assert got["half"].dtype == jnp.bfloat16
  assert (got["kernel"] == np.asarray(want["kernel"])).all()
  assert jax.random.key_data(got["key"]).tolist() == (
    jax.random.key_data(want["key"]).tolist()
  )


def test_nothing_there(tmp_path, mesh):
  assert _restore(tmp_path / "none", mesh) == (None, [])
  assert not (tmp_path / "none").exists()


def test_a_group_without_arrays(tmp_path, mesh):
  opened = checkpoint.Checkpoints(tmp_path / "c", 2)
  opened.save(1, {"model": _place(_tree(), mesh), "optimizer": ((), {})}, {})
  opened.wait()
  (_, groups) = opened.restore(
    lambda info: {**_targets(_tree(), mesh), "optimizer": ((), {})}
  )
  assert groups["optimizer"] == ((), {})
  opened.close()


def test_the_newest_are_kept(tmp_path, mesh):
  opened = checkpoint.Checkpoints(tmp_path / "c", 2)
  for step in (5, 6, 7):
    opened.save(step, {"model": _place(_tree(), mesh)}, {})
  opened.close()
  steps = [p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()]
  assert sorted(steps) == ["6", "7"]


def _largest(folder):
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def _truncate(folder):
  path = _largest(folder / "model")
  path.write_bytes(path.read_bytes()[:-7])


def _flip(folder):
  path = _largest(folder / "model")
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 4
  path.write_bytes(raw)


def _remove(folder):
  _largest(folder / "model").unlink()


def _garble_info(folder):
  (folder / "info" / "metadata").write_text("{")


def _no_seal_and_no_model(folder):
  (folder / "jbin_seal.json").unlink()
  shutil.rmtree(folder / "model")


def _garble_seal(folder):
  (folder / "jbin_seal.json").write_text("[1]")


@pytest.mark.parametrize(
  "damage",
  [
    _truncate,
    _flip,
    _remove,
    _garble_info,
    _no_seal_and_no_model,
    _garble_seal,
  ],
)
def test_damage_is_named_and_the_last_good_one_used(three, mesh, damage):
  damage(three / "3")
  (info, groups), said = _restore(three, mesh, keep=3)
  assert info["step"] == 2
  assert (groups["model"]["kernel"] == np.asarray(_tree(2)["kernel"])).all()
  assert len(said) == 1
  assert "checkpoint 3 is damaged and passed over" in said[0]
  # It is out of the way: its step can be saved again.
  assert (three.parent / "checkpoints.damaged" / "3").is_dir()
  opened = checkpoint.Checkpoints(three, 3)
  opened.save(3, {"model": _place(_tree(9), mesh)}, {})
  opened.close()
  (_, groups), said = _restore(three, mesh)
  assert said == []
  assert (groups["model"]["kernel"] == np.asarray(_tree(9)["kernel"])).all()


def test_reading_moves_nothing(three, mesh):
  _flip(three / "3")
  (info, _), said = _restore(three, mesh)
  assert (info["step"], len(said)) == (2, 1)
  assert (three / "3").is_dir()


def test_all_damaged_is_an_error(three, mesh):
  for step in "123":
    _flip(three / step)
  with pytest.raises(errors.UserError, match=r"every checkpoint in .* damaged"):
    _restore(three, mesh)


def test_another_model_is_refused_not_called_damaged(three, mesh):
  tree = {**_tree(), "extra": jnp.zeros(3)}
  with pytest.raises(
    errors.UserError, match=r"'extra' is absent there and float32\[3\]"
  ):
    _restore(three, mesh, tree=tree)
  tree = {**_tree(), "kernel": jnp.zeros((3, 3))}
  with pytest.raises(
    errors.UserError, match=r"'kernel' is float32\[64, 32\] there"
  ):
    _restore(three, mesh, tree=tree)


def test_another_format_is_refused(three, mesh, monkeypatch):
  monkeypatch.setattr(checkpoint, "FORMAT", 2)
  with pytest.raises(errors.UserError, match="has format 1, this jbin reads 2"):
    _restore(three, mesh)


def test_the_last_save_is_verified(tmp_path, mesh, monkeypatch):
  opened = checkpoint.Checkpoints(tmp_path / "c", 2)
  opened.save(1, {"model": _place(_tree(), mesh)}, {})
  seal = checkpoint._seal

  def seal_then_damage(folder):
    seal(folder)
    _flip(folder)

  monkeypatch.setattr(checkpoint, "_seal", seal_then_damage)
  with pytest.raises(checkpoint.Damaged, match="is not as it was written"):
    opened.close()
