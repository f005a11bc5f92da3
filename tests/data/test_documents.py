import pytest

from jbin import errors
from jbin.data import _documents

WIKITEXT = """
 = Lobster =

 It lives in the sea . It is blue !
 A second paragraph
 of two lines .

 = = Claws = =

 Two ? Yes . x = y = z
"""


def test_blank_lines_and_headings_separate_documents():
  assert [*_documents.of_text(WIKITEXT)] == [
    [
      "It lives in the sea .",
      "It is blue !",
      "A second paragraph",
      "of two lines .",
    ],
    ["Two ?", "Yes .", "x = y = z"],
  ]
  assert [*_documents.of_text("\n\n")] == []


def test_a_record_is_a_document():
  text = (
    "\n_START_ARTICLE_\nTitle\n_START_PARAGRAPH_\nOne. Two!_NEWLINE_Three"
    "\n\nFour"
  )
  expected = ["Title", "One.", "Two!", "Three", "Four"]
  assert _documents.of_record(text) == expected


def test_files_that_cannot_be_read(tmp_path):
  with pytest.raises(errors.UserError, match=r"files: .*a\.txt is not there"):
    _documents.paths([str(tmp_path / "a.txt")], "files")
  with pytest.raises(errors.UserError, match=r"files: .* is a folder"):
    _documents.paths(str(tmp_path), "files")
  empty = tmp_path / "empty.txt"
  empty.write_text("\n \n")
  assert _documents.paths(str(empty), "files") == (empty,)
  with pytest.raises(errors.UserError, match=r"empty\.txt is empty"):
    _documents.read(empty)
  latin = tmp_path / "latin.txt"
  latin.write_bytes("schön".encode("latin-1"))
  with pytest.raises(errors.UserError, match=r"latin\.txt is not UTF-8"):
    _documents.read(latin)
