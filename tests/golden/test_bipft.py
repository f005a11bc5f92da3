"""BiPFT against the vectors of the official code, every file found."""

import numpy as np
import pytest

from tests.golden import bipft_layers as layers, folder

FILES = folder.files("bipft", "*.npz")

CHECKS = {
  "quantizers": layers.elastic,
  "bipft_layer": layers.layer,
  "embedding_pooler": layers.embedding_pooler,
  "pretrain_kd": layers.pretrain_kd,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS)
  with np.load(file) as archive:
    check(dict(archive))
