"""The page's section on low-bit layers, from watch.jsonl."""

import json
import math
import re

import pytest

from jbin import errors, report
from jbin.report import _read, _watched
from tests.report import conftest as made
from tests.report.test_page import _Page, _write


def _layer(step, **changes):
  return {
    "bits": 1,
    "weights": 2304,
    "flip_ratio": 0.1 / step,
    "beyond_clip": 0.0,
    "zero_gradient": 0.25,
    "estimating_error": 12.5 - step,
    "gradient_instability": 1e-7,
    "scale_mean": 0.5,
    "scale_min": 0.25,
    "scale_max": 0.75,
    "input_bits": 1,
    "input_share": 0.5,
  } | changes


def _watch(workdir, layers, steps=(1, 2, 4), tail=""):
  """Writes watch.jsonl: `layers` is {name: changes, or a function of step}."""
  with (workdir / "watch.jsonl").open("w") as file:
    for step in steps:
      found = {name: _layer(step, **layers[name]) for name in layers}
      line = {"step": step, "split": "train", "layers": found}
      file.write(json.dumps(line) + "\n")
    file.write(tail)
  return workdir


def _cells(page):
  return [" ".join(cell.split()) for cell in page.cells]


def test_section_shows_the_last_values(make_run, tmp_path):
  workdir = make_run("run")
  _watch(workdir, {"block1/conv": {}, "block0/conv": {"flip_ratio": 5e-5}})
  with (workdir / "metrics.jsonl").open("a") as file:
    line = {"step": 41, "split": "train", "flip_ratio": 0.01234}
    file.write(json.dumps(line) + "\n")
  text, page = _write([workdir], tmp_path)
  assert "Low-bit layers in training" in text
  assert "steps 1 to 4" in text
  cells = _cells(page)
  # In the order of execution, as the cost report has it.
  start = cells.index("block0/conv", cells.index("Flips"))
  assert cells[start : start + 9] == [
    *("block0/conv", "1", "0.005 %", "0 %", "25 %", "50 %", "8.5", "1e-07"),
    "0.5",
  ]
  assert cells[start + 9 : start + 12] == ["block1/conv", "1", "2.5 %"]
  start = cells.index("All layers")
  assert cells[start : start + 4] == ["All layers", "", "1.23 %", "–"]
  assert "now 0.25 to 0.75" in text


def test_without_the_file_there_is_no_section(make_run, tmp_path):
  text, _ = _write([make_run("run")], tmp_path)
  assert "Low-bit layers" not in text
  assert "Low-bit layers" not in report.cost_page(made.cost())


def test_only_watched_runs_have_a_table(make_run, tmp_path):
  watched = _watch(make_run("seen"), {"a": {}})
  text, _ = _write([make_run("unseen"), watched], tmp_path)
  section = text[text.index("Low-bit layers") : text.index("<h2>Configuration")]
  assert "seen</span>" in section
  assert "unseen" not in section


def test_a_one_sided_input_stands_out(make_run, tmp_path):
  layers = {
    "dead": {"input_share": 1.0},
    "wide": {"input_share": 0.0, "input_bits": 4},
    "fine": {},
  }
  text, _ = _write([_watch(make_run("run"), layers)], tmp_path)
  assert text.count('class="bad"') == 1
  assert 'data-v="1.0" class="bad"' in text


def test_what_a_layer_lacks_is_a_dash(make_run, tmp_path):
  workdir = make_run("run")
  line = {"step": 3, "layers": {"only": {"input_share": 0.5}}}
  (workdir / "watch.jsonl").write_text(
    json.dumps({"split": "train", **line}) + "\n"
  )
  text, page = _write([workdir], tmp_path)
  cells = _cells(page)
  start = cells.index("only")
  assert cells[start : start + 3] == ["only", "–", "50 %"]
  assert "step 3<" in text
  assert "Flips</button>" not in text


def test_what_is_not_finite_says_so(make_run, tmp_path):
  sick = {"estimating_error": math.nan, "scale_mean": math.inf}
  text, _ = _write([_watch(make_run("run"), {"sick": sick})], tmp_path)
  section = text[text.index("Low-bit layers") : text.index("<h2>Configuration")]
  assert section.count("not finite") >= 2
  assert not re.findall(r' d="[^"]*(?:nan|inf)', section)


def test_names_are_escaped(make_run, tmp_path):
  evil = '"><script>alert(1)</script>'
  text, page = _write([_watch(make_run("run"), {evil: {}})], tmp_path)
  assert page.tags.count("script") == 1
  assert "&lt;script&gt;alert" in text


def test_page_stays_below_one_megabyte(make_run, tmp_path):
  lines = list(made.metrics(steps=20000))
  layers = {f"stages/{i}/conv": {} for i in range(300)}
  workdirs = [
    _watch(
      make_run(f"run{i}", made.cost(layers=600), lines), layers, range(1, 201)
    )
    for i in range(4)
  ]
  text, _ = _write(workdirs, tmp_path)
  assert len(text.encode()) < 1_000_000
  assert "150 more layers are in watch.jsonl" in text
  assert "300 more layers are in watch.jsonl" in text


def test_line_cut_by_a_crash_is_passed_over(make_run, tmp_path):
  workdir = _watch(make_run("run"), {"a": {}}, tail='{"step": 9, "lay')
  _write([workdir], tmp_path)


@pytest.mark.parametrize("text", ["", '{"step": 1, "lay'])
def test_file_without_a_line_has_no_section(make_run, tmp_path, text):
  workdir = make_run("run")
  (workdir / "watch.jsonl").write_text(text)
  assert "Low-bit layers" not in _write([workdir], tmp_path)[0]


def test_broken_line_is_named(make_run, tmp_path):
  workdir = _watch(make_run("run"), {"a": {}})
  path = workdir / "watch.jsonl"
  path.write_text("oops\n" + path.read_text())
  with pytest.raises(errors.UserError, match=r"watch\.jsonl:1 is not JSON"):
    report.write([workdir], tmp_path / "out")


@pytest.mark.parametrize("values", [(0.0, 0.0), (0.3, 0.3), (1.0, 0.0, 0.5)])
def test_ways_stay_in_their_frame(values):
  curve = _read.Curve(tuple(range(len(values))), values)
  for column in _watched._COLUMNS:
    path = _watched._way(curve, column)
    points = [
      tuple(map(int, point)) for point in re.findall(r"(\d+) (\d+)", path)
    ]
    assert len(points) == len(values)
    for x, y in points:
      assert 0 <= x <= _watched.WIDTH
      assert 0 <= y <= _watched.HEIGHT


def test_page_is_well_formed(make_run, tmp_path):
  _Page(_write([_watch(make_run("run"), {"a": {}})], tmp_path)[0])
