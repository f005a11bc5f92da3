import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest

import jbin.data
from jbin import errors


@pytest.fixture
def scans(scans_dir):
  def build(**options):
    options = {"image_size": 16, **options}
    return jbin.data.tfds("toy_scans", scans_dir, **options)

  return build


def whole(data):
  batch = next(iter(data.eval(data.num_eval)))
  return batch["image"], batch["label"]


def test_a_cache_changes_nothing(scans):
  for preset in ("cifar", "none"):
    kept = next(iter(scans(preset=preset, cached=True).train(8, 0)))
    read = next(iter(scans(preset=preset, cached=False).train(8, 0)))
    np.testing.assert_array_equal(kept["image"], read["image"])
    np.testing.assert_array_equal(kept["label"], read["label"])


def test_a_pickle_carries_the_cache(scans):
  reader = scans(cached=True).read_train
  copy = pickle.loads(pickle.dumps(reader))
  assert copy.records.decoded
  indices = np.arange(5)
  theirs = reader(indices, None)
  for name, ours in copy(indices, None).items():
    np.testing.assert_array_equal(ours, theirs[name])
  assert not scans(cached=False).read_train.records.decoded


def test_none_maps_pixels_to_minus_one_and_one(scans):
  data = scans(preset="none")
  images, _ = whole(data)
  assert -1 <= images.min() < -0.5
  assert 0.5 < images.max() <= 1
  found = data.read_train(np.arange(4), None)["image"]
  order = next(iter(data.train(37, 0)))["image"]
  assert any(np.array_equal(found[0], image) for image in order)


def test_mean_and_std_are_options(scans):
  images, _ = whole(scans(preset="none", mean=(0.0,), std=(1.0, 1.0, 1.0)))
  np.testing.assert_array_equal(images, np.rint(images))
  with pytest.raises(errors.UserError, match="mean has 2 numbers"):
    scans(mean=(1.0, 2.0))


def test_inception_evaluates_the_centre(scans, scans_dir):
  import tensorflow_datasets as tfds
  from PIL import Image

  from jbin.data import _augment

  options = {"mean": (0.0,), "std": (1.0,), "image_size": 12}
  images, labels = whole(scans(preset="inception", **options))
  source = tfds.builder_from_directory(f"{scans_dir}/toy_scans/1.0.0")
  originals = source.as_data_source(split="test")
  for i in range(len(images)):
    original = originals[i]
    picture = Image.fromarray(original["image"])
    box = _augment.centre_boxes(np.asarray([picture.size]))[0]
    resized = picture.resize((12, 12), Image.Resampling.BICUBIC, tuple(box))
    # The reference decodes grey and colour files by its own path.
    assert np.abs(images[i] - np.asarray(resized, np.float32)).max() <= 2
    assert labels[i] == original["label"]


def test_inception_crops_differ_between_epochs(scans):
  iterator = iter(scans(preset="inception").train(37, 0))
  first, second = next(iterator), next(iterator)
  order = [np.argsort(b["label"], kind="stable") for b in (first, second)]
  np.testing.assert_array_equal(
    first["label"][order[0]], second["label"][order[1]]
  )
  same = [
    np.array_equal(image, other)
    for image in first["image"]
    for other in second["image"]
  ]
  assert sum(same) == 0


def test_default_size_of_inception_is_224(scans):
  assert scans(preset="inception", image_size=0).image_shape == (224, 224, 3)


def test_splits_can_be_cut(scans):
  data = scans(train_split="train[:50%]", eval_split="train[50%:]")
  assert data.num_train + data.num_eval == 37
  assert abs(data.num_train - data.num_eval) == 1
  assert data.num_classes == 3


def test_data_dir_comes_from_the_environment(scans_dir, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", scans_dir)
  assert jbin.data.tfds("toy_scans:1.0.0", image_size=8).num_train == 37


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"preset": "inceptoin"}, "did you mean inception"),
    (
      {"train_split": "trian"},
      "split of toy_scans 'trian'; did you mean train",
    ),
    ({"train_split": "train[0:0]"}, "no examples; 'train' has 37"),
    ({"train_split": "train[:9x]"}, "write it as 'train', 'train"),
    ({"image_size": 0}, "differ in size"),
    ({"preset": "inception", "cached": True}, "leave cached out"),
    (
      {"image_key": "picture"},
      "no feature 'picture'.*it has image, label, text",
    ),
    ({"image_key": "text"}, "not an image"),
    ({"label_key": "text"}, "not a class"),
  ],
)
def test_wrong_options(scans, options, message):
  with pytest.raises(errors.UserError, match=message):
    scans(**options)


def test_unknown_data_sets(scans_dir, tmp_path):
  with pytest.raises(errors.UnknownName, match="did you mean toy_scans"):
    jbin.data.tfds("toy_scan", scans_dir)
  with pytest.raises(errors.UnknownName, match="did you mean cifar10 or"):
    jbin.data.tfds("cifra10", scans_dir)
  with pytest.raises(
    errors.UserError,
    match=r"'cifar10' is not prepared in data_dir .*, which holds toy_scans;"
    r" .*file_format='array_record'\)\.download_and_prepare",
  ):
    jbin.data.tfds("cifar10", scans_dir)
  with pytest.raises(errors.UserError, match="does not exist"):
    jbin.data.tfds("cifar10", str(tmp_path / "nowhere"))
  with pytest.raises(errors.UserError, match="which is empty"):
    jbin.data.tfds("cifar10", str(tmp_path))


def test_a_format_without_random_access(scans_dir, tmp_path):
  folder = tmp_path / "toy_scans" / "1.0.0"
  shutil.copytree(pathlib.Path(scans_dir) / "toy_scans" / "1.0.0", folder)
  about = folder / "dataset_info.json"
  described = json.loads(about.read_text())
  about.write_text(json.dumps({**described, "fileFormat": "tfrecord"}))
  with pytest.raises(
    errors.UserError, match=r"stored as tfrecord.* tfds convert_format"
  ):
    jbin.data.tfds("toy_scans", str(tmp_path))


def test_cifar10_is_what_it_says(real_dir):
  data = jbin.data.tfds("cifar10", real_dir, train_split="train[:2000]")
  assert (data.num_classes, data.image_shape) == (10, (32, 32, 3))
  assert (data.num_train, data.num_eval) == (2000, 10000)
  images, labels = data.read_train(np.arange(2000), None).values()
  np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=0.05)
  np.testing.assert_allclose(images.std((0, 1, 2)), 1, atol=0.05)
  assert np.bincount(labels).min() > 150


def test_images_without_labels_are_refused(real_dir):
  with pytest.raises(errors.UserError, match="no feature 'image'"):
    jbin.data.tfds("stanford_sentiment", real_dir)
