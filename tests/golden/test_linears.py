"""Binary linear layers against the vectors of a paper's official code.

Of the paper's folder, the files whose prefix a check here has.
"""

import numpy as np
import pytest

from tests.golden import folder, linears_layers as layers

CHECKS = {
  "bimamba": {"fbi": layers.fbi},
}
FILES = [
  file
  for slug, checks in CHECKS.items()
  for prefix in checks
  for file in folder.files(slug, f"{prefix}*.npz")
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS[file.parent.name])
  with np.load(file) as archive:
    check(dict(archive))
