"""Every family: what is saved comes back, as the model that it was."""

import functools
import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import jbin
from jbin import errors, models, pretrained
from jbin.pretrained import _table
from tests.pretrained import toys
from tests.pretrained.small import SMALL, TINY, abstract, random, tiny_nest


@pytest.fixture(autouse=True)
def _tiny_nest(monkeypatch):
  tiny_nest(monkeypatch)


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_made_again(name, tmp_path):
  model = random(SMALL[name])
  family = "bert_pretraining" if "masked" in name else name.split()[0]
  assert _table.family_of(model, _table.shapes(model))[0] == family
  pretrained.save(model, tmp_path)
  again = pretrained.model(tmp_path)
  assert toys.same(toys.arrays(again), toys.arrays(model))
  graphdefs = [nnx.graphdef(each) for each in (model, again)]
  assert graphdefs[0] == graphdefs[1]


def test_a_fresh_head_of_other_classes(tmp_path):
  pretrained.save(random(SMALL["vit"]), tmp_path)
  model = pretrained.model(tmp_path, fresh=("head/.*",), num_classes=7, seed=1)
  kernel = np.asarray(model.head.kernel.get_value())
  assert kernel.shape == (8, 7)
  assert 0 < kernel.std() < 0.1  # as the model starts it


def test_a_low_bit_model_takes_them_too(tmp_path):
  model = random(SMALL["vit"])
  pretrained.save(model, tmp_path)
  rules = [
    jbin.Rule(
      "blocks/mlp/.*",
      kernel_quantizer=jbin.quantizers.lsq(1),
    )
  ]
  image = np.zeros((1, 32, 32, 3), "f4")
  low = jbin.quantize(random(SMALL["vit"]), rules, image)
  with pytest.raises(
    errors.UserError, match=r"no such checkpoint, or of other"
  ):
    pretrained.restore(low, tmp_path)
  pretrained.restore(low, tmp_path, fresh=(".*_quantizer/.*",))
  found = toys.arrays(low)
  want = toys.arrays(model)
  assert {*want} < {*found}
  assert toys.same({path: found[path] for path in want}, want)


def test_dropout_is_asked_for(tmp_path):
  pretrained.save(random(SMALL["vit"]), tmp_path)
  assert pretrained.model(tmp_path).dropout is None
  assert pretrained.model(tmp_path, dropout=0.1).dropout.rate == 0.1


def test_old_names_of_norms_and_tied_tables(tmp_path):
  model = random(SMALL["bert_pretraining"])
  pretrained.save(model, tmp_path)

  def change(tensors):
    for name in list(tensors):
      if "LayerNorm" in name:
        old = name.replace("weight", "gamma").replace("bias", "beta")
        tensors[old] = tensors.pop(name)
    table = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = table
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    tensors["bert.embeddings.position_ids"] = np.arange(10)[None]

  toys.rewrite(tmp_path, change)
  assert toys.same(pretrained.load(tmp_path, model), toys.arrays(model))


def test_mamba_2_as_its_authors_write_it(tmp_path):
  model = random(SMALL["mamba2"])
  pretrained.save(model, tmp_path)

  def change(tensors):
    table = tensors.pop("backbone.embeddings.weight")
    tensors["backbone.embedding.weight"] = table
    tensors["lm_head.weight"] = table

  toys.rewrite(tmp_path, change)
  (tmp_path / "config.json").unlink()
  assert toys.same(pretrained.load(tmp_path, model), toys.arrays(model))


def test_bi_mamba_has_a_scale_and_an_offset_for_each_input(tmp_path):
  model = random(SMALL["mamba2"])
  pretrained.save(model, tmp_path)
  projections = {"in_proj": 8, "out_proj": 16}

  def change(tensors):
    for i in range(2):
      for name, size in projections.items():
        start = f"backbone.layers.{i}.mixer.{name}"
        for j, kind in enumerate(("wscale", "wbias")):
          row = np.arange(size, dtype="f4")[None] + 100 * i + 10 * j
          tensors[f"{start}.{kind}"] = row

  toys.rewrite(tmp_path, change)
  with pytest.raises(errors.UserError, match=r"unexpected \(8\)"):
    pretrained.load(tmp_path, model)
  quantizer = jbin.quantizers.fbi_weight()
  rule = jbin.Rule(".*(in_proj|out_proj)", kernel_quantizer=quantizer)
  low = jbin.quantize(model, rule)
  pretrained.restore(low, tmp_path)
  for name, size in projections.items():
    part = getattr(low.layers.mixer, name).kernel_quantizer.learned
    want = np.arange(size)[None] + np.array([[0], [100]])
    np.testing.assert_array_equal(part["alpha"][...], want)
    np.testing.assert_array_equal(part["beta"][...], want + 10)


def test_pretraining_to_classification(tmp_path):
  body = random(SMALL["bert_pretraining"])
  pretrained.save(body, tmp_path)
  model = abstract(SMALL["bert"])
  with pytest.raises(
    errors.UserError, match=r"classifier\.weight 3x8 for head"
  ):
    pretrained.load(tmp_path, model)
  found = pretrained.load(tmp_path, model, fresh=(r"head/.*|cls\..*",))
  want = {p: a for p, a in toys.arrays(body).items() if "head" not in p}
  assert toys.same(found, want)


REFUSED = {
  "no ViT without a class token": functools.partial(SMALL["vit"], pool="mean"),
  "one window for all stages": functools.partial(
    SMALL["swin"], image_size=16, window=4
  ),
  "whole mlp_ratios": functools.partial(SMALL["pvt_v2"], mlp_ratios=(2, 2.5)),
  "no NesT of": functools.partial(
    models.nest, features=(8, 8), depths=(1, 1), heads=(2, 2), image_size=32
  ),
  "2 classes, ours 3": functools.partial(
    models.bert, 3, pretraining=True, **TINY
  ),
  "cannot say token_activation = relu": functools.partial(
    SMALL["bert_pretraining"], token_activation="relu"
  ),
  r"nothing for layers/attn/residual.*have no low-rank": functools.partial(
    SMALL["bert"], low_rank=1
  ),
  "no such norm": functools.partial(SMALL["bert"], pooler_residual=True),
  "cannot say eps = 0.1, and are read with 1e-06": functools.partial(
    SMALL["nest"], eps=0.1
  ),
  "eps 1e-05 after patches": functools.partial(SMALL["swin"], eps=0.1),
  "no Llama with qkv_bias and qk_norm": functools.partial(
    SMALL["llama"], qkv_bias=True, qk_norm=True
  ),
  "cannot say eps = 0.1, and are read with 1e-05": functools.partial(
    SMALL["opt"], eps=0.1
  ),
  r"no family .*pvt_v2 has \d+ of \d+": functools.partial(
    models.twins_svt,
    3,
    features=(8, 8),
    depths=(2, 2),
    heads=(1, 1),
    reductions=(2, 1),
    strides=(4, 2),
  ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_others_do_not_have_is_not_saved(why, tmp_path):
  model = abstract(REFUSED[why])
  with pytest.raises(errors.UserError, match=why):
    pretrained.save(model, tmp_path / "new")
  assert not (tmp_path / "new").exists()


UNLIKE = {
  "vit": {"hidden_act": "relu", "image_size": [32, 64]},
  "swin": {"use_absolute_embeddings": True},
  "pvt_v2": {"linear_attention": True},
  "bert": {"position_embedding_type": "relative_key", "is_decoder": True},
  "llama": {
    "attention_bias": True,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5},
    "quantization_config": {"quant_method": "gptq"},
  },
  "llama as qwen2": {
    "use_sliding_window": True,
    "layer_types": ["full_attention", "sliding_attention"],
  },
  "opt": {
    "do_layer_norm_before": False,
    "word_embed_proj_dim": 6,
    "activation_function": "gelu",
  },
}


@pytest.mark.parametrize("name", UNLIKE)
def test_settings_that_our_models_do_not_have(name, tmp_path):
  model = random(SMALL[name])
  pretrained.save(model, tmp_path)
  path = tmp_path / "config.json"
  config = json.loads(path.read_text())
  for key, value in UNLIKE[name].items():
    path.write_text(json.dumps({**config, key: value}))
    with pytest.raises(errors.UserError, match=rf"config\.json says {key} = "):
      pretrained.load(tmp_path, model)


@pytest.mark.parametrize("said", [{}, {"sliding_window": 4096}])
def test_a_mistral_with_a_window_is_refused(said, tmp_path):
  """transformers takes 4096 if config.json does not say it."""
  model = random(SMALL["llama"])
  pretrained.save(model, tmp_path)
  path = tmp_path / "config.json"
  config = {**json.loads(path.read_text()), "model_type": "mistral"}
  path.write_text(json.dumps({**config, "sliding_window": None}))
  made = pretrained.model(tmp_path)
  assert nnx.graphdef(made) == nnx.graphdef(model)
  path.write_text(json.dumps({**config, **said}))
  with pytest.raises(errors.UserError, match="sliding_window = 4096"):
    pretrained.load(tmp_path, model)


@pytest.mark.parametrize("name", ["llama", "llama_tied", "opt"])
def test_names_that_decoders_have_elsewhere(name, tmp_path):
  """Bodies alone and older files, with copies of what is shared."""
  model = random(SMALL[name])
  pretrained.save(model, tmp_path)

  def change(tensors):
    for key in [key for key in tensors if key.startswith("model.")]:
      tensors[key.removeprefix("model.")] = tensors.pop(key)
    for key in [key for key in tensors if key.endswith("embed_tokens.weight")]:
      if name != "llama":
        tensors["lm_head.weight"] = tensors[key]
    if name != "opt":
      old = "model.layers.0.self_attn.rotary_emb.inv_freq"
      tensors[old] = np.ones(2, "f4")

  toys.rewrite(tmp_path, change)
  assert toys.same(pretrained.load(tmp_path, model), toys.arrays(model))


def test_opt_350m_is_refused_by_its_tensors(tmp_path):
  model = random(SMALL["opt"])
  pretrained.save(model, tmp_path)
  (tmp_path / "config.json").unlink()
  new = {"decoder.project_in.weight": np.ones((12, 6), "f4")}
  toys.rewrite(tmp_path, lambda tensors: tensors.update(new))
  with pytest.raises(errors.UserError, match="OPT-350M, whose layers are post"):
    pretrained.load(tmp_path, model)


def test_weights_of_fbi_linear_have_their_scales(tmp_path):
  rule = jbin.Rule("layers/.*", kernel_quantizer=jbin.quantizers.fbi_weight())
  low = jbin.quantize(random(SMALL["llama"]), rule)
  pretrained.save(jbin.dequantize(low), tmp_path)
  generator = np.random.default_rng(1)

  def change(tensors):
    for key in [key for key in tensors if "_proj." in key]:
      shape = (1, tensors[key].shape[1])
      for new in ("wscale", "wbias"):
        scale = generator.normal(size=shape).astype("f4")
        tensors[key.replace("weight", new)] = scale

  toys.rewrite(tmp_path, change)
  tensors = load_file(tmp_path / "model.safetensors")
  found = pretrained.load(tmp_path, low)
  learned = "layers/mlp/down/kernel_quantizer/learned"
  for name, theirs in (("alpha", "wscale"), ("beta", "wbias")):
    want = [tensors[f"model.layers.{i}.mlp.down_proj.{theirs}"] for i in (0, 1)]
    np.testing.assert_array_equal(
      found[f"{learned}/{name}"], np.concatenate(want)
    )


@pytest.mark.parametrize("name", ["vit", "swin", "pvt_v2", "bert"])
def test_a_body_alone_has_no_prefix(name, tmp_path):
  model = random(SMALL[name])
  pretrained.save(model, tmp_path)

  def change(tensors):
    for key in [key for key in tensors if key.startswith(f"{name}.")]:
      tensors[key.removeprefix(f"{name}.")] = tensors.pop(key)
    del tensors["classifier.weight"], tensors["classifier.bias"]

  toys.rewrite(tmp_path, change)
  found = pretrained.load(tmp_path, model, fresh=("head/.*",))
  want = {p: a for p, a in toys.arrays(model).items() if "head/" not in p}
  assert toys.same(found, want)


def test_distilled_deit_is_refused(tmp_path):
  model = random(SMALL["vit"])
  pretrained.save(model, tmp_path)

  def change(tensors):
    token = tensors["vit.embeddings.cls_token"]
    tensors["vit.embeddings.distillation_token"] = token
    for name in list(tensors):
      if name.startswith("vit."):
        tensors["deit." + name.removeprefix("vit.")] = tensors.pop(name)

  toys.rewrite(tmp_path, change)
  with pytest.raises(errors.UserError, match="facebook/deit-tiny-patch16-224"):
    pretrained.load(tmp_path, model)


def test_heads_of_another_number(tmp_path):
  pretrained.save(random(SMALL["vit"]), tmp_path)
  other = functools.partial(SMALL["vit"], heads=4)
  model = abstract(other)
  with pytest.raises(errors.UserError, match="heads ours 4, theirs 2"):
    pretrained.load(tmp_path, model)


def test_many_layers_are_one_line(tmp_path):
  make = functools.partial(SMALL["vit"], depth=12)
  model = random(make)
  pretrained.save(model, tmp_path)
  toys.rewrite(
    tmp_path, lambda t: [t.pop(k) for k in list(t) if "query.weight" in k]
  )
  line = r"vit\.encoder\.layer\.\{0-11\}\.attention\.attention\.query\.weight"
  with pytest.raises(
    errors.UserError, match=rf"missing \(12\):\n    {line} 8x8"
  ):
    pretrained.load(tmp_path, model)


def test_nest_reads_heads_as_timm_writes_them(tmp_path):
  """timm merges heads channel by channel, and fuses queries, keys, values."""
  model = random(SMALL["nest"])
  pretrained.save(model, tmp_path)
  tensors = load_file(tmp_path / "model.safetensors")
  generator = np.random.default_rng(1)
  x = generator.normal(size=(5, 8)).astype("f4")
  layer = "levels.0.transformer_encoder.1.attn"
  weight, bias = tensors[f"{layer}.qkv.weight"], tensors[f"{layer}.qkv.bias"]
  q, k, v = (x @ weight.T + bias).reshape(5, 3, 2, 4).transpose(1, 2, 0, 3)
  scores = q @ k.transpose(0, 2, 1) / np.sqrt(4)
  scores = np.exp(scores - scores.max(-1, keepdims=True))
  y = (scores / scores.sum(-1, keepdims=True)) @ v  # (heads, tokens, channels)
  y = y.transpose(1, 2, 0).reshape(5, 8)
  y = y @ tensors[f"{layer}.proj.weight"].T + tensors[f"{layer}.proj.bias"]
  attention = nnx.clone(model.levels[0].blocks.attn)
  nnx.update(attention, nnx.map(lambda _, leaf: leaf[1], nnx.state(attention)))
  np.testing.assert_allclose(attention(x[None])[0], y, rtol=1e-4, atol=1e-4)
