"""Bytes moved, arithmetic intensity, and the time on named chips."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jbin import cost, errors
from tests.cost import networks

M, K, N = 64, 128, 32
TOY = cost.Chip(
  "toy",
  {"bfloat16": 100.0, "int8": 200.0, "int4": 400.0},
  10.0,
  "bfloat16",
  "made up",
)


def dense(left=32, right=32, dtype=jnp.float32):
  """One product of (M, K) by a weight (K, N)."""
  x, w = (jax.ShapeDtypeStruct(s, dtype) for s in ((M, K), (K, N)))
  return cost.count(
    lambda x, w: networks.codes(x, left) @ networks.codes(w, right),
    x,
    w,
    weights=1,
  )


@pytest.mark.parametrize(
  ("left", "right", "dtype", "expected"),
  [
    (32, 32, "float32", 4 * (M * K + K * N + M * N)),
    (32, 32, "bfloat16", 2 * (M * K + K * N + M * N)),
    (1, 1, "float32", (M * K + K * N) / 8 + 4 * M * N),
    (32, 1, "bfloat16", 2 * M * K + K * N / 8 + 2 * M * N),
    (8, 4, "float32", M * K + K * N / 2 + 4 * M * N),
  ],
)
def test_operands_move_at_their_bits_and_results_at_their_dtype(
  left, right, dtype, expected
):
  report = dense(left, right, dtype)
  assert report.total("bytes_moved") == expected
  (row,) = report.roofline(TOY).rows
  assert row.bytes_moved == expected
  assert row.intensity == 2 * M * K * N / expected


def test_every_trip_reads_its_operands():
  def run(x, w):
    return lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]

  x, w = jnp.ones((4, 8)), jnp.ones((8, 8))
  once = cost.count(lambda x, w: x @ w, x, w, weights=1)
  report = cost.count(run, x, w, weights=1)
  assert report.total("bytes_moved") == 7 * once.total("bytes_moved")
  seconds = report.roofline(TOY).seconds
  assert seconds == pytest.approx(7 * once.roofline(TOY).seconds)


def test_a_result_of_a_wider_dtype_moves_more():
  def run(x, w):
    return jnp.matmul(x, w, preferred_element_type=jnp.int32)

  x, w = jnp.ones((M, K), jnp.int8), jnp.ones((K, N), jnp.int8)
  report = cost.count(run, x, w, weights=1)
  assert report.total("bytes_moved") == M * K + K * N + 4 * M * N


# (activation bits, weight bits, dtype) -> the unit on each chip.
UNITS = {
  (1, 1, "float32"): ("int8", "int4", "int4", "int1", "int8"),
  (1, 4, "bfloat16"): ("int8", "int4", "int4", "int4", "int8"),
  (8, 4, "float32"): ("int8", "int8", "int8", "int8", "int8"),
  (12, 4, "float32"): (
    *("bfloat16", "bfloat16", "bfloat16", "tfloat32", "tfloat32"),
  ),
  (32, 1, "bfloat16"): ("bfloat16",) * 5,
  (32, 32, "float16"): (
    *("bfloat16", "bfloat16", "bfloat16", "float16", "float16"),
  ),
  (32, 32, "float8_e4m3fn"): (
    *("bfloat16", "bfloat16", "float8", "bfloat16", "float8"),
  ),
  (32, 32, "float32"): (
    *("bfloat16", "bfloat16", "bfloat16", "tfloat32", "tfloat32"),
  ),
}
CHIPS = ("tpu_v4", "tpu_v5e", "tpu_v6e", "a100", "h100")


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("case", UNITS, ids=str)
def test_the_unit_that_computes_a_product(case, chip):
  roofline = dense(*case).roofline(chip)
  (row,) = roofline.rows
  unit = UNITS[case][CHIPS.index(chip)]
  assert row.unit == unit
  assert row.seconds_compute == 2 * M * K * N / roofline.chip.peaks[unit]
  assert row.seconds_memory == row.bytes_moved / roofline.chip.bandwidth
  assert row.seconds == max(row.seconds_compute, row.seconds_memory)
  assert not roofline.macs_without_unit


def test_what_no_unit_computes_is_said():
  def run(x, w):
    return x @ w

  x, w = jnp.ones((4, 8), jnp.int32), jnp.ones((8, 2), jnp.int32)
  roofline = cost.count(run, x, w, weights=1).roofline("tpu_v5e")
  (row,) = roofline.rows
  assert (row.unit, row.bound, row.seconds_compute) == (None, "no unit", 0)
  assert roofline.macs_without_unit == 64
  assert roofline.left_out["MACs for which the chip has no unit"] == 64


def test_the_bound_changes_at_the_ridge():
  """One token is limited by memory, many by arithmetic."""

  def rows(tokens):
    x, w = (
      jax.ShapeDtypeStruct(s, jnp.bfloat16)
      for s in ((tokens, 4096), (4096, 4096))
    )
    report = cost.count(lambda x, w: x @ w, x, w, weights=1)
    return report.roofline("tpu_v5e")

  ridge = rows(1).chip.ridge("bfloat16")
  assert ridge == pytest.approx(197e12 / 819e9)
  for tokens in (1, 64, 1024, 8192):
    (row,) = rows(tokens).rows
    assert row.bound == ("compute" if row.intensity >= ridge else "memory")
  assert rows(1).rows[0].bound == "memory"
  assert rows(8192).rows[0].bound == "compute"


def test_one_bit_weights_are_read_16_times_faster_than_bfloat16():
  def seconds(right):
    x, w = (
      jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((1, 4096), (4096, 4096))
    )
    report = cost.count(
      lambda x, w: x @ networks.codes(w, right), x, w, weights=1
    )
    return report.roofline("h100").seconds

  assert seconds(32) / seconds(1) == pytest.approx(16, rel=0.02)


def test_totals_are_sums_over_the_products():
  roofline = networks.deit(192, (1, 1), (32, 1)).count().roofline("a100")
  rows = roofline.rows
  assert roofline.seconds == pytest.approx(sum(row.seconds for row in rows))
  assert roofline.seconds >= max(
    roofline.seconds_compute, roofline.seconds_memory
  )
  assert roofline.seconds <= roofline.seconds_compute + roofline.seconds_memory
  operations = sum(row.operations for row in rows)
  assert roofline.intensity == pytest.approx(operations / roofline.bytes_moved)
  table = roofline.to_json()
  assert table["seconds"] == roofline.seconds
  assert table["source"] == roofline.chip.source


def test_devices_share_a_product_evenly():
  """A row is what one device does; each reads the whole weight."""
  auto = jax.sharding.AxisType.Auto
  mesh = jax.make_mesh((4,), ("data",), axis_types=(auto,))
  rows, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
  sharded = jax.shard_map(
    lambda x, w: x @ w, mesh=mesh, in_specs=(rows, whole), out_specs=rows
  )
  report = cost.count(sharded, jnp.ones((M, K)), jnp.ones((K, N)), weights=1)
  (record,) = report.layers
  assert (record.macs, record.devices) == (M * K * N, 4)
  (row,) = report.roofline(TOY).rows
  assert row.operations == 2 * M * K * N / 4
  assert row.bytes_moved == 4 * (M // 4 * K + K * N + M // 4 * N)
  assert report.total("bytes_moved") == 4 * row.bytes_moved


# --- Chips ------------------------------------------------------------------


@pytest.mark.parametrize("name", list(cost.CHIPS))
def test_a_chip_has_its_figures_and_their_source(name):
  chip = cost.CHIPS.get(name)()
  assert chip.source
  assert chip.float32 in chip.peaks
  assert 5e11 < chip.bandwidth < 1e13
  for unit, peak in chip.peaks.items():
    assert 1e13 < peak < 1e16, unit
  order = [
    chip.peaks[u] for u in ("bfloat16", "int8", "int4") if u in chip.peaks
  ]
  assert order == sorted(order)


def test_the_report_has_every_chip():
  table = dense().to_json()["roofline"]
  assert list(table) == list(cost.CHIPS)
  assert set(CHIPS) < set(table)


def test_a_chip_of_ones_own():
  (row,) = dense(8, 8).roofline(TOY).rows
  assert row.seconds_compute == 2 * M * K * N / 200
  with pytest.raises(ValueError, match="not a unit"):
    cost.Chip("wrong", {"tensor core": 1.0}, 1.0, "tensor core", "")
  with pytest.raises(ValueError, match="no peak"):
    cost.Chip("wrong", {"int8": 1.0}, 1.0, "bfloat16", "")
  with pytest.raises(errors.UnknownName, match="tpu_v5e"):
    dense().roofline("tpu_v5")
