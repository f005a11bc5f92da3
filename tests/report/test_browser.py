"""The pages in a real browser: headless Chromium, driven by Playwright.

Skipped, with the reason, where there is no Chromium; `.ci/run` installs
Debian's. Playwright's own browsers are not needed.
"""

import re
import shutil

import pytest

from jbin import report
from tests.report import conftest as made
from tests.report.test_cost_page import EVIL

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
sync_api = pytest.importorskip(
  "playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'"
)
pytestmark = pytest.mark.skipif(
  BROWSER is None,
  reason="needs Chromium: neither chromium nor google-chrome is on PATH",
)
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
LAYERS = "table.layers.tree"


@pytest.fixture(scope="module")
def browser():
  with sync_api.sync_playwright() as playwright:
    started = playwright.chromium.launch(
      executable_path=BROWSER, args=["--no-sandbox"]
    )
    yield started
    started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  """{name: path} of every kind of page."""
  folder = tmp_path_factory.mktemp("pages")
  a, b = made.everything("before"), made.everything("after", bits=2)
  b["layers"][0]["name"] = "new/stem"
  far = made.everything("far")
  for key in ("ace", "macs", "weight_bytes"):
    far["totals"][key] = 1064 * a["totals"][key]
  big = made.cost(layers=1500)
  for i, row in enumerate(big["layers"]):
    row["name"] = f"stages/{i // 100}/{i // 10}/conv{i}"
  texts = {
    "cost": report.cost_page(made.everything()),
    "evil": report.cost_page(made.everything(evil=EVIL)),
    "diff": report.diff_page(report.diff(a, b, ("before", "after"))),
    "far_diff": report.diff_page(report.diff(a, far, ("before", "far"))),
    "evil_diff": report.diff_page(
      report.diff(a, made.everything(evil=EVIL), (EVIL, "after"))
    ),
    "plain": report.cost_page(made.cost()),
    "big": report.cost_page(big),
  }
  for name, text in texts.items():
    (folder / f"{name}.html").write_text(text)
  return {name: folder / f"{name}.html" for name in texts}


@pytest.fixture
def visit(browser, pages):
  """`visit(name, ...)`: the page, open; whatever it complains of fails."""
  complaints, contexts = [], []

  def go(name, viewport=DESKTOP, theme="light"):
    context = browser.new_context(viewport=viewport, color_scheme=theme)
    contexts.append(context)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append("a dialog opened"))
    page.on("requestfailed", lambda asked: complaints.append(asked.url))
    path = pages.get(name, name)  # a path is its own name
    page.goto(path.as_uri())
    return page

  yield go
  for context in contexts:
    context.close()
  assert not complaints


def _shown(page, table=LAYERS):
  """First cells of the rows of a table that can be seen."""
  rows = page.locator(f"{table} tbody tr:visible td:first-child")
  return [text.strip() for text in rows.all_inner_texts()]


def _column(page, number, table=LAYERS):
  cells = page.locator(f"{table} tbody tr:visible td:nth-child({number})")
  return [
    int(re.sub(r"\D", "", text) or -1) for text in cells.all_inner_texts()
  ]


def _head(page, label, table=LAYERS):
  return page.locator(f"{table} thead th", has_text=label)


def test_a_click_sorts_and_says_so(visit):
  page = visit("cost")
  page.get_by_role("button", name="By module").click()
  before = _shown(page)
  assert len(before) == 8
  head = _head(page, "ACE")
  assert head.get_attribute("aria-sort") is None
  head.locator("button").click()
  assert head.get_attribute("aria-sort") == "descending"
  assert _column(page, 4) == sorted(_column(page, 4), reverse=True)
  head.locator("button").click()
  assert head.get_attribute("aria-sort") == "ascending"
  assert _column(page, 4) == sorted(_column(page, 4))
  _head(page, "Layer").locator("button").click()
  assert head.get_attribute("aria-sort") is None
  assert _shown(page) == sorted(before)
  for _ in range(2):
    _head(page, "Layer").locator("button").click()
  assert _shown(page) == before  # the order of execution again


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_the_keyboard_sorts_too(visit, key):
  page = visit("cost")
  button = _head(page, "MACs").locator("button")
  button.focus()
  page.keyboard.press(key)
  assert _head(page, "MACs").get_attribute("aria-sort") == "descending"
  page.keyboard.press("Tab")
  page.keyboard.press(key)
  assert _head(page, "MACs").get_attribute("aria-sort") is None
  assert _head(page, "ACE").get_attribute("aria-sort") == "descending"


def test_sorted_layers_stay_in_their_modules(visit):
  page = visit("cost")
  page.get_by_role("button", name="Unfold all").click()
  _head(page, "ACE").locator("button").click()
  shown = _shown(page)
  assert shown.index("0") > shown.index("1") > shown.index("2")
  assert shown[shown.index("2") + 1 : shown.index("2") + 3] == ["b/c", "a"]


def test_modules_fold(visit):
  page = visit("cost")
  fold = page.locator("tr.module button", has_text=re.compile(r"^blocks$"))
  assert fold.get_attribute("aria-expanded") == "true"
  whole = _shown(page)
  assert "a" in whole  # the name below its module
  fold.click()
  assert fold.get_attribute("aria-expanded") == "false"
  assert _shown(page) == ["stem/conv ⚑"[:9], "blocks", "head"]
  fold.focus()
  page.keyboard.press("Enter")
  assert _shown(page) == whole
  page.get_by_role("button", name="Fold all", exact=True).click()
  assert len(_shown(page)) == 3
  page.get_by_role("button", name="Unfold all").click()
  assert len(_shown(page)) == 8 + 4
  page.get_by_role("button", name="By module").click()
  assert _shown(page)[1].startswith("blocks/0/a")
  assert page.get_by_role("button", name="Fold all", exact=True).is_disabled()


def test_the_filter_finds_folded_layers(visit):
  page = visit("cost")
  page.get_by_role("button", name="Fold all", exact=True).click()
  page.get_by_label("Filter the layers").fill("blocks/1 B/C")
  assert _shown(page) == ["blocks", "1", "b/c"]
  assert page.locator(".count").first.inner_text() == "1 of 8"
  page.get_by_label("Filter the layers").fill("stem 8X8")
  assert _shown(page) == ["stem/conv"]
  page.get_by_label("Filter the layers").fill("nothing at all")
  assert _shown(page) == []
  page.get_by_label("Filter the layers").fill("")
  assert len(_shown(page)) == 3


def _width(page, name):
  cell = page.locator(f".cell[aria-label^='{name}:']")
  return cell.bounding_box()["width"]


def test_the_drawing_switches_and_zooms(visit):
  page = visit("cost")
  whole = _width(page, "net")
  by_ace = _width(page, "head")
  page.get_by_role("button", name="MACs", exact=True).first.click()
  by_macs = _width(page, "head")
  assert by_macs != pytest.approx(by_ace, rel=0.05)
  # Eight layers of 1 to 8 units; the last is an eighth by this measure.
  assert by_macs == pytest.approx(whole * 8 / 36, rel=0.05)
  page.locator(".cell[aria-label^='blocks:']").click()
  assert _width(page, "blocks") == pytest.approx(whole, rel=0.02)
  assert "of MACs" in page.locator(".said").inner_text()
  page.locator(".cell[aria-label^='blocks:']").click()
  assert _width(page, "blocks") < whole


def test_the_drawing_can_be_walked(visit):
  page = visit("cost")
  cell = lambda: page.evaluate("document.activeElement.ariaLabel")
  page.locator(".cell[tabindex='0']").focus()
  assert cell().startswith("net:")
  for key, name in (
    ("ArrowDown", "stem/conv"),
    ("ArrowRight", "blocks"),
    ("ArrowDown", "blocks/0"),
    ("ArrowUp", "blocks"),
    ("ArrowRight", "head"),
    ("ArrowLeft", "blocks"),
  ):
    page.keyboard.press(key)
    assert cell().startswith(f"{name}:"), key
  page.keyboard.press("Enter")
  assert _width(page, "blocks") == pytest.approx(_width(page, "net"), rel=0.02)
  page.keyboard.press("Escape")
  assert _width(page, "blocks") < _width(page, "net")


def _paper(page):
  return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button(visit, theme):
  page = visit("cost", theme=theme)
  button = page.get_by_role("button", name="Dark theme")
  first = _paper(page)
  assert button.get_attribute("aria-pressed") == str(theme == "dark").lower()
  button.click()
  other = _paper(page)
  assert other != first
  assert button.get_attribute("aria-pressed") == str(theme == "light").lower()
  page.reload()
  assert _paper(page) == other  # it is kept
  page.get_by_role("button", name="Dark theme").press("Enter")
  assert _paper(page) == first


def test_both_themes_are_the_same_from_either_side(visit):
  light, dark = visit("cost"), visit("cost", theme="dark")
  pair = _paper(light), _paper(dark)
  for page in (light, dark):
    page.get_by_role("button", name="Dark theme").click()
  assert (_paper(dark), _paper(light)) == pair


KINDS = ("cost", "diff", "plain", "big", "evil", "evil_diff")


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_wider_than_the_window(visit, name, viewport):
  page = visit(name, viewport)
  _open_all(page)
  wide = page.evaluate("document.documentElement.scrollWidth")
  assert wide <= viewport["width"]


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", [*KINDS, "far_diff"])
def test_figures_stay_in_their_cards(visit, name, viewport):
  figures = visit(name, viewport).locator(".card .figure")
  for figure in figures.all():
    wide, room, high, line = figure.evaluate(
      "e => [e.scrollWidth, e.clientWidth, e.clientHeight,"
      " parseFloat(getComputedStyle(e).lineHeight)]"
    )
    assert wide <= room
    assert high < 1.5 * line


def _open_all(page):
  page.evaluate(
    "for (const d of document.querySelectorAll('details')) d.open = 1"
  )


@pytest.mark.parametrize("name", ["evil", "evil_diff"])
def test_names_are_text(visit, name):
  page = visit(name)
  _open_all(page)
  assert page.locator("img").count() == 0
  body = page.locator("body").inner_text()
  assert "<img src=x onerror=alert(1)>" in body
  assert "{{7*7}}" in body
  if name == "evil":
    page.get_by_role("button", name="By module").click()
    page.get_by_label("Filter the layers").fill("<img")
    assert len(_shown(page)) == 8
    page.locator(".cell").nth(1).click()
    assert "<img" in page.locator(".said").inner_text()


def test_a_diff_sorts_by_what_changed(visit):
  page = visit("diff")
  table = "table.diff"
  assert "new/stem" in _shown(page, table)
  _head(page, "ACE", table).locator("button").click()
  values = page.locator(f"{table} tbody td:nth-child(5)").evaluate_all(
    "cells => cells.map(cell => Number(cell.dataset.v))"
  )
  assert values == sorted(values, reverse=True)
  page.get_by_label("Filter the layers").fill("removed")
  assert _shown(page, table) == ["stem/conv"]


def test_a_large_table_begins_folded(visit):
  page = visit("big")
  assert len(_shown(page)) <= 40
  page.get_by_role("button", name="Unfold all").click()
  assert len(_shown(page)) > 1500


def test_a_run_has_a_page_too(visit, make_run, tmp_path):
  lines = list(made.metrics())
  layer = {"bits": 1, "flip_ratio": 0.25, "input_share": 0.5, "input_bits": 1}
  workdir = make_run('a"><script>b', made.everything(), lines)
  seen = '{"step": %d, "split": "train", "layers": {"b": %s, "a": %s}}\n'
  numbers = [str({**layer, "flip_ratio": x}) for x in (0.5, 0.25)]
  text = (seen % (3, *numbers)).replace("'", '"')
  (workdir / "watch.jsonl").write_text(text)
  page = visit(report.write([workdir, workdir], tmp_path / "out"))
  table = "table.sparks"
  assert _shown(page, table)[:2] == ["b", "a"]
  _head(page, "Flips", table).first.locator("button").click()
  assert _shown(page, table)[:2] == ["b", "a"]
  _head(page, "Flips", table).first.locator("button").click()
  assert _shown(page, table)[:2] == ["a", "b"]
  assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def _serious(page):
  axe = pytest.importorskip("axe_playwright_python.sync_playwright")
  return [
    (row["id"], node["html"][:200], node["failureSummary"][:300])
    for row in axe.Axe().run(page).response["violations"]
    if row["impact"] in ("serious", "critical")
    for node in row["nodes"][:5]
  ]


def test_axe_would_find_something(visit):
  page = visit("plain")
  page.add_style_tag(content=".soft { color: #ccc !important; }")
  assert {name for name, *_ in _serious(page)} == {"color-contrast"}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["cost", "diff", "plain"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_no_serious_finding_of_axe(visit, name, theme, viewport):
  page = visit(name, viewport, theme)
  _open_all(page)
  assert not _serious(page)
