"""The tag: seen in every program, changes none."""

import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from jbin import bits
from tests import programs

_X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def _tagged(x):
  return bits.mark(bits.tag(x * 2, 3), "here", per_element=4)


@jax.custom_vjp
def _custom(x):
  return _tagged(x)


_custom.defvjp(lambda x: (_custom(x), None), lambda _, g: (2 * g,))


def _squares(function):
  return lambda x: (function(x) ** 2).sum()


WRAPPERS = {
  "plain": _tagged,
  "jit": jax.jit(_tagged),
  "vmap": jax.vmap(_tagged),
  "vmap of jit": jax.vmap(jax.jit(_tagged)),
  "grad": jax.grad(_squares(_tagged)),
  "jvp": lambda x: jax.jvp(_tagged, (x,), (x,)),
  "scan": lambda x: lax.scan(lambda c, x: (c, _tagged(x)), 0.0, x)[1],
  "while": lambda x: lax.while_loop(lambda x: x.sum() > 9, _tagged, x),
  "cond": lambda x: lax.cond(x.sum() > 0, _tagged, lambda x: x, x),
  "remat": jax.checkpoint(_tagged),
  "grad of remat": jax.grad(_squares(jax.checkpoint(_tagged))),
  "custom_vjp": _custom,
  "grad of custom_vjp": jax.grad(_squares(_custom)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_both_tags_are_in_the_program(wrapper):
  said = [tag for tag, _ in programs.tags(wrapper, _X)]
  assert bits.BitsTag(3) in said
  assert bits.OpTag("here", 4) in said


def test_tagged_value_keeps_its_shape_and_dtype():
  for dtype in (jnp.float32, jnp.bfloat16, jnp.int8, jnp.uint32):
    for shape in ((), (0,), (2, 3)):
      ((_, aval),) = programs.tags(
        lambda x: bits.tag(x, 1), jax.ShapeDtypeStruct(shape, dtype)
      )
      assert (aval.shape, aval.dtype) == (shape, dtype)


@pytest.mark.parametrize(
  "identity", [lambda x: bits.tag(x, 1), lambda x: bits.mark(x, "a")]
)
def test_identity_in_value_and_gradient(identity):
  odd = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, 3e38], np.float32)
  y, pull = jax.vjp(identity, odd)
  np.testing.assert_array_equal(np.asarray(y).view(np.int32), odd.view("i4"))
  np.testing.assert_array_equal(pull(odd)[0], odd)
  _, tangent = jax.jvp(identity, (odd,), (odd,))
  np.testing.assert_array_equal(tangent, odd)
  assert jax.grad(jax.grad(lambda x: identity(x) ** 3))(2.0) == 12.0


def test_nothing_is_left_in_the_compiled_program():
  """Metadata apart, the optimised text is that of the untagged program."""

  def text(function):
    program = programs.compiled_text(jax.grad(function), _X)
    return re.sub(r", metadata=\{[^}]*\}", "", program)

  def program(step):
    def run(x):
      return (step(jnp.sin(x)) ** 2).sum()

    return run

  def tagged(x):
    return bits.mark(bits.tag(x, 1), "op")

  assert text(program(tagged)) == text(program(lambda x: x))


@pytest.mark.parametrize("wrong", [0, 33, -1, 1.0, "1", None, True])
def test_bad_bits_are_refused(wrong):
  with pytest.raises(ValueError, match="1 to 32"):
    bits.tag(_X, wrong)


@pytest.mark.parametrize(
  ("name", "per_element"),
  [
    *((name, 1) for name in ("", "two words", "a*b", "a\n")),
    *(("a", count) for count in (0, -1, 1.5, True)),
  ],
)
def test_bad_operations_are_refused(name, per_element):
  with pytest.raises(ValueError, match="name and count"):
    bits.mark(_X, name, per_element)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.integers(1, bits.MAX_BITS))
def test_bits_are_read_back(width):
  ((said, _),) = programs.tags(lambda x: bits.tag(x, width), _X)
  assert said == bits.BitsTag(width)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
  st.text("abcXYZ019_/.-", min_size=1, max_size=12), st.integers(1, 10**6)
)
def test_operations_are_read_back(name, per_element):
  ((said, _),) = programs.tags(lambda x: bits.mark(x, name, per_element), _X)
  assert said == bits.OpTag(name, per_element)


@hypothesis.given(st.text(max_size=30))
@hypothesis.example("jbin.bits=")
@hypothesis.example("jbin.bits=1 ")
@hypothesis.example("jbin.op=a")
@hypothesis.example("my.jbin.bits=1")
def test_other_names_are_not_ours(name):
  said = bits.parse(name)
  assert said is None or name.startswith(("jbin.bits=", "jbin.op="))
  if not re.fullmatch(r"jbin\.(bits=\d+|op=[\w/.-]+\*\d+)", name):
    assert said is None
