"""Which official vectors each member is checked against.

The gallery prints it; `test_members.py` holds that every member is here and
that every file named is read by a check.
"""

# A member of whose method no official code could be run says so.
FORMULA = "the formula alone (no official code)"

MEMBERS: dict[str, dict[str, tuple[str, ...] | str]] = {
  "estimators": {
    "approx_sign": ("bibench/act_special", "estimators/larq_quantizers"),
    "clipped_round": ("pokebnn/quantizers_multibit", "estimators/lsq"),
    "dsq": ("estimators/derived_misc",),
    "ede_sign": ("estimators/irnet",),
    "fda_sign": ("bibench/act_special",),
    "onebit_sign": ("gptq_family/quantizers_misc",),
    "rbnn_sign": ("estimators/rbnn",),
    "reste_sign": ("reste/estimator",),
    "sine_sign": ("biper/special",),
    "ste_heaviside": ("estimators/larq_quantizers", "bibert/quantizers"),
    "ste_sign": ("bibench/act_special", "estimators/larq_quantizers"),
    "ste_tern": ("estimators/larq_quantizers",),
    "stochastic_sign": ("estimators/derived_misc",),
    "swish_sign": ("estimators/larq_quantizers",),
  },
  "quantizers": {
    "abcnet_activation": FORMULA,
    "abcnet_weight": ("estimators/derived_misc",),
    "absmax": "Qwix's fake quantization, where it is installed",
    "adabin_activation": ("estimators/adabin",),
    "adabin_weight": ("estimators/adabin",),
    "bibert_weight": ("bibert/quantize_linear_embedding",),
    "binaryconnect": ("estimators/derived_misc",),
    "biper_weight": ("biper/conv2d",),
    "bireal": ("bibench/conv2d_bireal",),
    "bit_activation": ("estimators/bit_elastic",),
    "bit_weight": ("estimators/bit_elastic",),
    "bitnet158_weight": ("estimators/bitnet",),
    "bitnet_activation": ("estimators/bitnet",),
    "bitnet_weight": ("estimators/bitnet",),
    "bivit_weight": ("bivit/binary_linear", "bivit/attention_block"),
    "delayed": "the quantizer that it delays",
    "dorefa_activation": ("estimators/larq_quantizers",),
    "dorefa_weight": ("estimators/larq_quantizers", "bibench/conv2d_dorefa"),
    "dsq": ("estimators/derived_misc",),
    "ema_bounds": ("pokebnn/bounds_stats",),
    "fbi_weight": ("bimamba/fbi_linear",),
    "fda_activation": ("bibench/conv2d_fda",),
    "fda_weight": ("bibench/conv2d_fda",),
    "irnet_activation": ("estimators/irnet",),
    "irnet_weight": ("estimators/irnet",),
    "lab_activation": ("estimators/lab",),
    "lqnet_activation": ("estimators/derived_misc",),
    "lqnet_weight": FORMULA,
    "lsq": ("estimators/lsq",),
    "minmax": FORMULA,
    "noop": ("estimators/larq_bop",),
    "onebit_weight": ("gptq_family/quantizers_misc",),
    "pact": ("estimators/derived_misc",),
    "poke_activation": ("pokebnn/binarizer_act",),
    "poke_weight": ("pokebnn/binarizer_weight",),
    "rbnn_activation": ("estimators/rbnn",),
    "rbnn_weight": ("estimators/rbnn",),
    "recu_activation": ("bibench/conv2d_recu", "biper/conv2d"),
    "recu_weight": ("bibench/conv2d_recu",),
    "reste_activation": ("reste/conv2d",),
    "reste_weight": ("reste/conv2d",),
    "rsign": ("bibench/conv2d_react", "estimators/react_rsign_rprelu"),
    "sab": ("bivit/sab_attention",),
    "sign": ("bibench/conv2d_bnn",),
    "siman_activation": ("estimators/siman",),
    "siman_weight": ("estimators/siman",),
    "ste_heaviside": ("estimators/larq_quantizers", "bibert/quantizers"),
    "ste_tern": ("estimators/larq_quantizers",),
    "swish_sign": ("estimators/larq_quantizers",),
    "ttq": ("estimators/derived_misc",),
    "twn": ("estimators/derived_misc",),
    "xnor": ("bibench/conv2d_xnor", "estimators/derived_misc"),
    "xnorpp": ("bibench/conv2d_xnorpp",),
  },
}


# Vectors that no official code made.
OTHERS = {
  "estimators/derived_misc": "the formulas, worked out in float64",
  "estimators/bitnet": "the published formulas, run in PyTorch",
  "estimators/lsq": "a public implementation, not the authors'",
}


def status(family: str, member: str) -> str:
  """What the gallery says of a member."""
  found = MEMBERS[family][member]
  if isinstance(found, str):
    return found
  official = [name for name in found if name not in OTHERS]
  parts = ["the official code: " + ", ".join(official)] if official else []
  parts += [f"{OTHERS[name]}: {name}" for name in found if name in OTHERS]
  return "; ".join(parts)
