"""Llama, Mistral without a window, Qwen2, Qwen3, BitNet b1.58; FBI-LLM."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jbin import errors
from jbin.pretrained import _config, _layers, _settings, _table

_LAYER = "model.layers.{n}"
_ATTENTION = f"{_LAYER}.self_attn"
_TIED = (
  *_layers.embed("words", "model.embed_tokens"),
  *_layers.norm("layers/norm1", f"{_LAYER}.input_layernorm"),
  *_layers.scaled("layers/attn/query", f"{_ATTENTION}.q_proj"),
  *_layers.scaled("layers/attn/key", f"{_ATTENTION}.k_proj"),
  *_layers.scaled("layers/attn/value", f"{_ATTENTION}.v_proj"),
  *_layers.scaled("layers/attn/out", f"{_ATTENTION}.o_proj"),
  *_layers.norm("layers/attn/query_norm", f"{_ATTENTION}.q_norm"),
  *_layers.norm("layers/attn/key_norm", f"{_ATTENTION}.k_norm"),
  *_layers.norm("layers/attn/norm", f"{_ATTENTION}.attn_sub_norm"),
  *_layers.norm("layers/norm2", f"{_LAYER}.post_attention_layernorm"),
  *_layers.scaled("layers/mlp/gate", f"{_LAYER}.mlp.gate_proj"),
  *_layers.scaled("layers/mlp/up", f"{_LAYER}.mlp.up_proj"),
  *_layers.scaled("layers/mlp/down", f"{_LAYER}.mlp.down_proj"),
  *_layers.norm("layers/mlp/norm", f"{_LAYER}.mlp.ffn_sub_norm"),
  *_layers.norm("norm", "model.norm"),
)

# What is special about a type, and what transformers takes for a key that
# config.json lacks.
_OPTIONS: dict[str, dict[str, Any]] = {
  "llama": {},
  "mistral": {},
  "qwen2": {"qkv_bias": True},
  "qwen3": {"qk_norm": True},
  "bitnet": {"sub_norms": True},
}
_COMMON: dict[str, Any] = {
  "vocab_size": 32000,
  "hidden_size": 4096,
  "intermediate_size": 11008,
  "num_hidden_layers": 32,
  "num_attention_heads": 32,
  "max_position_embeddings": 2048,
  "rms_norm_eps": 1e-6,
  "hidden_act": "silu",
  "tie_word_embeddings": False,
}
_QWEN = {
  "vocab_size": 151936,
  "intermediate_size": 22016,
  "num_key_value_heads": 32,
  "max_position_embeddings": 32768,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
  "llama": {},
  "mistral": {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
  },
  "qwen2": _QWEN,
  "qwen3": {**_QWEN, "head_dim": 128},
  "bitnet": {
    "vocab_size": 128256,
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 30,
    "num_attention_heads": 20,
    "num_key_value_heads": 5,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "relu2",
  },
}


def _base(config: _config.Config) -> float:
  """Of the rotations' wave lengths, which are not scaled.

  Raises:
    errors.UserError: if they are.
  """
  for key in ("rope_scaling", "rope_parameters"):
    said = config.get(key) or {}
    kind = said.get("rope_type", said.get("type", "default"))
    if kind != "default" or said.get("partial_rotary_factor", 1.0) != 1.0:
      raise errors.UserError(
        f"config.json says {key} = {dict(said)!r}; our model of this family"
        " turns whole heads, by angles that are not scaled"
      )
  _config.only(config, partial_rotary_factor=1.0)
  said = config.get("rope_parameters") or {}
  return said.get("rope_theta", config.get("rope_theta", 10000.0))


def _arguments(
  config: _config.Config, names: Collection[str]
) -> tuple[str, dict[str, Any]]:
  del names
  kind = config["model_type"]
  config = {**_COMMON, **_DEFAULTS[kind], **config}
  _config.only(
    config,
    attention_bias=False,
    mlp_bias=False,
    use_sliding_window=False,
    quantization_config=None,
  )
  if kind == "mistral":
    _config.only(config, sliding_window=None)
  for layer in config.get("layer_types") or ():
    _config.only({"layer_types": layer}, layer_types="full_attention")
  features, heads = config["hidden_size"], config["num_attention_heads"]
  given = _OPTIONS[kind]
  return "llama", {
    "vocab_size": config["vocab_size"],
    "layers": config["num_hidden_layers"],
    "features": features,
    "heads": heads,
    "kv_heads": config.get("num_key_value_heads") or heads,
    "head_dim": config.get("head_dim") or features // heads,
    "mlp_features": config["intermediate_size"],
    "max_length": config["max_position_embeddings"],
    "rope_base": _base(config),
    "eps": config["rms_norm_eps"],
    "tied": config["tie_word_embeddings"],
    "qkv_bias": given.get("qkv_bias", False),
    "qk_norm": given.get("qk_norm", False),
    "sub_norms": given.get("sub_norms", False),
    "activation": config["hidden_act"],
  }


_CLASSES = {
  "llama": "LlamaForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
  "qwen3": "Qwen3ForCausalLM",
  "bitnet": "BitNetForCausalLM",
}


def _written(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  attn = "layers/attn"
  has = {
    "qkv_bias": f"{attn}/query/bias" in shapes,
    "qk_norm": f"{attn}/query_norm/scale" in shapes,
    "sub_norms": f"{attn}/norm/scale" in shapes,
  }
  options = {key: True for key, there in has.items() if there}
  kinds = [kind for kind in _CLASSES if _OPTIONS[kind] == options]
  if not kinds:
    raise errors.UserError(
      f"transformers has no Llama with {' and '.join(options)}; save a model"
      " with one of them"
    )
  depth, features, hidden = shapes["layers/mlp/gate/kernel"]
  return {
    "architectures": [_CLASSES[kinds[0]]],
    "model_type": kinds[0],
    "vocab_size": shapes["words/embedding"][0],
    "hidden_size": features,
    "intermediate_size": hidden,
    "num_hidden_layers": depth,
    "num_attention_heads": model.layers.attn.heads,
    "num_key_value_heads": model.layers.attn.kv_heads,
    "head_dim": model.layers.attn.head_dim,
    "hidden_act": model.layers.mlp.activation,
    "max_position_embeddings": model.trained_length,
    "rms_norm_eps": model.norm.epsilon,
    "rope_theta": model.rope_base,
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": model.rope_base,
    },
    "tie_word_embeddings": "head/kernel" not in shapes,
  }


def _unseen(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  paths = {}
  if "layers/attn/query/kernel" in shapes:
    attn = "layers/attn"
    paths = {
      "heads": f"{attn}/heads",
      "kv_heads": f"{attn}/kv_heads",
      "head_dim": f"{attn}/head_dim",
      "rope_base": "rope_base",
    }
  if "layers/mlp/gate/kernel" in shapes:
    paths["activation"] = "layers/mlp/activation"
  return {
    **_settings.eps(model, shapes),
    **_settings.attributes(model, **paths),
  }


def _family(*rows: _table.Row, **kwargs: Any) -> _table.Family:
  return _table.Family(
    rows=(*_TIED, *rows),
    types=tuple(_OPTIONS),
    config=_written,
    arguments=_arguments,
    unseen=_unseen,
    spellings=((r"^(embed_tokens|layers|norm)\.", r"model.\1."),),
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    heads={
      f"{name}For{task}": rf"{head}\..*"
      for name in ("Llama", "Mistral", "Qwen2", "Qwen3")
      for task, head in (
        ("SequenceClassification", "score"),
        ("TokenClassification", "score"),
        ("QuestionAnswering", "qa_outputs"),
      )
    },
    **kwargs,
  )


@_table.REGISTRY.register
def llama_tied() -> _table.Family:
  """Llama of transformers and its kin, whose table of words scores them."""
  return _family(copies=(("lm_head.weight", "model.embed_tokens.weight"),))


@_table.REGISTRY.register
def llama() -> _table.Family:
  """Llama of transformers and its kin, with a head."""
  return _family(*_layers.linear("head", "lm_head"))
