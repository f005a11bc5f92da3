"""OPT, but for 350M, whose layers are post-norm."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jbin.pretrained import _config, _layers, _resize, _settings, _table

_BODY = "model.decoder"
_LAYER = f"{_BODY}.layers.{{n}}"
_ROWS = (
  *_layers.embed("words", f"{_BODY}.embed_tokens"),
  *_layers.embed("positions", f"{_BODY}.embed_positions"),
  *_layers.norm("layers/norm1", f"{_LAYER}.self_attn_layer_norm"),
  *_layers.linear("layers/attn/query", f"{_LAYER}.self_attn.q_proj"),
  *_layers.linear("layers/attn/key", f"{_LAYER}.self_attn.k_proj"),
  *_layers.linear("layers/attn/value", f"{_LAYER}.self_attn.v_proj"),
  *_layers.linear("layers/attn/out", f"{_LAYER}.self_attn.out_proj"),
  *_layers.norm("layers/norm2", f"{_LAYER}.final_layer_norm"),
  *_layers.linear("layers/mlp/fc1", f"{_LAYER}.fc1"),
  *_layers.linear("layers/mlp/fc2", f"{_LAYER}.fc2"),
  *_layers.norm("norm", f"{_BODY}.final_layer_norm"),
)
_OFFSET = 2  # rows of the table of positions that no token has

# Of all norms; config.json does not say it.
_EPS = 1e-5
_PROJECTED = (
  "its words are narrower than its features, as in OPT-350M, whose layers are"
  " post-norm as well; ours are those of the other sizes"
)


def _written(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  depth, features, hidden = shapes["layers/mlp/fc1/kernel"]
  return {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "vocab_size": shapes["words/embedding"][0],
    "hidden_size": features,
    "word_embed_proj_dim": features,
    "ffn_dim": hidden,
    "num_hidden_layers": depth,
    "num_attention_heads": model.layers.attn.heads,
    "max_position_embeddings": shapes["positions/embedding"][0] - _OFFSET,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "tie_word_embeddings": True,
  }


def _arguments(
  config: _config.Config, names: Collection[str]
) -> tuple[str, dict[str, Any]]:
  del names
  features = config.get("hidden_size", 768)
  _config.only(
    config,
    do_layer_norm_before=True,
    activation_function="relu",
    enable_bias=True,
    layer_norm_elementwise_affine=True,
    tie_word_embeddings=True,
    word_embed_proj_dim=features,
    _remove_final_layer_norm=False,
    quantization_config=None,
  )
  return "opt", {
    "vocab_size": config.get("vocab_size", 50272),
    "layers": config.get("num_hidden_layers", 12),
    "features": features,
    "heads": config.get("num_attention_heads", 12),
    "mlp_features": config.get("ffn_dim", 3072),
    "max_length": config.get("max_position_embeddings", 2048),
    "eps": _EPS,
  }


def _unseen(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  paths = {}
  if "layers/attn/query/kernel" in shapes:
    paths["heads"] = "layers/attn/heads"
  return {
    **_settings.eps(model, shapes),
    **_settings.attributes(model, **paths),
  }


@_table.REGISTRY.register
def opt() -> _table.Family:
  """OPT of transformers, pre-norm."""
  return _table.Family(
    rows=_ROWS,
    types=("opt",),
    config=_written,
    arguments=_arguments,
    unseen=_unseen,
    spellings=((r"^decoder\.", f"{_BODY}."),),
    copies=(("lm_head.weight", f"{_BODY}.embed_tokens.weight"),),
    refused=((rf"{_BODY}\.project_(in|out)\.weight", _PROJECTED),),
    heads={
      "OPTForSequenceClassification": r"score\..*",
      "OPTForQuestionAnswering": r"qa_outputs\..*",
    },
    positions={"positions/embedding": _resize.FIRST},
  )
