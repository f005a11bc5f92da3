"""NesT, in timm's names: transformers has none."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from jbin import errors
from jbin.pretrained import _config, _layers, _resize, _settings, _table

_LEVEL = "levels.{l}"
_LAYER = f"{_LEVEL}.transformer_encoder.{{n}}"
_OURS = "levels/{l}/blocks"
_ROWS = (
  *_layers.conv("patches", "patch_embed.proj"),
  *_layers.array("levels/{l}/positions", f"{_LEVEL}.pos_embed", "bstc"),
  *_layers.conv("levels/{l}/merge/conv", f"{_LEVEL}.pool.conv"),
  *_layers.norm("levels/{l}/merge/norm", f"{_LEVEL}.pool.norm"),
  *_layers.norm(f"{_OURS}/norm1", f"{_LAYER}.norm1"),
  *_layers.heads(f"{_OURS}/attn/query", f"{_LAYER}.attn.qkv", (0, 3)),
  *_layers.heads(f"{_OURS}/attn/key", f"{_LAYER}.attn.qkv", (1, 3)),
  *_layers.heads(f"{_OURS}/attn/value", f"{_LAYER}.attn.qkv", (2, 3)),
  # The heads' channels side by side: all first ones, then all second ones.
  _table.Row(
    f"{_OURS}/attn/out/kernel", f"{_LAYER}.attn.proj.weight", "hdo->o(dh)"
  ),
  _table.Row(f"{_OURS}/attn/out/bias", f"{_LAYER}.attn.proj.bias", "o->o"),
  *_layers.norm(f"{_OURS}/norm2", f"{_LAYER}.norm2"),
  *_layers.linear(f"{_OURS}/mlp/fc1", f"{_LAYER}.mlp.fc1"),
  *_layers.linear(f"{_OURS}/mlp/fc2", f"{_LAYER}.mlp.fc2"),
  *_layers.norm("norm", "norm"),
  *_layers.linear("head", "head"),
)
_QUERY = f"{_OURS}/attn/query/kernel"  # (depth, features, heads, head_dim)
_SIZES = {
  "tiny": ((96, 192, 384), (3, 6, 12), (2, 2, 8)),
  "small": ((96, 192, 384), (3, 6, 12), (2, 2, 20)),
  "base": ((128, 256, 512), (4, 8, 16), (2, 2, 20)),
}
# Those with the padding of JAX, which all published weights have.
_TYPES = tuple(
  name for size in _SIZES for name in (f"nest_{size}_jx", f"jx_nest_{size}")
)


def _written(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  depths, features, heads = (
    tuple(_table.lengths(shapes, _QUERY, axis)) for axis in range(3)
  )
  hidden = shapes["levels/0/blocks/mlp/fc1/kernel"][-1]
  names = [size for size in _SIZES if _SIZES[size] == (features, heads, depths)]
  if not names or hidden != 4 * features[0]:
    raise errors.UserError(
      f"timm has no NesT of {features} features, {heads} heads and {depths}"
      f" blocks; there are {', '.join(_SIZES)}"
    )
  classes = shapes["head/kernel"][-1]
  side, _, channels = model.shape
  return {
    "architecture": f"nest_{names[0]}_jx",
    "num_classes": classes,
    "num_features": features[-1],
    "global_pool": "avg",
    "pretrained_cfg": {
      "num_classes": classes,
      "input_size": [channels, side, side],
      "fixed_input_size": True,
    },
    "model_args": {
      "img_size": side,
      "in_chans": channels,
      "patch_size": shapes["patches/kernel"][0],
      "qkv_bias": "levels/0/blocks/attn/query/bias" in shapes,
    },
  }


def _arguments(
  config: _config.Config, names: Collection[str]
) -> tuple[str, dict[str, Any]]:
  (size,) = re.findall("|".join(_SIZES), config["architecture"])
  features, heads, depths = _SIZES[size]
  given = config.get("model_args", {})
  pretrained = config.get("pretrained_cfg", {})
  channels, _, side = pretrained.get("input_size", (3, 224, 224))
  return "nest", {
    "num_classes": config.get("num_classes", 1000),
    "features": features,
    "heads": heads,
    "depths": depths,
    "patch": given.get("patch_size", 4),
    "image_size": given.get("img_size", side),
    "in_features": given.get("in_chans", channels),
    "qkv_bias": given.get("qkv_bias", True),
    "eps": 1e-6,
  }


def _unseen(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  heads = _table.axis(shapes, "heads", _QUERY, 2)
  return {**heads, **_settings.eps(model, shapes)}


@_table.REGISTRY.register
def nest() -> _table.Family:
  """NesT of timm, with the padding of JAX."""
  return _table.Family(
    rows=_ROWS,
    types=_TYPES,
    config=_written,
    arguments=_arguments,
    unseen=_unseen,
    positions={r"levels/\d+/positions": _resize.SQUARES},
  )
