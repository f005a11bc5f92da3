"""The form of a product: int8 where it is fast, and only there."""

import jax
import jax.numpy as jnp
import pytest

from jbin import products, quantizers
from jbin.products import _form
from tests import programs
from tests.products import operands

INT8 = (jnp.dtype(jnp.int8),) * 2
LARGE = {"rows": 64, "contracted": 256, "columns": 64, "groups": 1}


def _choose(kind="dot", codes=INT8, **changed):
  return _form.choose(kind, codes=codes, **(LARGE | changed))


# kind, what differs from a large product, then the form on cpu, gpu, tpu.
CHOICES = [
  ("dot", {}, ("int8", "int8", "bfloat16")),
  ("conv", {}, ("int8", "bfloat16", "bfloat16")),
  ("dot", {"rows": 1}, ("float32", "bfloat16", "bfloat16")),
  ("dot", {"rows": 8}, ("int8", "bfloat16", "bfloat16")),
  ("conv", {"contracted": 16}, ("float32", "bfloat16", "bfloat16")),
  ("conv", {"columns": 16}, ("float32", "bfloat16", "bfloat16")),
  ("conv", {"spread": True}, ("float32", "bfloat16", "bfloat16")),
  ("dot", {"columns": 40}, ("int8", "bfloat16", "bfloat16")),
  ("dot", {"groups": 2}, ("float32", "bfloat16", "bfloat16")),
  (
    "dot",
    {"codes": (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.int8))},
    ("float32", "bfloat16", "bfloat16"),
  ),
]


@pytest.mark.parametrize(("kind", "changed", "forms"), CHOICES)
def test_choice(kind, changed, forms, monkeypatch):
  for backend, form in zip(("cpu", "gpu", "tpu"), forms, strict=True):
    monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
    assert _choose(kind, **changed) == form, backend


def _text(x_shape, w_shape, strides=None, **options):
  """The compiled forward of a product of signs with scaled signs.

  Strides are those of a transposed convolution.
  """

  def run(x, w):
    x, w = quantizers.sign()(x), quantizers.xnor()(w)
    if x.ndim == 2:
      numbers = (((1,), (0,)), ((), ()))
      return products.dot_general(x, w, numbers, **options)
    if strides is not None:
      return products.conv_transpose(x, w, strides, "SAME", **options)
    return products.conv_general_dilated(x, w, (1, 1), "SAME", **options)

  return programs.compiled_text(
    run, operands.random(x_shape, 0), operands.random(w_shape, 1)
  )


on_cpu = pytest.mark.skipif(
  jax.default_backend() != "cpu", reason="reads the text that CPU compiles to"
)


@on_cpu
@pytest.mark.parametrize(
  ("x", "w"),
  [((64, 256), (256, 64)), ((2, 8, 8, 32), (3, 3, 32, 32))],
  ids=["dot", "conv"],
)
def test_a_large_product_is_an_int8_kernel(x, w):
  """A tuned one: a custom fusion with an s32 result, not a naive loop."""
  text = _text(x, w)
  lines = text.splitlines()
  kernels = [line for line in lines if "__ynn_fusion" in line]
  assert [line for line in kernels if "= s32[" in line], text


@on_cpu
@pytest.mark.parametrize(
  ("x", "w"),
  [((1, 256), (256, 64)), ((2, 8, 8, 16), (3, 3, 16, 16))],
  ids=["row", "conv of 16 channels"],
)
def test_a_small_product_is_a_float_kernel(x, w):
  """A product of int8 has a sum in s32."""
  assert "s32[" not in _text(x, w)


@on_cpu
def test_a_spread_convolution_is_a_float_kernel():
  """Integers would be multiplied in a naive loop, twenty times slower."""
  shapes = (2, 8, 8, 32), (4, 4, 32, 32)
  assert "s32[" not in _text(*shapes, strides=(1, 2))
  assert "s32[" in _text(*shapes, strides=(1, 2), form="int8")


def test_a_float_operand_keeps_the_product_in_its_dtype():
  x, w = operands.random((64, 256), 0), operands.random((256, 64), 1)
  run = lambda x, w: products.dot_general(
    x, quantizers.xnor()(w), (((1,), (0,)), ((), ())), form="int8"
  )
  for dtype in (jnp.float32, jnp.bfloat16):
    (dot,) = [
      equation
      for equation in programs.equations(run, x.astype(dtype), w.astype(dtype))
      if equation.primitive.name == "dot_general"
    ]
    assert {v.aval.dtype for v in dot.invars} == {jnp.dtype(dtype)}
