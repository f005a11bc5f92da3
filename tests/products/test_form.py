"""The form of a product: a narrow one where it is fast, and only there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jbin import products, quantizers
from jbin.products import _form
from tests import programs
from tests.products import operands

INT8 = (jnp.dtype(jnp.int8),) * 2
LARGE = {"rows": 64, "contracted": 256, "columns": 64, "groups": 1}
VECTORS, UNIT = {"avx512_bf16"}, {"avx512_bf16", "amx_int8"}


@pytest.fixture(autouse=True)
def _a_plain_processor(monkeypatch):
  """Without products of bfloat16, whatever this one has."""
  monkeypatch.setattr(_form, "features", frozenset)


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
  (
    "dot",
    {"codes": (jnp.dtype(jnp.float32), jnp.dtype(jnp.int8))},
    ("float32", "float32", "float32"),
  ),
]


@pytest.mark.parametrize(("kind", "changed", "forms"), CHOICES)
def test_choice(kind, changed, forms, monkeypatch):
  for backend, form in zip(("cpu", "gpu", "tpu"), forms, strict=True):
    monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
    assert _choose(kind, **changed) == form, backend


@pytest.mark.parametrize(
  ("changed", "vectors", "unit"),
  [
    ({}, "bfloat16", "int8"),
    ({"groups": 48}, "bfloat16", "bfloat16"),
    ({"columns": 8}, "bfloat16", "bfloat16"),
    ({"rows": 1}, "float32", "float32"),
    ({"rowwise": False}, "int8", "int8"),
    ({"kind": "conv", "rowwise": False}, "int8", "int8"),
    # Sums that float32 rounds.
    ({"largest": 2**14, "contracted": 2**10}, "int8", "int8"),
    ({"largest": 2**14, "contracted": 2**10 - 1}, "bfloat16", "int8"),
  ],
)
def test_processors_with_bfloat16(changed, vectors, unit, monkeypatch):
  """An int8 unit is faster still, on the shapes that it takes."""
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  for has, form in ((VECTORS, vectors), (UNIT, unit)):
    monkeypatch.setattr(_form, "features", lambda has=has: frozenset(has))
    assert _choose(**{"rowwise": True, **changed}) == form


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


HEADS = (((3,), (3,)), ((0, 2), (0, 2)))
FOLDS = {
  "turned before": (lambda dot, x, w: dot(x.T, w), (64, 24), (64, 40)),
  "turned after": (lambda dot, x, w: dot(x, w).T, (24, 64), (64, 40)),
  "both turned": (lambda dot, x, w: dot(x.T, w.T).T, (64, 24), (40, 64)),
  "of a stack": (
    lambda dot, x, w: dot(jnp.swapaxes(x, 1, 2), w),
    (3, 64, 24),
    (64, 40),
  ),
  "of heads": (
    lambda dot, x, w: jnp.swapaxes(dot(x, w, HEADS), 2, 3),
    (2, 24, 3, 8),
    (2, 40, 3, 8),
  ),
  "mapped": (lambda dot, x, w: jax.vmap(dot, (2, None))(x, w), (24, 64, 3), ()),
  "along first axes": (
    lambda dot, x, w: dot(x, w, (((0,), (0,)), ((), ()))),
    (64, 24),
    (64, 40),
  ),
}


@on_cpu
@pytest.mark.parametrize("name", FOLDS)
def test_transposes_around_a_bfloat16_product(name):
  """XLA folds them into the product, and must still have a kernel for it."""
  run, *shapes = FOLDS[name]
  x, w = (operands.random(s or (64, 40), i) for i, s in enumerate(shapes))
  sign = quantizers.sign()

  def dot(form, x, w, numbers=(((1,), (0,)), ((), ()))):
    if x.ndim == 3:
      numbers = (((2,), (0,)), ((), ()))
    return products.dot_general(sign(x), sign(w), numbers, form=form)

  def both(x, w):
    forms = ("bfloat16", "float32")
    return [2 * run(functools.partial(dot, form), x, w) for form in forms]

  got, want = jax.jit(both)(x, w)
  np.testing.assert_array_equal(got, want)


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
