"""BiViT against the vectors of the official code, every file found.

A file's prefix says what it holds; one that no check reads is a failure.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tests.golden import bivit_layers as layers, folder
from tests.golden.compare import Vectors

FILES = folder.files("bivit", "*.npz")

CHECKS: dict[str, Callable[[Vectors], None]] = {
  "binary_linear": layers.binary_linear,
  "sab_attention": layers.sab_attention,
  "sab_coordinate_descent": layers.sab_coordinate_descent,
  "attention_block": layers.attention_block,
  "mlp_block": layers.mlp_block,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS)
  with np.load(file) as archive:
    check(dict(archive))
