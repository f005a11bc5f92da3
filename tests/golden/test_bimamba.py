"""Bi-Mamba against the vectors of official code, every file found.

A file's prefix says what it holds. The linear layers' are read elsewhere
(`test_linears`); tolerances are those of the vectors' README.
"""

import numpy as np
import pytest

from tests.golden import (
  bimamba_layers as layers,
  bimamba_model as model,
  folder,
  test_linears,
)
from tests.golden.compare import Reader

CHECKS = {
  "ssd_core": layers.ssd_core,
  "gated_rmsnorm": layers.gated_rmsnorm,
  "lr_schedule": layers.lr_schedule,
  "ad_loss": layers.ad_loss,
  "storage": layers.storage,
  "mamba2_block": layers.block,
  "bimamba_block": layers.block,
}
WHOLE = ("mamba2_tiny", "bimamba_tiny")
ELSEWHERE = tuple(test_linears.CHECKS["bimamba"])
FILES = [
  file
  for file in folder.files("bimamba", "*.*")
  if not getattr(file, "name", "").startswith((*ELSEWHERE, "README"))
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  if file.suffix == ".safetensors":
    model.weights(file)
    return
  with np.load(file) as archive:
    z = Reader(dict(archive))
  if file.stem.startswith(WHOLE):
    model.whole(z, file)
  else:
    folder.check_for(file, CHECKS)(z)
  z.all_read()
