"""BiPer against the vectors of the official code, every file found.

A file's prefix says what it holds; one that no check reads is a failure.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tests.golden import biper_layers as layers, folder
from tests.golden.compare import Vectors

FILES = folder.files("biper", "*.npz")

CHECKS: dict[str, Callable[[Vectors], None]] = {
  "special": layers.special,
  "conv2d": layers.conv2d,
  "regulariser": layers.regulariser,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS)
  with np.load(file) as archive:
    check(dict(archive))
