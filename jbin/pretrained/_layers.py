"""Rows for whole layers: Flax's names and axes beside PyTorch's."""

from __future__ import annotations

from jbin.pretrained._table import Part, Row


def array(ours: str, theirs: str, axes: str) -> tuple[Row, ...]:
  """A parameter of its own, of the same axes in both."""
  return (Row(ours, theirs, f"{axes}->{axes}"),)


def linear(ours: str, theirs: str) -> tuple[Row, ...]:
  """`nnx.Linear` and a linear layer."""
  return (
    Row(f"{ours}/kernel", f"{theirs}.weight", "io->oi"),
    Row(f"{ours}/bias", f"{theirs}.bias", "o->o"),
  )


def scaled(ours: str, theirs: str) -> tuple[Row, ...]:
  """A linear layer; of FBI-Linear a scale and an offset of each input too."""
  learned = f"{ours}/kernel_quantizer/learned"
  return (
    *linear(ours, theirs),
    Row(f"{learned}/alpha", f"{theirs}.wscale", "i->1i"),
    Row(f"{learned}/beta", f"{theirs}.wbias", "i->1i"),
  )


def conv(ours: str, theirs: str) -> tuple[Row, ...]:
  """`nnx.Conv` and a convolution of images, also a grouped one."""
  return (
    Row(f"{ours}/kernel", f"{theirs}.weight", "hwio->oihw"),
    Row(f"{ours}/bias", f"{theirs}.bias", "o->o"),
  )


def norm(ours: str, theirs: str) -> tuple[Row, ...]:
  """`nnx.LayerNorm` or `nnx.RMSNorm`, and the same."""
  return (
    Row(f"{ours}/scale", f"{theirs}.weight", "c->c"),
    Row(f"{ours}/bias", f"{theirs}.bias", "c->c"),
  )


def embed(ours: str, theirs: str) -> tuple[Row, ...]:
  """`nnx.Embed` and a table."""
  return (Row(f"{ours}/embedding", f"{theirs}.weight", "vc->vc"),)


def heads(ours: str, theirs: str, part: Part | None = None) -> tuple[Row, ...]:
  """A projection to heads and a linear layer, or a part of a fused one."""
  return (
    Row(f"{ours}/kernel", f"{theirs}.weight", "ihd->(hd)i", part),
    Row(f"{ours}/bias", f"{theirs}.bias", "hd->(hd)", part),
  )


def merged(ours: str, theirs: str) -> tuple[Row, ...]:
  """A projection of all heads to features and a linear layer."""
  return (
    Row(f"{ours}/kernel", f"{theirs}.weight", "hdo->o(hd)"),
    Row(f"{ours}/bias", f"{theirs}.bias", "o->o"),
  )


def attention(
  ours: str, query: str, key: str, value: str, out: str
) -> tuple[Row, ...]:
  """A multi-head attention and its four linear layers."""
  return (
    *heads(f"{ours}/query", query),
    *heads(f"{ours}/key", key),
    *heads(f"{ours}/value", value),
    *merged(f"{ours}/out", out),
  )
