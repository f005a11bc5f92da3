r"""Seconds and memory of counting language models, on shapes alone.

Each model is made, given 1-bit weights by rules, and counted for a sequence of
2048 tokens, forward ("count") and then forward and backward with its peak
memory ("training"). It has a process of its own: the peak of its resident
memory is that of one model, Python, JAX and jbin ("before") included. Then a
scanned model of 1 layer and one of 100 are made and counted in turns, in one
process, and the ratio of each turn is taken.

  python benchmarks/cost_reach.py
  python benchmarks/cost_reach.py --rounds=31 --models=llama_7b
"""

import functools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODELS = ("bimamba_2.7b", "llama_7b", "llama_7b_layer_by_layer")
LENGTH = 2048
MIB = 2**20

_ROUNDS = flags.DEFINE_integer("rounds", 15, "Turns of 1 and 100 layers.")
_MODELS = flags.DEFINE_list("models", list(MODELS), "What is counted.")
_CASE = flags.DEFINE_string("case", "", "What this process counts: see main.")


def peak() -> int:
  """Bytes of this process's largest resident memory."""
  status = pathlib.Path("/proc/self/status")
  if status.exists():  # getrusage has the parent's, if that was larger
    lines = status.read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
  usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return usage if sys.platform == "darwin" else 1024 * usage


class Clock:
  """Seconds since it was asked last."""

  def __init__(self):
    self.last = time.perf_counter()

  def __call__(self) -> float:
    """Seconds."""
    now = time.perf_counter()
    seconds, self.last = now - self.last, now
    return seconds


# --- In a process of its own ----------


def one(name: str) -> dict[str, Any]:
  """Makes, converts and counts one model."""
  clock = Clock()
  import jax
  import jax.numpy as jnp

  from experiments.cost_tables.models import parts, unrolled
  from experiments.cost_tables.papers import bimamba
  from jbin import cost, models

  row: dict[str, Any] = {"import": clock(), "before": peak()}
  if name.startswith("bimamba"):
    path = bimamba.PROJECTIONS
    model = bimamba.mamba("2.7B", bimamba.PADDED)
  else:
    path = "layers/.*"
    make = functools.partial(models.llama_7b, dtype=jnp.bfloat16)
    if name != "llama_7b":
      make = functools.partial(unrolled.Unrolled, make)
    model = parts.abstract(make)
  row["make"] = clock()
  low = bimamba.binary(model, path)
  row["rules"] = clock()
  tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
  report = cost.count(low, tokens)
  row["count"] = clock()
  cost.training(jax.grad(_loss), low, tokens)
  row["training"] = clock()
  row["arrays"] = sum(array.nbytes for array in jax.live_arrays())
  row["parameters"] = report.params["total"]
  row["peak"] = peak()
  return row


def _loss(model: Any, tokens: Any) -> Any:
  """Cross-entropy, of which nothing is computed."""
  import jax
  import jax.numpy as jnp

  scores = jax.nn.log_softmax(model(tokens).astype(jnp.float32))
  return -jnp.take_along_axis(scores, tokens[..., None], -1).mean()


def layers(rounds: int) -> dict[str, Any]:
  """A scanned model of 1 layer and of 100, in turns."""
  import jax
  import jax.numpy as jnp

  from experiments.cost_tables.models import parts
  from experiments.cost_tables.papers import bimamba
  from jbin import cost, models

  tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)

  make = functools.partial(
    models.llama,
    features=4096,
    heads=32,
    mlp_features=11008,
    dtype=jnp.bfloat16,
  )

  def seconds(depth: int) -> float:
    clock = Clock()
    model = bimamba.binary(parts.abstract(make, layers=depth), "layers/.*")
    cost.count(model, tokens)
    return clock()

  for depth in (1, 100):  # what JAX keeps is made here
    seconds(depth)
  times: dict[int, list[float]] = {1: [], 100: []}
  for i in range(rounds):
    for depth in ((1, 100), (100, 1))[i % 2]:
      times[depth].append(seconds(depth))
  ratios = [b / a for a, b in zip(times[1], times[100], strict=True)]
  return {
    "1": statistics.median(times[1]),
    "100": statistics.median(times[100]),
    "ratios": sorted(ratios),
  }


# --- The table ----------


def _ask(case: str) -> dict[str, Any]:
  """What another process finds."""
  command = [sys.executable, __file__, f"--case={case}"]
  environment = {"JAX_PLATFORMS": "cpu", **os.environ}
  found = subprocess.run(
    [*command, f"--rounds={_ROUNDS.value}"],
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(found.stdout)


def main(argv: Sequence[str]) -> None:
  del argv
  if _CASE.value:
    sys.path.insert(0, str(ROOT))
    count = _CASE.value == "layers"
    print(json.dumps(layers(_ROUNDS.value) if count else one(_CASE.value)))
    return
  times = ("import", "make", "rules", "count", "training")
  head = ("model", "parameters", *times, "together", "peak memory", "before")
  print(f"| {' | '.join(head)} | arrays |\n|{' --- |' * (len(head) + 1)}")
  for name in _MODELS.value:
    row = _ask(name)
    parts = [row[key] for key in times]
    cells = [f"{s:.2f} s" for s in (*parts, sum(parts))]
    cells += [f"{row[key] / MIB:.0f} MiB" for key in ("peak", "before")]
    cells.append(f"{row['arrays']} bytes")
    print(f"| {name} | {row['parameters']:,} | {' | '.join(cells)} |")
  row = _ask("layers")
  ratios = row["ratios"]
  low, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.1, 0.9))
  print(
    f"\n1 layer {row['1']:.3f} s, 100 layers {row['100']:.3f} s: ratio"
    f" {statistics.median(ratios):.3f} ({low:.3f}-{high:.3f})"
  )


if __name__ == "__main__":
  app.run(main)
