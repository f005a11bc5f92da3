"""`jbin eval`: the metrics of a workdir's newest checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jbin.cli import _flags


def main(argv: Sequence[str]) -> None:
  """Prints one JSON object on the last line."""
  given, _, config = _flags.parse(
    "eval",
    argv,
    {"workdir": "the run whose newest checkpoint is evaluated"},
    needs=["workdir"],
    switches={"distributed": "this is one of several hosts (TPU pod, SLURM)"},
    config=True,
  )
  assert config is not None
  if given["distributed"]:
    import jax

    jax.distributed.initialize()
  from jbin.train import evaluation

  print(json.dumps(evaluation.evaluate(config, Path(given["workdir"]))))
