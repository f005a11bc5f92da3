r"""Mamba-2's state space: sizes of chunks against a scan over tokens.

`nn.ssd` with several sizes of chunks beside `nn.ssd_scan`, its definition, of
the same input: one example, heads of 64 features, states of 128, one group, as
the released models have them (and fewer heads). For each length it prints the
time of a forward pass and of one with its gradients, and XLA's figure for
temporary buffers. All are compiled first and then timed in turns within one
run, so that a drifting clock moves them alike; ratios to the scan are taken in
each turn, and their medians are printed, with the tenth and the ninetieth
percentile. The scan, which keeps every state for its gradient, is left out
where it would take more than `--most` seconds a run, or more than `--gib` of
memory. Below stand the exponents: the slope of log(time), or memory, over
log(tokens), by least squares; 1 is linear.

  python benchmarks/ssd.py
  python benchmarks/ssd.py --lengths=512,2048 --rounds=3 --heads=4
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags

from jbin import nn

_LENGTHS = flags.DEFINE_list(
  "lengths",
  ["512", "1024", "2048", "4096", "8192", "16384", "32768"],
  "Tokens.",
)
_CHUNKS = flags.DEFINE_list("chunks", ["64", "128", "256", "512"], "Tokens.")
_HEADS = flags.DEFINE_integer("heads", 8, "Heads.", lower_bound=1)
_SIZE = flags.DEFINE_integer("head_dim", 64, "Of a head.", lower_bound=1)
_STATE = flags.DEFINE_integer("state", 128, "Of B and C.", lower_bound=1)
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of x, B and C.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed turns.", lower_bound=2)
_MOST = flags.DEFINE_float("most", 20.0, "Seconds of one run of the scan.")
_GIB = flags.DEFINE_float("gib", 4.0, "GiB of one run of the scan.")

MIB = 2**20
SCAN = "scan"
PASSES = ("forward", "gradient")
_PASSES = flags.DEFINE_list("passes", list(PASSES), "What is timed.")


class Program(NamedTuple):
  """A compiled pass."""

  run: Callable[[], Any]
  temporary: int
  # Bytes.


def arrays(length: int) -> tuple[jax.Array, ...]:
  """x, dt, a, b and c, of sizes as a model has them at its start."""
  keys = jax.random.split(jax.random.key(length), 5)
  heads, dtype = _HEADS.value, jnp.dtype(_DTYPE.value)
  x = jax.random.normal(keys[0], (1, length, heads, _SIZE.value), dtype)
  dt = jax.random.uniform(keys[1], (1, length, heads), minval=1e-3, maxval=1e-1)
  a = -jax.random.uniform(keys[2], (heads,), minval=1.0, maxval=16.0)
  b, c = (
    jax.random.normal(key, (1, length, 1, _STATE.value), dtype)
    for key in keys[3:]
  )
  return x, dt, a, b, c


def compiled(name: str, kind: str, length: int) -> Program:
  function = nn.ssd_scan
  if name != SCAN:
    function = functools.partial(nn.ssd, chunk=int(name))

  def forward(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
    return function(*args)

  def gradient(*args: jax.Array) -> Any:
    loss = lambda *args: jnp.mean(jnp.square(forward(*args)[0]))
    return jax.grad(loss, argnums=tuple(range(5)))(*args)

  given = arrays(length)
  run = forward if kind == "forward" else gradient
  program = jax.jit(run).lower(*given).compile()
  analysis: Any = program.memory_analysis()
  call = lambda: jax.block_until_ready(program(*given))
  return Program(call, analysis.temp_size_in_bytes)


def seconds(program: Program) -> float:
  begin = time.perf_counter()
  program.run()
  return time.perf_counter() - begin


def slope(points: Sequence[tuple[int, float]]) -> float:
  """Of log(value) over log(length)."""
  xs, ys = ([math.log(v) for v in item] for item in zip(*points, strict=True))
  return statistics.linear_regression(xs, ys).slope


def spread(values: Sequence[float]) -> str:
  """Median and the tenth and ninetieth percentile."""
  low, *_, high = statistics.quantiles(values, n=10, method="inclusive")
  return f"{statistics.median(values):.3f} ({low:.3f}-{high:.3f})"


def measured(
  names: Sequence[str], kind: str, lengths: Sequence[int]
) -> tuple[dict[Any, list[float]], dict[Any, int]]:
  """Seconds of each turn, and bytes, by (name, length)."""
  times: dict[Any, list[float]] = {}
  memory: dict[Any, int] = {}
  last = 0.0
  for length in lengths:
    # The scan's time is linear too: what the next length would take is known.
    asked = [n for n in names if n != SCAN or 2 * last < _MOST.value]
    programs = {name: compiled(name, kind, length) for name in asked}
    memory |= {(n, length): p.temporary for n, p in programs.items()}
    if SCAN in programs and memory[SCAN, length] > _GIB.value * 2**30:
      del programs[SCAN]
    for turn in range(_ROUNDS.value + 1):
      for name, program in programs.items():
        spent = seconds(program)
        if turn:  # the first warms up
          times.setdefault((name, length), []).append(spent)
    if SCAN in programs:
      last = statistics.median(times[SCAN, length])
  return times, memory


def table(
  kind: str,
  names: Sequence[str],
  lengths: Sequence[int],
  times: dict[Any, list[float]],
  memory: dict[Any, int],
) -> None:
  """Times, ratios to the scan, temporary memory, exponents."""
  chunks = [name for name in names if name != SCAN]
  head = [f"{kind}: tokens", "scan"]
  head += [f"chunk {name}" for name in chunks]
  head += [f"{name} / scan" for name in chunks]
  head += [f"MiB, {name}" for name in names]
  print(f"| {' | '.join(head)} |\n{'| ---: ' * len(head)}|")
  for length in lengths:
    cells = [f"{length:,}"]
    for name in names:
      each = times.get((name, length))
      cells.append(f"{1e3 * statistics.median(each):.1f} ms" if each else "")
    scan = times.get((SCAN, length))
    for name in chunks:
      pairs = zip(times[name, length], scan or (), strict=bool(scan))
      cells.append(spread([a / b for a, b in pairs]) if scan else "")
    for name in names:
      size = memory.get((name, length))
      cells.append("" if size is None else f"{size / MIB:.1f}")
    print(f"| {' | '.join(cells)} |")
  exponents = []
  for what, values in (("time", times), ("memory", memory)):
    for name in names:
      points = [(n, values[name, n]) for n in lengths if (name, n) in values]
      points = [
        (n, statistics.median(v) if isinstance(v, list) else v)
        for n, v in points
      ]
      if len(points) > 1:
        exponents.append(f"{name} {slope(points):.2f}")
    print(f"\n{kind}, exponent of {what}: {', '.join(exponents)}", end="")
    exponents.clear()
  print("\n")


def main(argv: Sequence[str]) -> None:
  del argv
  lengths = sorted(map(int, _LENGTHS.value))
  names = [SCAN, *_CHUNKS.value]
  device = jax.devices()[0]
  print(
    f"{_HEADS.value} heads of {_SIZE.value}, states of {_STATE.value},"
    f" {_DTYPE.value}, {device.device_kind or device.platform}\n"
  )
  for kind in _PASSES.value:
    table(kind, names, lengths, *measured(names, kind, lengths))


if __name__ == "__main__":
  app.run(main)
