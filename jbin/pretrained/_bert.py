"""BERT: with a classifier, with the heads of its pretraining, or with none."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jbin import errors
from jbin.pretrained import _config, _layers, _resize, _settings, _table

_LAYER = "bert.encoder.layer.{n}"
_BODY = (
  *_layers.embed("words", "bert.embeddings.word_embeddings"),
  *_layers.embed("positions", "bert.embeddings.position_embeddings"),
  *_layers.embed("types", "bert.embeddings.token_type_embeddings"),
  *_layers.norm("norm", "bert.embeddings.LayerNorm"),
  *_layers.attention(
    "layers/attn",
    f"{_LAYER}.attention.self.query",
    f"{_LAYER}.attention.self.key",
    f"{_LAYER}.attention.self.value",
    f"{_LAYER}.attention.output.dense",
  ),
  *_layers.norm("layers/norm1", f"{_LAYER}.attention.output.LayerNorm"),
  *_layers.linear("layers/mlp/fc1", f"{_LAYER}.intermediate.dense"),
  *_layers.linear("layers/mlp/fc2", f"{_LAYER}.output.dense"),
  *_layers.norm("layers/norm2", f"{_LAYER}.output.LayerNorm"),
  *_layers.linear("pooler", "bert.pooler.dense"),
)
_QUERY = "layers/attn/query/kernel"  # (layers, features, heads, head_dim)
_PREDICTIONS = "cls.predictions"
_HEADS = (
  *_layers.linear("token_head/dense", f"{_PREDICTIONS}.transform.dense"),
  *_layers.norm("token_head/norm", f"{_PREDICTIONS}.transform.LayerNorm"),
  *_layers.array("token_head/bias", f"{_PREDICTIONS}.bias", "v"),
  *_layers.linear("head", "cls.seq_relationship"),
)

# Of each token, of pairs of texts, of places in a text.
_OTHERS = {
  "BertForTokenClassification": r"classifier\..*",
  "BertForMultipleChoice": r"classifier\..*",
  "BertForQuestionAnswering": r"qa_outputs\..*",
}


def _written(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  classes = shapes.get("head/bias", (0,))[-1]
  kinds = {0: "BertModel", classes or 2: "BertForSequenceClassification"}
  if model.token_head is not None:
    kinds = {0: "BertForMaskedLM", 2: "BertForPreTraining"}
  if classes not in kinds:
    raise errors.UserError(
      f"transformers' BertForPreTraining has 2 classes, ours {classes}"
    )
  depth, features, hidden = shapes["layers/mlp/fc1/kernel"]
  return {
    "architectures": [kinds[classes]],
    "model_type": "bert",
    "vocab_size": shapes["words/embedding"][0],
    "hidden_size": features,
    "num_hidden_layers": depth,
    "intermediate_size": hidden,
    "max_position_embeddings": shapes["positions/embedding"][0],
    "type_vocab_size": shapes["types/embedding"][0],
    "hidden_act": "gelu",
    "layer_norm_eps": model.norm.epsilon,
    "pad_token_id": model.padding_id,
    "tie_word_embeddings": True,
    "num_attention_heads": shapes[_QUERY][2],
    **_config.labels(classes or 2),
  }


def _arguments(
  config: _config.Config, names: Collection[str]
) -> tuple[str, dict[str, Any]]:
  _config.only(
    config,
    hidden_act="gelu",
    position_embedding_type="absolute",
    type_vocab_size=2,
    is_decoder=False,
    tie_word_embeddings=True,
  )
  # Not by `architectures`: Google's checkpoints have more than it says.
  classes = 2 if "cls.seq_relationship.bias" in names else 0
  if "classifier.bias" in names:
    classes = _config.classes(config)
  return "bert", {
    "num_classes": classes,
    "layers": config.get("num_hidden_layers", 12),
    "features": config.get("hidden_size", 768),
    "heads": config.get("num_attention_heads", 12),
    "mlp_features": config.get("intermediate_size", 3072),
    "vocab_size": config.get("vocab_size", 30522),
    "max_length": config.get("max_position_embeddings", 512),
    "eps": config.get("layer_norm_eps", 1e-12),
    "padding_id": config.get("pad_token_id", 0),
    "pretraining": "cls.predictions.bias" in names,
    "token_activation": "gelu",
    "dropout": 0.0,
  }


def _unseen(model: Any, shapes: _table.Shapes) -> dict[str, Any]:
  paths = {}
  if "words/embedding" in shapes:
    paths["padding_id"] = "padding_id"
  if "token_head/dense/kernel" in shapes:
    paths["token_activation"] = "token_head/activation"
  return {
    **_table.axis(shapes, "heads", _QUERY, 2),
    **_settings.eps(model, shapes),
    **_settings.attributes(model, **paths),
  }


def _family(*rows: _table.Row, **kwargs: Any) -> _table.Family:
  return _table.Family(
    rows=(*_BODY, *rows),
    types=("bert",),
    config=_written,
    arguments=_arguments,
    unseen=_unseen,
    spellings=(
      (r"\.gamma$", ".weight"),
      (r"\.beta$", ".bias"),
      (r"^(embeddings|encoder|pooler)\.", r"bert.\1."),
    ),
    ignored=(r"bert\.embeddings\.(position|token_type)_ids",),
    absent=(
      (
        r"layers/attn/residual/.*",
        "Hugging Face's have no low-rank residuals (low_rank)",
      ),
      (r"pooler_norm/.*", "Hugging Face's have no such norm (pooler_residual)"),
    ),
    positions={"positions/embedding": _resize.FIRST},
    **kwargs,
  )


@_table.REGISTRY.register
def bert() -> _table.Family:
  """BERT of transformers: a classifier, or none."""
  heads = {**_OTHERS, "BertForNextSentencePrediction": r"cls\..*"}
  return _family(*_layers.linear("head", "classifier"), heads=heads)


@_table.REGISTRY.register
def bert_pretraining() -> _table.Family:
  """BERT of transformers with the heads of its pretraining."""
  copies = (
    (
      f"{_PREDICTIONS}.decoder.weight",
      "bert.embeddings.word_embeddings.weight",
    ),
    (f"{_PREDICTIONS}.decoder.bias", f"{_PREDICTIONS}.bias"),
  )
  return _family(*_HEADS, copies=copies, heads=_OTHERS)
