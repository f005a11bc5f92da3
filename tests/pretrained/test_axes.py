"""The letters of axes, in both directions."""

import numpy as np
import pytest

from jbin.pretrained import _axes

SPECS = {
  "io->oi": ((3, 4), (4, 3)),
  "hwio->oihw": ((1, 2, 3, 4), (4, 3, 1, 2)),
  "ihd->(hd)i": ((5, 2, 3), (6, 5)),
  "hdo->o(hd)": ((2, 3, 5), (5, 6)),
  "hdo->o(dh)": ((2, 3, 5), (5, 6)),
  "hd->(hd)": ((2, 3), (6,)),
  "kic->cik": ((4, 1, 3), (3, 1, 4)),
  "c->c": ((7,), (7,)),
  "i->1i": ((3,), (1, 3)),
  "->": ((), ()),
}


@pytest.mark.parametrize("spec", SPECS)
def test_there_and_back(spec):
  ours, theirs = SPECS[spec]
  array = np.random.default_rng(0).normal(size=ours)
  tensor = _axes.to_theirs(spec, array)
  assert tensor.shape == theirs == _axes.their_shape(spec, ours)
  back = _axes.to_ours(spec, tensor, ours)
  assert back.shape == ours
  np.testing.assert_array_equal(back, array)


def test_places_of_elements():
  query = np.arange(30).reshape(5, 2, 3)
  weight = _axes.to_theirs("ihd->(hd)i", query)
  assert weight[1 * 3 + 2, 4] == query[4, 1, 2]
  out = np.arange(30).reshape(2, 3, 5)
  assert _axes.to_theirs("hdo->o(hd)", out)[4, 1 * 3 + 2] == out[1, 2, 4]
  assert _axes.to_theirs("hdo->o(dh)", out)[4, 2 * 2 + 1] == out[1, 2, 4]
  kernel = np.arange(24).reshape(1, 2, 3, 4)
  assert _axes.to_theirs("hwio->oihw", kernel)[3, 2, 0, 1] == kernel[0, 1, 2, 3]
