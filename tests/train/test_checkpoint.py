"""Checkpoints: exact, on any mesh; another model or format is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import errors
from jbin.train import checkpoint, seals, sharding
from tests.train import saved


@pytest.fixture
def mesh():
  return sharding.make_mesh(2, 4)


@pytest.fixture
def three(tmp_path, mesh):
  """A folder with checkpoints 1, 2, 3 whose kernels are scaled by the step."""
  folder = tmp_path / "checkpoints"
  opened = checkpoint.Checkpoints(folder, 3)
  for step in (1, 2, 3):
    values = saved.place(saved.tree(step), mesh)
    opened.save(step, {"model": values}, {"data": step})
  assert opened.latest == 3
  opened.close()
  return folder


@pytest.mark.parametrize("sizes", [(2, 4), (1, 1), (8, 1)])
def test_round_trip_on_any_mesh(three, sizes):
  mesh = sharding.make_mesh(*sizes)
  (info, groups), said = saved.restore(three, mesh)
  assert (info["step"], info["data"], said) == (3, 3, [])
  got, want = groups["model"], saved.tree(3)
  sharding.check(got, sharding.intended(want, mesh), "after restoring")
  assert got["half"].dtype == jnp.bfloat16
  assert (got["kernel"] == np.asarray(want["kernel"])).all()
  assert jax.random.key_data(got["key"]).tolist() == (
    jax.random.key_data(want["key"]).tolist()
  )


def test_nothing_there(tmp_path, mesh):
  assert saved.restore(tmp_path / "none", mesh) == (None, [])
  assert not (tmp_path / "none").exists()


def test_a_group_without_arrays(tmp_path, mesh):
  opened = checkpoint.Checkpoints(tmp_path / "c", 2)
  model = saved.place(saved.tree(), mesh)
  opened.save(1, {"model": model, "optimizer": ((), {})}, {})
  opened.wait()
  (_, groups) = opened.restore(
    lambda info: {**saved.targets(model, mesh), "optimizer": ((), {})}
  )
  assert groups["optimizer"] == ((), {})
  opened.close()


def test_the_newest_are_kept(tmp_path, mesh):
  opened = checkpoint.Checkpoints(tmp_path / "c", 2)
  for step in (5, 6, 7):
    opened.save(step, {"model": saved.place(saved.tree(), mesh)}, {})
  opened.close()
  steps = [p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()]
  assert sorted(steps) == ["6", "7"]


def test_another_model_is_refused_not_called_damaged(three, mesh):
  values = {**saved.tree(), "extra": jnp.zeros(3)}
  with pytest.raises(
    errors.UserError, match=r"'extra' is absent there and float32\[3\]"
  ):
    saved.restore(three, mesh, values=values)
  values = {**saved.tree(), "kernel": jnp.zeros((3, 3))}
  with pytest.raises(
    errors.UserError, match=r"'kernel' is float32\[64, 32\] there"
  ):
    saved.restore(three, mesh, values=values)


def test_the_format_before_is_read(three, mesh):
  saved.as_format_1(three / "3")
  asked = []
  opened = checkpoint.Checkpoints(three)

  def targets(info):
    asked.append(info["format"])
    return saved.targets(saved.tree(), mesh)

  info, groups = opened.restore(targets)
  opened.close()
  assert (info["step"], asked) == (3, [1])
  want = np.asarray(saved.tree(3)["kernel"])
  assert (groups["model"]["kernel"] == want).all()


def test_a_format_to_come_is_refused(three, mesh):
  saved.as_format_9(three / "3")
  with pytest.raises(
    errors.UserError,
    match=r"has format 9, this jbin \(0.1.0\) reads 1 and 2; go on with the"
    r" jbin that wrote it \(9.0\), or start anew",
  ):
    saved.restore(three, mesh)


@pytest.mark.parametrize(
  "x",
  [
    jnp.arange(40.0).reshape(8, 5),
    jnp.arange(40.0, dtype=jnp.bfloat16).reshape(8, 5),
    jnp.arange(40, dtype=jnp.int8).reshape(8, 5),
    jnp.arange(40, dtype=jnp.uint32).reshape(8, 5) * 2**26,
    jnp.float32(3),
    jnp.arange(8) % 3 == 0,
    jnp.zeros((0, 3)),
  ],
  ids=lambda x: f"{x.dtype}{list(x.shape)}",
)
def test_a_digest_sees_each_bit_and_no_mesh(x):
  digest = lambda x: seals.digests({"x": x})["x"]
  want = digest(x)
  split = sharding.make_mesh(8, 1)
  if x.ndim and x.size:
    assert digest(jax.device_put(x, sharding.batch(split))) == want
  raw = np.asarray(x)
  bits = raw.tobytes()
  for at in range(0, 8 * len(bits), 7):
    flipped = bytearray(bits)
    flipped[at // 8] ^= 1 << at % 8
    if x.dtype == bool and at % 8:  # no bool
      continue
    other = np.frombuffer(flipped, raw.dtype).reshape(raw.shape)
    assert digest(jnp.asarray(other)) != want, at
