"""PokeBNN against the vectors of the official code, every file found.

A file's prefix says what it holds; one that no check reads is a failure.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tests.golden import folder, pokebnn_layers as layers, pokebnn_net as net
from tests.golden.compare import Vectors

FILES = folder.files("pokebnn", "*.npz")

CHECKS: dict[str, Callable[[Vectors], None]] = {
  "binarizer_act": layers.binarizer_act,
  "binarizer_weight": layers.binarizer_weight,
  "quantizers_multibit": layers.quantizers_multibit,
  "bounds_stats": layers.bounds_stats,
  "dprelu": layers.dprelu,
  "reshape_add": layers.reshape_add,
  "se": layers.se,
  "poke_init": net.poke_init,
  "bottleneck": net.bottleneck,
  "tiny_net": net.tiny_net,
  "schedule_loss": net.schedule_loss,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS)
  with np.load(file) as archive:
    check(dict(archive))
