"""`jbin train`: trains a config, or goes on where its workdir stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jbin.cli import _flags


def main(argv: Sequence[str]) -> None:
  """Trains; `--distributed` first joins the other hosts of the job."""
  given, _, config = _flags.parse(
    "train",
    argv,
    {"workdir": "where metrics, checkpoints and the report go"},
    needs=["workdir"],
    switches={"distributed": "this is one of several hosts (TPU pod, SLURM)"},
    config=True,
  )
  assert config is not None
  if given["distributed"]:
    import jax

    jax.distributed.initialize()
  from jbin.train import loop

  loop.run(config, Path(given["workdir"]))
