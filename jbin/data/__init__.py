"""Data: one file per source; `jbin.data.NAME(...)` makes a `Dataset`.

Importing this room loads neither grain nor what a source reads with; each is
imported when it is first needed.
"""

from jbin.data._base import (
  REGISTRY,
  Batch,
  Dataset,
  Feature,
  Reader,
  image_features,
  text_features,
)
from jbin.data._joined import write_tokens
from jbin.data._tokens import Tokenizer, read as read_tokenizer
from jbin.data.digits import digits
from jbin.data.masked_text import masked_text
from jbin.data.sentences import sentences
from jbin.data.synthetic import synthetic
from jbin.data.text import text
from jbin.data.tfds import tfds

__all__ = [
  "REGISTRY",
  "Batch",
  "Dataset",
  "Feature",
  "Reader",
  "Tokenizer",
  "digits",
  "image_features",
  "masked_text",
  "read_tokenizer",
  "sentences",
  "synthetic",
  "text",
  "text_features",
  "tfds",
  "write_tokens",
]
