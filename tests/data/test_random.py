import numpy as np

from jbin.data import _random


def test_mix_is_splitmix64():
  # The first outputs of splitmix64 from state 0 and from state 1234567.
  found = _random.mix(np.asarray([0, 1234567], np.uint64))
  expected = np.asarray([0xE220A8397B1DCDAF, 6457827717110365317], np.uint64)
  np.testing.assert_array_equal(found, expected)


def test_uniforms_are_uniform_and_uncorrelated():
  x = _random.uniforms(3, np.arange(20000), 4)
  assert x.shape == (20000, 4)
  assert x.min() >= 0
  assert x.max() < 1
  np.testing.assert_allclose(x.mean(0), 0.5, atol=0.01)
  np.testing.assert_allclose(x.var(0), 1 / 12, atol=0.002)
  between = np.corrcoef(x, rowvar=False) - np.eye(4)
  assert np.abs(between).max() < 0.03
  along = [np.corrcoef(x[:-lag, 0], x[lag:, 0])[0, 1] for lag in (1, 2, 128)]
  assert np.abs(along).max() < 0.03
  histogram = np.histogram(x, bins=16, range=(0, 1))[0]
  expected = x.size / 16
  # 15 degrees of freedom: 37.7 is the 0.1 % point of chi-square.
  assert np.sum((histogram - expected) ** 2 / expected) < 37.7


def test_a_row_depends_on_its_position_alone():
  positions = np.asarray([7, 3, 2**40])
  ours = _random.uniforms(0, positions, 5)
  for row, position in zip(ours, positions, strict=True):
    alone = _random.uniforms(0, np.asarray([position]), 5)
    np.testing.assert_array_equal(alone[0], row)
  longer = _random.uniforms(0, positions, 9)
  np.testing.assert_array_equal(longer[:, :5], ours)
  assert not np.intersect1d(ours, _random.uniforms(1, positions, 5)).size
