"""The catalogue of estimators and quantizers against its vectors.

A file's prefix says what it holds; one that no check reads is a failure. The
checks are in one module for each theme.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tests.golden import (
  estimators_adaptive as adaptive,
  estimators_derived as derived,
  estimators_larq as larq,
  estimators_react as react,
  estimators_sharpening as sharpening,
  estimators_steps as steps,
  estimators_updates as updates,
  folder,
)
from tests.golden.compare import Vectors

FILES = folder.files("estimators", "*.npz")

CHECKS: dict[str, Callable[[Vectors], None]] = {
  "adabin": adaptive.adabin,
  "bit_elastic": steps.bit_elastic,
  "bitnet": steps.bitnet,
  "derived_misc": derived.derived_misc,
  "irnet": sharpening.irnet,
  "lab": adaptive.lab,
  "larq_quantizers": larq.larq_quantizers,
  "larq_bop": updates.larq_bop,
  "lsq": steps.lsq,
  "proxquant": updates.proxquant,
  "rbnn": sharpening.rbnn,
  "react_rsign_rprelu": react.react_rsign_rprelu,
  "siman": sharpening.siman,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS)
  with np.load(file) as archive:
    check(dict(archive))
