"""Llama and OPT against the vectors of transformers, every file found.

What the folder has of methods is read elsewhere.
"""

import numpy as np
import pytest

from tests.golden import folder, gptq_family_models as models
from tests.golden.compare import Reader

ELSEWHERE = ("README", "arb", "billm", "gptq", "quantizers_misc")
MODELS = ("llama_tiny", "opt_tiny")
FILES = [
  file
  for file in folder.files("gptq_family", "*.*")
  if not getattr(file, "name", "").startswith(ELSEWHERE)
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file, tmp_path):
  assert file.name.startswith(MODELS), f"{file.name}: no check reads it"
  if file.suffix == ".npz":
    with np.load(file) as archive:
      z = Reader(dict(archive))
    models.whole(z, file, tmp_path)
    z.all_read()
  else:
    models.weights(file, tmp_path)
