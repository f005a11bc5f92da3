"""ViT, and DeiT without distillation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jbin import errors
from jbin.pretrained import _config, _layers, _resize, _settings, _table

_LAYER = "vit.encoder.layer.{n}"
_ROWS = (
  *_layers.conv("patches", "vit.embeddings.patch_embeddings.projection"),
  *_layers.array("token", "vit.embeddings.cls_token", "btc"),
  *_layers.array("positions", "vit.embeddings.position_embeddings", "btc"),
  *_layers.norm("blocks/norm1", f"{_LAYER}.layernorm_before"),
  *_layers.attention(
    "blocks/attn",
    f"{_LAYER}.attention.attention.query",
    f"{_LAYER}.attention.attention.key",
    f"{_LAYER}.attention.attention.value",
    f"{_LAYER}.attention.output.dense",
  ),
  *_layers.norm("blocks/norm2", f"{_LAYER}.layernorm_after"),
  *_layers.linear("blocks/mlp/fc1", f"{_LAYER}.intermediate.dense"),
  *_layers.linear("blocks/mlp/fc2", f"{_LAYER}.output.dense"),
  *_layers.norm("norm", "vit.layernorm"),
  *_layers.linear("head", "classifier"),
)
_HEADS = "blocks/attn/query/kernel"  # (depth, features, heads, head_dim)
_DISTILLED = (
  "our model has no distillation token; DeiT without it is"
  " facebook/deit-tiny-patch16-224, -small- or -base-"
)


def _written(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  if "token" not in shapes:
    raise errors.UserError(
      'transformers has no ViT without a class token; ours has pool="mean"'
    )
  depth, features, hidden = shapes["blocks/mlp/fc1/kernel"]
  patch, _, channels, _ = shapes["patches/kernel"]
  return {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_size": features,
    "num_hidden_layers": depth,
    "intermediate_size": hidden,
    "hidden_act": "gelu",
    "layer_norm_eps": model.norm.epsilon,
    "image_size": model.shape[0],
    "patch_size": patch,
    "num_channels": channels,
    "qkv_bias": "blocks/attn/query/bias" in shapes,
    "num_attention_heads": shapes[_HEADS][2],
    **_config.labels(shapes["head/kernel"][-1]),
  }


def _arguments(
  config: _config.Config, names: Collection[str]
) -> tuple[str, dict[str, Any]]:
  _config.only(config, hidden_act="gelu")
  features = config.get("hidden_size", 768)
  return "vit", {
    "num_classes": _config.classes(config),
    "features": features,
    "depth": config.get("num_hidden_layers", 12),
    "heads": config.get("num_attention_heads", 12),
    "mlp_ratio": _config.ratio(
      [config.get("intermediate_size", 3072)], [features]
    ),
    "patch": _config.side(config, "patch_size", 16),
    "image_size": _config.side(config, "image_size", 224),
    "in_features": config.get("num_channels", 3),
    "qkv_bias": config.get("qkv_bias", True),
    "eps": config.get("layer_norm_eps", 1e-12),
  }


def _unseen(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  heads = _table.axis(shapes, "heads", _HEADS, 2)
  return {**heads, **_settings.eps(model, shapes)}


@_table.REGISTRY.register
def vit() -> _table.Family:
  """ViT, and DeiT without distillation, of transformers."""
  return _table.Family(
    rows=_ROWS,
    types=("vit", "deit"),
    config=_written,
    arguments=_arguments,
    unseen=_unseen,
    spellings=(
      (r"^deit\.", "vit."),
      (r"^(embeddings|encoder|layernorm|pooler)\.", r"vit.\1."),
    ),
    # Of a body without a classifier; ours has no layer there.
    ignored=(r"vit\.pooler\..*",),
    refused=((r"vit\.embeddings\.distillation_token", _DISTILLED),),
    heads={"ViTForMaskedImageModeling": r"decoder\..*"},
    positions={"positions": _resize.AFTER_TOKEN},
  )
