"""Mamba-2, with a head of its own or the table of words; Bi-Mamba's too."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from jbin import errors
from jbin.pretrained import _config, _layers, _settings, _table

_LAYER = "backbone.layers.{n}"
_MIXER = f"{_LAYER}.mixer"
_WORDS, _HEAD = "backbone.embeddings", "lm_head"
# What Python writes as Infinity, which is no JSON, and transformers like this.
_INFINITY = {"__float__": "Infinity"}


def _projection(name: str) -> tuple[_table.Row, ...]:
  """A linear layer; Bi-Mamba's has a scale and an offset for each input."""
  learned = f"layers/mixer/{name}/kernel_quantizer/learned"
  return (
    *_layers.linear(f"layers/mixer/{name}", f"{_MIXER}.{name}"),
    _table.Row(f"{learned}/alpha", f"{_MIXER}.{name}.wscale", "i->1i"),
    _table.Row(f"{learned}/beta", f"{_MIXER}.{name}.wbias", "i->1i"),
  )


_ROWS = (
  *_layers.embed("words", _WORDS),
  *_layers.norm("layers/norm", f"{_LAYER}.norm"),
  *_projection("in_proj"),
  _table.Row("layers/mixer/conv/kernel", f"{_MIXER}.conv1d.weight", "kic->cik"),
  *_layers.array("layers/mixer/conv/bias", f"{_MIXER}.conv1d.bias", "c"),
  *_layers.array("layers/mixer/A_log", f"{_MIXER}.A_log", "h"),
  *_layers.array("layers/mixer/D", f"{_MIXER}.D", "h"),
  *_layers.array("layers/mixer/dt_bias", f"{_MIXER}.dt_bias", "h"),
  *_layers.norm("layers/mixer/norm", f"{_MIXER}.norm"),
  *_projection("out_proj"),
  *_layers.norm("norm", "backbone.norm_f"),
)


def _limit(config: _config.Config) -> tuple[float, float]:
  """Least and greatest step size."""
  low, high = (
    math.inf if value == _INFINITY else float(value)
    for value in config.get("time_step_limit", (0.0, math.inf))
  )
  return low, high


def _written(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  sizes = model.sizes
  depth, features, _ = shapes["layers/mixer/in_proj/kernel"]
  config = {
    "architectures": ["Mamba2ForCausalLM"],
    "model_type": "mamba2",
    "vocab_size": shapes["words/embedding"][0],
    "hidden_size": features,
    "num_hidden_layers": depth,
    "num_heads": sizes.heads,
    "head_dim": sizes.head_dim,
    "state_size": sizes.state,
    "expand": sizes.expand,
    "n_groups": sizes.groups,
    "conv_kernel": sizes.conv_width,
    "chunk_size": model.layers.mixer.chunk,
    "layer_norm_epsilon": model.norm.epsilon,
    "hidden_act": "silu",
    "use_bias": False,
    "use_conv_bias": True,
    "residual_in_fp32": True,
    "tie_word_embeddings": "head/kernel" not in shapes,
  }
  limit = model.layers.mixer.dt_limit
  if limit != (0.0, math.inf):  # which is theirs as well
    config["time_step_limit"] = [
      _INFINITY if value == math.inf else value for value in limit
    ]
  return config


def _arguments(
  config: _config.Config, names: Collection[str]
) -> tuple[str, dict[str, Any]]:
  del names
  _config.only(
    config,
    hidden_act="silu",
    use_bias=False,
    use_conv_bias=True,
    residual_in_fp32=True,
  )
  features, expand = config.get("hidden_size", 4096), config.get("expand", 2)
  heads, size = config.get("num_heads", 128), config.get("head_dim", 64)
  if heads * size != expand * features:
    raise errors.UserError(
      f"config.json says num_heads = {heads} of head_dim = {size}, and"
      f" hidden_size = {features} with expand = {expand}; the products must be"
      " equal"
    )
  return "mamba2", {
    "vocab_size": config.get("vocab_size", 32768),
    "layers": config.get("num_hidden_layers", 64),
    "features": features,
    "expand": expand,
    "head_dim": size,
    "state": config.get("state_size", 128),
    "groups": config.get("n_groups", 8),
    "conv_width": config.get("conv_kernel", 4),
    "chunk": config.get("chunk_size", 256),
    "tied": config.get("tie_word_embeddings", False),
    "eps": config.get("layer_norm_epsilon", 1e-5),
    "dt_limit": _limit(config),
  }


def _unseen(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  found = {"eps": "norm/epsilon"} if "norm/scale" in shapes else {}
  if "layers/mixer/in_proj/kernel" in shapes:
    found |= {
      "groups": "sizes/groups",
      "state": "sizes/state",
      "dt_limit": "layers/mixer/dt_limit",
    }
  return _settings.attributes(model, **found)


def _family(*rows: _table.Row, **kwargs: Any) -> _table.Family:
  return _table.Family(
    rows=(*_ROWS, *rows),
    types=("mamba2",),
    config=_written,
    arguments=_arguments,
    unseen=_unseen,
    # The authors' own files, and bodies without a head.
    spellings=(
      (r"^(embeddings?|layers|norm_f)\.", r"backbone.\1."),
      (r"^backbone\.embedding\.", f"{_WORDS}."),
    ),
    **kwargs,
  )


@_table.REGISTRY.register
def mamba2() -> _table.Family:
  """Mamba-2 of transformers, whose head is the table of words."""
  return _family(copies=((f"{_HEAD}.weight", f"{_WORDS}.weight"),))


@_table.REGISTRY.register
def mamba2_untied() -> _table.Family:
  """Mamba-2 of transformers with a head of its own."""
  return _family(*_layers.linear("head", _HEAD))
