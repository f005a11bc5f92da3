"""The counter against published cost tables, every file found, exactly.

`MODEL_VARIANT.json` is the table of `configs/MODEL_imagenet.py:VARIANT`, unless
`CHECKS` has another reading for the name. A file that neither reads fails.
"""

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jbin import __main__, bits, cost
from tests.golden import folder

FILES = folder.files("ace", "*")
Table = dict[str, Any]


def load(path: pathlib.Path) -> Any:
  return json.loads(path.read_text())


def same(found: Any, expected: Any, where: str) -> None:
  """Equal in every key that the file has; integers exactly."""
  if isinstance(expected, dict):
    for key, value in expected.items():
      assert key in found, f"{where}/{key} is missing"
      same(found[key], value, f"{where}/{key}")
  elif isinstance(expected, float):
    assert found == pytest.approx(expected, rel=1e-9), where
  else:
    assert found == expected, where


# --- Whole models -----------------------------------------------------------


@functools.cache
def table_of(path: pathlib.Path) -> Table:
  """Our table for a model file: from its config, or from its own layers."""
  if path.stem.startswith("reactnet"):
    return rebuilt(load(path)).to_json()
  model, _, variant = path.stem.partition("_")
  config = folder.ROOT / "configs" / f"{model}_imagenet.py"
  assert config.exists(), f"{path.name}: no check reads it; add one"
  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    code = __main__.main(
      ["cost", f"--config={config}:{variant}", "--format=json"]
    )
  assert code == 0, path.name
  return json.loads(out.getvalue())


def check_model(path: pathlib.Path) -> None:
  """Totals, element-wise counts, and each layer's figures but its name."""
  expected, found = load(path), table_of(path)
  assert found["input"] == expected["input"]
  totals = dict(expected["totals"])
  if "total_as_stored" in totals["params"]:
    del totals["params"]  # of another framework's module, latent weights too
  same(found["totals"], totals, "totals")
  same(
    found["elementwise_scalar_ops"],
    expected.get("elementwise_scalar_ops", {}),
    "elementwise",
  )
  rows = zip(found["layers"], expected["layers"], strict=True)
  for ours, theirs in rows:
    name = theirs.pop("name")
    same(ours, theirs, f"{name} ({ours['name']})")


def rebuilt(table: Table) -> cost.Report:
  """The report of a program made of a table's own layers."""
  weights = {
    row["name"]: {"kernel": jax.ShapeDtypeStruct(row["kernel"], jnp.bfloat16)}
    for row in table["layers"]
  }
  inputs = [
    jax.ShapeDtypeStruct((1, *row["in_shape"]), jnp.bfloat16)
    for row in table["layers"]
  ]

  def program(params, *xs):
    return [
      layer(row, x, params[row["name"]]["kernel"])
      for row, x in zip(table["layers"], xs, strict=True)
    ]

  report = cost.count(program, weights, *inputs, weights=0)
  # The image is the input; the rest came from the layers before.
  return dataclasses.replace(report, inputs=report.inputs[:1])


def layer(row: Table, x: jax.Array, w: jax.Array) -> jax.Array:
  """One layer of a table; 16 bits are those of the dtype."""
  if row["lhs_bits"] < 16:
    x = bits.tag(jnp.sign(x), row["lhs_bits"])
  if row["rhs_bits"] < 16:
    w = bits.tag(jnp.sign(w), row["rhs_bits"])
  if row["kind"] == "dense":
    return x @ w
  sizes = zip(row["in_shape"][:-1], row["out_shape"][:-1], strict=True)
  return lax.conv_general_dilated(
    x,
    w,
    [before // after for before, after in sizes],
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=row["groups"],
  )


# --- Single operations ------------------------------------------------------


def check_primitives(path: pathlib.Path) -> None:
  """Each case by itself; `*_per_example` divides by the batch."""
  for case in load(path):
    report = primitive(case)
    (record,) = report.layers
    name = case["name"]
    assert record.macs == case["macs_total"], name
    assert (record.lhs_bits, record.rhs_bits) == (
      case["lhs_bits"],
      case["rhs_bits"],
    ), name
    assert report.weight_bits == case["weight_bits"], name
    batch = case["lhs_shape"][0]
    figures = {
      "ace_total": report.ace,
      "ace_per_example": report.ace // batch,
      "macs_per_example": record.macs // batch,
    }
    asked = [key for key in figures if key in case]
    assert asked, name
    for key in asked:
      assert figures[key] == case[key], f"{name}: {key}"
    if "out_shape" in case:
      assert list(record.out_shape) == case["out_shape"][1:], name


def primitive(case: Table) -> cost.Report:
  """The report of one case's program."""

  def program(x, w):
    x, w = (
      v if n == 16 else bits.tag(v, n)
      for v, n in ((x, case["lhs_bits"]), (w, case["rhs_bits"]))
    )
    if case["op"] == "dot_general":
      return lax.dot_general(x, w, case["dimension_numbers"])
    assert case["op"] == "conv", case["op"]
    space = "DHW"[-len(case["strides"]) :]
    return lax.conv_general_dilated(
      x,
      w,
      case["strides"],
      case["padding"],
      rhs_dilation=case["rhs_dilation"],
      feature_group_count=case["feature_group_count"],
      dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
    )

  args = [
    jax.ShapeDtypeStruct(case[key], jnp.bfloat16)
    for key in ("lhs_shape", "rhs_shape")
  ]
  return cost.count(program, *args, weights=1 if case["rhs_is_weight"] else ())


# --- The folder -------------------------------------------------------------


def check_summary(path: pathlib.Path) -> None:
  """The totals of all models of the folder, once more."""
  for stem, row in load(path).items():
    file = path.with_name(f"{stem}.json")
    expected = load(file)
    assert row["model"] == expected["model"]
    totals = {k: v for k, v in row.items() if k not in ("model", "input")}
    assert totals == expected["totals"], stem


def check_readme(path: pathlib.Path) -> None:
  """The description names every file beside it."""
  text = path.read_text()
  for file in path.parent.glob("*.json"):
    assert file.name in text, file.name


CHECKS: dict[str, Callable[[pathlib.Path], None]] = {
  "": check_model,
  "primitive_cases": check_primitives,
  "summary": check_summary,
  "README": check_readme,
}


@pytest.mark.golden
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file(path):
  folder.check_for(path, CHECKS)(path)
