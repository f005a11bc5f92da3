"""The same numbers as transformers, in PyTorch, from the same files; and back.

Only here are both of them needed: the extra `parity` (which `dev` includes).
"""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from jbin import errors, pretrained, views

_WHY = "parity with transformers is not checked: pip install jbin[parity]"
torch = pytest.importorskip("torch", reason=_WHY)
transformers = pytest.importorskip("transformers", reason=_WHY)
transformers.utils.logging.disable_progress_bar()

_IMAGE = {"num_labels": 3, "image_size": 32}
_TEXT = {
  "vocab_size": 20,
  "hidden_size": 8,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 16,
  "max_position_embeddings": 10,
}
_STATES = {
  "vocab_size": 20,
  "hidden_size": 8,
  "num_hidden_layers": 2,
  "num_heads": 4,
  "head_dim": 4,
  "state_size": 6,
  "n_groups": 2,
  "chunk_size": 4,
  "eos_token_id": None,
}
_OPT = {**_TEXT, "ffn_dim": 16, "max_position_embeddings": 32}
_OPT |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
_DECODER = {**_OPT, "num_attention_heads": 4, "num_key_value_heads": 2}
_DECODER |= {"head_dim": 4}
# An architecture, and what else there is to say of a case.
CASES = {
  "ViTForImageClassification": {
    **_IMAGE,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "patch_size": 8,
  },
  "SwinForImageClassification": {
    **_IMAGE,
    "embed_dim": 8,
    "depths": [2, 4],
    "num_heads": [2, 4],
    "patch_size": 2,
    "window_size": 4,
  },
  "PvtV2ForImageClassification": {
    **_IMAGE,
    "num_encoder_blocks": 2,
    "hidden_sizes": [8, 16],
    "depths": [1, 2],
    "num_attention_heads": [1, 2],
    "sr_ratios": [2, 1],
    "mlp_ratios": [2, 3],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
  },
  "BertForSequenceClassification": {**_TEXT, "num_labels": 3},
  "BertForPreTraining": {**_TEXT, "num_labels": 2},
  "BertForMaskedLM": {**_TEXT, "num_labels": 2},
  "BertModel": {**_TEXT, "num_labels": 2},
  "Mamba2ForCausalLM": {**_STATES, "time_step_limit": [0.02, 2.0]},
  "Mamba2ForCausalLM, tied": {**_STATES, "tie_word_embeddings": True},
}
CASES |= {
  "LlamaForCausalLM": {
    **_DECODER,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
  },
  "Qwen2ForCausalLM, tied": {
    **_DECODER,
    "hidden_size": 16,
    "tie_word_embeddings": True,
  },
  "Qwen3ForCausalLM": _DECODER,
  "BitNetForCausalLM": {**_DECODER, "hidden_size": 16},
  "OPTForCausalLM": _OPT,
}
# What theirs does not have, and ours has.
FRESH = {"BertForMaskedLM": ("pooler/.*",)}


def architecture(name):
  """Of a case."""
  return name.split(",")[0]


def make(name):
  """One of transformers' models, with random numbers in every parameter."""
  kind = getattr(transformers, architecture(name))
  model = kind(kind.config_class(**CASES[name]))
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      scale = torch.randn(parameter.shape, generator=generator)
      parameter.copy_(0.3 * scale + (parameter.ndim == 1))
  return model.eval()


def theirs(model):
  """Its results on the example, in an order."""
  tensors = [torch.from_numpy(array) for array in example(type(model).__name__)]
  with torch.no_grad():
    if "CausalLM" in type(model).__name__:
      return [model(tensors[0]).logits.numpy()]
    if len(tensors) == 1:
      return [model(tensors[0].permute(0, 3, 1, 2)).logits.numpy()]
    tokens, segments, mask = tensors
    out = model(tokens, token_type_ids=segments, attention_mask=mask)
  names = ("seq_relationship_logits", "prediction_logits", "logits")
  found = [out[name] for name in names if name in out]
  return [each.numpy() for each in found or [out.pooler_output]]


def ours(model, name):
  """The same of our model."""
  run = nnx.jit(lambda model, inputs: model(*inputs))
  out = run(views.evaluation(model), example(name))
  if name == "BertForMaskedLM":  # the other is of the fresh pooler
    out = out.token_logits
  return jax.tree.leaves(out)


def example(name):
  """Images, or words, segments and mask."""
  generator = np.random.default_rng(0)
  if "CausalLM" in name:
    return (generator.integers(0, _TEXT["vocab_size"], (2, 7)),)
  if "Bert" not in name:
    return (generator.normal(size=(2, 32, 32, 3)).astype(np.float32),)
  tokens, segments = (generator.integers(0, n, (2, 7)) for n in (20, 2))
  return tokens, segments, np.array([[1] * 7, [1] * 4 + [0] * 3])


@pytest.mark.parametrize("name", CASES)
def test_logits_and_bits(name, tmp_path):
  model = make(name)
  many = name != "SwinForImageClassification"
  model.save_pretrained(
    tmp_path / "theirs", max_shard_size="4KB" if many else "1GB"
  )
  assert (tmp_path / "theirs" / "model.safetensors").exists() != many
  fresh = FRESH.get(name, ())
  loaded = pretrained.model(tmp_path / "theirs", fresh=fresh)
  want = theirs(model)
  for a, b in zip(ours(loaded, name), want, strict=True):
    assert np.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)

  pretrained.save(loaded, tmp_path / "ours")
  kwargs = {"output_loading_info": True}
  back, info = type(model).from_pretrained(tmp_path / "ours", **kwargs)
  assert not info["missing_keys"]
  assert not info["mismatched_keys"]
  assert all("pooler" in key for key in info["unexpected_keys"])
  before, after = model.state_dict(), back.state_dict()
  assert before.keys() == after.keys()
  assert all(torch.equal(before[key], after[key]) for key in before)
  for a, b in zip(theirs(back.eval()), want, strict=True):
    np.testing.assert_array_equal(a, b)
  written = json.loads((tmp_path / "ours" / "config.json").read_text())
  assert written["architectures"] == [architecture(name)]


@pytest.mark.parametrize("name", [name for name in CASES if "Causal" in name])
def test_greedy_words_and_perplexity(name, tmp_path):
  model = make(name)
  model.save_pretrained(tmp_path)
  (tokens,) = map(torch.from_numpy, example(name))
  with torch.no_grad():
    loss = model(tokens, labels=tokens).loss
    mask = torch.ones_like(tokens)
    said = model.generate(
      tokens, attention_mask=mask, max_new_tokens=6, do_sample=False
    ).numpy()
  length = tokens.shape[1]
  assert said.shape[1] == length + 6
  own = pretrained.model(tmp_path)
  run = nnx.jit(lambda model, tokens, cache: model(tokens, cache=cache))
  scores, cache = run(own, tokens.numpy(), own.init_cache(2, length + 5))
  logs = np.asarray(jax.nn.log_softmax(scores[:, :-1]))
  targets = tokens.numpy()[:, 1:, None]
  found = -np.take_along_axis(logs, targets, -1).mean()
  np.testing.assert_allclose(np.exp(found), np.exp(loss.item()), rtol=1e-5)
  words = [scores[:, -1:].argmax(-1)]
  for _ in range(5):
    scores, cache = run(own, words[-1], cache)
    words.append(scores.argmax(-1))
  np.testing.assert_array_equal(np.concatenate(words, 1), said[:, length:])


def test_distilled_deit_is_refused(tmp_path):
  config = transformers.DeiTConfig(**CASES["ViTForImageClassification"])
  transformers.DeiTForImageClassification(config).save_pretrained(tmp_path)
  with pytest.raises(errors.UserError, match="no distillation token"):
    pretrained.model(tmp_path)
