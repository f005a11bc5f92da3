"""Binary linear layers against the vectors of three papers' official code.

Of each paper's folder, the files whose prefix a check here has; the others are
read beside the layers that they are about.
"""

import numpy as np
import pytest

from tests.golden import folder, linears_layers as layers

CHECKS = {
  "bivit": {"binary_linear": layers.binary_linear},
  "bibert": {
    "quantize_linear": layers.quantize_linear,
    "quantizers": layers.bert_quantizers,
  },
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
