r"""A training step of low-bit networks against the float network's.

Every variant of a network is the same plain Flax model: as it is ("float"),
made low-bit by jbin's rules (the names of `jbin list methods`; of vision
transformers BiViT with its MLPs W1A1 or W1A32, and with BiBERT's attention),
or by Qwix or AQT at 8 bits where these are installed (pip install qwix aqtp).
All are compiled first and then timed in turns within one run (float, a, b,
float, ...), so that a drifting clock moves them alike; the ratio to the float
step is taken in each turn, and its median and spread are printed, with the
ratio of XLA's own figure for the temporary buffers of the compiled step.

  python benchmarks/qat_overhead.py                            # everything
  python benchmarks/qat_overhead.py --nets=mlp --variants=bnn,qwix_int8 \
    --rounds=15
  python benchmarks/qat_overhead.py --grad_precision=bfloat16

With `--grad_precision=bfloat16` the products of the gradients of 1-bit layers
are in bfloat16, which a float net can have too: its ratios are to be compared
with the variant "float_bf16", whose products all are.

AQT is compared on matrix products alone: gradients of its int8 convolutions are
zero in 0.9.0.
"""

import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from flax import nnx

import jbin
from jbin import convert, models

_NETS = flags.DEFINE_list("nets", [], "Names of networks; empty for all.")
_VARIANTS = flags.DEFINE_list("variants", [], "Variants; empty for all.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed turns.")
_PRECISION = flags.DEFINE_enum(
  "grad_precision",
  "float32",
  ["float32", "bfloat16"],
  "Of the gradient products of jbin's layers.",
)


# --- Networks: plain Flax ----------


class Mlp(nnx.Module):
  """1024-4096-1024; hard tanh, since a ReLU leaves a sign nothing to say."""

  def __init__(self, rngs: nnx.Rngs):
    self.up = nnx.Linear(1024, 4096, rngs=rngs)
    self.down = nnx.Linear(4096, 1024, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, 1024) to the same shape."""
    return self.down(nnx.hard_tanh(self.up(x)))


class Encoder(nnx.Module):
  """A block of a vision transformer."""

  def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
    self.attention = nnx.MultiHeadAttention(
      heads, width, decode=False, rngs=rngs
    )
    self.up = nnx.Linear(width, 4 * width, rngs=rngs)
    self.down = nnx.Linear(4 * width, width, rngs=rngs)
    self.before = nnx.LayerNorm(width, rngs=rngs)
    self.after = nnx.LayerNorm(width, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """(N, tokens, width) to the same shape."""
    x = x + self.attention(self.before(x))
    return x + self.down(nnx.gelu(self.up(self.after(x))))


def _vit() -> nnx.Module:
  rngs = nnx.Rngs(0)
  return nnx.Sequential(Encoder(384, 6, rngs), Encoder(384, 6, rngs))


def _block() -> nnx.Module:
  return Encoder(384, 6, nnx.Rngs(0))


def _resnet(width: int) -> nnx.Module:
  return models.resnet20(width=width, rngs=nnx.Rngs(0))


Make = Callable[[], nnx.Module]
# Name -> (maker, shape of the input, whether the ends stay float).
NETS: dict[str, tuple[Make, tuple[int, ...], bool]] = {
  "mlp": (lambda: Mlp(nnx.Rngs(0)), (256, 1024), False),
  "vit_2_blocks": (_vit, (8, 196, 384), False),
  "vit_block_197": (_block, (8, 197, 384), False),
  "resnet20_w64": (functools.partial(_resnet, 64), (16, 32, 32, 3), True),
  "resnet20_w16": (functools.partial(_resnet, 16), (64, 32, 32, 3), True),
}


# --- Variants ----------


def _by_method(name: str, net: str) -> nnx.Module:
  ends = NETS[net][2]
  rules = convert.REGISTRY.get("method")(name, "float" if ends else "same")
  return _by_rules(rules, net)


def _by_rules(rules: Sequence[jbin.Rule], net: str) -> nnx.Module:
  make, shape, _ = NETS[net]
  precise = [
    r
    if r.keeps
    else jbin.Rule(**{**vars(r), "grad_precision": _PRECISION.value})
    for r in rules
  ]
  x = jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
  return jbin.quantize(make(), precise, x, quantizer_rngs=nnx.Rngs(1))


def _bivit(net: str, **options: Any) -> nnx.Module | None:
  if not net.startswith("vit"):
    return None
  rules = convert.REGISTRY.get("bivit")(
    attention_path="(.*/)?attention(/.*)?",
    mlp_path="(.*/)?(up|down)",
    **options,
  )
  return _by_rules(rules, net)


def _bfloat16_dot(lhs: Any, rhs: Any, *args: Any, **kwargs: Any) -> jax.Array:
  kwargs["preferred_element_type"] = jnp.float32
  narrow = (side.astype(jnp.bfloat16) for side in (lhs, rhs))
  return jax.lax.dot_general(*narrow, *args, **kwargs)


def _float_bf16(net: str) -> nnx.Module | None:
  model = NETS[net][0]()
  found = False
  for _, part in nnx.iter_modules(model):
    if isinstance(part, nnx.Conv):
      return None  # XLA on CPU multiplies no bfloat16 convolution faster
    if isinstance(part, nnx.Linear | nnx.LinearGeneral):
      part.dot_general = _bfloat16_dot
      found = True
  return model if found else None


def _qwix(bits: int, net: str) -> nnx.Module:
  import qwix

  kind = f"int{bits}"
  rule = qwix.QtRule(module_path=".*", weight_qtype=kind, act_qtype=kind)
  make, shape, _ = NETS[net]
  return qwix.quantize_model(
    make(), qwix.QtProvider([rule]), jnp.zeros(shape, jnp.float32)
  )


def _aqt(net: str) -> nnx.Module | None:
  from aqt.jax.v2 import config as aqt_config

  product = aqt_config.fully_quantized(
    fwd_bits=8, bwd_bits=None, use_stochastic_rounding=False
  )

  def dot(*args: Any, out_sharding: Any = None, **kwargs: Any) -> jax.Array:
    del out_sharding  # AQT's has no such argument
    return product(*args, **kwargs)

  model = NETS[net][0]()
  found = False
  for _, part in nnx.iter_modules(model):
    if isinstance(part, nnx.Conv):
      return None
    if isinstance(part, nnx.Linear | nnx.LinearGeneral):
      part.dot_general = dot
      found = True
  return model if found else None


METHODS = ("bnn", "xnornet", "bireal", "react", "reste", "recu", "poke")
VARIANTS: dict[str, Callable[[str], nnx.Module | None]] = {
  "float_bf16": _float_bf16,
  **{name: functools.partial(_by_method, name) for name in METHODS},
  "bivit": functools.partial(_bivit, mlp="w1a1"),
  "bivit_w1a32": functools.partial(_bivit, mlp="w1a32"),
  "bivit_bool": functools.partial(
    _bivit, mlp="w1a1", attention="bool", scales="mean"
  ),
  "qwix_int8": functools.partial(_qwix, 8),
  "aqt_int8": _aqt,
}
NEEDS = {"qwix_int8": "qwix", "aqt_int8": "aqt"}


# --- Timing ----------


def compile_step(model: nnx.Module, shape: tuple[int, ...]) -> Any:
  """The compiled step, its state and a batch: plain `jax.jit`, donated."""
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


def _models(net: str) -> dict[str, nnx.Module]:
  found = {"float": NETS[net][0]()}
  for name in _VARIANTS.value or VARIANTS:
    needs = NEEDS.get(name)
    if needs and importlib.util.find_spec(needs) is None:
      print(f"{net:14s} {name:12s} not run: {needs} is not installed")
      continue
    model = VARIANTS[name](net)
    if model is None:
      print(f"{net:14s} {name:12s} not run: it is not for these layers")
      continue
    found[name] = model
  return found


def measure(net: str) -> None:
  """Prints a line for each variant of one network."""
  shape = NETS[net][1]
  runs = {
    name: compile_step(model, shape) for name, model in _models(net).items()
  }
  times: dict[str, list[float]] = {name: [] for name in runs}
  for turn in range(_ROUNDS.value + 2):
    for name, (compiled, state, x) in runs.items():
      start = time.perf_counter()
      *state, loss = compiled(*state, x)
      loss.block_until_ready()
      runs[name] = (compiled, tuple(state), x)
      if turn >= 2:  # the first turns warm caches
        times[name].append(time.perf_counter() - start)
  temp = {
    name: run[0].memory_analysis().temp_size_in_bytes
    for name, run in runs.items()
  }
  for name in runs:
    ratios = [b / f for f, b in zip(times["float"], times[name], strict=True)]
    low, *_, high = statistics.quantiles(ratios, n=10)
    print(
      f"{net:14s} {name:12s}"
      f" {1e3 * statistics.median(times[name]):8.1f} ms"
      f"  ratio {statistics.median(ratios):.3f} ({low:.3f}-{high:.3f})"
      f"  temp {temp[name] / 2**20:7.1f} MiB"
      f" ({temp[name] / temp['float']:.2f})",
      flush=True,
    )


def main(argv: Sequence[str]) -> None:
  del argv
  for net in _NETS.value or NETS:
    measure(net)


if __name__ == "__main__":
  app.run(main)
