"""BiBERT against the vectors of the official code, every file found."""

import numpy as np
import pytest

from tests.golden import bibert_model as model, bibert_parts as parts, folder

FILES = folder.files("bibert", "*.npz")

CHECKS = {
  "quantizers": parts.bert_quantizers,
  "quantize_linear": parts.quantize_linear,
  "dmd_loss": parts.dmd_loss,
  "bertadam": parts.bertadam,
  "bert_layer": model.bert_layer,
  "tiny_model": model.tiny_model,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS)
  with np.load(file) as archive:
    check(dict(archive))
