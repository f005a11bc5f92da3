"""Text that goes on: the line of tokens, its rows, and where they come from."""

import pathlib
import pickle

import numpy as np
import pytest
from hypothesis import given, strategies

import jbin.data
from jbin import errors
from jbin.data import _documents, _joined

END = 3
TEXT = "One line.\nTwo lines,\n\nthree: Zoë's.\n" * 20


def rows(data, split="train"):
  count = data.num_train if split == "train" else data.num_eval
  read = data.read_train if split == "train" else data.read_eval
  return read(np.arange(count), None)


def line(batch):
  """The tokens that rows are made of."""
  return np.append(batch["tokens"].reshape(-1), batch["targets"][-1, -1])


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text(TEXT, "utf-8")
  return path


def test_rows_are_the_text_as_it_is(file):
  data = jbin.data.text(str(file), length=16)
  batch = rows(data)
  cut = TEXT.rfind("\n", 0, round(0.9 * len(TEXT))) + 1
  expected = [b + 5 for b in TEXT[:cut].encode()] + [END]
  assert data.num_train == (len(expected) - 1) // 16
  kept = expected[: 16 * data.num_train + 1]
  np.testing.assert_array_equal(line(batch), kept)
  np.testing.assert_array_equal(batch["targets"].reshape(-1), line(batch)[1:])
  held = rows(data, "eval")
  text = data.tokenizer().decode(line(held))
  assert TEXT[cut:].startswith(text)
  assert data.offers == {"vocab_size": 261, "max_length": 16}
  assert held["tokens"].dtype == held["targets"].dtype == np.int32


def test_bytes_of_bytes_are_exact(file):
  data = jbin.data.text([str(file)] * 3, length=30)
  batch = rows(data)
  ends = (batch["targets"] == END).sum(1)
  assert ends.sum() >= 2
  np.testing.assert_array_equal(batch["target_bytes"], 30 - ends)
  assert batch["target_bytes"].dtype == np.float32


def test_bytes_of_other_tokens_are_a_mean(file):
  data = jbin.data.text(str(file), tokenizer="wordpiece", length=7)
  batch = rows(data)
  cut = TEXT.rfind("\n", 0, round(0.9 * len(TEXT))) + 1
  coder = data.tokenizer()
  tokens = len(coder.encode([TEXT[:cut]])[0]) + 1
  mean = len(TEXT[:cut].encode()) / tokens
  np.testing.assert_allclose(batch["target_bytes"], 7 * mean, rtol=1e-6)


def test_without_any_text_there_is_that_of_python():
  data, again = (jbin.data.text(length=64) for _ in range(2))
  train, held = rows(data), rows(data, "eval")
  decode = data.tokenizer().decode
  assert "expression" in decode(line(train))
  share = data.num_eval / (data.num_train + data.num_eval)
  assert 0.02 < share < 0.3
  assert data.num_train > 3000
  np.testing.assert_array_equal(rows(again, "eval")["tokens"], held["tokens"])
  # Whole documents are held out: none goes on in the other split.
  ends = np.flatnonzero(line(held) == END)
  first = decode(line(held)[: ends[0]])
  assert first not in decode(line(train))


@given(
  strategies.lists(strategies.integers(0, 9), min_size=1, max_size=6),
  strategies.data(),
)
def test_a_line_is_its_parts_one_behind_the_other(sizes, draw):
  whole = np.arange(sum(sizes), dtype=np.uint16)
  parts = tuple(np.split(whole, np.cumsum(sizes)[:-1]))
  made = _joined.Line(parts, 100, 0.0)
  assert len(made) == len(whole)
  if not len(whole):
    return
  start = draw.draw(strategies.integers(0, len(whole) - 1))
  stop = draw.draw(strategies.integers(start + 1, len(whole)))
  np.testing.assert_array_equal(made.take(start, stop), whole[start:stop])


def test_files_of_tokens_are_the_text_that_they_were_made_of(tmp_path, file):
  path = tmp_path / "tokens.npy"
  count = jbin.data.write_tokens(path, iter([TEXT, "Zoë"]), "bytes")
  saved = np.load(path)
  assert saved.dtype == np.uint16
  assert len(saved) == count == len(TEXT.encode()) + 4 + 2
  names = {each.name for each in tmp_path.glob("tokens*")}
  assert names == {"tokens.npy", "tokens.json"}
  # The same rows whatever is in memory; text stands before tokens.
  made = jbin.data.text([str(path), str(file)], eval_files=str(path), length=9)
  text = [*(b + 5 for b in TEXT.encode()), END]
  expected = np.append(text, saved)
  got = line(rows(made))
  np.testing.assert_array_equal(got, expected[: len(got)])
  assert rows(made)["target_bytes"].sum() == (got[1:] != END).sum()
  # A worker gets the path.
  reader = pickle.loads(pickle.dumps(made.read_eval))
  assert len(pickle.dumps(made.read_eval)) < 1000
  for key, array in rows(made, "eval").items():
    np.testing.assert_array_equal(
      reader(np.arange(made.num_eval), None)[key], array
    )
  cut = jbin.data.text(str(path), eval_share=0.25, length=9)
  at = round(0.75 * count)
  np.testing.assert_array_equal(rows(cut)["tokens"][0], saved[:9])
  np.testing.assert_array_equal(rows(cut, "eval")["tokens"][0], saved[at:][:9])


def test_the_bytes_of_a_large_file_are_guessed(tmp_path, monkeypatch):
  monkeypatch.setattr(_joined, "_STRETCH", 64)
  vocab = tmp_path / "vocab.txt"
  vocab.write_text("[UNK]\n[SEP]\na\nbcd\n")
  path = tmp_path / "tokens.npy"
  texts = ["a bcd " * 500, "bcd"] * 2
  count = jbin.data.write_tokens(path, texts, str(vocab))
  data = jbin.data.text(str(path), eval_files=str(path), tokenizer=str(vocab))
  mean = rows(data)["target_bytes"][0] / 256
  assert count == 2 * (1000 + 1 + 2)
  assert mean == pytest.approx(3.0, rel=0.03)


def test_a_prepared_set_and_a_part_of_one(glue_dir):
  options = {"dataset": "toy_glue/articles", "data_dir": glue_dir}
  whole = jbin.data.text(**options, length=20)
  half = jbin.data.text(**options, train_split="train[:50%]", length=20)
  assert 0.4 < half.num_train / whole.num_train < 0.6
  assert half.num_eval == whole.num_eval
  text = whole.tokenizer().decode(line(rows(whole)))
  assert "_START" not in text
  assert "_NEWLINE_" not in text
  assert "\n" in text
  assert (line(rows(whole)) == END).sum() in (39, 40)


def test_markers_are_left_out_and_lines_stay():
  wiki = "\n_START_ARTICLE_\nTitle\n_START_PARAGRAPH_\nOne._NEWLINE_Two.\n"
  assert _documents.plain(wiki) == "Title\nOne.\nTwo."
  assert _documents.plain("\n a _NEWLINE_\n") == "\n a _NEWLINE_\n"


def test_wrong_options(file, tmp_path):
  empty, tokens = tmp_path / "empty.txt", tmp_path / "tokens.npy"
  empty.write_text(" ")
  np.save(tokens, np.zeros((2, 2), int))
  ids, noise = tmp_path / "ids.npy", tmp_path / "noise.npy"
  np.save(ids, np.full(1000, 300))
  noise.write_bytes(b"no array")
  nothing, archive = tmp_path / "nothing.npy", tmp_path / "archive.npy"
  nothing.write_bytes(b"")
  np.savez(tmp_path / "archive.npz", np.zeros(3))
  (tmp_path / "archive.npz").rename(archive)
  vocab = tmp_path / "vocab.txt"
  vocab.write_text("[UNK]\n[CLS]\na\n")
  for options, message in (
    ({"length": 0}, "length is 0"),
    ({"dataset": "c4/en"}, "both are given"),
    ({"eval_share": 0.0}, "eval_share is 0.0"),
    ({"files": (), "eval_share": 1.0}, "eval_share is 1.0"),
    ({"length": 100}, r"evaluation text has \d\d tokens, .* needs 101"),
    ({"files": str(empty)}, "is empty"),
    ({"eval_files": "none.txt"}, "eval_files: none.txt is not there"),
    ({"files": str(tokens)}, r"int64 \(2, 2\); it must have"),
    ({"files": str(noise)}, r"noise.npy cannot be read"),
    ({"files": str(nothing)}, r"nothing.npy cannot be read"),
    ({"files": str(archive)}, r"archive of several arrays"),
    ({"files": str(ids), "tokenizer": "wordpiece"}, "learns from text, and"),
    ({"tokenizer": str(vocab)}, r"no token \[SEP\] or .*ends each text"),
  ):
    with pytest.raises(errors.UserError, match=message):
      jbin.data.text(**{"files": str(file), "length": 8, **options})
  strange = jbin.data.text(str(ids), length=8)
  with pytest.raises(errors.UserError, match=r"id 300, .* from 0 to 260"):
    rows(strange)
  with pytest.raises(errors.UserError, match=r"must end in \.npy"):
    jbin.data.write_tokens(tmp_path / "a.txt", [], "bytes")
  with pytest.raises(errors.UserError, match="ends each text"):
    jbin.data.write_tokens(ids, [], str(vocab))
  with pytest.raises(errors.UserError, match="texts is one text"):
    jbin.data.write_tokens(ids, "hello", "bytes")


def test_files_of_tokens_know_their_tokenizer(tmp_path):
  path, vocab = tmp_path / "a.npy", tmp_path / "vocab.txt"
  jbin.data.write_tokens(path, [TEXT], "bytes")
  vocab.write_text("\n".join(["[UNK]", "[SEP]", *map(str, range(300))]) + "\n")
  with pytest.raises(errors.UserError, match=r"a\.json beside it says"):
    jbin.data.text(str(path), tokenizer=str(vocab))


def test_a_writer_that_fails_leaves_nothing(tmp_path):
  def texts():
    yield "one"
    raise RuntimeError("gone")

  with pytest.raises(RuntimeError, match="gone"):
    jbin.data.write_tokens(tmp_path / "a.npy", texts(), "bytes")
  assert not list(tmp_path.iterdir())


def test_line_breaks_stay_as_they_are(tmp_path):
  text = "one\r\ntwo\rthree\n" * 20
  path = tmp_path / "dos.txt"
  path.write_bytes(b"\xef\xbb\xbf" + text.encode())
  data = jbin.data.text(str(path), length=8)
  got = data.tokenizer().decode(line(rows(data)))
  assert got
  assert text.startswith(got)


def test_wikitext_in_full(wikitext):
  data = jbin.data.text(wikitext, length=512)
  text = pathlib.Path(wikitext).read_text("utf-8")
  size = len(text.encode())
  assert 0 <= size + 2 - 512 * (data.num_train + data.num_eval) < 1024 + 2
