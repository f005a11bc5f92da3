"""What shapes do not show: settings of the model, quantizers, other heads."""

import functools
import json
import re

import numpy as np
import pytest
from flax import nnx

import jbin
from jbin import convert, errors, models, pretrained, quantizers
from jbin.pretrained import _config, _source, _table
from tests.pretrained import toys
from tests.pretrained.small import SMALL, abstract, random, tiny_nest


@pytest.fixture(autouse=True)
def _tiny_nest(monkeypatch):
  tiny_nest(monkeypatch)


def refused(model, folder, **kwargs):
  """The one error's message."""
  with pytest.raises(errors.UserError) as caught:
    pretrained.load(folder, model, **kwargs)
  return str(caught.value)


def set_config(folder, **changes):
  """Changes config.json."""
  path = folder / "config.json"
  config = {**json.loads(path.read_text()), **changes}
  path.write_text(json.dumps(config))


# Family, argument of the model, and what the error says of it.
OTHERS = [
  ("vit", {"heads": 4}, "heads ours 4, theirs 2"),
  ("vit", {"eps": 0.1}, "eps ours 0.1, theirs 1e-12"),
  ("swin", {"eps": 0.1}, "eps ours 0.1, theirs 1e-05"),
  ("pvt_v2", {"strides": (2, 2)}, r"strides ours (2, 2), theirs (4, 2)"),
  ("pvt_v2", {"eps": 0.1}, "eps ours 0.1, theirs 1e-06"),
  ("nest", {"eps": 0.1}, "eps ours 0.1, theirs 1e-06"),
  ("bert", {"eps": 0.1}, "eps ours 0.1, theirs 1e-12"),
  ("bert", {"padding_id": None}, "padding_id ours None, theirs 0"),
  ("mamba2", {"eps": 0.1}, "eps ours 0.1, theirs 1e-05"),
  (
    "mamba2",
    {"dt_limit": (0.0, 1.0)},
    "dt_limit ours (0.0, 1.0), theirs (0.0, inf)",
  ),
  ("llama", {"eps": 0.1}, "eps ours 0.1, theirs 1e-05"),
  ("llama", {"rope_base": 2.0}, "rope_base ours 2.0, theirs 500.0"),
  (
    "llama as bitnet",
    {"activation": "silu"},
    "activation ours silu, theirs relu2",
  ),
  ("opt", {"heads": 4}, "heads ours 4, theirs 2"),
  (
    "bert_pretraining",
    {"token_activation": "relu"},
    "token_activation ours relu, theirs gelu",
  ),
]


@pytest.mark.parametrize(("name", "changes", "said"), OTHERS)
def test_the_model_must_have_what_config_json_says(
  name, changes, said, tmp_path
):
  model = random(SMALL[name])
  pretrained.save(model, tmp_path)
  other = abstract(functools.partial(SMALL[name], **changes))
  text = refused(other, tmp_path)
  assert f"arguments (1):\n    {said}\n" in text
  assert "make the model with their arguments" in text
  if "heads" not in changes:
    kept = pretrained.load(tmp_path, other, fresh=tuple(changes))
    assert toys.same(kept, toys.arrays(model))
    made = pretrained.model(tmp_path, **changes)  # asked for by name
    assert toys.same(toys.arrays(made), toys.arrays(model))
    (tmp_path / "config.json").unlink()
    assert toys.same(pretrained.load(tmp_path, other), kept)


LEGAL = [
  ("vit", {"dropout": 0.1, "drop_path": 0.1}),
  ("swin", {"image_size": 64, "drop_path": 0.1}),
  ("pvt_v2", {"drop_path": 0.1}),
  ("bert", {"dropout": 0.3}),
  ("mamba2", {"chunk": 16, "remat": "full"}),
  ("llama", {"max_length": 99, "remat": "dots"}),
]


@pytest.mark.parametrize(("name", "changes"), LEGAL)
def test_what_weights_do_not_depend_on(name, changes, tmp_path):
  model = random(SMALL[name])
  pretrained.save(model, tmp_path)
  other = abstract(functools.partial(SMALL[name], **changes))
  assert toys.same(pretrained.load(tmp_path, other), toys.arrays(model))


def test_the_setting_of_what_is_fresh(tmp_path):
  pretrained.save(random(SMALL["bert_pretraining"]), tmp_path)
  make = functools.partial(SMALL["bert_pretraining"], token_activation="relu")
  pretrained.load(tmp_path, abstract(make), fresh=("token_head/.*",))


# --- Quantizers ---------------------------------------------------------------

LOW_BIT = {
  "kernels": [jbin.Rule(".*/fc1", kernel_quantizer=quantizers.sign())],
  "attentions": [jbin.Rule(".*/attn", query_quantizer=quantizers.sign())],
  "bibert": convert.REGISTRY.get("bibert")(tables="none", path="blocks/.*"),
}


@pytest.mark.parametrize("name", LOW_BIT)
def test_quantizers_without_parameters_are_not_lost(name, tmp_path):
  model = random(SMALL["vit"])
  image = np.zeros((1, 32, 32, 3), "f4")
  low = jbin.quantize(random(SMALL["vit"]), LOW_BIT[name], image)
  assert _table.shapes(low) == _table.shapes(model)
  with pytest.raises(
    errors.UserError,
    match=r"'blocks/\S+_quantizer' is a quantizer .*; save jbin\.dequantize\(",
  ):
    pretrained.save(low, tmp_path / "low")
  assert not (tmp_path / "low").exists()
  pretrained.save(jbin.dequantize(low), tmp_path / "float")
  found = pretrained.load(tmp_path / "float", model)
  assert toys.same(found, toys.arrays(model))


@pytest.mark.parametrize(
  ("normalize", "cure"),
  [(jbin.nn.raw_scores, r"jbin\.dequantize"), (nnx.relu, "with softmax there")],
)
def test_other_than_softmax(normalize, cure, tmp_path):
  model = abstract(SMALL["vit"])
  own = jbin.nn.DotProductAttention(4, normalize=normalize)
  model.blocks.attn.attention_fn = nnx.data(own)
  with pytest.raises(
    errors.UserError, match=f"makes weights of scores.*{cure}"
  ):
    pretrained.save(model, tmp_path / "low")


# --- Heads that do something else ---------------------------------------------

_NSP = "cls.seq_relationship"
# Architecture -> the change of names, and what leaves the head behind.
HEADS = {
  "BertForTokenClassification": ("classifier", ("head/.*",)),
  "BertForMultipleChoice": ("classifier", ("head/.*",)),
  "BertForQuestionAnswering": ("qa_outputs", ("head/.*", r"qa_outputs\..*")),
  "BertForNextSentencePrediction": (_NSP, ("head/.*", r"cls\..*")),
}


@pytest.mark.parametrize("kind", HEADS)
def test_heads_of_other_tasks(kind, tmp_path):
  model = random(SMALL["bert"])
  pretrained.save(model, tmp_path)
  name, fresh = HEADS[kind]

  def change(tensors):
    for part in ("weight", "bias"):
      tensors[f"{name}.{part}"] = tensors.pop(f"classifier.{part}")

  toys.rewrite(tmp_path, change)
  set_config(tmp_path, architectures=[kind])
  text = refused(model, tmp_path)
  assert f"of {kind}, which is another head than ours (2):" in text
  assert f"    {name}.weight 3x8\n" in text
  assert pasted(text) == fresh
  want = {p: a for p, a in toys.arrays(model).items() if "head" not in p}
  assert toys.same(pretrained.load(tmp_path, model, fresh=fresh), want)


def pasted(text):
  """The patterns that an error gives."""
  (written,) = re.findall(r"fresh=(\(.*\))$", text, re.MULTILINE)
  return eval(written)  # as its reader would


def test_names_are_those_of_the_file(tmp_path):
  model = random(SMALL["bert"])
  pretrained.save(model, tmp_path)

  def change(tensors):
    for key in [key for key in tensors if key.startswith("bert.")]:
      tensors[key.removeprefix("bert.")] = tensors.pop(key)
    del tensors["pooler.dense.weight"], tensors["pooler.dense.bias"]
    tensors["pooler.more"] = np.zeros(1, "f4")

  toys.rewrite(tmp_path, change)
  text = refused(model, tmp_path)
  assert "\n    pooler.dense.weight 8x8 for pooler/kernel\n" in text
  assert "\n    pooler.more 1\n" in text
  fresh = pasted(text)
  assert fresh == ("pooler/.*", r"pooler\..*")
  assert "pooler/kernel" not in pretrained.load(tmp_path, model, fresh=fresh)


def test_a_pooler_beside_a_vit(tmp_path):
  model = random(SMALL["vit"])
  pretrained.save(model, tmp_path)
  for name in ("pooler.dense.weight", "vit.pooler.dense.bias"):
    toys.rewrite(tmp_path, lambda t, n=name: t.update({n: np.zeros(3, "f4")}))
  assert toys.same(pretrained.load(tmp_path, model), toys.arrays(model))


def test_no_patterns_for_a_deeper_model(tmp_path):
  pretrained.save(random(SMALL["vit"]), tmp_path)
  deeper = abstract(functools.partial(SMALL["vit"], depth=4))
  assert "to go on" not in refused(deeper, tmp_path)


# --- Ratios, and what is read once --------------------------------------------


def test_ratios_give_the_same_integers():
  for features in range(1, 800, 7):
    for hidden in range(1, 5 * features, max(1, features // 9)):
      ratio = _config.ratio([hidden], [features])
      assert int(ratio * features) == round(ratio * features) == hidden
  assert _config.ratio([27, 55], [12, 24]) == 55 / 24
  assert _config.ratio([28, 55], [12, 24]) is None


def test_an_odd_ratio_of_a_checkpoint():
  family = _table.REGISTRY.get("vit")()
  config = {"hidden_size": 448, "intermediate_size": 976}
  config |= {"num_attention_heads": 7, "num_hidden_layers": 1}
  _, arguments = family.arguments(config, ())
  shapes = _table.shapes(abstract(functools.partial(models.vit, **arguments)))
  assert shapes["blocks/mlp/fc1/kernel"] == (1, 448, 976)


def test_windows_of_large_images(tmp_path):
  make = functools.partial(
    models.swin, 3, features=4, depths=(2, 2), heads=(1, 1)
  )
  model = random(functools.partial(make, window=32, image_size=256))
  pretrained.save(model, tmp_path)
  assert toys.same(toys.arrays(pretrained.model(tmp_path)), toys.arrays(model))


def test_tensors_are_read_once(tmp_path, monkeypatch):
  pretrained.save(random(SMALL["bert_pretraining"]), tmp_path)
  words = "bert.embeddings.word_embeddings.weight"
  copy = "cls.predictions.decoder.weight"
  toys.rewrite(tmp_path, lambda t: t.update({copy: t[words]}))
  opened, seen = [], []
  tensors, read = _source.tensors, _source.Tensor.read

  def counted(tensor, part=None):
    seen.append(tensor.name)
    return read(tensor, part)

  def noted(source, stack):
    opened.append(source)
    return tensors(source, stack)

  monkeypatch.setattr(_source.Tensor, "read", counted)
  monkeypatch.setattr(_source, "tensors", noted)
  pretrained.model(tmp_path)
  assert len(opened) == 1
  assert len(seen) == len({*seen})
  assert {words, copy} < {*seen}
