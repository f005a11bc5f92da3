"""Rule sets of 1-bit language models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import convert, errors, models, nn, quantizers as q

TOKENS = jnp.asarray([[1, 4, 2, 0, 3], [5, 5, 10, 2, 7]])
SIZES = {
  "mamba2": {"head_dim": 8, "state": 4, "chunk": 4},
  "llama": {"heads": 4, "kv_heads": 2, "mlp_features": 24},
  "opt": {"heads": 2, "mlp_features": 24, "max_length": 8},
}
ATTENTION = [f"layers/attn/{name}" for name in ("query", "key", "value", "out")]
LINEARS = {
  "mamba2": ["layers/mixer/in_proj", "layers/mixer/out_proj"],
  "llama": [*ATTENTION, *(f"layers/mlp/{n}" for n in ("gate", "up", "down"))],
  "opt": [*ATTENTION, *(f"layers/mlp/{n}" for n in ("fc1", "fc2"))],
}
# Set, family, bits, what is learned beside the latent weights.
SETS = [
  ("bimamba", "mamba2", "32x1", {"alpha", "beta"}),
  ("fbi_llm", "llama", "32x1", {"alpha", "beta"}),
  ("bitnet158", "llama", "8x2", set()),
  ("bitnet", "opt", "8x1", set()),
  ("onebit", "opt", "32x1", {"input_factor", "weight_scale"}),
]
each_set = pytest.mark.parametrize(
  ("name", "family", "bits", "learned"), SETS, ids=[name for name, *_ in SETS]
)


@functools.cache
def _model(family):
  make = models.REGISTRY.get(family)
  sizes = {"vocab_size": 11, "layers": 2, "features": 16, **SIZES[family]}
  return make(rngs=nnx.Rngs(0), **sizes)


def _rules(name, **options):
  return convert.REGISTRY.get(name)(**options)


@functools.cache
def _planned(name, family):
  """The plan, and the model as it says."""
  plan = jbin.plan(_model(family), _rules(name), TOKENS)
  return plan, plan.apply(_model(family))


@jax.jit
def _run(model):
  """Logits, those of texts whose last token is another, and gradients."""

  def loss(model, tokens):
    logits = model(tokens)
    slope = jnp.sin(jnp.arange(logits.size, dtype=logits.dtype))
    return (logits * slope.reshape(logits.shape)).sum(), logits

  tokens = jnp.concatenate([TOKENS, TOKENS.at[:, -1].add(1)])
  gradients, logits = nnx.grad(loss, has_aux=True)(model, tokens)
  return logits, gradients


@each_set
def test_every_linear_layer_but_the_head(name, family, bits, learned):
  """And nothing else: tables, head, norms, convolutions, A_log are float."""
  plan, low = _planned(name, family)
  found = {e.path: e.bits for e in plan.entries if e.slots}
  assert found == dict.fromkeys(LINEARS[family], bits)
  for entry in plan.entries:
    if entry.op == "Linear" and entry.path.startswith("layers/"):
      assert entry.bits == bits, entry.path
      assert not entry.reason, entry.path
  holders = {
    "/".join(map(str, path[:-1]))
    for path, part in nnx.iter_modules(low)
    if isinstance(part, nn.Quantizer)
  }
  assert holders == set(LINEARS[family])


@each_set
def test_every_part_learns_and_none_sees_ahead(name, family, bits, learned):
  """Latents, scales, offsets and factors, in every layer of the stack."""
  _, low = _planned(name, family)
  logits, gradients = _run(low)
  assert np.isfinite(logits).all()
  first, other = jnp.split(logits[:, :-1], 2)
  np.testing.assert_array_equal(first, other)
  dead, names = set(), set()
  for path, gradient in nnx.to_flat_state(nnx.state(gradients, nnx.Param)):
    names.add(path[-1])
    layers = np.asarray(gradient[...])
    for layer in layers if path[0] == "layers" else [layers]:
      if not layer.any():
        dead.add("/".join(map(str, path)))
  assert not dead
  assert learned <= names


@each_set
def test_the_float_model_comes_back(name, family, bits, learned):
  model, (_, low) = _model(family), _planned(name, family)
  again = jbin.dequantize(low)
  for path, part in nnx.iter_modules(again):
    assert not isinstance(part, nn.Linear | nn.Quantizer | nn.OutputNorm), path
  assert nnx.graphdef(again) == nnx.graphdef(model)
  states = [nnx.to_pure_dict(nnx.state(m)) for m in (again, model)]
  jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.parametrize(
  ("name", "options", "kernel"),
  [
    ("bimamba", {}, q.fbi_weight()),
    ("bimamba", {"pattern": "row", "zero": 0.0}, q.fbi_weight("row", 0.0)),
    ("fbi_llm", {"pattern": "single"}, q.fbi_weight("single")),
    ("fbi_llm", {"zero": 0.0}, q.fbi_weight(zero=0.0)),
    ("bitnet158", {}, q.bitnet158_weight()),
    ("bitnet", {"zero": 0.0}, q.bitnet_weight(0.0)),
    ("onebit", {"zero": 0.0}, q.onebit_weight(0.0)),
  ],
)
def test_options(name, options, kernel):
  (rule,) = _rules(name, **options)
  assert rule.kernel_quantizer == kernel
  assert rule.output_scale == (nn.OutputNorm if name == "onebit" else None)


@pytest.mark.parametrize("part", ["in_proj", "out_proj"])
def test_one_projection_alone(part):
  entries = jbin.plan(_model("mamba2"), _rules("bimamba", parts=part)).entries
  assert [e.path for e in entries if e.slots] == [f"layers/mixer/{part}"]


def test_other_paths():
  """Of a model of the user's; stacks taken apart have the usual ones."""

  class Net(nnx.Module):
    def __init__(self, rngs):
      self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
      self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])

  net = Net(nnx.Rngs(0))
  for options, stack in (({"path": "blocks/.*"}, "blocks"), ({}, "layers")):
    entries = jbin.plan(net, _rules("onebit", **options)).entries
    found = {e.path for e in entries if e.slots}
    assert found == {f"{stack}/0", f"{stack}/1"}


def test_one_scale_for_a_batch_sees_ahead():
  """As the doc string says of BitNet's own."""
  (rule,) = _rules("bitnet", per_token=False)
  layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
  low = jbin.quantize(layer, jbin.Rule(**_slots(rule)))
  x = jax.random.normal(jax.random.key(0), (1, 3, 4))
  first, other = low(x), low(x.at[:, -1].mul(3))
  assert np.abs(first - other)[:, 0].max() > 1e-3


def _slots(rule):
  names = ("input_quantizer", "kernel_quantizer")
  return {name: getattr(rule, name) for name in names}


@pytest.mark.parametrize(
  ("name", "options", "text"),
  [
    ("bimamba", {"parts": "in_porj"}, "did you mean in_proj"),
    ("bimamba", {"pattern": "colum"}, "did you mean column"),
    ("fbi_llm", {"pattern": "colum"}, "did you mean column"),
  ],
)
def test_an_unknown_option(name, options, text):
  with pytest.raises(errors.UserError, match=text):
    _rules(name, **options)


def test_a_norm_behind_other_layers():
  """Embeddings and transposed convolutions go without, and say so."""
  net = nnx.Sequential(
    nnx.Embed(5, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 3, rngs=nnx.Rngs(0))
  )
  rule = jbin.Rule(
    kernel_quantizer=q.xnor(), output_scale="OutputNorm", note="normed"
  )
  table, linear = jbin.plan(net, rule).entries
  assert "no Linear or Conv: the output_scale is left out" in table.reason
  assert (linear.reason, linear.output_scale) == ("", nn.OutputNorm)
  assert "xnor(), OutputNorm" in str(jbin.plan(net, rule))
  low = jbin.quantize(net, rule)
  assert "{onebit," in jbin.cite(low)
  alone = nnx.Sequential(
    nn.Linear(2, 2, output_scale=nn.OutputNorm(), rngs=nnx.Rngs(0))
  )
  with pytest.raises(errors.UserError, match="'layers/0': Linear: its output"):
    jbin.dequantize(alone)
