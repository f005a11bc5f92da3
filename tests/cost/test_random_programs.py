"""Small random programs cost the same however they are written."""

import dataclasses
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec as P

import jbin
from jbin import bits, cost, nn, quantizers as q
from tests.cost import scalars

BATCH, SIDE, CHANNELS = 8, 2, 4
X = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, CHANNELS), jnp.float32)

# None of these has a state: a program's figures do not hang on its past.
INPUTS = [None, q.sign(), q.bitnet_activation(8), q.dorefa_activation(4)]
KERNELS = [
  None,
  q.sign(),
  q.xnor(),
  q.absmax(4),
  q.absmax(4, group=2),
  q.dorefa_weight(2),
  q.bitnet_weight(),
]


@dataclasses.dataclass(frozen=True)
class Op:
  """One operation of a block; the shape stays."""

  kind: str  # linear, conv, scores, norm, tanh or shortcut
  window: int = 1
  groups: int = 1
  input_quantizer: q.Quantizer | None = None
  kernel_quantizer: q.Quantizer | None = None

  @property
  def quantizers(self):
    """What the layer takes."""
    return {
      "input_quantizer": self.input_quantizer,
      "kernel_quantizer": self.kernel_quantizer,
    }

  def layer(self, low, rngs):
    """The layer, with its quantizers if `low`."""
    given = self.quantizers if low else {}
    room = nn if low else nnx
    if self.kind == "linear":
      return room.Linear(CHANNELS, CHANNELS, rngs=rngs, **given)
    if self.kind == "conv":
      return room.Conv(
        CHANNELS,
        CHANNELS,
        (self.window, self.window),
        feature_group_count=self.groups,
        rngs=rngs,
        **given,
      )
    return nnx.LayerNorm(CHANNELS, rngs=rngs) if self.kind == "norm" else None


def scores(x, n):
  """Products of activations, with codes on one side."""
  tokens = x.reshape(len(x), -1, CHANNELS)
  codes = bits.tag(jnp.sign(tokens), n)
  found = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", codes, tokens))
  return jnp.einsum("bqk,bkc->bqc", found, tokens).reshape(x.shape)


class Block(nnx.Module):
  """The operations of a program, one after another."""

  def __init__(self, ops, low, rngs):
    self.ops = nnx.static(ops)
    for i, op in enumerate(ops):
      if (layer := op.layer(low, rngs)) is not None:
        setattr(self, f"op{i}", layer)

  def __call__(self, x):
    first = x
    for i, op in enumerate(self.ops):
      if op.kind == "tanh":
        x = jnp.tanh(x)
      elif op.kind == "shortcut":
        x = x + first
      elif op.kind == "scores":
        x = scores(x, op.window)
      else:
        x = getattr(self, f"op{i}")(x)
    return x


class Net(nnx.Module):
  """The same block, so many times."""

  def __init__(self, ops, depth, low, rngs):
    self.blocks = nnx.List([Block(ops, low, rngs) for _ in range(depth)])

  def __call__(self, x):
    for block in self.blocks:
      x = block(x)
    return x


OPS = st.one_of(
  st.builds(
    Op,
    kind=st.just("linear"),
    input_quantizer=st.sampled_from(INPUTS),
    kernel_quantizer=st.sampled_from(KERNELS),
  ),
  st.builds(
    Op,
    kind=st.just("conv"),
    window=st.sampled_from([1, 3]),
    groups=st.sampled_from([1, 2]),
    input_quantizer=st.sampled_from(INPUTS),
    kernel_quantizer=st.sampled_from(KERNELS),
  ),
  st.builds(Op, kind=st.just("scores"), window=st.sampled_from([1, 2])),
  st.builds(Op, kind=st.sampled_from(["norm", "tanh", "shortcut"])),
)


def _looped(block, depth, stack, x):
  step = lambda x, state: (nnx.merge(block, state)(x), None)
  return lax.scan(step, x, stack, length=depth)[0]


def _mesh():
  return jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))


def _sharded(run):
  return jax.shard_map(
    run, mesh=_mesh(), in_specs=(P(), P("d")), out_specs=P("d")
  )


def forms(model):
  """Each way to write a program: a function of weights and input, and both."""
  whole, state = nnx.split(model)
  blocks = [nnx.split(block) for block in model.blocks]
  block = blocks[0][0]
  stack = jax.tree.map(lambda *xs: jnp.stack(xs), *(s for _, s in blocks))
  plain = lambda s, x: nnx.merge(whole, s)(x)
  looped = functools.partial(_looped, block, len(blocks))
  one = lambda s, x: plain(s, x[None])[0]
  return {
    "function": (plain, state),
    "jit": (jax.jit(plain), state),
    "remat": (jax.checkpoint(plain), state),
    "vmap": (jax.vmap(one, (None, 0)), state),
    "scan": (looped, stack),
    "jit of remat of scan": (jax.jit(jax.checkpoint(looped)), stack),
    "shard_map": (_sharded(plain), state),
    "shard_map of scan": (_sharded(looped), stack),
  }


def figures(report):
  """What may not change."""
  assert report.not_counted == []
  flags = {}
  for record in report.layers:
    for flag in record.flags:
      flags[flag] = flags.get(flag, 0) + record.macs
  return {
    "macs": report.macs,
    "ace": report.ace,
    "ace_strict": report.ace_strict,
    "weights_by_bits": report.weights_by_bits,
    "flags": flags,
    "elementwise": report.elementwise_by_primitive,
  }


def check(ops, depth, run):
  """One program: its figures in all forms, and number by number in one."""
  written = Net(ops, depth, True, nnx.Rngs(0))
  unmodified = Net(ops, depth, False, nnx.Rngs(0))
  rules = [
    jbin.Rule(path=f"blocks/[0-9]+/op{i}", **op.quantizers)
    for i, op in enumerate(ops)
    if any(op.quantizers.values())
  ]
  report = cost.count(written, X)
  expected = figures(report)
  models = {
    "abstract": nnx.eval_shape(lambda: Net(ops, depth, True, nnx.Rngs(0))),
    "by rules": jbin.quantize(unmodified, rules) if rules else unmodified,
  }
  for name, model in models.items():
    assert figures(cost.count(model, X)) == expected, name
  written_as = forms(written)
  for name, (form, weights) in written_as.items():
    found = figures(cost.count(form, weights, X, weights=0))
    assert found == expected, name
  # The float twin has the same MACs, all of floats.
  twin = cost.count(unmodified, X).macs
  assert sum(twin.values()) == sum(report.macs.values())
  form, weights = written_as[run]
  x = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
  assert scalars.multiplications(form, weights, x) == sum(twin.values())


RUNS = ["function", "jit", "remat", "vmap", "scan", "jit of remat of scan"]
PROGRAMS = {
  "ops": st.lists(OPS, min_size=1, max_size=3).map(tuple),
  "depth": st.integers(1, 2),
  "run": st.sampled_from(RUNS),
}


@hypothesis.settings(max_examples=4, deadline=None)
@hypothesis.given(**PROGRAMS)
def test_a_program_costs_the_same_however_it_is_written(ops, depth, run):
  check(ops, depth, run)


@pytest.mark.slow
@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(**PROGRAMS)
def test_many_programs_cost_the_same_however_they_are_written(ops, depth, run):
  check(ops, depth, run)
