"""`jbin train`: trains a config, or goes on where its workdir stands."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jbin import errors
from jbin.cli import _devices, _flags


def main(argv: Sequence[str]) -> None:
  """Trains; `--distributed` first joins the other processes of the job.

  So does any of `--coordinator`, `--processes` and `--process`, which say what
  no launcher does: see `jbin.train.processes`.
  `--dry-run` trains nothing, and needs no workdir: see `jbin.train.dry`.
  """
  given, _, config = _flags.parse(
    "train",
    argv,
    {
      "workdir": "where metrics, checkpoints and the report go",
      "coordinator": "HOST:PORT of process 0, to join a job",
      "processes": "how many the job has",
      "process": "which of them this is, from 0",
    },
    switches={
      "dry-run": "compile the step for the config's mesh, say what it needs",
      "distributed": "join a job that the launcher knows (SLURM, ...)",
    },
    config=True,
  )
  assert config is not None
  if given["dry-run"]:
    _devices.pretend(config.mesh)
    from jbin.train import dry

    print(dry.run(config))
    return
  if not given["workdir"]:
    raise errors.UserError("train needs --workdir=WORKDIR, or --dry-run")
  from jbin.train import interrupt, processes

  with interrupt.leaving(), contextlib.ExitStack() as job:
    names = ("distributed", "coordinator", "processes", "process")
    if any(given[name] for name in names):
      count, index = (_number(given, name) for name in names[2:])
      joined = processes.joined(given["coordinator"] or "", count, index)
      job.enter_context(joined)
    from jbin.train import loop

    loop.run(config, Path(given["workdir"]))


def _number(given: Mapping[str, Any], name: str) -> int | None:
  """A flag's whole number; None if it was not given."""
  value = given[name]
  if value is None:
    return None
  if not value.isdecimal():
    raise errors.UserError(f"--{name} is {value!r}; it must be a whole number")
  return int(value)
