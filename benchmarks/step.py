"""Training step of 1-bit networks against their float twins, side by side.

Each pair is compiled, then timed in turns within one run (float, binary,
float, ...), so that a drifting clock moves both; the ratio of each turn is
taken, and its median and spread are printed. Both nets have the same
parameters and optimizer (SGD with momentum); only the quantizers differ.

  python benchmarks/step.py                 # all pairs
  python benchmarks/step.py --only=mlp --rounds=15 --grad_precision=bfloat16

Read with it: `temp` is XLA's own figure for the buffers of the compiled step.
With `--grad_precision=bfloat16` only the binary net's gradient products are
narrowed, which a float net could have too: quote it beside a float control.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from flax import nnx

from jbin import models, nn, quantizers

_ONLY = flags.DEFINE_list("only", [], "Names of pairs; empty for all.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed turns of each pair.")
_PRECISION = flags.DEFINE_enum(
  "grad_precision",
  "float32",
  ["float32", "bfloat16"],
  "Of the binary net's gradient products.",
)


class Mlp(nnx.Module):
  """1024-4096-1024 with a ReLU-free binary middle, as a transformer's MLP."""

  def __init__(self, binary: bool, rngs: nnx.Rngs):
    keywords: dict[str, Any] = {}
    if binary:
      keywords = {
        "input_quantizer": quantizers.sign(),
        "kernel_quantizer": quantizers.xnor(),
        "grad_precision": _PRECISION.value,
      }
    self.up = nn.Linear(1024, 4096, rngs=rngs, **keywords)
    self.down = nn.Linear(4096, 1024, rngs=rngs, **keywords)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, 1024) to the same shape."""
    return self.down(self.up(x))


def _set_precision(model: nnx.Module) -> nnx.Module:
  for _, module in nnx.iter_modules(model):
    if isinstance(module, nn.Conv | nn.Linear):
      module.grad_precision = _PRECISION.value
  return model


def _resnet(width: int, binary: bool) -> nnx.Module:
  bits = "w1a1_firstlastfloat" if binary else "float32"
  return _set_precision(models.resnet20(bits, width=width, rngs=nnx.Rngs(0)))


PAIRS: dict[str, tuple[Callable[[bool], nnx.Module], tuple[int, ...]]] = {
  "mlp": (lambda binary: Mlp(binary, nnx.Rngs(0)), (256, 1024)),
  "resnet20_w64": (functools.partial(_resnet, 64), (16, 32, 32, 3)),
  "resnet20_w16": (functools.partial(_resnet, 16), (64, 32, 32, 3)),
}


def compile_step(model: nnx.Module, shape: tuple[int, ...]) -> Any:
  """The compiled step and its state: plain `jax.jit`, donated."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  tx = optax.sgd(0.01, momentum=0.9)
  x = jax.random.normal(jax.random.key(1), shape)

  def step(params: Any, rest: Any, opt: Any, x: jax.Array) -> Any:
    def loss(params: Any) -> Any:
      net = nnx.merge(graphdef, params, rest, copy=True)
      y = net(x)
      return jnp.square(y).mean(), nnx.state(net, nnx.Not(nnx.Param))

    (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), new, opt, value

  state = (params, rest, tx.init(params))
  compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state, x).compile()
  return compiled, state, x


def main(argv: Sequence[str]) -> None:
  del argv
  names = _ONLY.value or list(PAIRS)
  for name in names:
    make, shape = PAIRS[name]
    runs = {
      kind: compile_step(make(kind == "1-bit"), shape)
      for kind in ("float", "1-bit")
    }
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for turn in range(_ROUNDS.value + 2):
      for kind, (compiled, state, x) in runs.items():
        start = time.perf_counter()
        *state, loss = compiled(*state, x)
        loss.block_until_ready()
        runs[kind] = (compiled, tuple(state), x)
        if turn >= 2:  # the first turns warm caches
          times[kind].append(time.perf_counter() - start)
    ratios = [
      b / f for f, b in zip(times["float"], times["1-bit"], strict=True)
    ]
    temp = {
      kind: run[0].memory_analysis().temp_size_in_bytes
      for kind, run in runs.items()
    }
    low, *_, high = statistics.quantiles(ratios, n=10)
    print(
      f"{name:14s} float {1e3 * statistics.median(times['float']):8.1f} ms"
      f"  1-bit {1e3 * statistics.median(times['1-bit']):8.1f} ms"
      f"  ratio {statistics.median(ratios):.3f} ({low:.3f}-{high:.3f})"
      f"  temp {temp['float'] / 2**20:.1f} -> {temp['1-bit'] / 2**20:.1f}"
      f" MiB ({temp['1-bit'] / temp['float']:.2f})",
      flush=True,
    )


if __name__ == "__main__":
  app.run(main)
