"""Transfers read off compiled programs, on eight virtual devices."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jbin import cost
from jbin.cost import _hlo
from jbin.train import counting
from tests.train.conftest import TINY, tiny_config, tiny_values

__all__ = ["tiny_config", "tiny_values"]  # fixtures

_IN, _HIDDEN, _OUT, _BATCH = 64, 128, 32, 16


@pytest.fixture(scope="module")
def mesh():
  return jax.make_mesh(
    (2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2
  )


def _lie(mesh, shape, *spec, dtype=jnp.float32):
  where = NamedSharding(mesh, P(*spec))
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _sent(mesh, fn, *args, out=None):
  compiled = jax.jit(fn, out_shardings=out).lower(*args).compile()
  return cost.communication(compiled, mesh)


def _bytes(found, kind, axes):
  return sum(
    row.bytes * row.times
    for row in found.transfers
    if row.kind == kind and row.axes == axes
  )


def _loss(w, x):
  return ((jnp.tanh(x @ w["a"]) @ w["b"]) ** 2).sum()


def _params(mesh, *spec):
  return {
    "a": _lie(mesh, (_IN, _HIDDEN), *spec),
    "b": _lie(mesh, (_HIDDEN, _OUT), *spec),
  }


_SIZE = 4 * (_IN * _HIDDEN + _HIDDEN * _OUT)


# --- Data, parameters and layers over devices ---------------------------------


@pytest.mark.parametrize(
  ("along", "axes"),
  [
    ("data", ("data",)),
    ("model", ("model",)),
    (("data", "model"), ("data", "model")),
  ],
)
def test_data_parallel_gradients_are_as_many_bytes_as_parameters(
  mesh, along, axes
):
  whole = NamedSharding(mesh, P())
  found = _sent(
    mesh,
    jax.grad(_loss),
    _params(mesh),
    _lie(mesh, (_BATCH, _IN), along),
    out={"a": whole, "b": whole},
  )
  assert _bytes(found, "all-reduce", axes) == _SIZE
  (row,) = found.by_axis().items()
  n = 8 if len(axes) == 2 else mesh.shape[axes[0]]
  assert row == (
    "+".join(axes),
    {"transfers": 1, "bytes": _SIZE, "sent": 2 * (_SIZE * (n - 1) // n)},
  )
  assert found.notes == []


def test_divided_parameters_are_gathered(mesh):
  whole = NamedSharding(mesh, P())
  gather = lambda w: lax.with_sharding_constraint(w, whole)
  found = _sent(mesh, gather, _params(mesh, "model"), out=whole)
  assert _bytes(found, "all-gather", ("model",)) == _SIZE
  assert found.by_axis()["model"]["sent"] == _SIZE * 3 // 4


def test_a_step_on_divided_parameters_gathers_them_and_sums_over_both(mesh):
  split = NamedSharding(mesh, P("model"))
  found = _sent(
    mesh,
    jax.grad(_loss),
    _params(mesh, "model"),
    _lie(mesh, (_BATCH, _IN), ("data", "model")),
    out={"a": split, "b": split},
  )
  assert _bytes(found, "all-gather", ("model",)) >= _SIZE
  assert found.by_axis()["data"]["bytes"] == _SIZE // 4


def test_a_layer_over_devices_sums_its_results(mesh):
  w = {
    "a": _lie(mesh, (_IN, _HIDDEN), None, "model"),
    "b": _lie(mesh, (_HIDDEN, _OUT), "model"),
  }
  fn = lambda w, x: jnp.tanh(x @ w["a"]) @ w["b"]
  out = NamedSharding(mesh, P("data"))
  found = _sent(mesh, fn, w, _lie(mesh, (_BATCH, _IN), "data"), out=out)
  assert list(found.by_axis()) == ["model"]
  (row,) = found.transfers
  assert (row.kind, row.devices) == ("all-reduce", 4)
  assert row.bytes == 4 * (_BATCH // 2) * _OUT
  assert "dot_general" in row.where


# --- Loops --------------------------------------------------------------------


def _layers(w, x):
  return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


def test_a_loop_counts_each_of_its_trips(mesh):
  found = _sent(
    mesh,
    _layers,
    _lie(mesh, (6, 64, 64), None, "model"),
    _lie(mesh, (_BATCH, 64), "data"),
    out=NamedSharding(mesh, P("data")),
  )
  rows = [row for row in found.transfers if row.times == 6]
  assert rows
  assert found.notes == []
  assert found.by_axis()["model"]["bytes"] >= 6 * 4 * (_BATCH // 2) * 64


def test_trips_that_are_not_known_are_said(mesh):
  def fn(w, x):
    step = lambda x: jnp.tanh(x @ w)
    return lax.while_loop(lambda x: x[0, 0] > 0.5, step, x)

  found = _sent(
    mesh,
    fn,
    _lie(mesh, (64, 64), "model"),
    _lie(mesh, (_BATCH, 64), "data"),
    out=NamedSharding(mesh, P("data")),
  )
  inside = [row for row in found.transfers if not row.known]
  assert inside
  assert all(row.times == 1 for row in inside)
  assert "one trip counts" in found.notes[0]


# --- Transfers that the program asks for --------------------------------------


def _everything(mesh):
  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=P("data", "model"),
    out_specs=P("data", "model"),
  )
  def fn(x):
    n = mesh.shape["model"]
    ring = [(i, (i + 1) % n) for i in range(n)]
    y = lax.ppermute(x, "model", ring)
    y = y + lax.all_to_all(x.reshape(n, -1), "model", 0, 0).reshape(x.shape)
    y = y + lax.psum(x, "data")
    wide = lax.all_gather(y, "model", axis=1, tiled=True)
    return lax.psum_scatter(wide, "model", scatter_dimension=1, tiled=True)

  return fn, _lie(mesh, (_BATCH, _IN), "data", "model")


def test_each_kind_has_its_bytes_and_axes(mesh):
  fn, x = _everything(mesh)
  found = _sent(mesh, fn, x)
  part = 4 * (_BATCH // 2) * (_IN // 4)
  rows = {row.kind: (row.axes, row.bytes, row.sent) for row in found.transfers}
  assert rows == {
    "all-reduce": (("data",), part, part),
    "collective-permute": (("model",), part, part),
    "all-to-all": (("model",), part, part * 3 // 4),
    "all-gather": (("model",), 4 * part, 3 * part),
    "reduce-scatter": (("model",), 4 * part, 3 * part),
  }


def test_the_program_says_the_same(mesh):
  fn, x = _everything(mesh)
  asked = cost.count(fn, x).collectives
  found = _sent(mesh, fn, x).transfers
  assert len(asked) == len(found)
  assert {row.axes for row in asked} == {row.axes for row in found}


# --- A config's step ----------------------------------------------------------


def test_a_configs_step_has_its_transfers(tiny_config):
  config = tiny_config(mesh={"data": 2, "fsdp": 4})
  report = counting.training_report(config, compiled=True)
  training = report.training
  sent = training.communication
  assert sent.mesh == {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 1}
  head = 4 * report.parameters["head/kernel"].size
  # The one array that is large enough to be divided is gathered, at least.
  assert sent.by_axis()["fsdp"]["bytes"] >= head
  assert set(sent.by_axis()) <= {"data", "fsdp", "data+fsdp"}
  assert training.memory.devices == 8
  assert "one of 8 devices" in " ".join(training.memory.notes)
  table = json.loads(json.dumps(report.to_json()))["training"]
  assert table["communication"]["by_axis"] == sent.by_axis()
  assert "data+fsdp" in report.to_table(100)
  assert "mesh axis" in report.to_markdown()


def test_one_device_sends_nothing(tiny_config):
  report = counting.training_report(tiny_config(), compiled=True)
  assert report.training.communication is None
  assert report.training.memory.notes


def test_the_command_makes_the_devices_of_the_mesh():
  command = "--training --compiled --format=json"
  mesh = "--config.mesh.data=2 --config.mesh.fsdp=2"
  ran = subprocess.run(
    [
      *(sys.executable, "-m", "jbin", "cost", f"--config={TINY}"),
      *(*command.split(), *mesh.split()),
    ],
    env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    capture_output=True,
    text=True,
    check=True,
  )
  table = json.loads(ran.stdout)["training"]
  mesh = table["communication"]["mesh"]
  assert mesh == {"data": 2, "fsdp": 2, "sequence": 1, "tensor": 1}
  assert table["communication"]["by_axis"]
  assert table["memory_check"]["devices"] == 4


# --- The text of programs that no CPU compiles --------------------------------

_TEXT = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%scatter (p: bf16[64,8]) -> bf16[16,8] {
  %p = bf16[64,8]{1,0} parameter(0)
  ROOT %rs = bf16[16,8]{1,0} reduce-scatter(%p), channel_id=3, \
replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%sum
}

%body (t: (s32[], f32[32])) -> (s32[], f32[32]) {
  %t = (s32[], f32[32]{0}) parameter(0)
  %x = f32[32]{0} get-tuple-element(%t), index=1
  %i = s32[] get-tuple-element(%t), index=0
  %rs0 = f32[32]{0:T(256)} all-reduce-start(%x), channel_id=4, \
replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%sum
  %rs1 = f32[32]{0:T(256)} all-reduce-done(%rs0)
  ROOT %r = (s32[], f32[32]{0}) tuple(%i, %rs1)
}

%test (t: (s32[], f32[32])) -> pred[] {
  %t = (s32[], f32[32]{0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

%left (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  ROOT %go = f32[4]{0} collective-permute(%q), channel_id=6, \
source_target_pairs={{0,4},{4,0}}
}

ENTRY %main (x: f32[8], y: bf16[64,8], z: f32[32], u: s4[32]) -> f32[32] {
  %x = f32[8]{0} parameter(0)
  %y = bf16[64,8]{1,0} parameter(1)
  %z = f32[32]{0} parameter(2)
  %u = s4[32]{0} parameter(3)
  %g = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), channel_id=1, \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %h = f32[32]{0} all-gather-done(%g)
  %s = ((bf16[64,8]{1,0}), bf16[16,8]{1,0}, u32[]) async-start(%y), \
calls=%scatter
  %s1 = bf16[16,8]{1,0} async-done(%s), calls=%scatter
  %zero = s32[] constant(0)
  %start = (s32[], f32[32]{0}) tuple(%zero, %z)
  %loop = (s32[], f32[32]{0}) while(%start), condition=%test, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %maybe = f32[8]{0} conditional(%zero, %x, %x), \
branch_computations={%left, %left}
  %odd = f32[8]{0} all-reduce(%x), channel_id=7, \
replica_groups={{0,1,2},{3,4,5,6,7}}, to_apply=%sum
  %small = s4[32]{0} all-to-all(%u), channel_id=8, replica_groups={}
  ROOT %out = f32[32]{0} get-tuple-element(%loop), index=1, \
metadata={op_name="jit(step)/all-reduce(no)"}
}
"""


class _Compiled:
  def as_text(self):
    return _TEXT


def test_asynchronous_forms_loops_and_branches(mesh):
  found = cost.communication(_Compiled(), mesh)
  rows = [(row.kind, row.axes, row.bytes, row.times) for row in found.transfers]
  assert rows == [
    ("all-gather", ("model",), 128, 1),
    ("reduce-scatter", ("model",), 1024, 1),
    ("all-reduce", ("data",), 128, 5),
    ("collective-permute", ("data",), 16, 1),
    ("collective-permute", ("data",), 16, 1),
    ("all-reduce", None, 32, 1),
    ("all-to-all", ("data", "model"), 16, 1),
  ]
  assert [row.branch for row in found.transfers].count(True) == 2
  assert found.by_axis()["unknown"]["bytes"] == 32
  assert len(found.notes) == 2
  assert "no group along axes" in found.notes[0]
  assert "branches" in found.notes[1]


@pytest.mark.parametrize(
  ("text", "wanted"),
  [
    ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
    ("replica_groups={{0, 2}, {1, 3}}", [[0, 2], [1, 3]]),
    ("replica_groups={}", [[0, 1, 2, 3]]),
    ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
    ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
    (
      "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}",
      [[0, 2], [1, 3]],
    ),
    ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=8] {'a'}", None),
    ("replica_groups=mesh['a'=4] {'c'}", None),
    ("dimensions={0}", None),
  ],
)
def test_groups_of_devices(text, wanted):
  found = _hlo.groups(f"channel_id=1, {text}, dimensions={{0}}", 4)
  assert found == wanted


@pytest.mark.parametrize(
  ("kind", "wanted"),
  [
    ("f32[2,3]{1,0}", 24),
    ("bf16[8]{0:T(256)(128)(2,1)}", 16),
    ("pred[7]", 7),
    ("(f32[], s4[3]{0}, token[])", 6),
    ("c64[2]", 16),
    ("f8e4m3fn[10]", 10),
    ("s32[<=4]", 16),
  ],
)
def test_bytes_of_a_type(kind, wanted):
  assert _hlo.size(kind) == wanted


def test_a_mesh_of_other_devices_is_not_guessed_at(mesh):
  small = jax.make_mesh(
    (2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )
  found = cost.communication(_Compiled(), small)
  assert {row.label for row in found.transfers} == {"unknown"}
  assert all(dataclasses.asdict(row)["bytes"] for row in found.transfers)
