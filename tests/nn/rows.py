"""The layers' rows: what each is made with, in every option."""

import jax.numpy as jnp
import numpy as np

BF16 = jnp.bfloat16

# Name, arguments, options, shape of the input.
LINEAR = [
  ("plain", (5, 4), {}, (3, 5)),
  ("batches", (5, 4), {"use_bias": False}, (2, 3, 5)),
  ("a vector", (5, 4), {}, (5,)),
  ("bfloat16", (5, 4), {"dtype": BF16}, (3, 5)),
  ("bfloat16 weights", (5, 4), {"param_dtype": BF16, "dtype": BF16}, (3, 5)),
]
TWO, ONE = (2, 6, 5, 4), (2, 7, 4)
CONV = [
  ("plain", (4, 6, (3, 3)), {}, TWO),
  ("no bias", (4, 6, (3, 2), (2, 1)), {"use_bias": False}, TWO),
  ("valid", (4, 6, (3, 3), 2), {"padding": "VALID"}, TWO),
  ("same lower", (4, 6, (2, 2), 2), {"padding": "SAME_LOWER"}, TWO),
  ("a number", (4, 6, (3, 3)), {"padding": 2}, TWO),
  ("numbers", (4, 6, (3, 3)), {"padding": (1, 0)}, TWO),
  ("pairs", (4, 6, (3, 3)), {"padding": ((2, 0), (1, 3))}, TWO),
  ("circular", (4, 6, (3, 4)), {"padding": "CIRCULAR"}, TWO),
  ("reflect", (4, 6, (3, 2), 2), {"padding": "REFLECT"}, TWO),
  (
    "circular dilated",
    (4, 6, (3, 2)),
    {"padding": "CIRCULAR", "kernel_dilation": (2, 1)},
    TWO,
  ),
  ("causal", (4, 6, 3), {"padding": "CAUSAL", "kernel_dilation": 2}, ONE),
  ("one axis", (4, 6, (3,), 2), {}, ONE),
  ("three axes", (4, 6, (2, 1, 3)), {}, (2, 3, 2, 4, 4)),
  ("groups", (4, 6, (3, 3)), {"feature_group_count": 2}, TWO),
  ("depthwise", (4, 8, (3, 3)), {"feature_group_count": 4}, TWO),
  ("kernel dilated", (4, 6, (3, 3)), {"kernel_dilation": (1, 2)}, TWO),
  (
    "input dilated",
    (4, 6, (3, 3)),
    {"input_dilation": (2, 1), "padding": ((1, 2), (0, 1))},
    TWO,
  ),
  ("strides None", (4, 6, (3, 3), None), {}, TWO),
  ("several batch axes", (4, 6, (3, 3)), {}, (2, 3, 4, 5, 4)),
  ("no batch axis", (4, 6, (3, 3)), {"padding": "CIRCULAR"}, (5, 6, 4)),
  ("bfloat16", (4, 6, (3, 3)), {"dtype": BF16}, TWO),
]
TRANSPOSED = [
  ("plain", (4, 6, (3, 3)), {}, TWO),
  ("strides", (4, 6, (3, 4), (2, 1)), {"use_bias": False}, TWO),
  ("wide strides", (4, 6, (2, 2), 3), {}, TWO),
  ("valid", (4, 6, (3, 2), 2), {"padding": "VALID"}, TWO),
  ("a number", (4, 6, (3, 3), 2), {"padding": 2}, TWO),
  ("numbers", (4, 6, (3, 3)), {"padding": (1, 0)}, TWO),
  ("pairs", (4, 6, (3, 3), (1, 2)), {"padding": ((2, 0), (1, 3))}, TWO),
  ("circular", (4, 6, (3, 4), 2), {"padding": "CIRCULAR"}, TWO),
  ("circular, a wide kernel", (4, 3, 15), {"padding": "CIRCULAR"}, ONE),
  (
    "circular turned",
    (4, 6, (4, 3), 2),
    {"padding": "CIRCULAR", "transpose_kernel": True},
    TWO,
  ),
  ("dilated", (4, 6, (3, 2), 2), {"kernel_dilation": (2, 1)}, TWO),
  ("turned", (4, 6, (3, 2), 2), {"transpose_kernel": True}, TWO),
  (
    "turned, bfloat16",
    (4, 6, (3, 3), 2),
    {"transpose_kernel": True, "dtype": BF16},
    TWO,
  ),
  ("one axis", (4, 6, 3, 2), {}, ONE),
  ("three axes", (4, 3, (2, 1, 3), (1, 2, 2)), {}, (2, 3, 2, 4, 4)),
  ("several batch axes", (4, 6, (3, 3), 2), {}, (2, 3, 4, 5, 4)),
  ("no batch axis", (4, 6, (3, 3), 2), {}, (5, 6, 4)),
]
GENERAL = [
  ("plain", (5, 4), {}, (3, 5)),
  ("heads", (5, (2, 3)), {}, (2, 4, 5)),
  ("of heads", ((2, 3), 5), {"axis": (-2, -1)}, (2, 4, 2, 3)),
  (
    "no bias",
    ((2, 3), (4, 2)),
    {"axis": (1, -1), "use_bias": False},
    (5, 2, 3),
  ),
  ("inner axes", ((2, 3), (4,)), {"axis": (1, 2)}, (5, 2, 3, 4)),
  ("batch axis", (5, (2, 3)), {"batch_axis": {0: 4}}, (4, 3, 5)),
  (
    "batch axes",
    ((2, 3), (3, 2)),
    {"axis": (-1, 2), "batch_axis": {0: 2, 1: 3}},
    (2, 3, 2, 4, 3),
  ),
  ("a vector", (5, (4, 2)), {}, (5,)),
  ("bfloat16", (5, (2, 3)), {"dtype": BF16}, (2, 4, 5)),
  ("bfloat16 weights", (5, 6), {"param_dtype": BF16, "dtype": BF16}, (3, 5)),
]
EINSUM = [
  ("heads", ("btd,dhk->bthk", (5, 2, 3), (2, 3)), {}, (2, 4, 5)),
  ("no bias", ("nta,hab->nthb", (2, 3, 4)), {}, (2, 5, 3)),
  ("bfloat16", ("td,dk->tk", (5, 3), (3,)), {"dtype": BF16}, (4, 5)),
]
EMBED = [
  ("plain", (7, 4), {}, (2, 3)),
  ("bfloat16", (7, 4), {"dtype": BF16}, (5,)),
  ("one row", (1, 4), {}, (3,)),
]
MASK = (np.arange(3 * 3 * 4 * 6) % 3 > 0).reshape(3, 3, 4, 6)
# What a quantized layer refuses.
ONLY_FLOAT = {
  "ConvTranspose": [
    (
      "mask",
      (6, 4, (3, 3)),
      {"mask": jnp.asarray(MASK.swapaxes(2, 3))},
      (2, 6, 5, 6),
    )
  ],
  "Conv": [("mask", (4, 6, (3, 3)), {"mask": jnp.asarray(MASK)}, TWO)],
  "Einsum": [
    ("dots", ("...d,dk->...k", (5, 3), (3,)), {}, (2, 4, 5)),
  ],
}
CASES = {
  "Linear": LINEAR,
  "LinearGeneral": GENERAL,
  "Conv": CONV,
  "ConvTranspose": TRANSPOSED,
  "Einsum": EINSUM,
  "Embed": EMBED,
}
