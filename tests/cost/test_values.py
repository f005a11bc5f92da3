"""Which axes a value varies along, against arrays."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jbin import cost
from jbin.cost import _blocks, _values


def _runs(array, axis):
  """The least number of equal neighbouring runs that are constant."""
  rows = np.moveaxis(array, axis, 0)
  n = len(rows)
  for runs in range(1, n + 1):
    if n % runs == 0:
      folded = rows.reshape(runs, n // runs, -1)
      if (folded == folded[:, :1]).all():
        return runs
  raise AssertionError


@st.composite
def _cases(draw):
  """Two shapes of one size, and an array that varies in known runs."""
  factors = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))

  def grouped():
    shape = [1]
    for n in factors:
      if draw(st.booleans()):
        shape.append(n)
      else:
        shape[-1] *= n
    return tuple(shape)

  before, after = grouped(), grouped()
  index = np.zeros(before, int)
  blocks = []
  for axis, n in enumerate(before):
    runs = draw(st.sampled_from([r for r in range(1, n + 1) if n % r == 0]))
    steps = np.arange(n) // (n // runs)
    index = index * runs + steps.reshape(
      [-1 if d == axis else 1 for d in range(len(before))]
    )
    if runs > 1:
      blocks.append((axis, runs))
  return before, after, tuple(blocks), index


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(_cases())
def test_a_reshape_hides_no_variation(case):
  before, after, blocks, array = case
  found = dict(_blocks.reshaped(blocks, before, after))
  array = array.reshape(after)
  for axis, n in enumerate(after):
    assert n % found.get(axis, 1) == 0
    assert found.get(axis, 1) % _runs(array, axis) == 0
  if before == after:
    assert tuple(found.items()) == blocks


@pytest.mark.parametrize(
  ("before", "blocks", "after", "expected"),
  [
    # A scale of groups, as a kernel in groups and as one of whole columns.
    ((4, 6, 5), ((0, 4), (2, 5)), (24, 5), ((0, 4), (1, 5))),
    ((24, 5), ((0, 4), (1, 5)), (4, 6, 5), ((0, 4), (2, 5))),
    ((24, 5), ((0, 4),), (2, 12, 5), ((0, 2), (1, 2))),
    ((24, 5), ((0, 4),), (8, 3, 5), ((0, 4),)),
    ((24, 5), ((0, 8),), (4, 6, 5), ((0, 4), (1, 2))),
    # Runs of 6 that do not fill rows of 8: the row's elements differ.
    ((24,), ((0, 4),), (3, 8), ((0, 3), (1, 8))),
    # What varies inside is no run of the whole.
    ((4, 6), ((1, 6),), (24,), ((0, 24),)),
    ((4, 6), ((0, 2), (1, 6)), (24,), ((0, 24),)),
  ],
)
def test_runs_go_through_a_reshape(before, blocks, after, expected):
  assert _blocks.reshaped(blocks, before, after) == expected


def test_runs_whose_borders_do_not_meet_are_cut_to_elements():
  assert _blocks.merge([((0, 2),), ((0, 4),)], (12,)) == ((0, 4),)
  assert _blocks.merge([((0, 3),), ((0, 4),)], (12,)) == ((0, 12),)
  assert _blocks.merge([((1, 3),), ((0, 4),)], (4, 6)) == ((0, 4), (1, 3))


def test_a_join_is_tagged_only_if_all_are():
  one = _values.Value(bits=1, origin="a", scales=frozenset({1}))
  four = _values.Value(bits=4, origin="a", scale_blocks=((0, 2),))
  bare = _values.Value(data=True)
  joined = _values.join([one, four], (4,))
  assert (joined.bits, joined.origin) == (4, "a")
  assert (joined.scales, joined.scale_blocks) == (one.scales, ((0, 2),))
  mixed = _values.join([one, bare], (4,))
  assert (mixed.bits, mixed.origin, mixed.data) == (None, None, True)
  assert mixed.scales == one.scales


def test_the_gradient_of_integers_has_no_width():
  assert _values.dtype_bits(jax.dtypes.float0) == 0
  loss = lambda n, w: (n * w).sum()
  step = jax.grad(loss, (0, 1), allow_int=True)
  n, w = (jax.ShapeDtypeStruct((3,), d) for d in (jnp.int32, jnp.float32))
  assert cost.count(step, n, w, weights=1).macs == {}
