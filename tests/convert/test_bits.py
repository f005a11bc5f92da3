"""What a text of bit-widths says, and where it puts quantizers in a ResNet."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jbin import convert, errors, nn, quantizers
from tests.models import abstract

NONE = (None, None)
# Text -> (activation, weight) of the first and last layer, and of all others.
TEXTS = {
  "float32": (NONE, NONE),
  "float": (NONE, NONE),
  "bfloat16": (NONE, NONE),
  "bf16": (NONE, NONE),
  "w8a8": (("ema8", "absmax8"), ("ema8", "absmax8")),
  "w1a1": (("sign", "xnor"), ("sign", "xnor")),
  "w4a8": (("ema8", "absmax4"), ("ema8", "absmax4")),
  "w2a3": (("ema3", "absmax2"), ("ema3", "absmax2")),
  "w8": ((None, "absmax8"), (None, "absmax8")),
  "w8_weightonly": ((None, "absmax8"), (None, "absmax8")),
  "w4a4_firstlast8": (("ema8", "absmax8"), ("ema4", "absmax4")),
  "w1a1_firstlastfloat": (NONE, ("sign", "xnor")),
  "w4_firstlast8": ((None, "absmax8"), (None, "absmax4")),
  "w4_weightonly_firstlast8": ((None, "absmax8"), (None, "absmax4")),
  "w1_firstlastfloat": (NONE, (None, "xnor")),
}
WRONG = ["", "w", "a8", "w0a1", "w1a0", "w9a9", "w16a16", "w8a8_", "W8A8"]
WRONG += ["w4a4_firstlast4", "w8a8_weightonly", "int8", " w8a8", "w8a8\n"]


def _quantizer(name):
  if name is None:
    return None
  if name.startswith("ema"):
    return quantizers.ema_bounds(int(name[3:]), start=0.25, per_channel=False)
  if name.startswith("absmax"):
    return quantizers.absmax(int(name[6:]))
  return {"sign": quantizers.sign(), "xnor": quantizers.xnor()}[name]


@pytest.mark.parametrize("text", TEXTS)
def test_where_the_quantizers_sit(text):
  ends, body = (tuple(map(_quantizer, pair)) for pair in TEXTS[text])
  model = abstract.build("resnet20", width=4)
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  rules = convert.REGISTRY.get("bits")(text, bounds_at=0.25)
  found = 0
  for path, layer in nnx.iter_modules(convert.quantize(model, rules, image)):
    if isinstance(layer, nn.Conv | nn.Linear):
      held = (layer.input_quantizer, layer.kernel_quantizer)
      want = ends if path in (("stem", "conv"), ("head",)) else body
      assert tuple(q and q.spec for q in held) == want, path
      found += 1
  assert found == 1 + 9 * 2 + 2 + 1


@pytest.mark.parametrize("text", WRONG, ids=repr)
def test_wrong_texts(text):
  with pytest.raises(errors.UserError) as caught:
    convert.REGISTRY.get("bits")(text)
  message = str(caught.value)
  assert message.startswith(f"bits {text!r}: write float32, bfloat16, wW")
  assert "w4a4_firstlast8" in message
