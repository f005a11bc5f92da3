import html.parser
import json
import re
import shutil

import pytest

from jbin import errors, report
from tests.report import conftest as made


class _Page(html.parser.HTMLParser):
  """Collects the tags, the text of cells, and what is left open."""

  VOID = frozenset({"meta", "link", "br", "path", "rect", "circle", "input"})

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.cells, self.addresses = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.addresses += [v for k, v in attrs if k in {"src", "href"}]
    if tag not in self.VOID:
      self.open.append(tag)
    if tag in {"td", "th"}:
      self.cells.append("")

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)

  def handle_endtag(self, tag):
    if tag not in self.VOID:
      assert self.open.pop() == tag

  def handle_data(self, data):
    if "td" in self.open or "th" in self.open:
      self.cells[-1] += data


def _write(workdirs, tmp_path):
  path = report.write(workdirs, tmp_path / "out")
  assert path == tmp_path / "out" / "index.html"
  text = path.read_text()
  page = _Page(text)
  assert not page.open
  return text, page


def test_numbers_come_from_the_files(pair, tmp_path):
  _, page = _write(pair, tmp_path)
  cells = [cell.strip() for cell in page.cells]
  assert "98.61 %" in cells
  assert "99.17 %" in cells
  assert any("589,824" in cell for cell in cells)  # MACs of 4 layers
  assert any("603,979,776" in cell for cell in cells)  # ... x 32 x 32
  assert any("1,152 bytes" in cell for cell in cells)
  assert "1,024x" in cells
  assert "32.0x" in cells
  assert "98,765" in cells
  assert cells.count("block0/conv") == 2


def test_page_needs_nothing_else(pair, tmp_path):
  text, page = _write(pair, tmp_path)
  assert not page.addresses
  assert not re.findall(r"(?:https?:|//|url\((?!#)|@import)[\w./]+", text)
  assert "default-src 'none'" in text
  assert "prefers-color-scheme: dark" in text


def test_every_string_is_escaped(make_run, tmp_path):
  evil = "<script>alert(1)</script>"
  cost = made.cost(
    model=evil,
    elementwise_scalar_ops={evil: 1},
    left_out={evil: 2},
    flagged=[evil],
    notes=[evil],
    not_counted=[{"primitive": evil, "where": evil, "reason": evil}],
  )
  cost["layers"][0] |= {"name": evil, "kind": f'"{evil}'}
  workdirs = [
    make_run('a"><script>b', cost, config={evil: evil}),
    make_run("c"),
  ]
  text, page = _write(workdirs, tmp_path)
  assert page.tags.count("script") == 1
  assert "<script>alert" not in text
  assert text.count("&lt;script&gt;alert") >= 9


def test_page_stays_below_one_megabyte(make_run, tmp_path):
  lines = list(made.metrics(steps=20000))
  workdirs = [
    make_run(f"run{i}", made.cost(layers=600), lines) for i in range(4)
  ]
  text, _ = _write(workdirs, tmp_path)
  assert len(text.encode()) < 1_000_000
  assert "more layers are in cost.json" in text


def test_last_figure_is_not_thinned_out(make_run, tmp_path):
  lines = list(made.metrics(0.5432, steps=9990))
  text, _ = _write([make_run("long", lines=lines)], tmp_path)
  assert "54.32 %" in text


def test_run_that_diverged_is_named(make_run, tmp_path):
  lines = list(made.metrics())
  for line in lines:
    if line["step"] > 20:
      line["loss"] = float("nan")
  text, _ = _write([make_run("sick", lines=lines)], tmp_path)
  assert "not finite at step 21" in text
  assert "nan" not in "".join(re.findall(r' d="([^"]*)"', text))


def test_run_without_any_finite_loss(make_run, tmp_path):
  lines = [{"step": 1, "split": "train", "loss": None}]
  text, _ = _write([make_run("sick", lines=lines)], tmp_path)
  assert "not finite at step 1" in text


@pytest.mark.parametrize(
  "lines",
  [[], [{"step": 1, "split": "train", "loss": 2.0}]],
  ids=["no lines", "no test lines"],
)
def test_run_that_has_just_begun(lines, make_run, tmp_path):
  text, _ = _write([make_run("young", lines=lines), make_run("old")], tmp_path)
  assert "–" in text


def test_line_cut_by_a_crash_is_passed_over(make_run, tmp_path):
  workdir = make_run("killed")
  with (workdir / "metrics.jsonl").open("a") as file:
    file.write('{"step": 41, "spl')
  text, _ = _write([workdir], tmp_path)
  assert "98.61 %" in text


def test_broken_line_is_named(make_run, tmp_path):
  workdir = make_run("broken")
  path = workdir / "metrics.jsonl"
  path.write_text("oops\n" + path.read_text())
  with pytest.raises(errors.UserError, match=r"metrics\.jsonl:1 is not JSON"):
    report.write([workdir], tmp_path / "out")


@pytest.mark.parametrize(
  ("name", "cure"),
  [
    ("config.json", "jbin train"),
    ("metrics.jsonl", "jbin train"),
    ("report/cost.json", "jbin cost"),
  ],
)
def test_missing_file_is_named_with_its_cure(name, cure, make_run, tmp_path):
  workdir = make_run("run")
  (workdir / name).unlink()
  with pytest.raises(errors.UserError) as caught:
    report.write([workdir], tmp_path / "out")
  message = str(caught.value)
  assert str(workdir / name) in message
  assert cure in message
  assert "\n" not in message


def test_missing_directory_is_named(tmp_path):
  with pytest.raises(errors.UserError, match="no work directory"):
    report.write([tmp_path / "nowhere"], tmp_path / "out")


def test_no_directory_at_all(tmp_path):
  with pytest.raises(errors.UserError, match="at least one"):
    report.write([], tmp_path / "out")


def test_missing_key_is_named(make_run, tmp_path):
  cost = made.cost()
  del cost["totals"]["ace"]
  with pytest.raises(errors.UserError, match=r"lacks totals\.ace"):
    report.write([make_run("old", cost)], tmp_path / "out")


def test_runs_of_one_name_are_told_apart(make_run, tmp_path):
  first, second = make_run("seed0/run"), make_run("seed1/run")
  text, _ = _write([first, second, second], tmp_path)
  assert "seed0/run" in text
  assert "seed1/run (2)" in text
  assert "seed1/run (3)" in text


def test_flagged_layers_are_listed_with_the_strict_cost(make_run, tmp_path):
  cost = made.cost(flagged=["block1/conv"])
  cost["totals"]["ace_strict"] = 7_000_000
  text, _ = _write([make_run("run", cost)], tmp_path)
  assert "1 flagged product<" in text
  assert "7.00 M" in text
  assert text.count("⚑</span>") == 1


def test_page_of_a_cost_report_alone():
  page = report.cost_page(made.cost())
  _Page(page)
  assert "Layer by layer" in page
  assert "<h2>Training" not in page
  assert "<h2>Configuration" not in page


def test_golden_cost_files_can_be_shown(golden, make_run, tmp_path):
  found = 0
  for path in sorted(golden("ace").glob("*.json")):
    cost = json.loads(path.read_text())
    if isinstance(cost, list) or "totals" not in cost:
      continue
    text, _ = _write([make_run(path.stem, cost)], tmp_path)
    assert f"{cost['totals']['ace']:,}" in text
    assert len(text.encode()) < 1_000_000
    shutil.rmtree(tmp_path / "out")
    found += 1
  assert found
