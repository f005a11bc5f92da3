"""Data sets that the tests of this room share."""

import io
import itertools

import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_dir(shared):
  """The folder with real prepared data sets, or a skip."""
  folder = shared / "data" / "tfds"
  for name in ("cifar10", "stanford_sentiment"):
    if not (folder / name).is_dir():
      pytest.skip(
        f"no {name} prepared as array records at {folder}; set JBIN_SHARED to"
        " the folder that holds data/tfds"
      )
  return str(folder)


@pytest.fixture(scope="session")
def wikitext(shared):
  """The path of WikiText-2's validation text, or a skip."""
  path = shared / "data" / "text" / "wikitext2.valid.txt"
  if not path.is_file():
    pytest.skip(
      f"no WikiText-2 at {path}; set JBIN_SHARED to the folder that holds"
      " data/text"
    )
  return str(path)


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


def _sentence(index: int) -> str:
  """One of 105 short sentences, and of many lengths."""
  who = ("The cat", "A dog", "No bird", "The old man", "Everyone")
  what = ("eats", "sees", "does not like", "sings to", "forgets", "finds", "is")
  whom = ("a fish.", "the long and winding road!", "Zoë?")
  index = 37 * index
  return f"{who[index % 5]} {what[index % 7]} {whom[index % 3]}"


def _glue(config: str, split: str, index: int) -> dict[str, object]:
  """An example of a set that looks like one of GLUE's; tests hide labels."""
  hidden = split.startswith("test")
  one, two = _sentence(index), _sentence(index + 50)
  if config == "sst2":
    return {"sentence": one, "label": -1 if hidden else index % 2}
  if config == "mnli":
    label = -1 if hidden else index % 3
    return {"premise": one, "hypothesis": two, "label": label}
  if config == "stsb":
    label = -1.0 if hidden else index / 10
    return {"sentence1": one, "sentence2": two, "label": label}
  lines = [_sentence(i) for i in range(5 * index, 5 * index + index % 9 + 1)]
  return {"text": "_START_ARTICLE_\n" + "_NEWLINE_".join(lines), "id": index}


_GLUE_SPLITS = {
  "sst2": {"train": 41, "validation": 19, "test": 5},
  "mnli": {
    "train": 30,
    "validation_matched": 13,
    "validation_mismatched": 11,
    "test_matched": 5,
  },
  "stsb": {"train": 30, "validation": 13, "test": 5},
  "articles": {"train": 40, "validation": 20},
}


@pytest.fixture(scope="session")
def glue_dir(tmp_path_factory):
  """A folder with `toy_glue/NAME`: sst2, mnli, stsb, and plain articles."""
  import tensorflow_datasets as tfds

  class ToyGlue(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 - as the library has it
      tfds.core.BuilderConfig(name=name) for name in _GLUE_SPLITS
    ]
    url_infos = {}  # noqa: RUF012 - no downloads: no checksums to look for

    def _info(self):
      name = self.builder_config.name
      kinds = {
        "label": tfds.features.ClassLabel(num_classes=2 + (name == "mnli")),
        "id": np.int32,
      }
      if name == "stsb":
        kinds["label"] = np.float32
      keys = _glue(name, "train", 0)
      features = {key: kinds.get(key, tfds.features.Text()) for key in keys}
      return tfds.core.DatasetInfo(
        builder=self,
        description="Sentences of nothing.",
        features=tfds.features.FeaturesDict(features),
      )

    def _split_generators(self, manager):
      del manager
      sizes = _GLUE_SPLITS[self.builder_config.name]
      starts = itertools.accumulate(sizes.values(), initial=0)
      return {
        split: self._generate_examples(split, start, start + size)
        for (split, size), start in zip(sizes.items(), starts, strict=False)
      }

    def _generate_examples(self, split, start, stop):
      for i in range(start, stop):
        yield i, _glue(self.builder_config.name, split, i)

  folder = tmp_path_factory.mktemp("tfds_texts")
  for name in _GLUE_SPLITS:
    builder = ToyGlue(
      config=name, data_dir=str(folder), file_format="array_record"
    )
    builder.download_and_prepare()
  return str(folder)


@pytest.fixture(scope="session")
def articles_file(tmp_path_factory):
  """A text file of 60 documents: headings, paragraphs, blank lines."""
  parts = []
  for i in range(60):
    heading = f" = Title {i} = \n" if i % 2 else ""
    lines = [_sentence(j) for j in range(7 * i, 7 * i + 1 + i % 8)]
    half = len(lines) // 2
    text = f"{' '.join(lines[:half])}\n{' '.join(lines[half:])}".strip()
    parts.append(f"{heading} \n {text}\n")
  path = tmp_path_factory.mktemp("texts") / "articles.txt"
  path.write_text("\n".join(parts), "utf-8")
  return str(path)
