"""Programs on many devices: totals, shares, and what is sent between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from jbin import bits, cost

B, D, F = 8, 16, 32
X = jax.ShapeDtypeStruct((B, D), jnp.float32)
UP = jax.ShapeDtypeStruct((D, F), jnp.float32)
DOWN = jax.ShapeDtypeStruct((F, D), jnp.float32)
ARGS = (X, UP, DOWN)
MACS = 2 * B * D * F
AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit


def _mesh(kind=AUTO, **axes):
  return jax.make_mesh(
    tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes)
  )


def _low(x, n, axis):
  """Codes with a scale for each row or column."""
  scale = jnp.abs(x).max(axis, keepdims=True)
  return bits.tag(jnp.round(x / scale), n) * scale


def mlp(x, up, down, gather=lambda x: x, total=lambda x: x):
  """Two low-bit products with an activation, on the weights that are given."""
  h = jax.nn.relu(_low(x, 4, 1) @ _low(gather(up), 1, 0))
  return total(_low(h, 2, 1) @ _low(gather(down), 1, 0))


def figures(report):
  """What sharding may not change."""
  return (
    report.macs,
    report.ace,
    report.ace_strict,
    report.weights_by_bits,
    report.params,
    [record.weights for record in report.layers],
    [record.flags for record in report.layers],
  )


@pytest.fixture(scope="module")
def plain():
  report = cost.count(mlp, *ARGS, weights=[1, 2])
  assert report.macs == {(4, 1): MACS // 2, (2, 1): MACS // 2}
  assert report.flagged == []
  assert [record.devices for record in report.layers] == [1, 1]
  return report


def _data(check):
  """Each device has some examples and all weights."""
  return jax.shard_map(
    mlp,
    mesh=_mesh(data=8),
    in_specs=(P("data"), P(), P()),
    out_specs=P("data"),
    check_vma=check,
  )


def _fsdp(check):
  """Each device has some examples and a slice of the weights, till needed."""
  return jax.shard_map(
    functools.partial(
      mlp, gather=functools.partial(lax.all_gather, axis_name="d", tiled=True)
    ),
    mesh=_mesh(d=8),
    in_specs=(P("d"), P("d"), P("d")),
    out_specs=P("d"),
    check_vma=check,
  )


def _both(check):
  """Examples over one axis, hidden features over the other."""
  return jax.shard_map(
    functools.partial(mlp, total=lambda y: lax.psum(y, "model")),
    mesh=_mesh(data=2, model=4),
    in_specs=(P("data"), P(None, "model"), P("model")),
    out_specs=P("data"),
    check_vma=check,
  )


# How to share, and how many partial sums there are of each result.
WAYS = {"data": (_data, 1), "fsdp": (_fsdp, 1), "both": (_both, 4)}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_shard_map_counts_for_all_devices(plain, way, check):
  make, copies = WAYS[way]
  report = cost.count(make(check), *ARGS, weights=[1, 2])
  assert figures(report) == figures(plain)
  assert [record.devices for record in report.layers] == [8] * 2
  assert [r.macs // r.devices for r in report.layers] == [MACS // 2 // 8] * 2
  # Elements of all devices' results, and no trips.
  assert [r.outputs for r in report.layers] == [B * F, B * D * copies]
  assert [r.repeats for r in report.layers] == [1, 1]


def test_transfers_are_listed_with_their_axes_and_bytes():
  (row,) = cost.count(_both(True), *ARGS, weights=[1, 2]).collectives
  assert (row.axes, row.repeats) == (("model",), 1)
  assert row.primitive.startswith("psum")
  assert row.bytes == B // 2 * D * 4  # a device's own partial sums
  rows = cost.count(_fsdp(True), *ARGS, weights=[1, 2]).collectives
  assert [r.axes for r in rows] == [("d",), ("d",)]
  assert [r.bytes for r in rows] == [D * F // 8 * 4] * 2
  assert all(r.primitive.startswith("all_gather") for r in rows)


def test_a_collective_over_the_axis_of_a_vmap_is_a_reduction():
  each = lambda x: x - lax.pmean(x, "rows")
  report = cost.count(
    jax.vmap(each, axis_name="rows"),
    jax.ShapeDtypeStruct((4, 8), jnp.float32),
  )
  assert report.collectives == []
  assert report.elementwise_by_primitive == {"psum": 32, "div": 8, "sub": 32}


def test_transfers_in_a_loop_and_of_narrow_types():
  mesh = _mesh(i=2, j=4)

  def ring(x):
    turn = lambda c, _: (
      lax.ppermute(c, "j", [(k, (k + 1) % 4) for k in range(4)]),
      None,
    )
    x = lax.scan(turn, x, None, length=3)[0]
    x = lax.psum(x.astype(jnp.int8), ("i", "j"))
    return lax.psum_scatter(x.astype(jnp.bfloat16), "j", tiled=True)

  run = jax.shard_map(
    ring, mesh=mesh, in_specs=P(("i", "j")), out_specs=P("j"), check_vma=False
  )
  rows = cost.count(run, jax.ShapeDtypeStruct((64, 4), jnp.float32)).collectives
  assert [(r.axes, r.bytes, r.repeats) for r in rows] == [
    (("j",), 8 * 4 * 4, 3),
    (("i", "j"), 8 * 4, 1),
    (("j",), 8 * 4 * 2, 1),
  ]


def test_what_all_devices_of_an_axis_compute_alike_counts_once():
  """The second product is the same on each device of `model`."""

  def run(x, w):
    y = lax.psum(x @ w, "model")
    return jnp.tanh(y) @ jnp.ones((F, 3))

  sharded = jax.shard_map(
    run,
    mesh=_mesh(data=2, model=4),
    in_specs=(P("data", "model"), P("model")),
    out_specs=P("data"),
  )
  report = cost.count(sharded, X, UP, weights=1)
  assert [r.macs for r in report.layers] == [B * D * F, B * F * 3]
  assert [r.devices for r in report.layers] == [8, 2]
  assert report.elementwise_by_primitive["tanh"] == B * F


def test_work_that_only_the_device_number_tells_apart():
  """Nothing that comes in is divided, but each device has its own sum."""

  def run(x):
    return (x * lax.axis_index("d")) @ jnp.ones((D, 3))

  for check in (True, False):
    sharded = jax.shard_map(
      run, mesh=_mesh(d=4), in_specs=P(), out_specs=P("d"), check_vma=check
    )
    report = cost.count(sharded, X)
    assert sum(report.macs.values()) == 4 * B * D * 3


def test_a_scan_in_a_shard_map_in_a_scan():
  def layer(x, w):
    return jax.nn.relu(_low(x, 2, 1) @ _low(w, 1, 0))

  def looped(x, w):
    return lax.scan(lambda x, w: (layer(x, w), None), x, w)[0]

  sharded = jax.shard_map(
    looped, mesh=_mesh(d=8), in_specs=(P("d"), P()), out_specs=P("d")
  )
  twice = lambda x, w: lax.fori_loop(0, 2, lambda _, x: sharded(x, w), x)
  stack = jax.ShapeDtypeStruct((5, D, D), jnp.float32)
  report = cost.count(twice, X, stack, weights=1)
  (record,) = report.layers
  assert record.macs == 2 * 5 * B * D * D
  assert (record.repeats, record.devices) == (10, 8)
  assert report.weights_by_bits == {1: 5 * D * D}


def test_a_shard_map_in_a_shard_map():
  mesh = _mesh(data=2, model=4)

  def inner(x, w):
    own = jax.shard_map(
      lambda x, w: x @ w,
      in_specs=(P(), P(None, "model")),
      out_specs=P(None, "model"),
      axis_names={"model"},
    )
    return own(x, w) @ jnp.ones((F, 3))

  outer = jax.shard_map(
    inner,
    mesh=mesh,
    in_specs=(P("data"), P()),
    out_specs=P("data"),
    axis_names={"data"},
  )
  report = cost.count(jax.jit(outer), X, UP, weights=1)
  assert [r.macs for r in report.layers] == [B * D * F, B * F * 3]
  # What follows the inner one is left to XLA along `model`.
  assert [r.devices for r in report.layers] == [8, 2]


@pytest.mark.parametrize("cut", [P(None, "d"), P("d")])
@pytest.mark.parametrize("parts", [1, 2, 4, 8, D])
def test_runs_of_a_scale_go_in_and_out_of_a_shard_map(parts, cut):
  """A scale that changes along the contraction, whichever axis is divided."""

  def scaled(x, s):
    codes = bits.tag(jnp.round(x), 8).reshape(B, parts, D // parts)
    return (codes * s[None, :, None]).reshape(B, D)

  kernel = lambda: bits.tag(jnp.ones((D, 3)), 8)
  plain = lambda x, s: scaled(x, s) @ kernel()
  s = jax.ShapeDtypeStruct((parts,), jnp.float32)

  def through(x, s):
    x = scaled(x, s)
    moved = jax.shard_map(
      lambda x: -x, mesh=_mesh(d=4), in_specs=cut, out_specs=cut
    )(x)
    return moved @ kernel()

  one, other = (cost.count(f, X, s).layers[0] for f in (plain, through))
  runs = {1: 1, D: 0}.get(parts, parts)
  assert one.lhs.runs == runs
  # Of runs that go over several devices no more is known than that they differ.
  assert other.lhs.runs == (4 if parts == 2 and cut[0] is None else runs)
  assert other.flags == one.flags


def test_a_contraction_that_devices_share_has_its_part_of_the_runs():
  """Eight runs over four devices are two for each, as partial sums go."""

  def run(x, w, s):
    codes = bits.tag(jnp.round(w), 4).reshape(8, D // 8, F) * s
    x = bits.tag(jnp.round(x), 8)
    return x, codes.reshape(D, F)

  def sharded(x, w, s):
    part = jax.shard_map(
      lambda x, w: lax.psum(x @ w, "d"),
      mesh=_mesh(d=4),
      in_specs=(P(None, "d"), P("d")),
      out_specs=P(),
    )
    return part(*run(x, w, s))

  plain = lambda x, w, s: jnp.dot(*run(x, w, s))
  s = jax.ShapeDtypeStruct((8, 1, F), jnp.float32)
  one, other = (
    cost.count(f, X, UP, s, weights=[1, 2]) for f in (plain, sharded)
  )
  assert (one.layers[0].rhs.runs, other.layers[0].rhs.runs) == (8, 2)
  assert one.layers[0].partials == other.layers[0].partials == 8 * B * F
  assert one.ace_strict == other.ace_strict


def test_arrays_of_explicit_sharding_say_how_many_share_a_product():
  mesh = _mesh(EXPLICIT, data=2, model=4)
  with jax.set_mesh(mesh):
    x, w = (
      jax.device_put(np.ones(s, np.float32), jax.NamedSharding(mesh, spec))
      for s, spec in (((B, D), P("data")), ((D, F), P(None, "model")))
    )
    program = lambda x, w: x @ w
    report = cost.count(jax.jit(program), x, w, weights=1)
  (record,) = report.layers
  assert (record.macs, record.devices) == (B * D * F, 8)


def test_a_mesh_that_is_left_to_xla_counts_as_a_whole(plain):
  mesh = _mesh(data=8)
  placed = jax.NamedSharding(mesh, P("data"))

  def run(x, up, down):
    x = lax.with_sharding_constraint(x, placed)
    return mlp(x, up, down)

  report = cost.count(jax.jit(run, out_shardings=placed), *ARGS, weights=[1, 2])
  assert figures(report) == figures(plain)
  assert report.collectives == []  # XLA adds those


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("gathered", [True, False])
@pytest.mark.parametrize("common", [True, False])
def test_a_scale_that_each_device_measures_makes_groups(
  common, gathered, check
):
  def quantized(x):
    scale = jnp.abs(x).max()
    if common:
      scale = lax.pmax(scale, "d")
    x = bits.tag(jnp.round(x), 8) * scale
    if gathered:
      x = lax.all_gather(x, "d", axis=1, tiled=True)
    return x

  def run(x, w):
    x = jax.shard_map(
      quantized,
      mesh=_mesh(d=4),
      in_specs=P(None, "d"),
      out_specs=P() if gathered else P(None, "d"),
      check_vma=check and not gathered,
    )(x)
    return x @ bits.tag(jnp.sign(w), 1)

  (record,) = cost.count(run, X, UP, weights=1).layers
  assert record.lhs.runs == (1 if common else 4)
  assert record.flags == (() if common else ("scale_by_groups",))


@pytest.mark.parametrize("check", [True, False])
def test_slices_by_the_number_of_the_device_are_shares(check):
  """Each device takes its columns of a weight that all of them have."""

  def run(x, w):
    first = lax.axis_index("d") * (F // 4)
    return x @ lax.dynamic_slice(w, (0, first), (D, F // 4))

  sharded = jax.shard_map(
    run,
    mesh=_mesh(d=4),
    in_specs=(P(), P()),
    out_specs=P(None, "d"),
    check_vma=check,
  )
  (record,) = cost.count(sharded, X, UP, weights=1).layers
  assert (record.macs, record.devices) == (B * D * F, 4)
  assert (record.name, record.kind) == ("arg1", "dense")
