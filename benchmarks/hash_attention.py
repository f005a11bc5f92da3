r"""EcoFormer's attention against exact attention, over the number of tokens.

Both are whole layers with their projections, of the same input (one example):
`nn.MultiHeadAttention`, softmax over all tokens, and `nn.HashAttention`, linear
in them. For each length it prints what jbin counts (multiply-accumulates, and
pJ at 45 nm), XLA's figure for temporary buffers, and the time of a forward pass
and of one with its gradients. All are compiled first and then timed in turns
within one run, so that a drifting clock moves them alike; ratios are taken in
each turn, and their median and spread are printed. In its turn each runs twice,
and the second time counts: in the first, what the one before it held is still
being given back. Below stand the exponents: the slope of log(time), or cost,
over log(tokens), by least squares.

  python benchmarks/hash_attention.py
  python benchmarks/hash_attention.py --lengths=256,512,1024 --rounds=31
  taskset -c 1 python benchmarks/hash_attention.py --clock=cpu    # one core

`--clock=cpu` is the time that the process computes, on all its cores, which
other work on the machine disturbs less; it says nothing of an accelerator.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags
from flax import nnx

from jbin import cost, nn

_LENGTHS = flags.DEFINE_list(
  "lengths", ["256", "512", "1024", "2048", "4096", "8192"], "Tokens."
)
_HEADS = flags.DEFINE_integer("heads", 2, "Heads.", lower_bound=1)
_SIZE = flags.DEFINE_integer("head_dim", 32, "Of a head.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 11, "Timed turns.", lower_bound=2)
_CLOCK = flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "See above.")
_TAIL = flags.DEFINE_integer(
  "tail", 4, "Of how many of the greatest lengths there are exponents too."
)

MIB = 2**20
KINDS = ("exact", "hash")
PASSES = ("forward", "gradient")


class Program(NamedTuple):
  """A compiled pass."""

  run: Callable[[], Any]
  temporary: int
  # Bytes.


def layers() -> dict[str, nnx.Module]:
  """Both, the one with hash codes fitted on a few tokens."""
  heads, features = _HEADS.value, _HEADS.value * _SIZE.value
  exact = nn.MultiHeadAttention(heads, features, rngs=nnx.Rngs(0))
  hashed = nn.HashAttention(features, heads, rngs=nnx.Rngs(0))
  nn.calibrate(hashed, tokens(256))
  return {"exact": exact, "hash": hashed}


def tokens(length: int) -> jax.Array:
  shape = (1, length, _HEADS.value * _SIZE.value)
  return jax.random.normal(jax.random.key(length), shape)


def compiled(layer: nnx.Module, kind: str, length: int) -> Program:
  graph, params, rest = nnx.split(layer, nnx.Param, ...)
  x = tokens(length)

  def forward(params: Any, x: jax.Array) -> jax.Array:
    model: Any = nnx.merge(graph, params, rest)
    return model(x)

  def gradient(params: Any, x: jax.Array) -> Any:
    loss = lambda params, x: jnp.square(forward(params, x)).mean()
    return jax.grad(loss, argnums=(0, 1))(params, x)

  function = forward if kind == "forward" else gradient
  program = jax.jit(function).lower(params, x).compile()
  analysis = program.memory_analysis()
  run = lambda: jax.block_until_ready(program(params, x))
  return Program(run, analysis.temp_size_in_bytes)


def counted(layer: nnx.Module, length: int) -> dict[str, float]:
  report = cost.count(layer, tokens(length))
  return {
    "MACs": sum(report.macs.values()),
    "energy": report.total("energy_45nm"),
  }


def slope(lengths: Sequence[int], values: Sequence[float]) -> float:
  """Of log(value) over log(length)."""
  xs, ys = ([math.log(v) for v in item] for item in (lengths, values))
  return statistics.linear_regression(xs, ys).slope


def spread(values: Sequence[float], digits: int = 3) -> str:
  """Median and the tenth and ninetieth percentile."""
  low, *_, high = statistics.quantiles(values, n=10, method="inclusive")
  middle = statistics.median(values)
  return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main(argv: Sequence[str]) -> None:
  del argv
  lengths = sorted(map(int, _LENGTHS.value))
  made = layers()
  costs = {
    (kind, n): counted(layer, n)
    for kind, layer in made.items()
    for n in lengths
  }
  programs = {
    (kind, what, n): compiled(layer, what, n)
    for n in lengths
    for what in PASSES
    for kind, layer in made.items()
  }
  times: dict[Any, list[float]] = {key: [] for key in programs}
  clocks = {"wall": time.perf_counter, "cpu": time.process_time}
  clock = clocks[_CLOCK.value]
  for turn in range(_ROUNDS.value + 1):
    for key, program in programs.items():
      program.run()
      begin = clock()
      program.run()
      if turn:  # the first warms up
        times[key].append(clock() - begin)

  print(
    "| tokens | MACs, exact | hash / exact | energy | forward, exact |"
    " hash / exact | gradient, exact | hash / exact | temporary, exact |"
    " hash / exact |"
  )
  print("| ---: " * 10 + "|")
  for n in lengths:
    exact, mine = costs["exact", n], costs["hash", n]
    cells = [f"{n:,}", f"{exact['MACs'] / 1e6:,.1f} M"]
    cells += [f"{mine[key] / exact[key]:.3f}" for key in ("MACs", "energy")]
    for what in PASSES:
      theirs, ours = (times[kind, what, n] for kind in KINDS)
      pairs = zip(ours, theirs, strict=True)
      cells.append(f"{1e3 * statistics.median(theirs):.2f} ms")
      cells.append(spread([a / b for a, b in pairs]))
    theirs, ours = (programs[kind, "gradient", n].temporary for kind in KINDS)
    cells += [f"{theirs / MIB:.1f} MiB", f"{ours / theirs:.3f}"]
    print(f"| {' | '.join(cells)} |")

  tail = lengths[-_TAIL.value :]
  print(f"\n| exponent | exact | hash | exact, from {tail[0]:,} | hash |")
  print("| --- " + "| ---: " * 4 + "|")
  rows: dict[str, Callable[[str, int], float]] = {
    "MACs": lambda kind, n: costs[kind, n]["MACs"],
    "energy": lambda kind, n: costs[kind, n]["energy"],
    "forward": lambda kind, n: statistics.median(times[kind, "forward", n]),
    "gradient": lambda kind, n: statistics.median(times[kind, "gradient", n]),
    "temporary": lambda kind, n: programs[kind, "gradient", n].temporary,
  }
  for name, value in rows.items():
    cells = [
      f"{slope(some, [value(kind, n) for n in some]):.2f}"
      for some in (lengths, tail)
      for kind in KINDS
    ]
    print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
  app.run(main)
