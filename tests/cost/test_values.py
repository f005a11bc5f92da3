"""Which axes a value varies along, against arrays."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from jbin.cost import _values


def _varying(array):
  """The axes along which the elements of an array differ."""
  return {
    d for d in range(array.ndim) if (array != array.take([0], axis=d)).any()
  }


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(data=st.data())
def test_a_reshape_hides_no_variation(data):
  factors = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))

  def grouped(label):
    shape = [1]
    for n in factors:
      if data.draw(st.booleans(), label):
        shape.append(n)
      else:
        shape[-1] *= n
    return tuple(shape)

  before, after = grouped("before"), grouped("after")
  varies = {
    d
    for d in _values.long_dims(before)
    if data.draw(st.booleans(), f"varies along {d}")
  }
  array = np.arange(np.prod(before)).reshape(before)
  for d in set(range(len(before))) - varies:
    array = np.broadcast_to(array.take([0], axis=d), before)
  value = _values.Value(varies=frozenset(varies))
  moves = _values.reshape_moves(before, after)
  moved = _values.map_dims(value, moves, after)
  assert _varying(array.reshape(after)) <= moved.varies
  if before == after:
    assert moved.varies == varies


def test_a_join_is_tagged_only_if_all_are():
  one = _values.Value(bits=1, origin="a", scales=frozenset({1}))
  four = _values.Value(bits=4, origin="a", scale_dims=frozenset({0}))
  bare = _values.Value(data=True)
  joined = _values.join([one, four])
  assert (joined.bits, joined.origin) == (4, "a")
  assert (joined.scales, joined.scale_dims) == (one.scales, four.scale_dims)
  mixed = _values.join([one, bare])
  assert (mixed.bits, mixed.origin, mixed.data) == (None, None, True)
  assert mixed.scales == one.scales
