"""One error names all that keeps a checkpoint from fitting a model."""

import json

import numpy as np
import pytest

from jbin import errors, pretrained
from tests.pretrained import toys


@pytest.fixture(autouse=True)
def _only_toys(monkeypatch):
  toys.register(monkeypatch, toys.toy)


@pytest.fixture
def folder(tmp_path):
  pretrained.save(toys.module(), tmp_path)
  return tmp_path


def message(folder, model=None, **kwargs):
  """Of the one error."""
  with pytest.raises(errors.UserError) as caught:
    pretrained.load(folder, model or toys.module(), **kwargs)
  return str(caught.value)


def test_all_of_it_at_once(folder):
  def change(tensors):
    tensors["head.weights"] = tensors.pop("head.weight")
    tensors["body.h.1.proj.weight"] = np.zeros((4, 7), "f4")
    tensors["body.more"] = np.zeros((2, 3), "f4")
    tensors["body.wte.weight"] = np.zeros((5, 4), "i1")

  toys.rewrite(folder, change)
  model = toys.module({**toys.SHAPES, "learned/scale": (9,)})
  assert (
    message(folder, model)
    == f"""\
weights {folder} are not of this model (family toy):
  missing (1):
    head.weight 3x4 for head/kernel; is it head.weights?
  unexpected (2):
    body.more 2x3
    head.weights 3x4
  of another shape, or type than F32, F16, BF16 (2):
    body.h.1.proj.weight F32 4x7, blocks/attn/out/kernel needs 4x6
    body.wte.weight I8 5x4, words/embedding needs 5x4
  in no such checkpoint, or of other axes (1):
    learned/scale 9
  to go on without these: fresh=("head/kernel", "blocks/attn/out/.*",\
 "words/.*", "learned/.*", r"body\\.more", r"head\\.weights")
  fresh=... has regular expressions of what starts as the model has it, or is\
 left in the checkpoint: our paths, its names, arguments"""
  )


def test_equal_lines_are_one(folder):
  def change(tensors):
    for name in list(tensors):
      if ".qkv." in name or "stage.0" in name:
        del tensors[name]
    for name in ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"):
      tensors[name] = np.zeros(2, "f4")
    tensors |= {f"more.{i}.x": np.zeros(1, "f4") for i in (1, 2, 7)}

  toys.rewrite(folder, change)
  text = message(folder)
  assert "missing (10):" in text  # three parts of two, and four
  assert "body.h.{0-1}.qkv.weight 18x4 for blocks/attn/key/kernel" in text
  assert "stage.0.{0,2}.fc.weight 6x4 for stages/0/pairs/even/kernel" in text
  assert "unexpected (13):" in text
  assert "and 3 more lines like these" in text
  toys.rewrite(folder, lambda tensors: [tensors.pop(k) for k in "abcdefghij"])
  assert "more.{1,2,7}.x 1\n" in message(folder)


def test_other_axes(folder):
  model = toys.module({**toys.SHAPES, "blocks/attn/out/kernel": (2, 6, 4)})
  assert "blocks/attn/out/kernel 2x6x4" in message(folder, model)


def test_heads_do_not_show_in_shapes(folder):
  split = (2, 4, 3, 2)
  shapes = dict(toys.SHAPES)
  for name in ("query", "key", "value"):
    shapes[f"blocks/attn/{name}/kernel"] = split
  shapes["blocks/attn/query/bias"] = (2, 3, 2)
  shapes["blocks/attn/out/kernel"] = (2, 3, 2, 4)
  text = message(folder, toys.module(shapes))
  assert "arguments (1):\n    heads ours 3, theirs 2" in text


def test_another_type_of_model(folder):
  (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
  assert "type of model ours toy, theirs gpt2" in message(folder)


def test_a_type_that_is_not_said_is_no_fault(folder):
  (folder / "config.json").unlink()
  pretrained.load(folder, toys.module())


def test_fresh_that_is_nothing(folder):
  text = message(folder, fresh=("head/.*", "haed/.*"))
  assert "neither ours nor theirs (1):\n    haed/.*\n" in text


def test_copies_must_be_equal(folder):
  toys.rewrite(
    folder, lambda t: t.update({"lm_head.weight": t["body.wte.weight"] + 1})
  )
  assert "lm_head.weight is not equal to body.wte.weight" in message(folder)


def test_two_names_of_one_tensor(folder):
  toys.rewrite(folder, lambda t: t.update({"scale": t["body.scale"]}))
  assert "body.scale and scale are names of one tensor" in message(folder)


def test_refused_by_the_family(folder):
  toys.rewrite(folder, lambda t: t.update(distilled=np.zeros(1, "f4")))
  assert message(folder).endswith("distilled: it is of another kind")


def test_no_family_has_such_a_model(folder):
  text = message(folder, toys.module({"a/b": (1,), "c": (2,)}))
  assert "parameters like this model's (a/b, c); there are toy" in text
  assert "(it has none)" in message(folder, toys.Node())


def test_saving_what_no_checkpoint_has(tmp_path):
  model = toys.module({**toys.SHAPES, "head/kernel_quantizer/scale": (3,)})
  with pytest.raises(errors.UserError, match=r"nothing for head/kernel_quant"):
    pretrained.save(model, tmp_path / "new")
  assert not (tmp_path / "new").exists()


def test_saving_over_weights(folder):
  before = (folder / "model.safetensors").read_bytes()
  with pytest.raises(errors.UserError, match="has weights already"):
    pretrained.save(toys.module(), folder)
  assert (folder / "model.safetensors").read_bytes() == before


def test_model_needs_to_know_the_type(folder):
  (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
  with pytest.raises(errors.UserError, match=r"is of a 'gpt2'; .* for toy\."):
    pretrained.model(folder)
  (folder / "config.json").unlink()
  with pytest.raises(errors.UserError, match="does not say what they are of"):
    pretrained.model(folder)
