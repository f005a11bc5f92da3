"""From ids to text: all at once, and one after another."""

import pytest
from hypothesis import given, strategies

from jbin.data import _tokens

TEXT = "The cat, Zoë's: 3 €.\n\n  two  spaces\t👩‍🚀 and on"


def byte_level(path, texts, special):
  """A tokenizer.json of GPT-2's kind, learned from texts."""
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=special,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(texts, trainer)
  made.save(str(path))
  return str(path)


def spaced(path):
  """A tokenizer.json of Llama's kind: spaces in pieces, bytes at need."""
  import tokenizers
  from tokenizers import decoders, models, normalizers

  words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
  words += [*"▁Thecats,wo", "Th", "The", "▁The"]
  ids = {word: i for i, word in enumerate(words)}
  merges = [("T", "h"), ("Th", "e"), ("▁", "The")]
  made = tokenizers.Tokenizer(
    models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True)
  )
  made.normalizer = normalizers.Sequence(
    [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
  )
  made.decoder = decoders.Sequence(
    [
      decoders.Replace("▁", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(" ", 1, 0),
    ]
  )
  made.save(str(path))
  return str(path)


@pytest.fixture(scope="module")
def tokenizers_(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizers")
  special = ["<|endoftext|>"]
  return {
    "bytes": _tokens.read("bytes"),
    "byte level": _tokens.read(
      byte_level(folder / "bpe.json", [TEXT] * 5, special)
    ),
    "spaced": _tokens.read(spaced(folder / "spaced.json")),
  }


@pytest.mark.parametrize("name", ["bytes", "byte level", "spaced"])
@given(strategies.text(max_size=30))
def test_a_text_comes_back(tokenizers_, name, text):
  tokenizer = tokenizers_[name]
  for one in (text, TEXT):
    ids = tokenizer.encode([one])[0]
    assert tokenizer.decode(ids) == one
    end = tokenizer.special["sep"]
    assert tokenizer.decode([end, *ids, end, tokenizer.size]) == one
    stream = tokenizer.stream()
    assert "".join(map(stream.step, [*ids, end])) + stream.rest() == one


@given(strategies.lists(strategies.integers(0, 261), max_size=20))
def test_bytes_that_are_no_text(ids):
  tokenizer = _tokens.read("bytes")
  stream = tokenizer.stream()
  whole = tokenizer.decode(ids)
  assert "".join(map(stream.step, ids)) + stream.rest() == whole


def test_a_stream_gives_what_is_certain(tokenizers_):
  for name in ("bytes", "byte level"):
    tokenizer = tokenizers_[name]
    ids = tokenizer.encode(["a€"])[0]
    stream = tokenizer.stream()
    pieces = [stream.step(i) for i in ids]
    assert pieces[0] == "a"
    assert set(pieces[1:-1]) <= {""}
    assert pieces[-1] == "€"
    # A text that ends within a character.
    stream = tokenizer.stream()
    cut = "".join(map(stream.step, ids[:-1])) + stream.rest()
    assert cut == "a\ufffd"
  # One that never ends it does not wait for.
  tokenizer = tokenizers_["byte level"]
  first = tokenizer.encode(["€"])[0][0]
  stream = tokenizer.stream()
  given = "".join(stream.step(first) for _ in range(100))
  assert len(given) > 90


def test_pieces_of_words_are_joined():
  tokenizer = _tokens.wordpiece(["The cats, the cat."] * 3, 40)
  ids = tokenizer.encode(["The cats, the"])[0]
  assert tokenizer.decode(ids) == "the cats , the"
  stream = tokenizer.stream()
  assert "".join(map(stream.step, ids)) + stream.rest() == "the cats , the"
  hidden = [tokenizer.special[kind] for kind in ("cls", "sep", "pad", "mask")]
  assert tokenizer.decode([*hidden, ids[0]]) == "the"
  assert tokenizer.decode([tokenizer.special["unk"]]) == "[UNK]"


@pytest.mark.parametrize(
  ("special", "found"),
  [
    (["<|endoftext|>"], {"sep": 0}),
    (
      ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
      {"cls": 0, "sep": 1},
    ),
    (
      ["<pad>", "<eos>", "<bos>", "<unk>"],
      {"pad": 0, "sep": 1, "cls": 2, "unk": 3},
    ),
    (["<unk>", "<s>", "</s>"], {"unk": 0, "cls": 1, "sep": 2}),
  ],
)
def test_special_tokens_of_language_models(tmp_path, special, found):
  path = byte_level(tmp_path / "tokenizer.json", ["a b"], special)
  assert dict(_tokens.read(path).special) == found
