"""Data sets that the tests of this room share."""

import io

import numpy as np
import pytest


@pytest.fixture(scope="session")
def cifar_dir(shared):
  """The folder with the prepared CIFAR-10, or a skip."""
  folder = shared / "data" / "tfds"
  if not (folder / "cifar10").is_dir():
    pytest.skip(
      f"no CIFAR-10 prepared as array records at {folder}; set JBIN_SHARED to"
      " the folder that holds data/tfds"
    )
  return str(folder)


def _scan(index: int) -> bytes:
  """An encoded photograph-like image; sizes and colour modes vary."""
  from PIL import Image

  size = (20 + 3 * (index % 7), 18 + 5 * (index % 4))
  generator = np.random.default_rng(index)
  coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
  image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
  if index % 5 == 0:
    image = image.convert("L")
  file = io.BytesIO()
  image.save(file, "JPEG" if index % 2 else "PNG")
  return file.getvalue()


@pytest.fixture(scope="session")
def scans_dir(tmp_path_factory):
  """A folder with `toy_scans`: 37 + 11 images of many sizes, 3 classes."""
  import tensorflow_datasets as tfds

  class ToyScans(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}  # noqa: RUF012 - no downloads: no checksums to look for

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
        "text": tfds.features.Text(),
      }
      return tfds.core.DatasetInfo(
        builder=self,
        description="Scans of nothing.",
        features=tfds.features.FeaturesDict(features),
      )

    def _split_generators(self, manager):
      del manager
      return {
        "train": self._generate_examples(0, 37),
        "test": self._generate_examples(37, 48),
      }

    def _generate_examples(self, start, stop):
      for i in range(start, stop):
        example = {"image": io.BytesIO(_scan(i)), "label": i % 3, "text": "t"}
        yield i, example

  folder = tmp_path_factory.mktemp("tfds")
  builder = ToyScans(data_dir=str(folder), file_format="array_record")
  builder.download_and_prepare()
  return str(folder)
