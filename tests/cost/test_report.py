"""Conventions and the forms of a report."""

import csv
import io
import json

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jbin import bits, cost


def _net(x, w):
  a = bits.tag(jnp.sign(x), 1) * jnp.arange(1.0, 9.0)[None]
  y = a @ bits.tag(jnp.sign(w["block/one"]["kernel"]), 1)
  y = bits.mark(y + w["block/one"]["bias"], "norm", per_element=2)
  y = bits.tag(jnp.round(y), 8) @ bits.tag(jnp.round(w["two"]["kernel"]), 4)
  y = y @ w["three|four"]["kernel"]
  return lax.cumsum(y, 1)


@pytest.fixture(scope="module")
def report():
  weight = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  params = {
    "block/one": {"kernel": weight(8, 8), "bias": weight(1, 8)},
    "two": {"kernel": weight(8, 4)},
    "three|four": {"kernel": weight(4, 2)},
  }
  return cost.count(_net, weight(1, 8), params, weights=1, name="small")


def test_conventions(report):
  assert report.macs == {(1, 1): 64, (8, 4): 32, (32, 32): 8}
  assert report.ace == report.total("ace") == 64 + 32 * 32 + 8 * 1024
  assert report.ace_strict == 64 * 1024 + 32 * 32 + 8 * 1024
  assert report.total("ace_strict") == report.ace_strict
  assert report.total("cpu64_binary_64th_rest_1") == 1 + 32 + 8
  assert report.total("cpu64_maxbits_64") == 1 + 4 + 8
  assert report.total(lambda record: record.macs) == 104
  assert report.flagged == ["block/one"]


def test_every_convention_says_what_it_is_and_leaves_out():
  for name, line in cost.REGISTRY.describe():
    assert line.endswith(".")
    doc = cost.REGISTRY.get(name).__doc__
    assert "cost = " in doc
    assert "Leaves out" in doc.replace("\n", " ")


def test_weights_and_parameters(report):
  assert report.weights_by_bits == {1: 64, 4: 32, 32: 8}
  assert report.weight_bits == 64 + 128 + 256
  assert report.weight_bytes == 56
  assert report.params["total"] == 112
  assert report.left_out() == {
    "marked element-wise operations": 16,
    "floating element-wise operations on activations, marked or not": 32,
    "scalar operations on parameters alone": 104,
    "parameters outside products": 8,
    "primitives without a price": 1,
  }


def test_json_has_the_published_keys_and_is_json(report):
  table = json.loads(json.dumps(report.to_json()))
  assert list(table)[:5] == [
    "model",
    "input",
    "totals",
    "elementwise_scalar_ops",
    "layers",
  ]
  assert table["model"] == "small"
  assert table["input"] == [8]
  assert table["totals"]["macs_by_bit_pair"] == {
    "1x1": 64,
    "8x4": 32,
    "32x32": 8,
  }
  assert table["totals"]["weights_by_bits"] == {"1": 64, "4": 32, "32": 8}
  assert table["elementwise_scalar_ops"] == {"norm_sops": 16}
  first = {
    "name": "block/one",
    "kind": "dense",
    "in_shape": [8],
    "out_shape": [8],
    "kernel": [8, 8],
    "strides": None,
    "padding": None,
    "groups": 1,
    "bias": True,
    "macs": 64,
    "lhs_bits": 1,
    "rhs_bits": 1,
    "ace": 64,
    "weights": 64,
    "flags": ["scale_along_contraction"],
    "repeats": 1,
    "phase": "forward",
    "gradient_of": "",
    "devices": 1,
    "weight_bytes": 8,
  }
  assert table["layers"][0] | first == table["layers"][0]
  assert set(table) >= {"conventions", "memory", "branches", "lookups"}
  assert table["not_counted"][0]["primitive"] == "cumsum"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_table_fits_its_width(report, width):
  text = report.to_table(width)
  rows = text.split("\n\n")[0].split("\n")
  assert len(rows) == 5
  assert max(map(len, rows)) <= width
  assert len({len(row) for row in rows}) == 1  # aligned
  for name in ("two", "ACE, strict", "norm", "block/one"):
    assert name in text
  assert "Listed, without products: cumsum" in " ".join(text.split())


def test_the_summary_names_what_is_flagged_and_left_out(report):
  text = str(report)
  assert text == repr(report)
  assert "1 of 3 products" in text
  assert "block/one" in text
  assert "parameters outside products" in text


def test_only_scales_along_the_contraction_have_a_star():
  """That is what the legend says; a scale of groups is no such case."""

  def net(x, w, s):
    codes = bits.tag(jnp.round(w), 4).reshape(2, 4, 8) * s
    return bits.tag(jnp.round(x), 8) @ codes.reshape(8, 8)

  shape = lambda *n: jax.ShapeDtypeStruct(n, jnp.float32)
  args = shape(2, 8), shape(8, 8), shape(2, 1, 8)
  report = cost.count(net, *args, weights=(1, 2))
  assert report.layers[0].flags == ("scale_by_groups",)
  assert report.flagged == []
  assert "8x4 " in report.to_table(200)
  assert "8x4*" not in report.to_table(200)


def test_csv_has_a_line_for_each_layer(report):
  rows = list(csv.DictReader(io.StringIO(report.to_csv())))
  assert [row["name"] for row in rows] == ["block/one", "two", "three|four"]
  assert rows[0]["kernel"] == "8x8"
  assert sum(int(row["ace"]) for row in rows) == report.ace


def test_markdown_is_tables_with_escaped_names(report):
  text = report.to_markdown()
  assert "| three\\|four | dense |" in text
  assert "| 8 x 4 | 32 | 1,024 |" in text
  assert "Listed, without products: cumsum" in text


def test_an_empty_program_has_a_report():
  report = cost.count(lambda x: x, jnp.ones((1, 2)))
  assert report.ace == 0
  assert report.to_csv() == ""
  for text in (str(report), report.to_table(), report.to_markdown()):
    assert "ACE" in text


def _told(x, table, flag):
  """Every part that a report may have: a look-up, a branch, a solver."""
  x = x + jnp.take(table, jnp.array([1]), axis=0)
  x = lax.cond(flag, lambda a: a @ a.T @ a, lambda a: a, x)
  return jnp.linalg.svd(x, compute_uv=False)


@pytest.fixture(scope="module")
def told():
  shape = jax.ShapeDtypeStruct
  args = shape((1, 8), jnp.float32), shape((5, 8), jnp.bfloat16)
  return cost.count(_told, *args, shape((), bool), weights=1, name="<told>")


@pytest.mark.parametrize("form", ["to_table", "to_markdown", "__str__"])
def test_branches_lookups_and_what_is_not_counted_are_told(told, form):
  text = " ".join(getattr(told, form)().replace("|", " ").split())
  assert "NOT COUNTED: svd" in text
  assert "cond" in text
  assert "1 16 16,384 1 counted" in text
  assert "8 16" in text.split("looked up elements read bits")[1][:60]
  assert "looked-up tables, 16 bits" in text


def test_what_is_not_counted_is_bold_in_markdown(told):
  assert "* **NOT COUNTED: svd" in told.to_markdown()
  assert "<told>" not in told.to_markdown()


def test_json_has_branches_and_lookups(told):
  table = json.loads(json.dumps(told.to_json()))
  assert table["branches"][0]["macs"][table["branches"][0]["counted"]] == 16
  assert table["lookups"][0]["elements"] == 8
  assert table["collectives"] == []


def test_every_convention_is_in_every_text(report):
  for name in cost.REGISTRY:
    title = cost.REGISTRY.get(name).title
    assert title in str(report)
    text = " ".join(report.to_table(200).split())
    assert title in text.split("What each convention leaves out:")[1]
    assert f"| {title} |" in report.to_markdown()


def test_weights_that_two_layers_share_count_once():
  shared = jax.ShapeDtypeStruct((8, 8), jnp.float32)
  found = cost.count(
    lambda x, w: bits.tag(jnp.sign(x), 1) @ bits.tag(w, 4) @ w,
    jax.ShapeDtypeStruct((1, 8), jnp.float32),
    shared,
    weights=1,
  )
  rows = found.to_json()["layers"]
  assert [row["weight_bytes"] for row in rows] == [256, 0]
  assert sum(row["weight_bytes"] for row in rows) == found.weight_bytes


def test_a_training_step_is_told_by_phase():
  def step(x, w):
    return jax.grad(lambda w: ((x @ w) ** 2).sum())(w)

  shape = jax.ShapeDtypeStruct
  args = shape((1, 8), jnp.float32), shape((8, 4), jnp.float32)
  found = cost.count(step, *args, weights=1)
  for text in (found.to_table(), found.to_markdown()):
    assert "backward" in text
  assert "arg1 (" in found.to_table()
  rows = list(csv.DictReader(io.StringIO(found.to_csv())))
  assert [row["phase"] for row in rows] == ["forward", "backward"]


@pytest.mark.parametrize(
  ("inputs", "batch", "said"),
  [
    ([(1, 8)], 1, "one example"),
    ([(64, 8)], 64, "a batch of 64"),
    ([(64, 8), (64,)], 64, "a batch of 64"),
    ([(64, 8), ()], 64, "a batch of 64"),
    ([(64, 8), (32, 8)], None, "one call"),
    ([()], None, "one call"),
  ],
)
def test_a_report_says_of_how_much_data_it_is(inputs, batch, said):
  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs]
  found = cost.count(lambda *xs: xs, *args, name="net")
  table = found.to_json()
  assert table["batch"] == found.batch == batch
  assert table["counted_for"] == found.counted_for == said
  assert f"for {said}" in str(found).split("\n")[0]
  assert "scalar" not in str(found).split("\n")[0]
  assert f"All figures are for {said}." in found.to_markdown()


def test_a_training_step_says_of_how_many():
  shape = jax.ShapeDtypeStruct
  step = jax.grad(lambda w, x, y: ((x @ w - y[:, None]) ** 2).sum())
  args = [shape(s, jnp.float32) for s in ((8, 4), (64, 8), (64,))]
  found = cost.training(step, *args, weights=0)
  head = next(line for line in found.to_table().split("\n") if " for " in line)
  assert head.endswith("  8  for one training step of 64")


def test_titled_tables_keep_their_heads(told):
  lines = [line.split() for line in told.to_table().split("\n")]
  at = lines.index(["Memory:"])
  assert lines[at + 1] == ["elements", "bytes"]
  at = next(i for i, line in enumerate(lines) if line[:1] == ["Branches,"])
  assert lines[at].count("counted:") == 1
  assert lines[at + 1] == ["cond", "at", "branch", "MACs", "ACE", "times"]


def test_shapes_go_before_names_are_cut():
  path = "decoder/blocks/0/self_attention"
  w = {path: {"kernel": jax.ShapeDtypeStruct((512, 512), jnp.float32)}}
  x = jax.ShapeDtypeStruct((1, 512, 512), jnp.float32)
  found = cost.count(lambda x, w: x @ w[path]["kernel"], x, w, weights=1)
  narrow = found.to_table(100).split("\n\n")[0]
  assert path in narrow
  assert " in " not in narrow
  assert " out " in narrow
