import numpy as np
import pytest

from jbin.data import _augment, _random


def images(n, height, width, channels):
  size = (n, height, width, channels)
  return np.random.default_rng(0).integers(1, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_its_formula(channels):
  x = images(3, 4, 5, channels)
  mean, std = [10.0, 20.0, 30.0][:channels], [2.0, 4.0, 8.0][:channels]
  expected = (x - np.asarray(mean)) / np.asarray(std)
  found = _augment.normalize(x, mean, std)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_one_mean_serves_all_channels():
  x = images(2, 4, 4, 3)
  ours = _augment.normalize(x, (5.0,), (2.0,))
  theirs = _augment.normalize(x, (5.0,) * 3, (2.0,) * 3)
  np.testing.assert_array_equal(ours, theirs)


def test_shift_is_a_window_of_the_padded_image():
  x = images(400, 6, 5, 2)
  draws = _random.uniforms(0, np.arange(len(x)), 3)
  found = _augment.shift(x, draws, pad=2, flip=True)
  padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
  seen = set()
  for i, (down, right, flip) in enumerate(draws):
    top, left = int(down * 5), int(right * 5)
    window = padded[i, top : top + 6, left : left + 5]
    window = window[:, ::-1] if flip < 0.5 else window
    np.testing.assert_array_equal(found[i], window)
    seen.add((top, left, bool(flip < 0.5)))
  assert len(seen) == 5 * 5 * 2


def test_shift_leaves_its_input_alone():
  x = images(8, 4, 4, 1)
  before = x.copy()
  _augment.shift(x, np.zeros((8, 3)), pad=1, flip=True)
  np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("size", [(500, 375), (320, 480), (64, 64)])
def test_inception_boxes_keep_their_bounds(size):
  n = 4000
  sizes = np.broadcast_to(np.asarray(size), (n, 2))
  draws = _random.uniforms(1, np.arange(n), _augment.CROP_DRAWS)
  boxes = _augment.inception_boxes(sizes, draws)
  left, top, right, bottom = boxes.T
  np.testing.assert_array_equal(boxes, np.round(boxes))
  assert left.min() >= 0
  assert top.min() >= 0
  assert right.max() <= size[0]
  assert bottom.max() <= size[1]
  width, height = right - left, bottom - top
  # A side of s pixels is rounded by at most half a pixel.
  slack = 0.5 / np.minimum(width, height)
  area = width * height / (size[0] * size[1])
  assert np.all(area >= 0.08 * (1 - slack) ** 2)
  assert area.max() <= 1
  aspect = width / height
  assert np.all(aspect >= 3 / 4 * (1 - slack) / (1 + slack))
  assert np.all(aspect <= 4 / 3 * (1 + slack) / (1 - slack))
  # The whole range is used, and boxes lie everywhere.
  assert area.min() < 0.1
  # An aspect of 3/4 covers at most 8/9 of an image of aspect 2/3.
  assert area.max() > 0.85
  assert aspect.min() < 0.78
  assert aspect.max() > 1.28
  assert abs(np.mean(left / np.maximum(size[0] - width, 1)) - 0.5) < 0.05


def test_inception_takes_the_centre_if_nothing_fits():
  # 10 x 1000: no box of aspect up to 4/3 has 8 % of the area.
  sizes = np.asarray([[10, 1000], [1000, 10]])
  draws = _random.uniforms(0, np.arange(2), _augment.CROP_DRAWS)
  boxes = _augment.inception_boxes(sizes, draws)
  np.testing.assert_array_equal(boxes, _augment.centre_boxes(sizes))


def test_centre_boxes():
  sizes = np.asarray([[256, 256], [500, 375], [7, 9], [1, 1]])
  boxes = _augment.centre_boxes(sizes)
  np.testing.assert_array_equal(boxes[0], [16, 16, 240, 240])
  np.testing.assert_array_equal(boxes[1], [86, 23, 414, 351])
  sides = boxes[:, 2:] - boxes[:, :2]
  np.testing.assert_array_equal(sides[:, 0], sides[:, 1])
  assert sides.min() >= 1
  assert np.all(boxes[:, 2:] <= sizes)
