"""`jbin plan`: what a config's rules do to its model, before anything runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from jbin.cli import _flags


def main(argv: Sequence[str]) -> None:
  """Prints the plan: path, op, shape, bits, rule and reason of each layer."""
  _, _, config = _flags.parse("plan", argv, {}, config=True)
  assert config is not None
  # Nothing is computed: an accelerator would only be locked, and be slow to
  # start.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from jbin.train import build, making

  build.check(config)
  model, inputs = build.abstract_model(config, with_rules=False)
  print(making.plan_of(model, config.rules, inputs))
