import numpy as np

import jbin.data


def whole(data):
  batch = next(iter(data.eval(data.num_eval)))
  return batch["image"], batch["label"]


def test_the_held_out_fifth_is_as_stated():
  data = jbin.data.digits()
  assert (data.num_train, data.num_eval) == (1438, 359)
  images, labels = whole(data)
  np.testing.assert_array_equal(
    np.bincount(labels), [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
  )
  # A fingerprint: the split must never move, or published figures would.
  pixels = np.rint(images * 6.019 + 4.882)
  assert (pixels.min(), pixels.max()) == (0, 16)
  assert int(pixels.sum()) == 112443


def test_training_images_are_normalised():
  data = jbin.data.digits()
  images = data.read_train(np.arange(data.num_train), None)["image"]
  np.testing.assert_allclose(images.mean(), 0, atol=0.01)
  np.testing.assert_allclose(images.std(), 1, atol=0.01)


def test_augmentation_moves_training_images_only():
  plain, moved = jbin.data.digits(), jbin.data.digits(augment=True)
  np.testing.assert_array_equal(whole(plain)[0], whole(moved)[0])
  ours = next(iter(moved.train(64, 0)))
  theirs = next(iter(plain.train(64, 0)))
  np.testing.assert_array_equal(ours["label"], theirs["label"])
  same = (ours["image"] == theirs["image"]).all(axis=(1, 2, 3)).mean()
  assert 0 < same < 0.4
