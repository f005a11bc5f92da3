"""`jbin train --dry-run`: the very step, compiled, and nothing allocated."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from jbin import cost, tables
from jbin.train import (
  build,
  config as config_lib,
  header,
  program,
  sharding,
)


def run(config: config_lib.Config) -> str:
  """What a run of this config would be, on the mesh that it says.

  No array is made and no data is read where the config says the sizes. Devices
  of the mesh are only compiled for: CPU devices that XLA pretends to have will
  do.

  Raises:
    errors.UserError: if the config makes no run, or there are too few devices.
  """
  made, mesh = prepare(config)
  begin = time.perf_counter()
  compiled = made.compile(mesh)
  seconds = time.perf_counter() - begin
  found = header.describe(made, mesh, compiled, seconds=seconds)
  state, shardings = made.state, made.shardings(mesh)
  parts = [
    header.text(found),
    "\n".join(_memory(made, mesh, found.get("memory"))),
    "\n".join(_transfers(compiled, mesh)),
    sharding.table(state, shardings),
  ]
  parts += [f"note: {line}" for line in made.notes]
  return "\n\n".join(filter(None, parts))


def prepare(config: config_lib.Config) -> tuple[program.Program, Mesh]:
  """All that comes before compiling, and with it all that may be said then.

  Raises:
    errors.UserError: as `run`.
  """
  build.check(config)
  mesh = sharding.of(config.mesh)
  check_batches(config, mesh)
  return program.of(config), mesh


def check_batches(config: config_lib.Config, mesh: Mesh) -> None:
  """Raises if the mesh cannot share out the config's batches.

  Raises:
    errors.UserError: naming the key and the nearest sizes.
  """
  size = config.batch_size
  sharding.check_batch("batch_size", size, mesh, config.accumulate)
  sharding.check_batch("eval_batch_size", config.eval_batch_size or size, mesh)


def _memory(
  made: program.Program, mesh: Mesh, planned: dict[str, int] | None
) -> Iterator[str]:
  """Bytes on each device: the arguments by group, and what XLA adds."""
  state = made.state
  teacher = made.step.teacher.state
  everywhere, split = sharding.replicated(mesh), sharding.batch(mesh)
  lie = lambda tree, where: jax.tree.map(lambda _: where, tree)
  where = made.shardings(mesh)
  groups = {
    "parameters": (state.params, where.params),
    "optimizer": (state.opt_state, where.opt_state),
    "averaged parameters": (state.ema, where.ema),
    "other state of the model": (state.rest, where.rest),
    "batch": (made.batch, lie(made.batch, split)),
    "teacher": (teacher, sharding.intended(teacher, mesh)),
    "metrics": (state.sums, lie(state.sums, everywhere)),
    "the guard's": (state.health, lie(state.health, everywhere)),
  }
  rows = [("memory of each device", "bytes", "")]
  for name, (tree, shardings) in groups.items():
    if n := _bytes(tree, shardings):
      rows.append((name, f"{n:,}", header.size(n)))
  if planned is not None:
    platform = mesh.devices.flat[0].platform
    names = {
      "arguments": "all arguments",
      "temporary": f"temporary, as XLA for {platform} plans",
      "results": "results",
      "aliased": "  that lie in donated arguments",
      "total": "in all",
    }
    for key, name in names.items():
      n = planned[key]
      rows.append((name, f"{n:,}", header.size(n)))
  yield from tables.align(rows, "<>>")
  if jax.default_backend() == "cpu":
    yield "(compiled by XLA for CPUs; other devices fuse and pad otherwise)"


def _bytes(tree: Any, shardings: Any) -> int:
  leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
  return sum(
    math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf, where in leaves
  )


def _transfers(compiled: Any, mesh: Mesh) -> Iterator[str]:
  """What each device sends in one step, by axis of the mesh."""
  if mesh.size == 1:
    return
  found = cost.communication(compiled, mesh)
  rows = [("mesh axis", "transfers", "bytes", "sent, as a ring")]
  rows += [
    (axis, *(f"{row[key]:,}" for key in ("transfers", "bytes", "sent")))
    for axis, row in found.by_axis().items()
  ]
  yield from tables.align(rows, "<>>>")
  yield from found.notes
