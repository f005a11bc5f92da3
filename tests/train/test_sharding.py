"""The table of rules, the mesh and the check."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec as P

from jbin import errors, nn
from jbin.train import sharding


@pytest.mark.parametrize(
  ("given", "sequence", "sizes"),
  [
    ((1, 1), 1, (1, 1, 1, 1)),
    ((-1, 1), 1, (8, 1, 1, 1)),
    ((2, -1), 1, (2, 4, 1, 1)),
    ((2, 2), 1, (2, 2, 1, 1)),
    ((1, 4, 2), 1, (1, 4, 1, 2)),
    ((-1, 2, 2), 1, (2, 2, 1, 2)),
    ((1, 2, -1), 1, (1, 2, 1, 4)),
    ((1, 4), 2, (1, 4, 2, 1)),
    ((2, 1), -1, (2, 1, 4, 1)),
    ((-1, 1, 2), 2, (2, 1, 2, 2)),
  ],
)
def test_meshes(given, sequence, sizes):
  mesh = sharding.make_mesh(*given, sequence=sequence)
  assert tuple(mesh.shape.values()) == sizes
  assert mesh.axis_names == ("data", "fsdp", "sequence", "tensor")


@pytest.mark.parametrize(
  ("given", "sequence", "message"),
  [
    ((-1, -1), 1, "only one axis"),
    ((-1, 1), -1, "only one axis"),
    ((-1, 3), 1, "a mesh axis of 3 does not divide 8 devices"),
    ((-1, 2), 3, "a mesh axis of 6 does not divide 8 devices"),
    (
      (4, 4),
      1,
      "data=4, fsdp=4, sequence=1, tensor=1 needs 16 devices and there are 8",
    ),
    ((2, 1, 2), 4, "sequence=4, tensor=2 needs 16 devices and there are 8"),
  ],
)
def test_meshes_that_cannot_be(given, sequence, message):
  with pytest.raises(errors.UserError, match=message):
    sharding.make_mesh(*given, sequence=sequence)


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
  assert sharding.spec(shape, sharding.make_mesh(1, 1, sequence=8)) == P()


NAMED = [
  ((64, 128), ("embed", "mlp"), P("fsdp", "tensor")),
  ((128, 64), ("heads", "embed"), P("tensor", "fsdp")),
  ((6, 64, 128), (None, "embed", "inner"), P(None, "fsdp", "tensor")),
  ((2048,), ("inner",), P("tensor")),
  ((2047, 64), ("vocab", "embed"), P(None, "fsdp")),  # is not divided
  ((8, 8), ("embed", "mlp"), P()),  # small
]


@pytest.mark.parametrize(("shape", "names", "spec"), NAMED)
def test_axes_with_names(shape, names, spec):
  assert sharding.spec(shape, sharding.make_mesh(1, 4, 2), names) == spec


def test_an_optimizer_lies_as_its_parameters_do():
  def block(rngs):
    layer = nnx.Linear(64, 128, rngs=rngs)
    return nn.name_axes(layer, kernel=("embed", "mlp"))

  params = nnx.state(nn.stack(block, 3, nnx.Rngs(0)))
  mesh = sharding.make_mesh(1, 4, 2)
  tree = {"params": params, "optimizer": optax.adam(0.1).init(params)}
  specs = [leaf.spec for leaf in jax.tree.leaves(sharding.intended(tree, mesh))]
  assert specs.count(P(None, "fsdp", "tensor")) == 3


def test_names_that_do_not_fit():
  layer = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
  with pytest.raises(errors.UserError, match=r"kernel has the shape \(8, 8\)"):
    nn.name_axes(layer, kernel=("embed",))


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
  sharding.check_batch("batch_size", 4, sharding.make_mesh(1, 4, 2))
  sharding.check_batch("batch_size", 4, sharding.make_mesh(1, 4, sequence=2))


@pytest.mark.parametrize(
  ("rows", "parts"),
  [
    ({0: {(0, 8)}}, {0: (0, 1)}),
    ({0: {(0, 4)}, 1: {(4, 8)}}, {0: (0, 2), 1: (1, 2)}),
    ({0: {(4, 6), (6, 8)}, 1: {(0, 2), (2, 4)}}, {0: (1, 2), 1: (0, 2)}),
    ({0: {(0, 8)}, 1: {(0, 8)}}, {0: (0, 1), 1: (0, 1)}),  # tensor
    ({0: {(0, 2), (4, 6)}, 1: {(2, 4), (6, 8)}}, None),  # not together
    ({0: {(0, 2)}, 1: {(2, 8)}}, None),  # not equal
    ({0: {(2, 6)}, 1: {(0, 2)}, 2: {(6, 8)}}, None),
  ],
)
def test_parts_of_a_batch_by_process(rows, parts):
  assert sharding._shares(rows, 8) == parts


def test_one_process_reads_all():
  assert sharding.share(sharding.make_mesh(2, 2, 2), 16) == (0, 1)
  assert sharding.share(sharding.make_mesh(2, 2, sequence=2), 16) == (0, 1)


@pytest.mark.parametrize("flag", [False, True])
def test_stops_lie_on_all_devices(flag):
  with jax.transfer_guard("disallow"):
    found = sharding.stops(sharding.make_mesh(2, 2, 2), flag)
  assert found.dtype == jnp.int32
  assert found.tolist() == [int(flag)] * 8
  assert len(found.sharding.device_set) == 8


def test_table():
  mesh = sharding.make_mesh(2, 4)
  tree = {
    "kernel": jax.ShapeDtypeStruct((64, 128), jnp.float32),
    "bias": jax.ShapeDtypeStruct((128,), jnp.bfloat16),
    "key": jax.eval_shape(lambda: jax.random.key(0)),
  }
  lines = sharding.table(tree, sharding.intended(tree, mesh)).splitlines()
  cells = [line.split() for line in lines]
  assert ["bias", "[128]", "bfloat16", "256"] in cells
  assert ["kernel", "[64,", "128]", "float32", "-,", "fsdp", "8,192"] in cells
  assert cells[3][-1] == "8"  # the words of the key
  assert cells[4] == ["sum", "8,456"]
  assert lines[-1] == "of these 264 (3.12 %) are a copy of every device's"
