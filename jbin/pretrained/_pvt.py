"""PVTv2."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jbin import errors
from jbin.pretrained import _config, _layers, _settings, _table

_STAGE = "pvt_v2.encoder.layers.{s}"
_BLOCK = f"{_STAGE}.blocks.{{n}}"
_OURS = "stages/{s}/blocks"
_ROWS = (
  *_layers.conv("stages/{s}/patches", f"{_STAGE}.patch_embedding.proj"),
  *_layers.norm(
    "stages/{s}/patches_norm", f"{_STAGE}.patch_embedding.layer_norm"
  ),
  *_layers.norm(f"{_OURS}/norm1", f"{_BLOCK}.layer_norm_1"),
  *_layers.attention(
    f"{_OURS}/attn",
    f"{_BLOCK}.attention.query",
    f"{_BLOCK}.attention.key",
    f"{_BLOCK}.attention.value",
    f"{_BLOCK}.attention.proj",
  ),
  *_layers.conv(
    f"{_OURS}/reduction/conv", f"{_BLOCK}.attention.spatial_reduction"
  ),
  *_layers.norm(f"{_OURS}/reduction/norm", f"{_BLOCK}.attention.layer_norm"),
  *_layers.norm(f"{_OURS}/norm2", f"{_BLOCK}.layer_norm_2"),
  *_layers.linear(f"{_OURS}/mlp/fc1", f"{_BLOCK}.mlp.dense1"),
  *_layers.conv(f"{_OURS}/mlp/depthwise", f"{_BLOCK}.mlp.dwconv.dwconv"),
  *_layers.linear(f"{_OURS}/mlp/fc2", f"{_BLOCK}.mlp.dense2"),
  *_layers.norm("stages/{s}/norm", f"{_STAGE}.layer_norm"),
  *_layers.linear("head", "classifier"),
)
_OUT = f"{_OURS}/attn/out/kernel"  # (depth, heads, head_dim, features)


def _written(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  features = _table.lengths(shapes, _OUT, 3)
  hidden = _table.lengths(shapes, f"{_OURS}/mlp/fc1/kernel", 2)
  if any(a % b for a, b in zip(hidden, features, strict=True)):
    raise errors.UserError("transformers' PVTv2 has whole mlp_ratios; not ours")
  ratios = []
  for i in range(len(features)):
    kernel = f"stages/{i}/blocks/reduction/conv/kernel"
    ratios.append(shapes.get(kernel, (0, 1))[1])
  return {
    "architectures": ["PvtV2ForImageClassification"],
    "model_type": "pvt_v2",
    "num_encoder_blocks": len(features),
    "hidden_sizes": features,
    "depths": _table.lengths(shapes, _OUT, 0),
    "num_attention_heads": _table.lengths(shapes, _OUT, 1),
    "mlp_ratios": [a // b for a, b in zip(hidden, features, strict=True)],
    "sr_ratios": ratios,
    "patch_sizes": _table.lengths(shapes, "stages/{s}/patches/kernel", 0),
    "strides": [*_strides(model)],
    "hidden_act": "gelu",
    "layer_norm_eps": model.stages[0].norm.epsilon,
    "num_channels": shapes["stages/0/patches/kernel"][2],
    "qkv_bias": True,
    "linear_attention": False,
    **_config.labels(shapes["head/kernel"][-1]),
  }


def _arguments(
  config: _config.Config, names: Collection[str]
) -> tuple[str, dict[str, Any]]:
  _config.only(config, hidden_act="gelu", linear_attention=False, qkv_bias=True)
  sizes = {
    "features": ("hidden_sizes", (32, 64, 160, 256)),
    "depths": ("depths", (2, 2, 2, 2)),
    "heads": ("num_attention_heads", (1, 2, 5, 8)),
    "mlp_ratios": ("mlp_ratios", (8, 8, 4, 4)),
    "reductions": ("sr_ratios", (8, 4, 2, 1)),
    "patches": ("patch_sizes", (7, 3, 3, 3)),
    "strides": ("strides", (4, 2, 2, 2)),
  }
  return "pvt_v2", {
    "num_classes": _config.classes(config),
    **{
      ours: tuple(config.get(theirs, default))
      for ours, (theirs, default) in sizes.items()
    },
    "in_features": config.get("num_channels", 3),
    "eps": config.get("layer_norm_eps", 1e-6),
  }


def _unseen(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  strides = _strides(model)
  return {
    **_table.axis(shapes, "heads", _OUT, 1),
    **({"strides": strides} if strides else {}),
    **_settings.eps(model, shapes),
  }


def _strides(model: Any) -> tuple[Any, ...]:
  both = _settings.of_parts(model, r"stages/\d+/patches", "strides")
  return tuple(a if a == b else (a, b) for a, b in both)


@_table.REGISTRY.register
def pvt_v2() -> _table.Family:
  """PVTv2 of transformers, with spatial reduction."""
  return _table.Family(
    rows=_ROWS,
    types=("pvt_v2",),
    config=_written,
    arguments=_arguments,
    unseen=_unseen,
    spellings=((r"^encoder\.", "pvt_v2.encoder."),),
  )
