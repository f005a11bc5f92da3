"""BiBench's operators and scores against their vectors, every file found.

A file's name says what it holds; one that no check reads is a failure, and so
is an array of a file.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tests.golden import (
  bibench_layers as layers,
  bibench_parts as parts,
  folder,
)
from tests.golden.compare import Vectors

FILES = folder.files("bibench", "*.npz")

CHECKS: dict[str, Callable[[Vectors], None]] = {
  **{f"conv2d_{op}": layers.conv2d(op) for op in layers.CONVOLUTIONS},
  "conv1d": layers.conv1d,
  "linear": layers.linear,
  "react_linear_corrected": layers.react_linear_corrected,
  "act_special": parts.act_special,
  "schedules": parts.schedule_values,
  "metrics": parts.metrics,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS)
  with np.load(file) as archive:
    check(dict(archive))
