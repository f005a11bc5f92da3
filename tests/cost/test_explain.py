"""Why an operand has its bits, as `Report.explain` tells it."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jbin import bits, cost, errors, nn, quantizers

X = jax.ShapeDtypeStruct((4, 6), jnp.float32)
W = jax.ShapeDtypeStruct((6, 6), jnp.float32)


def _lines(fn, *args, path="", **options):
  options.setdefault("weights", 1)
  text = cost.count(fn, *(args or (X, W)), **options).explain(path)
  return text.splitlines()


def _line(lines, start):
  """The one line that begins so, with single spaces."""
  found = [" ".join(line.split()) for line in lines]
  (line,) = [line for line in found if line.startswith(start)]
  return line


WHOLE = """
arg1: dot_general, 1 x 4 bits, 144 MACs, forward
activation, 1 bit by its tag, read as float32
the input arg0 4x6 float32
… 3 operations without a tag: tanh, sub, sign 4x6 float32 at signs
name[jbin.bits=1] 4x6 float32 1 bit <- the tag (at signs)
weight, 4 bits by its tag, read as float32
the parameter arg1 6x6 float32
round 6x6 float32
name[jbin.bits=4] 6x6 float32 4 bits <- the tag
convert_element_type 6x6 bfloat16 4 bits
mul 6x6 bfloat16 4 bits <- a scale; with those before, one for all elements
convert_element_type 6x6 float32 4 bits
No scale varies along the contraction: integers of these bits give the sum.
"""


def test_the_whole_text():
  def run(x, w):
    with jax.named_scope("signs"):
      x = bits.tag(jnp.sign(jnp.tanh(x) - x.mean()), 1)
    return x @ (bits.tag(jnp.round(w), 4).astype(jnp.bfloat16) * 0.5).astype(
      jnp.float32
    )

  # Columns are as wide as their longest cell.
  found = [" ".join(line.split()) for line in _lines(run)]
  assert found == WHOLE.split("\n")[1:-1]
  columns = {line.find("4x6") for line in _lines(run) if "4x6" in line}
  assert len(columns) == 1


LOST = {
  "add of a float: a sum ends the tag": lambda x: x + 1.0,
  "sub of a float: a sum ends the tag": lambda x: 1.0 - x,
  "add of floats: a sum ends the tag": lambda x: x + x,
  "reduce_sum of floats: a sum ends the tag": lambda x: x[None].sum(0),
  "exp gives other values: the tag ends": jnp.exp,
  "max gives other values: the tag ends": lambda x: jnp.maximum(x, 0.0),
  "reduce_max gives other values: the tag ends": lambda x: x[None].max(0),
  "mul of two tagged floats has other levels: the tag ends": lambda x: x * x,
  "a quotient by codes has other levels: the tag ends": lambda x: 1.0 / x,
  "the other operand is an activation, no scale: the tag ends": (
    lambda x: x * jnp.cumprod(x + 1.0, 1)
  ),
  "no rule carries bits through sort: the tag ends": jnp.sort,
  "an operand without a tag comes in, and the tag ends": (
    lambda x: jnp.where(x > 0, x, 0.5)
  ),
  "a later trip leaves no tag: the tag ends": (
    lambda x: lax.fori_loop(0, 3, lambda _, c: c + 1.0, x)
  ),
  "another branch leaves no tag: the tag ends": (
    lambda x: lax.cond(x[0, 0] > 0, lambda x: -x, lambda x: x + 1.0, x)
  ),
}


@pytest.mark.parametrize("reason", LOST)
def test_where_a_tag_ends_and_why(reason):
  lines = _lines(lambda x, w: LOST[reason](bits.tag(jnp.round(x), 3)) @ w)
  assert any(line.split("  (at")[0].endswith(f"<- {reason}") for line in lines)
  said = "32 bits by its dtype float32: it has no tag (one of 3 ended"
  assert said in lines[1]


def test_a_concatenation_with_an_untagged_part():
  lines = _lines(lambda x, w: jnp.concatenate([bits.tag(x, 3)[:2], x[2:]]) @ w)
  assert "<- an operand without a tag" in _line(lines, "concatenate")


CHANGED = {
  "integers: as wide as every result needs": lambda x: (
    x.astype(jnp.int8) + x.astype(jnp.int8)
  ).astype(jnp.float32),
  "the widest of what comes together": lambda x: jnp.concatenate(
    [bits.tag(x[:1], 4), x[1:]]
  ),
  "a later trip leaves 4 bits: the widest counts": lambda x: lax.fori_loop(
    0, 3, lambda _, c: bits.tag(-c, 4), x
  ),
}


@pytest.mark.parametrize("reason", CHANGED)
def test_where_bits_change_and_why(reason):
  lines = _lines(lambda x, w: CHANGED[reason](bits.tag(jnp.round(x), 3)) @ w)
  assert "4 bits by its tag" in lines[1]
  if "widest of" not in reason:  # that one begins with the wider part
    assert any(reason in line for line in lines)


def test_scales_are_told_with_their_axes():
  def run(x, w, s):
    codes = bits.tag(jnp.round(w), 4).reshape(2, 3, 6) * s
    return bits.tag(jnp.sign(x), 1) @ codes.reshape(6, 6)

  s = jax.ShapeDtypeStruct((2, 1, 6), jnp.float32)
  lines = _lines(run, X, W, s, weights=[1, 2])
  assert _line(lines, "mul").endswith(
    "with those before, one for each element of axis 0, one for each element of"
    " axis 2"
  )
  flag = _line(lines, "scale_by_groups:")
  assert "constant on 2 runs" in flag
  assert "adds 48 multiply-accumulates of 32 x 32 bits" in flag


def test_the_other_flags_in_words():
  row = np.arange(1.0, 7.0, dtype=np.float32)[None]
  scaled = lambda x, w: (bits.tag(jnp.round(x), 8) * row) @ w
  flag = _line(_lines(scaled), "scale_folds_into_float:")
  assert "takes it" in flag
  both = lambda x, w: scaled(x, bits.tag(jnp.sign(w), 1))
  flag = _line(_lines(both), "scale_along_contraction:")
  assert "ace counts 8 x 1, ace_strict 32 x 32" in flag
  assert _lines(lambda x, w: x @ w)[-1] == (
    "  No scale varies along the contraction."
  )


def test_loops_calls_and_the_product_before():
  def run(x, w):
    def body(x, w):
      return jax.jit(jnp.tanh)(bits.tag(jnp.sign(x), 1) @ w), None

    return jax.checkpoint(lambda x: lax.scan(body, x, w)[0])(x)

  stack = jax.ShapeDtypeStruct((5, 6, 6), jnp.float32)
  lines = _lines(run, X, stack)
  assert (
    lines[0] == "arg1: dot_general, 1 x 32 bits, 720 MACs, forward, 5 trips"
  )
  assert _line(lines, "the input arg0").endswith("4x6 float32")
  assert _line(lines, "the parameter arg1").endswith("5x6x6 float32")
  assert _line(lines, "scan").endswith("6x6 float32 <- one row of 5")

  def twice(x, w):
    return jax.nn.relu(x @ w) @ w

  lines = _lines(twice)
  assert _line(lines, "the result of dot_general").endswith("<- by arg1")


def test_paths_select_layers():
  class Net(nnx.Module):
    def __init__(self, rngs):
      low = {
        "input_quantizer": quantizers.sign(),
        "kernel_quantizer": quantizers.xnor(),
        "rngs": rngs,
      }
      self.blocks = nnx.List([nn.Linear(6, 6, **low) for _ in range(11)])
      self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
      for block in self.blocks:
        x = block(x)
      return self.head(x)

  report = cost.count(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), X)
  heads = lambda path: [
    line.split(":")[0]
    for line in report.explain(path).splitlines()
    if line and not line.startswith(" ")
  ]
  assert heads("head") == ["head"]
  assert heads("blocks/1") == ["blocks/1"]  # not blocks/10
  assert len(heads("blocks")) == len(heads("blocks/")) == 11
  assert heads("") == [record.name for record in report.layers]
  assert "1 bit by its tag" in report.explain("blocks/10")
  assert "32 bits by its dtype" in report.explain("head")
  with pytest.raises(errors.UnknownName, match=r"did you mean .*blocks/10"):
    report.explain("block/10")
  with pytest.raises(errors.UnknownName, match="unknown layer 'hat'"):
    report.explain("hat")


def test_kernels_constants_and_unnamed_factors():
  matrix = np.ones((6, 6), np.float32)
  lines = _lines(lambda x: x @ matrix, X, weights=())
  assert "the constant const0" in _line(lines, "the constant")
  lines = _lines(lambda x: x @ x.T, X, weights=())
  assert lines[1].startswith("  left factor, 32 bits")
  assert any(line.startswith("  right factor, 32 bits") for line in lines)


def test_a_report_of_a_long_program_can_be_pickled():
  def run(x, w):
    for _ in range(60):
      x = jax.nn.relu(x @ w) + x
    return x

  report = cost.count(run, X, W, weights=1)
  assert pickle.loads(pickle.dumps(report)).explain() == report.explain()


def test_a_tag_behind_a_sum_says_nothing_of_scales():
  """FBI-Linear's offset hides that its scale is one of each input."""
  layer = nn.Linear(
    4, 3, kernel_quantizer=quantizers.fbi_weight(), rngs=nnx.Rngs(0)
  )
  text = cost.count(layer, jax.ShapeDtypeStruct((2, 4), "f4")).explain("")
  assert "a sum ends the tag" in text
  assert "which scales vary along the contraction is not known there" in text
  assert "No scale varies" not in text
