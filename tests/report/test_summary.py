import pathlib

import pytest

from jbin import errors, report
from tests.report import conftest as made


def _cells(text):
  """{first words of a line: its cells}."""
  rows = {}
  for line in text.splitlines():
    label, _, rest = line.strip().partition("   ")
    rows[label] = rest.split()
  return rows


def test_two_runs_side_by_side(pair):
  rows = _cells(report.summary(pair, pathlib.Path("out/index.html")))
  assert rows["test accuracy"] == ["98.61", "%", "99.17", "%"]
  assert rows["MACs of 1 x 1 bits"] == ["589,824", "–"]
  assert rows["MACs of 32 x 32 bits"] == ["–", "589,824"]
  assert rows["ACE"] == ["589,824", "603,979,776"]
  assert rows["times less than float"] == ["1,024x", "1x"]
  assert rows["weights in bytes"] == ["1,152", "36,864"]
  assert rows["times smaller than float"] == ["32.0x", "1x"]
  assert "report: out/index.html" in rows


def test_lines_are_aligned(pair):
  lines = report.summary(pair).splitlines()
  assert len({len(line) for line in lines[:-1]}) == 1


def test_without_a_float_run_the_largest_is_the_measure(make_run):
  runs = [make_run("w1"), make_run("w8", made.cost(bits=8))]
  rows = _cells(report.summary(runs))
  assert rows["times less than w8"] == ["64.0x", "1x"]


def test_one_run_has_no_ratios(make_run):
  assert "times" not in report.summary([make_run("alone")])


def test_run_without_accuracy_shows_its_loss(make_run):
  lines = [{"step": 5, "split": "test", "loss": 1.25}]
  rows = _cells(report.summary([make_run("text", lines=lines)]))
  assert rows["test loss"] == ["1.25"]


def test_accuracy_that_is_not_finite_says_so(make_run):
  line = {"step": 5, "split": "test", "accuracy": float("nan")}
  rows = _cells(report.summary([make_run("sick", lines=[line])]))
  assert rows["test accuracy"] == ["not", "finite"]


def test_missing_directory_is_named(tmp_path):
  with pytest.raises(errors.UserError, match="nowhere"):
    report.summary([tmp_path / "nowhere"])
