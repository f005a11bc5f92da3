"""Training: config -> mesh -> data -> model -> step -> checkpoint -> report.

`loop.run` is the whole of it, in one file; it is not imported here, so that
counting a model does not load what training needs.
"""

from jbin.train.config import Config, from_mapping

__all__ = ["Config", "from_mapping"]
