"""The table of rules, the mesh and the check."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from jbin import errors
from jbin.train import sharding


@pytest.mark.parametrize(
  ("data", "fsdp", "sizes"),
  [(1, 1, (1, 1)), (-1, 1, (8, 1)), (2, -1, (2, 4)), (2, 2, (2, 2))],
)
def test_meshes(data, fsdp, sizes):
  mesh = sharding.make_mesh(data, fsdp)
  assert tuple(mesh.shape.values()) == sizes
  assert mesh.axis_names == ("data", "fsdp")


@pytest.mark.parametrize(
  ("data", "fsdp", "message"),
  [
    (-1, -1, "only one axis"),
    (-1, 3, "a mesh axis of 3 does not divide 8 devices"),
    (4, 4, "needs 16 devices and there are 8"),
  ],
)
def test_meshes_that_cannot_be(data, fsdp, message):
  with pytest.raises(errors.UserError, match=message):
    sharding.make_mesh(data, fsdp)


@pytest.mark.parametrize(
  ("shape", "spec"),
  [
    ((), P()),
    ((64,), P()),  # small
    ((2048,), P("fsdp")),
    ((64, 128), P(None, "fsdp")),
    ((128, 64), P("fsdp")),
    ((64, 64), P(None, "fsdp")),  # of equals the last
    ((3, 3, 64, 128), P(None, None, None, "fsdp")),
    ((3, 3, 64, 127), P(None, None, "fsdp")),
    ((33, 35), P()),  # nothing divides
  ],
)
def test_rules(shape, spec):
  assert sharding.spec(shape, sharding.make_mesh(2, 4)) == spec
  assert sharding.spec(shape, sharding.make_mesh(8, 1)) == P()


def test_check_names_the_path():
  mesh = sharding.make_mesh(2, 4)
  tree = {"conv": {"kernel": jnp.zeros((64, 64)), "bias": jnp.zeros(3)}}
  want = sharding.intended(tree, mesh)
  sharding.check(jax.device_put(tree, want), want, "after creation")
  wrong = jax.device_put(tree, NamedSharding(mesh, P()))
  with pytest.raises(ValueError, match=r"after creation: conv\.kernel has"):
    sharding.check(wrong, want, "after creation")


def test_batches_that_cannot_be_shared_out():
  mesh = sharding.make_mesh(2, 4)
  sharding.check_batch("batch_size", 16, mesh)
  with pytest.raises(errors.UserError, match="choose 8 or 16"):
    sharding.check_batch("batch_size", 12, mesh)
  with pytest.raises(errors.UserError, match=r"choose 8$"):
    sharding.check_batch("batch_size", 4, mesh)
