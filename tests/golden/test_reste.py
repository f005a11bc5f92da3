"""ReSTE against the vectors of the official code, every file found.

A file's prefix says what it holds; one that no check reads is a failure.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tests.golden import folder, reste_layers as layers
from tests.golden.compare import Vectors

FILES = folder.files("reste", "*.npz")

CHECKS: dict[str, Callable[[Vectors], None]] = {
  "estimator": layers.estimator,
  "schedule_o": layers.schedule_o,
  "conv2d": layers.conv2d,
  "indicators": layers.indicators,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS)
  with np.load(file) as archive:
    check(dict(archive))
