"""Training: config -> mesh -> data -> model -> step -> checkpoint -> report.

`loop.run` is the whole of it, in one file; it is not imported here, so that
counting a model does not load what training needs.
"""

from jbin.train.config import Config, from_mapping
from jbin.train.optimizers import REGISTRY as OPTIMIZERS

__all__ = ["OPTIMIZERS", "Config", "from_mapping"]
