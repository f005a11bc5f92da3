r"""Training at scale: what devices send each other, and what memory it takes.

Each part prints a table in Markdown. The first two are of programs that are
compiled on shapes alone, and nothing is run; those of `scale_runs.py` run.

`transfers`: bytes that eight devices send for one gradient of a language model
whose parameters the axis `fsdp` splits, with floats gathered and with bits
(`mesh.gather`). `memory`: of one gradient, what XLA sets aside and what the
forward pass hands to the backward, where low-bit layers keep floats and where
they keep bits (`residuals`), and with `remat`. `losses`: of one run on several
meshes. `host`: what the loop costs beside the compiled step.

  python benchmarks/scale.py
  python benchmarks/scale.py --parts=memory --nets=resnet18
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import scale_runs
from absl import app, flags
from flax import nnx
from jax.extend import core

import jbin
from jbin import convert, cost, models, residuals, shards
from jbin.train import sharding

_PARTS = flags.DEFINE_list("parts", [], "Names of parts; empty for all.")
_NETS = flags.DEFINE_list("nets", [], "Nets of `memory`; empty for all.")
MIB = 2**20
Make = Callable[..., nnx.Module]


def _abstract(make: Make, rules: Sequence[jbin.Rule], x: Any) -> Any:
  """A model on shapes alone: (structure, parameters, all other state)."""
  model = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
  if rules:
    model = jbin.quantize(model, rules, x, quantizer_rngs=nnx.Rngs(1))
  return nnx.split(model, nnx.Param, ...)


def _loss(graph: Any, params: Any, rest: Any, x: jax.Array) -> jax.Array:
  """The mean square of what the model gives: any scalar does."""
  model = nnx.merge(graph, params, rest, copy=True)
  return jnp.square(model(x).astype(jnp.float32)).mean()


def _line(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> Iterator[str]:
  """Of a table whose first two columns are words."""
  yield _line(cells)
  yield _line(["---"] * 2 + ["---:"] * (len(cells) - 2))


# --- transfers ----------


MESHES = ((1, 8, 1), (2, 4, 1), (1, 4, 2))
TOKENS = 512


def transfers() -> Iterator[str]:
  """Bytes between devices, floats gathered and bits."""
  yield from _head(
    "rules, dtype",
    "mesh",
    "kernels gathered, floats",
    "packed",
    "factor",
    "sent by each device, floats",
    "packed",
  )
  x = jax.ShapeDtypeStruct((16, TOKENS), jnp.int32)
  for name, rules, dtype in (
    ("fbi_llm", convert.REGISTRY.get("fbi_llm")(), jnp.float32),
    ("fbi_llm", convert.REGISTRY.get("fbi_llm")(), jnp.bfloat16),
    ("onebit", convert.REGISTRY.get("onebit")(), jnp.float32),
  ):
    make = functools.partial(
      models.llama,
      vocab_size=512,
      features=512,
      layers=4,
      heads=8,
      mlp_features=1024,
      dtype=dtype,
    )
    parts = _abstract(make, rules, x)
    for sizes in MESHES:
      mesh = sharding.make_mesh(*sizes)
      found = {
        gather: _communicated(parts, x, mesh, gather)
        for gather in ("floats", "packed")
      }
      where = ", ".join(
        f"{axis} {n}" for axis, n in mesh.shape.items() if n > 1
      )
      yield _line([f"{name}, {jnp.dtype(dtype).name}", where, *_sent(found)])


def _communicated(
  parts: Any, x: jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh, gather: Any
) -> cost.Communication:
  graph, params, rest = parts
  places = sharding.intended(params, mesh)
  step = jax.grad(functools.partial(_loss, graph))
  put = jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=where
    ),
    params,
    places,
  )
  data = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.batch(mesh))
  run = jax.jit(shards.within(mesh, step, gather), out_shardings=places)
  return cost.communication(run.lower(put, rest, data).compile(), mesh)


def _sent(found: dict[str, cost.Communication]) -> list[str]:
  """Of all-gathers along `fsdp` inside the layers, and of everything."""
  gathered, sent = {}, {}
  for gather, made in found.items():
    gathered[gather] = sum(
      row.bytes * row.times
      for row in made.transfers
      if row.kind == "all-gather" and row.axes == ("fsdp",) and row.times > 1
    )
    sent[gather] = sum(row.sent * row.times for row in made.transfers)
  return [
    f"{gathered['floats'] / MIB:.2f} MiB",
    f"{gathered['packed'] / MIB:.2f} MiB",
    f"{gathered['floats'] / gathered['packed']:.1f}",
    f"{sent['floats'] / MIB:.1f} MiB",
    f"{sent['packed'] / MIB:.1f} MiB",
  ]


# --- memory ----------


def _resnet(**options: Any) -> nnx.Module:
  return models.resnet18(activation="hardtanh", shortcut="conv", **options)


def _vit(**options: Any) -> nnx.Module:
  return models.vit(features=384, heads=6, depth=4, **options)


def _mamba(**options: Any) -> nnx.Module:
  return models.mamba2(layers=4, features=768, vocab_size=512, **options)


IMAGES = jax.ShapeDtypeStruct((64, 224, 224, 3), jnp.float32)
# Name -> (what it is, maker, rules, input).
NETS: dict[str, tuple[str, Make, Callable[[], Any], Any]] = {
  "resnet18": (
    "ResNet-18, batch 64 of 224x224, BNN's signs",
    _resnet,
    lambda: convert.REGISTRY.get("method")("bnn"),
    IMAGES,
  ),
  "vit_s": (
    "ViT-S, 4 blocks, batch 64 of 224x224, BiViT W1A1",
    _vit,
    lambda: convert.REGISTRY.get("bivit")(mlp="w1a1"),
    IMAGES,
  ),
  "mamba_130m": (
    "Mamba-2 130m, 4 blocks, 4 x 1,024 tokens, Bi-Mamba",
    _mamba,
    convert.REGISTRY.get("bimamba"),
    jax.ShapeDtypeStruct((4, 1024), jnp.int32),
  ),
}
# Name -> (low-bit, what is kept, remat).
VARIANTS: dict[str, tuple[bool, residuals.Keep, str]] = {
  "float": (False, "bits", "none"),
  "float, remat": (False, "bits", "full"),
  "1 bit, floats kept": (True, "floats", "none"),
  "1 bit, bits kept": (True, "bits", "none"),
  "1 bit, floats kept, remat": (True, "floats", "full"),
  "1 bit, bits kept, remat": (True, "bits", "full"),
}


def memory() -> Iterator[str]:
  """Of one gradient: XLA's figures, and what is kept for the backward."""
  yield from _head(
    "net",
    "variant",
    "kept for the backward, MiB",
    "temporary, MiB",
    "arguments, MiB",
    "results, MiB",
  )
  for name in _NETS.value or NETS:
    said, make, rules, x = NETS[name]
    first: list[int] = []
    for variant, (low, keep, remat) in VARIANTS.items():
      made = functools.partial(make, remat=remat)
      parts = _abstract(made, rules() if low else (), x)
      with residuals.keeping(keep):
        found = _figures(parts, x)
      first = first or found
      pairs = zip(found, first, strict=True)
      yield _line(
        [said, variant, *(f"{n / MIB:,.1f} ({n / m:.2f})" for n, m in pairs)]
      )


def _figures(parts: Any, x: Any) -> list[int]:
  """Bytes kept for the backward, temporary, of arguments, and of results."""
  graph, params, rest = parts
  loss = functools.partial(_loss, graph)
  kept = _kept(loss, params, rest, x)
  gradient = jax.jit(jax.grad(loss)).lower(params, rest, x).compile()
  found = gradient.memory_analysis()
  return [
    kept,
    found.temp_size_in_bytes,
    found.argument_size_in_bytes,
    found.output_size_in_bytes,
  ]


def _kept(
  loss: Callable[..., jax.Array], params: Any, rest: Any, x: Any
) -> int:
  """Bytes that the forward pass hands over, without the function's inputs."""

  def forward(params: Any, rest: Any, x: Any) -> list[jax.Array]:
    _, backward = jax.vjp(lambda params: loss(params, rest, x), params)
    return jax.tree.leaves(backward)

  program = jax.make_jaxpr(forward)(params, rest, x).jaxpr
  given = set(program.invars) | set(program.constvars)
  handed = {
    var
    for var in program.outvars
    if isinstance(var, core.Var) and var not in given
  }
  return sum(var.aval.size * var.aval.dtype.itemsize for var in handed)


PARTS: dict[str, Callable[[], Iterator[str]]] = {
  "transfers": transfers,
  "memory": memory,
  "losses": scale_runs.losses,
  "host": scale_runs.host,
}


def main(argv: Sequence[str]) -> None:
  del argv
  names = _PARTS.value or PARTS
  if {"transfers", "losses"} & {*names}:
    jax.config.update("jax_num_cpu_devices", 8)
  for name in names:
    print(f"\n{name}\n")
    for line in PARTS[name]():
      print(line, flush=True)


if __name__ == "__main__":
  app.run(main)
