"""What a run says first: with what, on what, how much; for DIR/run.jsonl.

One line is added at each start, so the file tells who computed which steps.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

import jbin
from jbin import optimizers, tables
from jbin.train import speed

if TYPE_CHECKING:
  from jbin.train import program

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def describe(
  made: program.Program,
  mesh: Mesh,
  compiled: Any = None,
  *,
  seconds: float = 0.0,
  step: int = 0,
) -> dict[str, Any]:
  """What runs, as JSON values.

  Args:
    made: the step of the run as a program without arrays.
    mesh: the devices.
    compiled: the same step compiled, which knows its memory; None: not yet.
    seconds: that compiling took.
    step: those done before.

  Returns:
    started (UTC), versions, git (if the current folder is in a repository),
    devices, processes, mesh, model, parameters, batch, cost (of one step),
    memory (bytes on each device, as XLA plans them), compile_seconds, step and
    steps.
  """
  config, now = made.config, datetime.datetime.now(datetime.UTC)
  devices = mesh.devices.flat
  found: dict[str, Any] = {
    "started": now.isoformat(timespec="seconds"),
    "versions": versions(),
    "git": _commit(),
    "devices": {"kind": devices[0].device_kind, "count": mesh.size},
    "processes": len({device.process_index for device in devices}),
    "mesh": dict(mesh.shape),
    "model": config.model.name,
    "parameters": parameters(made),
    "batch": {
      "examples": config.batch_size,
      "tokens": speed.tokens_of(made.batch),
      "accumulate": config.accumulate,
    },
    "cost": costs(made),
    "memory": None if compiled is None else memory(compiled),
    "compile_seconds": round(seconds, 3),
    "step": step,
    "steps": config.steps,
  }
  return {key: value for key, value in found.items() if value is not None}


def versions() -> dict[str, str]:
  """Of jbin, of what it stands on, of Python, and the system."""
  return {
    "jbin": jbin.__version__,
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
    "python": platform.python_version(),
    "platform": f"{platform.system()} {platform.machine()}",
  }


def _commit() -> dict[str, Any] | None:
  """The commit of the current folder, and whether files differ from it."""

  def git(*args: str) -> str | None:
    try:
      run = subprocess.run(
        ["git", *args], capture_output=True, text=True, timeout=5, check=False
      )
    except (OSError, subprocess.TimeoutExpired):  # no git, or a slow disk
      return None
    return run.stdout.strip() if run.returncode == 0 else None

  commit = git("rev-parse", "HEAD")
  if not commit:
    return None
  changed = git("status", "--porcelain", "--untracked-files=no")
  return {"commit": commit, "changed": bool(changed)}


def parameters(made: program.Program) -> dict[str, int]:
  """How many are trained, those of them that are latent, and their bytes."""
  leaves = jax.tree.leaves(made.state.params)
  mask = jax.tree.leaves(
    optimizers.latent_mask(made.model),
    is_leaf=lambda leaf: isinstance(leaf, optimizers.Latent),
  )
  latent = [isinstance(flag, optimizers.Latent) for flag in mask]
  pairs = zip(leaves, latent, strict=True)
  return {
    "count": sum(leaf.size for leaf in leaves),
    "latent": sum(leaf.size for leaf, is_latent in pairs if is_latent),
    "bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
  }


def costs(made: program.Program) -> dict[str, int]:
  """What one step costs, over all devices: of its products, see `jbin.cost`.

  macs, ace and model_flops (two for each multiply-accumulate) are those of the
  forward and the backward pass, a teacher's answers among them;
  recomputed_macs are what remat does once more, which is in none of them.
  """
  found = made.report(made.config.model.name).phases()
  macs = {name: sum(row["macs"].values()) for name, row in found.items()}
  useful = [name for name in ("forward", "backward") if name in found]
  whole = sum(macs[name] for name in useful)
  return {
    "macs": whole,
    "ace": sum(found[name]["ace"] for name in useful),
    "model_flops": 2 * whole,
    "recomputed_macs": macs.get("recompute", 0),
  }


def memory(compiled: Any) -> dict[str, int] | None:
  """Bytes on each device while a compiled step runs; None: XLA does not say.

  total = arguments + temporary + results - aliased, where aliased are results
  that take the place of donated arguments.
  """
  sizes = compiled.memory_analysis()
  if sizes is None:
    return None
  arguments = sizes.argument_size_in_bytes
  results, aliased = sizes.output_size_in_bytes, sizes.alias_size_in_bytes
  temporary = sizes.temp_size_in_bytes
  return {
    "arguments": arguments,
    "temporary": temporary,
    "results": results,
    "aliased": aliased,
    "total": arguments + temporary + results - aliased,
  }


def text(found: Mapping[str, Any]) -> str:
  """The same in a few lines."""
  return "\n".join(tables.align(list(_lines(found).items()), "<<"))


def _lines(found: Mapping[str, Any]) -> dict[str, str]:
  known = found["versions"]
  said = ("jbin", "jax", "jaxlib", "flax", "python")
  mesh = ", ".join(f"{axis} {n}" for axis, n in found["mesh"].items())
  processes = found["processes"]
  count, batch, cost = found["parameters"], found["batch"], found["cost"]
  work = [f"{batch['examples']:,} examples"]
  if batch["tokens"]:
    work.append(f"{batch['tokens']:,} tokens")
  if batch["accumulate"] > 1:
    work.append(f"in {batch['accumulate']} parts")
  work.append(f"{tables.amount(cost['model_flops'])}FLOP")
  work.append(f"ACE {tables.amount(cost['ace'])}".rstrip())
  lines = {
    "versions": ", ".join(f"{name} {known[name]}" for name in said),
    "devices": f"{found['devices']['count']} x {found['devices']['kind']}"
    f" of {processes} process{'es' if processes > 1 else ''}; mesh: {mesh}",
    "model": f"{found['model']}, {count['count']:,} parameters in"
    f" {size(count['bytes'])}, {count['latent']:,} of them latent",
    "step": f"{', '.join(work)}",
  }
  if held := found.get("memory"):
    lines["memory"] = (
      f"{size(held['total'])} on each device: arguments"
      f" {size(held['arguments'])}, temporary {size(held['temporary'])}"
    )
  lines["compiled"] = f"in {found['compile_seconds']:.1f} s"
  lines["begins"] = f"after step {found['step']:,} of {found['steps']:,}"
  return lines


def size(n: int) -> str:
  """Bytes for reading: 3.12 GiB, 512 bytes."""
  for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
    if n >= 2**power:
      return f"{n / 2**power:.4g} {unit}"
  return f"{n} bytes"


def append(path: Path, found: Mapping[str, Any]) -> None:
  """Adds a line, through to the disk; one that was cut off before is ended."""
  line = json.dumps(found) + "\n"
  with path.open("ab+") as file:
    if file.tell():
      file.seek(-1, os.SEEK_END)
      line = line if file.read(1) == b"\n" else "\n" + line
    file.write(line.encode())
    file.flush()
    os.fsync(file.fileno())
