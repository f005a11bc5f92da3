"""ResNets: what `bits` means, sizes, and where the quantizers sit."""

import jax.numpy as jnp
import pytest
from flax import nnx

from jbin import errors, models, nn, quantizers
from jbin.models import _resnet
from tests.models import abstract

FLOAT = _resnet.BitPair()


def _pair(weight, activation=None, ends=None):
  return _resnet.BitPair(weight, activation, ends)


BITS = {
  "float32": FLOAT,
  "float": FLOAT,
  "bfloat16": FLOAT,
  "bf16": FLOAT,
  "w8a8": _pair(8, 8),
  "w1a1": _pair(1, 1),
  "w4a8": _pair(4, 8),
  "w2a3": _pair(2, 3),
  "w8": _pair(8),
  "w8_weightonly": _pair(8),
  "w4a4_firstlast8": _pair(4, 4, _pair(8, 8)),
  "w1a1_firstlastfloat": _pair(1, 1, FLOAT),
  "w4_firstlast8": _pair(4, None, _pair(8)),
  "w4_weightonly_firstlast8": _pair(4, None, _pair(8)),
  "w1_firstlastfloat": _pair(1, None, FLOAT),
}
WRONG = ["", "w", "a8", "w0a1", "w1a0", "w9a9", "w16a16", "w8a8_", "W8A8"]
WRONG += ["w4a4_firstlast4", "w8a8_weightonly", "int8", " w8a8", "w8a8\n"]


@pytest.mark.parametrize(("text", "pair"), BITS.items(), ids=BITS)
def test_bits(text, pair):
  assert _resnet.parse_bits(text) == pair
  ends = pair if pair.ends is None else pair.ends
  assert pair.first_last == ends


@pytest.mark.parametrize("text", WRONG, ids=repr)
def test_wrong_bits(text):
  with pytest.raises(errors.UserError) as caught:
    _resnet.parse_bits(text)
  message = str(caught.value)
  assert message.startswith(f"bits {text!r}: write float32, bfloat16, wW")
  assert "w4a4_firstlast8" in message


def test_wrong_bits_reach_the_user_from_a_model():
  with pytest.raises(errors.UserError, match="bits 'w8a9': write"):
    models.resnet18("w8a9", rngs=nnx.Rngs(0))


# Parameters: those of the float networks in the papers' code.
SIZES = {"resnet50": 25_557_032, "resnet18": 11_689_512}


@pytest.mark.parametrize(("name", "count"), SIZES.items(), ids=SIZES)
def test_sizes(name, count):
  model = abstract.build(name, bits="w8a8")
  assert abstract.count(model) == count
  got = abstract.logits(model, (2, 64, 64, 3))
  assert (got.shape, got.dtype) == ((2, 1000), jnp.float32)


@pytest.mark.parametrize("bits", ["bf16", "w1a1_firstlastfloat"])
def test_resnet20(bits):
  model = abstract.build("resnet20", bits=bits, width=8)
  dtype = jnp.bfloat16 if bits == "bf16" else jnp.float32
  got = abstract.logits(model, (2, 32, 32, 3))
  assert (got.shape, got.dtype) == ((2, 10), dtype)
  twin = abstract.build("resnet20", width=8)
  assert abstract.parameters(model) == abstract.parameters(twin)


def _specs(model):
  found = {}
  for path, module in nnx.iter_modules(model):
    if isinstance(module, (nn.Conv, nn.Linear)):
      held = (module.input_quantizer, module.kernel_quantizer)
      found[path] = tuple(q and q.spec for q in held)
  return found


@pytest.mark.parametrize(
  ("bits", "body", "ends"),
  [
    ("float32", (None, None), (None, None)),
    ("w1a1_firstlastfloat", ("sign", "xnor"), (None, None)),
    ("w4a8", ("ema", "absmax4"), ("ema", "absmax4")),
    ("w4", (None, "absmax4"), (None, "absmax4")),
    ("w2a8_firstlast8", ("ema", "absmax2"), ("ema", "absmax8")),
  ],
)
def test_where_the_quantizers_sit(bits, body, ends):
  kinds = {
    None: None,
    "sign": quantizers.sign(),
    "xnor": quantizers.xnor(),
    "ema": quantizers.ema_bounds(8, start=0.06, per_channel=False),
    "absmax2": quantizers.absmax(2),
    "absmax4": quantizers.absmax(4),
    "absmax8": quantizers.absmax(8),
  }
  specs = _specs(abstract.build("resnet20", bits=bits, width=8))
  assert len(specs) == 1 + 9 * 2 + 2 + 1
  for path, got in specs.items():
    want = ends if path in (("conv",), ("head",)) else body
    assert got == tuple(kinds[kind] for kind in want), path
