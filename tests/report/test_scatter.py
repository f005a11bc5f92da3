"""The chart of published systems: data, room for labels."""

import itertools
import math
import re

import pytest

from jbin.report import _read, _scatter
from tests.report import conftest as made


def _run(name="mine", accuracy=None, ace=None, data=None):
  cost = made.cost()
  cost["totals"]["ace"] = ace or cost["totals"]["ace"]
  curves = {}
  if accuracy is not None:
    curves["test", "accuracy"] = _read.Curve((1,), (accuracy,))
  config = {} if data is None else {"data": data}
  return _read.Run(name, made.pathlib.Path(), config, curves, cost)


def test_the_published_file_can_be_read():
  found = _scatter.published()
  assert len({s.name for s in found}) == len(found) > 9
  for system in found:
    assert system.origin
    assert all(10 < top1 < 100 for top1 in system.accuracies)
    assert system.ace or system.ops
    if system.ace:
      assert 1e8 < system.ace < 1e13
  one = {s.name: s for s in found}["PokeBNN-1.0x"]
  assert one.ace == 4_222_541_824
  assert one.top1 == "73.4"


@pytest.mark.parametrize("ace", [1e5, 4.2e9, 7.85e9, 1e12])
@pytest.mark.parametrize("accuracy", [None, 0.1, 0.7, 1.0])
def test_labels_meet_nothing(ace, accuracy):
  plots = _scatter.plots([_run(accuracy=accuracy, ace=ace)], 6)
  assert [p.width for p in plots] == [1000, 360]
  for plot in plots:
    font = 13 if plot.width == 1000 else 12
    assert plot.marks[0].at is not None  # that of the run always has room
    boxes = []
    for mark in plot.marks:
      assert 0 <= mark.x <= plot.width
      assert mark.y is None or 0 <= mark.y <= plot.height
      if mark.at:
        x, y, anchor = mark.at
        width = 0.55 * font * len(mark.label)
        left = x - width if anchor == "end" else x
        assert left >= 0
        assert left + width <= plot.width
        boxes.append((left, y - 0.8 * font, left + width, y))
    for a, b in itertools.combinations(boxes, 2):
      assert not _scatter._meet(a, b)


def test_a_run_without_accuracy_is_a_line():
  plot = _scatter.plots([_run()], 6)[0]
  assert plot.marks[0].y is None
  nan = _scatter.plots([_run(accuracy=math.nan)], 6)[0]
  assert nan.marks[0].y is None


def test_a_run_of_other_data_says_so():
  digits, imagenet = {"name": "digits"}, {"name": "tfds", "dataset": "imagenet"}
  runs = [_run(accuracy=0.9, data=digits), _run(accuracy=0.9, data=imagenet)]
  runs[1].cost["input"] = [224, 224, 3]
  assert _scatter.others(runs) == ["digits"]
  assert _scatter.others(runs[1:]) == []
  # Without an accuracy, and without a config: the input tells.
  assert _scatter.others([_run(data=digits)]) == ["digits"]
  assert _scatter.others([_run()]) == ["an input of 8×8×16"]


def test_a_batch_or_a_step_is_no_mark():
  for extra in ({"batch": 64}, {"training": {"phases": {}}}):
    run = _run()
    run.cost.update(extra)
    assert _scatter.plots([run], 6) == []
  run = _run()
  run.cost["batch"] = 1
  assert _scatter.plots([run], 6)


def test_the_page_has_the_run_among_them(make_run, tmp_path):
  from jbin import report

  lines = list(made.metrics())
  config = {"data": {"name": "digits"}}
  workdir = made.pathlib.Path(make_run("mine", lines=lines, config=config))
  text = report.write([workdir], tmp_path).read_text()
  section = text[text.index("Among published") : text.index("Configuration")]
  assert "<b>digits</b>" in section
  assert len(re.findall(r"<title>mine: .*98\.6 %</title>", section)) == 2
  assert "PokeBNN-1.0x" in section
  assert "CVPR" in section or "arXiv" in section
