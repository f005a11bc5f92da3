import functools
import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

from jbin import errors
from jbin.data import _tokens, _wordpiece

TEXT = (
  "The lower the newest, the wider the lowest newest widest low.",
  "Ünder the löw, lower wide; newer than the new!",
  "wide wide new low lower low",
)
BERT = ("pad", "cls", "sep")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def pieces(tokenizer, text):
  """What a learned or read tokenizer cuts a text into."""
  return tokenizer.encode([text])[0]


@pytest.fixture
def vocab(tmp_path):
  """Writes a vocab.txt."""

  def write(*lines, name="vocab.txt"):
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(path)

  return write


def learned(texts=TEXT, size=100):
  words = tuple(sorted(_wordpiece.words_of(texts).items()))
  return _wordpiece.learned(words, size)


def test_a_vocabulary_begins_with_special_tokens_and_characters():
  found = learned()
  assert list(found[:5]) == SPECIAL
  assert len(set(found)) == len(found) <= 100
  # Lower-case and without accents.
  assert all(piece == piece.lower() for piece in found[5:])
  assert "ü" not in "".join(found)
  assert {"lower", "wide", "the", "l", "##o"} <= {*found}
  # Punctuation stands alone.
  assert "," in found
  assert "##," not in found


def test_the_same_words_give_the_same_vocabulary(tmp_path):
  program = (
    "import sys; from jbin.data import _tokens;"
    "t = _tokens.wordpiece(sys.argv[1:], 60);"
    "print(t.digest, t.encode(sys.argv[1:]))"
  )
  runs = []
  for seed, folder in (("1", ""), ("2", str(tmp_path)), ("3", str(tmp_path))):
    texts = random.Random(seed).sample(TEXT, len(TEXT))
    done = subprocess.run(
      [sys.executable, "-c", program, *TEXT],
      env={**os.environ, "PYTHONHASHSEED": seed, "JBIN_CACHE": folder},
      capture_output=True,
      text=True,
      check=True,
    )
    runs.append(done.stdout)
    assert learned(texts, 60) == learned(TEXT, 60)
  assert runs[0] == runs[1] == runs[2]
  kept = [*tmp_path.rglob("vocab.txt")]
  assert len(kept) == 1
  assert tuple(kept[0].read_text("utf-8").splitlines()) == learned(TEXT, 60)
  # A folder that names itself a tokenizer.
  again = _tokens.read(str(kept[0].parent))
  same = _tokens.wordpiece(TEXT, 60)
  assert again.encode(TEXT) == same.encode(TEXT)
  assert again.digest == same.digest
  assert _tokens.wordpiece([*TEXT, "zebra"], 60).digest != same.digest


def test_rare_characters_are_unknown(monkeypatch):
  monkeypatch.setattr(_wordpiece, "_ALPHABET", 3)
  tokenizer = _tokens.wordpiece(["aaa bbb ccc d e", "abc cba"], 40)
  assert pieces(tokenizer, "abc d")[-1] == tokenizer.special["unk"]
  assert tokenizer.special["unk"] not in pieces(tokenizer, "cab")


def test_a_vocabulary_may_be_smaller_than_asked():
  chosen = _tokens.choose("wordpiece", 500, lambda: TEXT, needed=())
  assert chosen.size == 500
  assert not chosen.tokenizer.made
  assert chosen.tokenizer.get().size < 100
  assert _tokens.choose("wordpiece", 0, lambda: TEXT, needed=()).size == 8192


@pytest.mark.parametrize(
  ("texts", "size", "message"),
  [
    (TEXT, 20, r"vocab_size is 20, .* alone are \d\d; set vocab_size to more"),
    ((), 100, "no text to learn"),
    (("  ", "\n"), 100, "no text to learn"),
  ],
)
def test_a_vocabulary_that_cannot_be_learned(texts, size, message):
  with pytest.raises(errors.UserError, match=message):
    _tokens.wordpiece(texts, size)


def test_bytes():
  chosen = _tokens.choose("bytes", 0, lambda: (), needed=BERT)
  assert chosen.size == 261
  tokenizer = chosen.tokenizer.get()
  text = "aZ é"
  assert bytes(i - 5 for i in pieces(tokenizer, text)).decode() == text
  np.testing.assert_array_equal(tokenizer.ordinary, np.arange(5, 261))
  assert _tokens.choose("bytes", 384, lambda: (), needed=()).size == 384
  with pytest.raises(errors.UserError, match=r"vocab_size is 100.*has 261"):
    _tokens.choose("bytes", 100, lambda: (), needed=())


def test_a_vocab_txt_gives_its_line_numbers(vocab):
  tokenizer = _tokens.read(
    vocab(*SPECIAL, "the", "cat", "##s", "[", "]", "sep")
  )
  assert pieces(tokenizer, "The cats Dog") == [5, 6, 7, 1]
  # A special token that stands in the text is text.
  assert pieces(tokenizer, "[SEP]") == [8, 10, 9]
  assert tokenizer.size == 11


def test_a_vocabulary_with_capitals_is_cased(vocab):
  tokenizer = _tokens.read(vocab(*SPECIAL, "[unused0]", "The", "the", "é"))
  assert pieces(tokenizer, "The the é") == [6, 7, 8]


def test_special_tokens_are_found_by_name(vocab):
  path = vocab("a", "[unused0]", *SPECIAL[::-1], "b")
  tokenizer = _tokens.read(path)
  assert tokenizer.special == {
    "pad": 6,
    "unk": 5,
    "cls": 4,
    "sep": 3,
    "mask": 2,
  }
  np.testing.assert_array_equal(tokenizer.ordinary, [0, 1, 7])


def save_json(path, special, lower=True):
  import tokenizers
  from tokenizers import models, normalizers, pre_tokenizers, processors

  ids = {token: i for i, token in enumerate([*special, "x", "y"])}
  made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=special[1]))
  if lower:
    made.normalizer = normalizers.Lowercase()
  made.pre_tokenizer = pre_tokenizers.Whitespace()
  made.post_processor = processors.BertProcessing((special[3], 3), ("x", 5))
  made.enable_truncation(3)
  made.enable_padding(length=3)
  made.save(str(path))
  return str(path)


@pytest.mark.parametrize(
  "special", [SPECIAL, ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]]
)
def test_a_tokenizer_json_gives_its_ids_alone(tmp_path, special):
  path = save_json(tmp_path / "tokenizer.json", special)
  for name in (path, str(tmp_path)):
    tokenizer = _tokens.read(name)
    assert pieces(tokenizer, "X y x y z") == [5, 6, 5, 6, 1]
    assert [*tokenizer.special.values()] == [0, 1, 2, 3, 4]


def test_files_that_are_no_tokenizers(tmp_path, vocab):
  missing = vocab("[PAD]", "[UNK]", "a", name="other.txt")
  cases = {
    missing: "has no token .CLS. or <s>",
    str(tmp_path / "none.json"): "there is no tokenizer at",
    str(tmp_path): r"has neither tokenizer.json nor vocab.txt, but .*other.txt",
    "wordpeice": "did you mean wordpiece",
  }
  broken = tmp_path / "broken.json"
  cases[str(broken)] = "must be a tokenizer.json"
  broken.write_text(json.dumps({"a": 1}))
  binary = pathlib.Path(tmp_path / "binary.txt")
  cases[str(binary)] = "cannot be used: .*utf-8"
  binary.write_bytes(b"\xff\xfe\x00")
  cases[vocab("[PAD]", "[CLS]", "[SEP]", name="no_unk.txt")] = "UNK"
  for name, message in cases.items():
    with pytest.raises(errors.UserError, match=message):
      _tokens.choose(name, 0, lambda: (), needed=BERT)


def test_a_name_of_the_hub(tmp_path, monkeypatch, vocab):
  import huggingface_hub

  asked = []

  def fetch(name, *, revision, allow_patterns):
    asked.append((name, revision, allow_patterns))
    if not revision:
      raise OSError("no network")
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
  vocab(*SPECIAL, "cat")
  assert pieces(_tokens.read("org/name@v1"), "Cat") == [5]
  files = ["tokenizer.json", "vocab.txt"]
  assert asked == [("org/name", "v1", files)]
  with pytest.raises(errors.UserError, match=r"org/name: .*\(OSError: no net"):
    _tokens.read("org/name")
  with pytest.raises(errors.UserError, match=r"no tokenizer at a/vocab.txt"):
    _tokens.read("a/vocab.txt")
  assert len(asked) == 2


def test_vocab_files_are_for_what_learns(tmp_path):
  choose = functools.partial(_tokens.choose, needed=BERT)
  with pytest.raises(errors.UserError, match=r"vocab_files: .* is not there"):
    choose("wordpiece", 0, lambda: (), [str(tmp_path / "none.txt")])
  path = tmp_path / "text.txt"
  path.write_text("ab ab ab")
  with pytest.raises(errors.UserError, match=r"tokenizer is 'bytes'; leave"):
    choose("bytes", 0, lambda: (), str(path))
  chosen = choose("wordpiece", 0, lambda: ("cd",), str(path))
  assert len(pieces(chosen.tokenizer.get(), "ab cd")) == 2
  path.write_text(" \n")
  chosen = choose("wordpiece", 0, lambda: (), str(path))
  with pytest.raises(errors.UserError, match=r"text.txt is empty"):
    chosen.tokenizer.get()
