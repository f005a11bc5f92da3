"""Swin."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jbin import errors
from jbin.pretrained import _config, _layers, _settings, _table


def _block(ours: str, theirs: str) -> tuple[_table.Row, ...]:
  attention = f"{theirs}.attention"
  return (
    *_layers.norm(f"{ours}/norm1", f"{theirs}.layernorm_before"),
    *_layers.attention(
      f"{ours}/attn",
      f"{attention}.self.query",
      f"{attention}.self.key",
      f"{attention}.self.value",
      f"{attention}.output.dense",
    ),
    *_layers.array(
      f"{ours}/table", f"{attention}.self.relative_position_bias_table", "ph"
    ),
    *_layers.norm(f"{ours}/norm2", f"{theirs}.layernorm_after"),
    *_layers.linear(f"{ours}/mlp/fc1", f"{theirs}.intermediate.dense"),
    *_layers.linear(f"{ours}/mlp/fc2", f"{theirs}.output.dense"),
  )


_STAGE = "swin.encoder.layers.{s}"
_ROWS = (
  *_layers.conv("patches", "swin.embeddings.patch_embeddings.projection"),
  *_layers.norm("patches_norm", "swin.embeddings.norm"),
  *_block("stages/{s}/blocks/even", f"{_STAGE}.blocks.{{2n}}"),
  *_block("stages/{s}/blocks/odd", f"{_STAGE}.blocks.{{2n+1}}"),
  *_layers.norm("stages/{s}/merge/norm", f"{_STAGE}.downsample.norm"),
  *_layers.linear("stages/{s}/merge/linear", f"{_STAGE}.downsample.reduction"),
  *_layers.norm("norm", "swin.layernorm"),
  *_layers.linear("head", "classifier"),
)

# Of the norms that transformers gives none of the config.
_EPS = 1e-5


def _written(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  table = "stages/{s}/blocks/even/table"  # (pairs, positions, heads)
  positions = {*_table.lengths(shapes, table, 1)}
  if len(positions) > 1:
    raise errors.UserError(
      "transformers has one window for all stages of a Swin; here the last"
      " ones have smaller maps. Make the model for larger images"
    )
  if model.norm.epsilon != _EPS:
    raise errors.UserError(
      f"transformers' Swin has norms of eps {_EPS} after patches and in merges,"
      f" whatever its others have; ours has {model.norm.epsilon} everywhere"
    )
  patch, _, channels, features = shapes["patches/kernel"]
  fc1 = "stages/{s}/blocks/even/mlp/fc1/kernel"  # (pairs, features, hidden)
  ratio = _config.ratio(
    _table.lengths(shapes, fc1, 2), _table.lengths(shapes, fc1, 1)
  )
  if ratio is None:
    raise errors.UserError(
      "transformers has one mlp_ratio for all stages of a Swin; no one gives"
      " the features inside ours"
    )
  window = (round(positions.pop() ** 0.5) + 1) // 2
  depths = [2 * pairs for pairs in _table.lengths(shapes, table, 0)]
  return {
    "architectures": ["SwinForImageClassification"],
    "model_type": "swin",
    "embed_dim": features,
    "depths": depths,
    "num_heads": _table.lengths(shapes, table, 2),
    "window_size": window,
    # The least that fills a window in every stage, as ours were.
    "image_size": patch * window * 2 ** (len(depths) - 1),
    "mlp_ratio": ratio,
    "hidden_act": "gelu",
    "layer_norm_eps": model.norm.epsilon,
    "patch_size": patch,
    "num_channels": channels,
    "qkv_bias": "stages/0/blocks/even/attn/query/bias" in shapes,
    **_config.labels(shapes["head/kernel"][-1]),
  }


def _arguments(
  config: _config.Config, names: Collection[str]
) -> tuple[str, dict[str, Any]]:
  _config.only(
    config,
    hidden_act="gelu",
    use_absolute_embeddings=False,
    layer_norm_eps=_EPS,
  )
  return "swin", {
    "num_classes": _config.classes(config),
    "features": config.get("embed_dim", 96),
    "depths": tuple(config.get("depths", (2, 2, 6, 2))),
    "heads": tuple(config.get("num_heads", (3, 6, 12, 24))),
    "window": config.get("window_size", 7),
    "patch": _config.side(config, "patch_size", 4),
    "image_size": _config.side(config, "image_size", 224),
    "in_features": config.get("num_channels", 3),
    "mlp_ratio": config.get("mlp_ratio", 4.0),
    "qkv_bias": config.get("qkv_bias", True),
    "eps": _EPS,
  }


@_table.REGISTRY.register
def swin() -> _table.Family:
  """Swin of transformers."""
  return _table.Family(
    rows=_ROWS,
    types=("swin",),
    config=_written,
    arguments=_arguments,
    unseen=_settings.eps,
    spellings=((r"^(embeddings|encoder|layernorm)\.", r"swin.\1."),),
    ignored=(r".*\.relative_position_index",),
  )
