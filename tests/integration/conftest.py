"""The tiny config of tests/train, for runs of the whole; the toy sweep."""

from tests.integration.toy import toy
from tests.train.conftest import (
  TINY,
  changed_config,
  tiny_config,
  tiny_values,
)

__all__ = ["TINY", "changed_config", "tiny_config", "tiny_values", "toy"]
