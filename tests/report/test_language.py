"""Runs of language models: bits per byte come first, and lower is better."""

import itertools
import math
import re

import pytest

from jbin import report
from jbin.report import _chart, _main, _read
from tests.report import conftest as made


def _lines(nats, soft=None, accuracy=0.6, steps=10):
  for step in range(1, steps + 1):
    off = 2.0 / step
    split = "test" if step == steps else "train"
    at = nats if split == "test" else nats + off
    loss = at if soft is None else soft
    yield {
      "step": step,
      "split": split,
      "loss": loss,
      "cross_entropy": at,
      "bits_per_byte": at / math.log(2),
      "accuracy": accuracy,
    }


@pytest.fixture
def texts(make_run):
  """A 1-bit language model that was taught, and its float twin."""
  config = {"data": {"name": "text"}}
  return [
    make_run("mamba", made.cost(bits=32), list(_lines(1.381)), config),
    make_run("bimamba", None, list(_lines(1.513, 1.498, 0.57)), config),
  ]


def _table(text):
  """{label: cells} of the comparison."""
  rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text)
  return {label: re.findall(r"<td>(.*?)</td>", cells) for label, cells in rows}


def _summary(workdirs):
  """{label: cells} of the terminal's table."""
  lines = [
    re.split(r"\s{2,}", line.strip())
    for line in report.summary(workdirs).splitlines()
  ]
  return {line[0]: line[1:] for line in lines}


def _captions(text):
  return re.findall(r"<figcaption>(.*?)<span[^>]*>(.*?)</span>", text)


def test_bits_per_byte_come_first(texts, tmp_path):
  text = report.write(texts, tmp_path).read_text()
  card = re.findall(r'<div class="card"><p class="label">(.*?)</div>', text)[0]
  assert card.startswith("Test bits per byte")
  assert ">2.183<" in card
  assert "+0.190 bits from mamba" in card
  rows = _table(text)
  assert next(iter(rows)) == "Test bits per byte"
  assert rows["Test bits per byte"] == ["1.992", "2.183"]
  assert rows["Test cross entropy"] == ["1.381 nats", "1.513 nats"]
  assert rows["Next token found"] == ["60.00 %", "57.00 %"]
  assert "Test accuracy" not in text
  assert "The cross entropy is of one token." in text


def test_charts_are_of_bits_and_say_which_end_is_good(texts, tmp_path):
  text = report.write(texts, tmp_path).read_text()
  lower = " (lower is better)"
  assert _captions(text)[:4] == [
    ("Loss, as trained", ""),
    ("Bits per byte", lower),
    ("Test bits per byte against ACE", lower),
    ("Test bits per byte against size", lower),
  ]
  figures = re.findall(r"<figure.*?</figure>", text, re.S)[1:4]
  # Above 1, as no share is: no dot or curve leaves its drawing.
  for y in re.findall(r'cy="([-\d.]+)"', "".join(figures)):
    assert _chart.TOP <= float(y) <= _chart.HEIGHT - _chart.BOTTOM


def test_no_mark_of_a_language_model_among_accuracies(texts, tmp_path):
  text = report.write(texts, tmp_path).read_text()
  section = text[text.index("Among published") : text.index("Configuration")]
  assert "of what has no such accuracy" in section
  titles = re.findall(r"<title>((?:bi)?mamba: .*?)</title>", section)
  assert len(titles) == 4
  assert not any("%" in title for title in titles)


def test_loss_of_a_teacher_is_said_to_be_one(texts, make_run):
  rows = _summary(texts)
  assert rows["test bits per byte"] == ["1.992", "2.183"]
  assert rows["test cross entropy"] == ["1.381 nats", "1.513 nats"]
  assert rows["next token found"] == ["60.00 %", "57.00 %"]
  assert rows["test loss, as trained"] == ["1.381", "1.498"]
  assert not any("accuracy" in label for label in rows)
  # Without a teacher the loss is the cross entropy.
  assert not any("loss" in label for label in _summary(texts[:1]))


def test_one_run_has_all_on_its_card(texts, tmp_path):
  text = report.write(texts[1:], tmp_path).read_text()
  assert "1.513 nats a token, 57.00 % of tokens found" in text
  assert "Test accuracy" not in text


def test_beside_other_runs_accuracy_stays_first(texts, make_run, tmp_path):
  mixed = [*texts, make_run("digits")]
  text = report.write(mixed, tmp_path).read_text()
  rows = _table(text)
  assert next(iter(rows)) == "Test accuracy"
  assert rows["Test accuracy"] == ["60.00 %", "57.00 %", "98.61 %"]
  assert rows["Test bits per byte"] == ["1.992", "2.183", "–"]
  assert "lower is better" not in text
  found = _summary(mixed)
  assert found["test accuracy"] == rows["Test accuracy"]
  assert found["test bits per byte"] == rows["Test bits per byte"]


def test_a_run_that_has_just_begun_changes_nothing(texts, make_run, tmp_path):
  young = make_run("young", lines=[])
  assert _summary([*texts, young])["test bits per byte"][-1] == "–"
  first = make_run("first", lines=list(_lines(2.0))[:3])
  assert _summary([first])["test bits per byte"] == ["–"]
  assert "Bits per byte" in report.write([first], tmp_path).read_text()


def test_bits_that_are_not_finite(make_run, tmp_path):
  nan = math.nan
  sick = make_run("sick", lines=list(_lines(nan, accuracy=nan)))
  assert _summary([sick])["test bits per byte"] == ["not finite"]
  assert "at the end of training" in report.write([sick], tmp_path).read_text()


def test_main_figure():
  def run(*metrics):
    curve = _read.Curve((1,), (0.5,))
    curves = {("train", metric): curve for metric in metrics}
    return _read.Run("a", made.pathlib.Path(), {}, curves, made.cost())

  text, image = run("accuracy", "bits_per_byte"), run("accuracy")
  assert _main.of([text, text]) is _main.BITS
  assert _main.of([text, image]) is _main.ACCURACY
  assert _main.of([run()]) is _main.ACCURACY
  assert _main.of([text, run()]) is _main.BITS
  assert _main.BITS.gap(1.9, 2.0) == "−0.100 bits"
  assert _main.ACCURACY.gap(0.91, 0.9) == "+1.00 points"


def test_labels_of_dots_do_not_meet():
  dots = [(1e9, y, f"run {i}", i) for i, y in enumerate((2.18, 2.19, 2.2))]
  form = ("{:g}".format, "{:g}".format)
  chart = _chart.points("bits", dots, "ACE", form, share=False)
  assert chart is not None
  lines = sorted(p.y + p.dy for p in chart.points)
  assert min(b - a for a, b in itertools.pairwise(lines)) >= 13
  top = min(chart.points, key=lambda p: p.y)
  assert (top.label, top.dy) == ("run 2", -12)


@pytest.mark.parametrize(
  ("values", "low", "high"),
  [
    ((9.0, 4.0, 2.4, 2.3, 2.2, 2.1, 2.0, 2.0), 1.9, 2.5),
    ((9.0, 9.0, 5.0, 1.0), 0.0, 10.0),  # still far apart
  ],
)
def test_an_axis_for_late_values(values, low, high):
  curve = _read.Curve(tuple(range(len(values))), values)
  series = [_chart.Series(curve, 0, "train", "a")]
  chart = _chart.lines("bits", series, "{:g}".format, late=True)
  assert chart is not None
  labels = [float(tick.label) for tick in chart.y_ticks]
  assert low <= min(labels) <= values[-1]
  assert 0.8 * high <= max(labels) <= high
